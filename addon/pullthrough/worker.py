"""One of the processes that serve: which one it is, and what it is told.

Responsible for what a supervisor and its workers say to each other: one byte at a time on a pair of sockets. Must not
know who starts workers (`supervisor`), nor what they serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: From a worker: it serves.
READY: Final = b"r"
#: To a worker: take no more connections, let pulls under way come to their end.
DRAIN: Final = b"d"
#: To a worker: do not wait for them either.
END: Final = b"e"


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that serves, beside `count - 1` others on the same addresses.

    While settings are read anew two sets of workers are there, and each has a number 0: only `slot` is nobody else's
    while this process lives. Its successor may have it.
    """

    number: int
    count: int
    slot: int
    #: Private to the processes of this run and gone after it. None for a process that is alone.
    folder: Path | None
    #: It takes the place of one that died.
    replaces: bool = False
    #: To the supervisor. When that side is closed, there is no supervisor any more.
    line: socket.socket | None = None

    @property
    def first(self) -> bool:
        """Does it do what is to be done once, and not by each?"""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Is it all that there is? Then nobody supervises it."""
        return self.folder is None

    def share(self, amount: int) -> int:
        """Its part of what all may have together; at least one."""
        return max(1, amount // self.count)

    def report(self) -> None:
        """Tell the supervisor that it serves."""
        if self.line is not None:
            with contextlib.suppress(OSError):  # there is no supervisor any more, as `Orders` will see
                self.line.send(READY)


ALONE: Final = Worker(number=0, count=1, slot=0, folder=None)


class Orders:
    """When to stop. Make it inside the event loop, and wait for these events while they are `heard`."""

    def __init__(self, worker: Worker) -> None:
        self._line = worker.line
        #: Take no more connections.
        self.stop = asyncio.Event()
        #: Do not wait for pulls under way.
        self.end = asyncio.Event()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """From signals, and from the supervisor if there is one."""
        loop = asyncio.get_running_loop()
        handlers = self._alone() if self._line is None else {signal.SIGTERM: self.stop.set}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if self._line is not None:
            self._line.setblocking(False)
            loop.add_reader(self._line, self._told, self._line)
        try:
            yield
        finally:
            if self._line is not None:
                loop.remove_reader(self._line)
            for number in handlers:
                loop.remove_signal_handler(number)

    def _alone(self) -> dict[signal.Signals, Callable[[], None]]:
        return {signal.SIGTERM: self._more, signal.SIGINT: self._more, signal.SIGHUP: self._hung_up}

    def _more(self) -> None:
        """The second signal does not wait."""
        (self.end if self.stop.is_set() else self.stop).set()

    def _hung_up(self) -> None:
        log.warning("SIGHUP: with one worker settings are read at the start alone; restart to have them read again")

    def _told(self, line: socket.socket) -> None:
        """By the supervisor. Ctrl-C and service managers signal all processes, so a second signal means nothing here.

        A supervisor that was killed cannot replace anybody: the next one is to find the addresses free.
        """
        said = line.recv(16)
        if END in said:
            self.end.set()
        if not said:
            log.error("the supervisor is gone: this worker stops")
            asyncio.get_running_loop().remove_reader(line)
        self.stop.set()
