"""So many fills at the same time, and no more.

Responsible for the order in which they begin, and for turning away those that would wait too long. Must not know what
is filled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from pullthrough.store import StoreError

#: For each one that has its turn, so many may wait for theirs.
_WAITING: Final = 4
#: Seconds that anybody waits. Clients give up after 30 without an answer (containerd), and an upstream needs some too.
_PATIENCE: Final = 10.0


class Crowded(StoreError):
    """Too many before it. The upstream can still be asked without us."""

    def __init__(self) -> None:
        super().__init__("too many downloads at the same time")


class Turns:
    """At most `most` at the same time, first come first served."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = asyncio.Semaphore(most)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Have a turn, after waiting for it if need be. Raises `Crowded`."""
        if self._free.locked() and self._waiting >= self._most * _WAITING:
            raise Crowded
        self._waiting += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._free.acquire()
        except TimeoutError:
            raise Crowded from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
