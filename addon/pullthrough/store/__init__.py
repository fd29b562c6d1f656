"""The blob store: content-addressed files, an index over them, and a bound on their bytes.

Responsible for the promise that a digest is either stored whole and verified, or not at all, and for staying
below its size. Must not know who asks, nor where bytes come from. Its methods never block the event loop; they
raise `StoreError` when the disk or the index fails, and then the caller serves without the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import diskcache

from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.store.files import BlobFiles, Partial
from pullthrough.store.index import Index, Link

__all__ = ["Link", "Partial", "Store", "StoreError", "StoredBlob"]

#: Eviction goes down to this share of the size, so that it is not needed again at once.
_LOW_WATERMARK: Final = 0.95
#: Bytes of the file system that are never taken, so that the index can still be written.
_KEEP_FREE: Final = 64 << 20
#: Uses that are remembered before they are written down together.
_TOUCH_BATCH: Final = 128
_THREADS: Final = 8
#: Bytes by which a reservation grows while the length of a blob is unknown.
_RESERVE_STEP: Final = 64 << 20
#: Seconds for which an index that failed is left alone: a pull must not wait for it again and again.
_REST: Final = 5.0
#: The two parts that can fail apart from each other, as health names them.
_FILES: Final = "store"
_INDEX: Final = "index"


log = logging.getLogger(__name__)


class StoreError(Exception):
    """The store cannot do it now; `full` tells whether only for lack of room."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full


