"""Who may take how many bytes.

Responsible for the bound on the store: reservations for what is being filled, and eviction to keep them. Must not know
how bytes are written. Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store import quarantine
from pullthrough.store.faults import StoreError
from pullthrough.store.files import BlobFiles, Partial
from pullthrough.store.index import Index

#: Eviction goes down to this share of the size, so that it is not needed again at once.
LOW_WATERMARK: Final = 0.95
#: Bytes of the file system that are never taken, so that the index can still be written.
KEEP_FREE: Final = 64 << 20
#: Seconds for which what a manifest names is spared after that was given out, and how many of them are remembered.
_HOLD: Final = 600.0
_MAX_HELD: Final = 65536
#: A reservation grows by this, or by a sixteenth of the store, while the length of a blob is unknown.
_STEP: Final = 64 << 20


class Holds:
    """What somebody is about to ask for, and must find."""

    def __init__(self) -> None:
        self._until: dict[Digest, float] = {}  # what was held last at the end
        self._lock = threading.Lock()

    def hold(self, digests: Iterable[Digest]) -> list[Digest]:
        """Spare these for a while; those that were not spared already, for most of that time."""
        news = []
        with self._lock:
            now = time.monotonic()
            for digest in digests:
                if self._until.pop(digest, 0.0) < now + _HOLD / 2:
                    news.append(digest)
                self._until[digest] = now + _HOLD
            while len(self._until) > _MAX_HELD:
                del self._until[next(iter(self._until))]
        return news

    def spare(self, digest: Digest) -> bool:
        """Is it one of them?"""
        return self._until.get(digest, 0.0) > time.monotonic()


class Room:
    """At most `size` bytes of blobs, damaged ones too, of what is being filled, and of what earlier fills left."""

    def __init__(
        self, files: BlobFiles, index: Index, size: int, min_free: int, spared: Callable[[Digest], bool]
    ) -> None:
        """`min_free` bytes of the disk are left to others; blobs that are `spared` are not evicted."""
        self._files = files
        self._index = index
        self._size = size
        self._min_free = min_free
        self._spared = spared
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
                _Eviction(self._files, self._index, self._reserved, self._spared).make_room(self._size, self._min_free)
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

    def retire(self, before: float) -> int:
        """Let go of some of what was last used before that moment (epoch seconds); how many blobs were."""
        return self._index.retire(before, self._spared)

    def _restore(self, partial: Partial, before: int | None) -> None:
        if before is None:
            del self._reserved[partial]
        else:
            self._reserved[partial] = before


class _Eviction:
    """One round: what there is, and what of it can go."""

    def __init__(
        self, files: BlobFiles, index: Index, reserved: dict[Partial, int], spared: Callable[[Digest], bool]
    ) -> None:
        self._files = files
        self._index = index
        self._reserved = reserved
        self._spared = spared
        filling = {partial.path for partial in reserved}
        left = {path: size for path, size in files.partials().items() if path not in filling}
        self._idle = list((quarantine.kept(files.root) | left).items())
        self._idle_bytes = sum(size for _, size in self._idle)
        self._candidates = iter(self._idle)

    def make_room(self, size: int, min_free: int) -> None:
        """Evict until everything fits, in the store and on the disk. StoreError and OSError if it cannot.

        Then a little on the way to the low watermark: all of that at once may be a lot, and somebody waits.
        """
        if self._total() > size:
            while (excess := self._total() - size) > 0:
                if not self._evict(excess):
                    raise StoreError("all room is taken by what is being filled or pulled, or pinned", full=True)
            if (excess := self._total() - int(size * LOW_WATERMARK)) > 0:
                self._evict(excess)
        unwritten = sum(max(0, wanted - partial.written) for partial, wanted in self._reserved.items())
        while (lacking := unwritten + min_free - self._files.free()) > 0:
            if not self._evict(lacking):
                raise OSError(errno.ENOSPC, "the disk is full")

    def _total(self) -> int:
        return self._index.bytes() + sum(self._reserved.values()) + self._idle_bytes

    def _evict(self, wanted: int) -> bool:
        """Delete so many bytes, or fewer, of what is missed least. Was there anything?

        Damaged blobs and abandoned partials, else the least recently used blobs.
        """
        freed = 0
        for path, size in self._candidates:
            if self._files.drop_partial(path):
                self._idle_bytes -= size
                freed += size
                if freed >= wanted:
                    break
        return freed > 0 or self._index.evict(wanted, self._spared) > 0
