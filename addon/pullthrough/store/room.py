"""Who may take how many bytes.

Responsible for the bound on the store: reservations for what is being filled, and eviction to keep them. Must not know
how bytes are written. Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Final

from pullthrough.store.faults import StoreError
from pullthrough.store.files import BlobFiles, Partial
from pullthrough.store.index import Index

#: Eviction goes down to this share of the size, so that it is not needed again at once.
_LOW_WATERMARK: Final = 0.95
#: Bytes of the file system that are never taken, so that the index can still be written.
KEEP_FREE: Final = 64 << 20
#: A reservation grows by this, or by a sixteenth of the store, while the length of a blob is unknown.
_STEP: Final = 64 << 20


class Room:
    """At most `size` bytes of blobs, of what is being filled, and of what earlier fills left."""

    def __init__(self, files: BlobFiles, index: Index, size: int) -> None:
        self._files = files
        self._index = index
        self._size = size
        self._reserved: dict[Partial, int] = {}
        #: Guards `_reserved`, and lets one thread evict at a time.
        self._lock = threading.Lock()

    def reserve(self, partial: Partial, size: int) -> None:
        """Make room for a blob of `size` bytes in all. StoreError(full=True) if there can be none."""
        if size > self._size:
            raise StoreError(f"{size} bytes are more than the whole store holds ({self._size})", full=True)
        with self._lock:
            before = self._reserved.get(partial)
            self._reserved[partial] = size
            try:
                _Eviction(self._files, self._index, self._reserved).make_room(self._size)
            except BaseException:
                self._restore(partial, before)
                raise

    def grow(self, partial: Partial, needed: int) -> None:
        """See that at least `needed` bytes are reserved: nobody had said how long this blob would be."""
        if needed > self._reserved.get(partial, 0):
            step = min(_STEP, self._size // 16)
            self.reserve(partial, max(needed, min(needed + step, self._size)))

    def settle(self, partial: Partial, adopt: Callable[[], None]) -> None:
        """`adopt` makes a blob of it: from then on the index counts its bytes, and nobody counts them twice."""
        with self._lock:
            adopt()
            self._reserved.pop(partial, None)

    def release(self, partial: Partial) -> None:
        """Its fill is over."""
        with self._lock:
            self._reserved.pop(partial, None)

    def _restore(self, partial: Partial, before: int | None) -> None:
        if before is None:
            del self._reserved[partial]
        else:
            self._reserved[partial] = before


class _Eviction:
    """One round: what there is, and what of it can go."""

    def __init__(self, files: BlobFiles, index: Index, reserved: dict[Partial, int]) -> None:
        self._files = files
        self._index = index
        self._reserved = reserved
        filling = {partial.path for partial in reserved}
        self._idle = {path: size for path, size in files.partials().items() if path not in filling}
        self._candidates = iter(list(self._idle))

    def make_room(self, size: int) -> None:
        """Evict until everything fits, in the store and on the disk. StoreError and OSError if it cannot."""
        if self._total() > size:
            while self._total() > size * _LOW_WATERMARK and self._evict_one():
                pass
            if self._total() > size:
                raise StoreError("all room is taken by what is being filled", full=True)
        unwritten = sum(max(0, wanted - partial.written) for partial, wanted in self._reserved.items())
        while self._files.free() < unwritten + KEEP_FREE:
            if not self._evict_one():
                raise OSError(errno.ENOSPC, "the disk is full")

    def _total(self) -> int:
        return self._index.bytes() + sum(self._reserved.values()) + sum(self._idle.values())

    def _evict_one(self) -> bool:
        """Delete what is missed least: an abandoned partial, else the least recently used blob. Was there one?"""
        for path in self._candidates:
            if self._files.drop_partial(path):
                del self._idle[path]
                return True
        digest = self._index.least_recently_used()
        if digest is None:
            return False
        self._index.drop(digest)
        return True