class StoredBlob:
    """A whole, committed blob, open for reading. It stays readable when it is evicted meanwhile."""

    def __init__(self, store: Store, fd: int, size: int) -> None:
        self._store = store
        self._fd = fd
        self.size = size

    async def read_at(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`; b"" only at or beyond the end."""
        return await self._store.run(os.pread, self._fd, limit, offset)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Store:
    """Blobs and links below `root`, at most `size` bytes of blobs."""

    def __init__(self, root: Path, size: int, health: Health) -> None:
        self._root = root
        self.size = size
        self._health = health
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._touched: dict[Digest, None] = {}
        self._reserved: dict[Path, int] = {}
        self._opened: tuple[BlobFiles, Index] | None = None
        self._opening = threading.Lock()
        self._resting_until = 0.0

    # -- the calls that everybody makes

    async def open(self, digest: Digest) -> StoredBlob | None:
        """The blob, if it is stored. A file that is missing or has another size is dropped and counts as absent."""
        found = await self.run(self._open, digest)
        if found is None:
            return None
        self._touched.pop(digest, None)
        self._touched[digest] = None
        if len(self._touched) >= _TOUCH_BATCH:
            await self.run(self._flush)
        return StoredBlob(self, *found)

    async def has(self, digest: Digest) -> bool:
        """Is the blob stored?"""
        return await self.run(lambda: self._index.find(digest) is not None)

    async def drop(self, digest: Digest) -> None:
        """Delete the blob."""
        await self.run(lambda: self._index.drop(digest))

    async def link(self, repository: str, digest: Digest, media_type: str = "") -> None:
        """Remember that the upstream gave `digest` out in `repository`."""
        await self.run(lambda: self._index.link(repository, digest, Link(media_type)))

    async def linked(self, repository: str, digest: Digest) -> Link | None:
        """The link between the two, if there is one."""
        return await self.run(lambda: self._index.linked(repository, digest))

    async def unlink(self, repository: str, digest: Digest) -> None:
        """The upstream no longer has `digest` in `repository`."""
        await self.run(lambda: self._index.unlink(repository, digest))

    async def usage(self) -> tuple[int, int]:
        """(bytes of blobs, number of blobs)."""
        return await self.run(lambda: (self._index.bytes(), self._index.count()))

    # -- filling

    async def begin(self, digest: Digest) -> Partial:
        """A partial to fill, with what an earlier fill left already taken over."""
        return await self.run(self._begin, digest)

    async def reserve(self, partial: Partial, size: int) -> None:
        """Make room for a blob of `size` bytes in all. StoreError(full=True) if there can be none."""
        await self.run(self._reserve, partial, size)

    async def write(self, partial: Partial, data: bytes) -> None:
        """Append to a partial. StoreError(full=True) when it outgrows the room that there is."""
        await self.run(self._write, partial, data)

    async def commit(self, partial: Partial) -> None:
        """Make a verified partial a stored blob. ValueError if it is not what its digest says."""
        await self.run(self._commit, partial)
        self._health.recovered(_FILES)

    async def end(self, partial: Partial, *, keep: bool) -> None:
        """Stop filling. With `keep` the bytes stay, for the next fill to resume. The file stays open for readers."""
        await self.run(self._end, partial, keep)

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob at once. ValueError if it is not what its digest says."""
        if not digest.matches(content):
            raise ValueError(f"{len(content)} bytes are not {digest}")
        await self.run(self._put, digest, content)

    # -- running

    async def run[**P, T](self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in one of the store's threads; its failures become `StoreError`."""
        if time.monotonic() < self._resting_until:
            raise StoreError("the index failed a moment ago")
        loop = asyncio.get_running_loop()
        with self._translated():
            result = await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))
        self._health.recovered(_INDEX)
        return result

    async def aclose(self) -> None:
        """Write down what is still in memory and close."""
        with contextlib.suppress(StoreError):
            await self.run(self._flush)
            await self.run(self._index.expire)
        self._threads.shutdown(wait=True)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            self._trouble(_FILES, reason)
            raise StoreError(reason, full=error.errno in (errno.ENOSPC, errno.EDQUOT)) from error
        except (sqlite3.Error, diskcache.Timeout) as error:
            reason = str(error) or "locked by another process"
            self._trouble(_INDEX, reason)
            self._resting_until = time.monotonic() + _REST
            raise StoreError(reason) from error

    def _trouble(self, part: str, reason: str) -> None:
        self._health.degraded(part, f"{reason} (in {self._root}); pulls go through uncached")

    # -- below here: in threads

    def _parts(self) -> tuple[BlobFiles, Index]:
        """Open the store when it is first needed, and again when that failed: a disk can come back."""
        with self._opening:
            if self._opened is None:
                self._opened = (BlobFiles(self._root), Index(self._root))
            return self._opened

    @property
    def _files(self) -> BlobFiles:
        return self._parts()[0]

    @property
    def _index(self) -> Index:
        return self._parts()[1]

    def _open(self, digest: Digest) -> tuple[int, int] | None:
        row = self._index.find(digest)
        if row is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            fd = self._files.open(row.name)
            if os.fstat(fd).st_size == row.size:
                return fd, row.size
            os.close(fd)
        log.warning("stored blob %s is damaged: it will be fetched again", digest)
        self._index.drop(digest)
        return None

    def _begin(self, digest: Digest) -> Partial:
        partial = self._files.partial(digest)
        partial.rehash()
        return partial

    def _reserve(self, partial: Partial, size: int) -> None:
        if size > self.size:
            raise StoreError(f"a blob of {size} bytes is larger than the whole store ({self.size})", full=True)
        self._reserved[partial.path] = size
        wanted = size - partial.written
        if self._total() > self.size:
            self._evict_to(int(self.size * _LOW_WATERMARK), partial)
        while self._files.free() < wanted + _KEEP_FREE:
            if not self._evict_one(partial):
                del self._reserved[partial.path]
                raise OSError(errno.ENOSPC, f"no room for {wanted} bytes")

    def _write(self, partial: Partial, data: bytes) -> None:
        needed = partial.written + len(data)
        if needed > self._reserved.get(partial.path, 0):  # nobody had said how long this blob would be
            self._reserve(partial, min(needed + _RESERVE_STEP, max(needed, self.size)))
        partial.write(data)

    def _total(self) -> int:
        """Bytes of blobs and of what is being filled."""
        return self._index.bytes() + sum(self._reserved.values()) + self._idle_partials()

    def _idle_partials(self) -> int:
        return sum(size for _, size, path in self._files.partials() if path not in self._reserved)

    def _evict_to(self, target: int, filling: Partial) -> None:
        while self._total() > target and self._evict_one(filling):
            pass

    def _evict_one(self, filling: Partial) -> bool:
        """Delete what is missed least: an abandoned partial, else the least recently used blob."""
        for _, _, path in self._files.partials():
            if path not in self._reserved and path != filling.path and self._files.drop_partial(path):
                return True
        self._flush()
        digest = self._index.least_recently_used()
        if digest is None:
            return False
        self._index.drop(digest)
        return True

    def _commit(self, partial: Partial) -> None:
        name = self._files.commit(partial)
        try:
            self._index.adopt(partial.digest, name, partial.written)
        except BaseException:
            self._files.remove(name)
            raise
        self._reserved.pop(partial.path, None)

    def _end(self, partial: Partial, keep: bool) -> None:
        self._reserved.pop(partial.path, None)
        if not keep:
            partial.discard()
        partial.unlock()

    def _put(self, digest: Digest, content: bytes) -> None:
        partial = self._files.partial(digest)
        try:
            if self._index.find(digest) is not None:
                partial.discard()
                return
            os.ftruncate(partial.fd, 0)
            self._reserve(partial, len(content))
            partial.write(content)
            self._commit(partial)
        finally:
            self._reserved.pop(partial.path, None)
            partial.close()

    def _flush(self) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            self._index.used(touched)
