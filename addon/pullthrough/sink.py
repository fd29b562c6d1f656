"""Writes a blob to disk while more of it arrives.

Responsible for letting the network and the disk work at the same time, within bounded memory. Must not know where
bytes come from or who reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pullthrough.store import Partial, Store, StoreError

#: Bytes that may wait for the disk before the upstream has to wait too.
_WRITE_AHEAD: Final = 4 << 20


class Sink:
    """Neither side waits for the other until `_WRITE_AHEAD` bytes are on their way. A context manager."""

    def __init__(self, store: Store, partial: Partial, advanced: Callable[[int], None]) -> None:
        self._store = store
        self._partial = partial
        self._advanced = advanced
        self._waiting: list[bytes] = []
        self._size = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> Sink:
        self._task = asyncio.create_task(self._write(), name=f"write {self._partial.digest}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is left, also after a failure: it can be resumed from there."""
        self._ended = True
        self._more.set()
        try:
            await self._task
        except StoreError:
            if kind is None or not issubclass(kind, StoreError):
                raise

    async def put(self, chunk: bytes) -> None:
        """Hand over the next bytes. StoreError if earlier ones could not be written."""
        if self._task.done():
            await self._task
        self._waiting.append(chunk)
        self._size += len(chunk)
        self._more.set()
        while self._size > _WRITE_AHEAD and not self._task.done():
            self._room.clear()
            await self._room.wait()

    async def _write(self) -> None:
        try:
            while self._waiting or not self._ended:
                if not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                    continue
                batch, self._waiting, self._size = b"".join(self._waiting), [], 0
                self._room.set()
                await self._store.write(self._partial, batch)
                self._advanced(self._partial.written)
        finally:
            self._room.set()
