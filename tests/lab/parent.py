"""A forward proxy that only tunnels: the corporate parent proxy of a site, or a way without a cache.

It knows the lab's names, so any client can reach the lab through it; its journal has one CONNECT
per tunnel.
"""

import socket
import threading
from contextlib import suppress

from lab.names import NameMap
from lab.web import READ_BYTES, Exchange, WebServer, Wire


class ParentProxy(WebServer):
    """An `HTTPS_PROXY`; asks for credentials when `authorization` is set (the value of the header)."""

    def __init__(self, names: NameMap, authorization: str | None = None) -> None:
        super().__init__("parent.test", None, public_port=None)
        self._names = names
        self._authorization = authorization

    @property
    def proxy_url(self) -> str:
        """What a client on this machine puts into HTTPS_PROXY."""
        return f"http://{self.address}:{self.port}"

    def answer(self, exchange: Exchange) -> None:
        """CONNECT to a name of the lab."""
        request = exchange.request
        if request.method != "CONNECT":
            exchange.reply(405)
        elif self._authorization not in (None, request.headers.get("proxy-authorization")):
            exchange.reply(407, {"Proxy-Authenticate": "Basic"})
        elif place := self._place(request.target):
            self._tunnel(exchange, place)
        else:
            exchange.reply(502)

    def _place(self, authority: str) -> tuple[str, int] | None:
        host, _, port = authority.rpartition(":")
        return self._names.lookup(host, int(port))

    def _tunnel(self, exchange: Exchange, place: tuple[str, int]) -> None:
        with socket.create_connection(place) as upstream:
            exchange.begin(200, {})
            back = threading.Thread(target=_back, args=(upstream, exchange.wire))
            back.start()
            with suppress(OSError):
                while data := exchange.wire.reader.read1(READ_BYTES):
                    upstream.sendall(data)
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
            back.join()
        exchange.cut()


def _back(upstream: socket.socket, wire: Wire) -> None:
    """What the upstream sends, until it ends; then the client's side ends too."""
    with suppress(Exception):
        while data := upstream.recv(READ_BYTES):
            wire.send(data)
    wire.hang_up()
