"""A server that answers one byte now and then, for ever: nobody can call that silence."""

import threading
from collections.abc import Mapping

from lab.web import Exchange, WebServer

PAUSE = 0.02


class Dripping(WebServer):
    """Answers every request with this head, and then with bytes of a body that never ends."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__("front.test", None, public_port=None)
        self._status = status
        self._headers = headers
        self._stopped = threading.Event()

    def answer(self, exchange: Exchange) -> None:
        """Until the client leaves."""
        exchange.begin(self._status, self._headers)
        write = exchange.frame if "Transfer-Encoding" in self._headers else exchange.write
        while not self._stopped.wait(PAUSE):
            write(b"x")

    def release(self) -> None:
        """No more of it."""
        self._stopped.set()
