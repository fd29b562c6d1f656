"""The blob store: content-addressed files, an index over them, and a bound on their bytes.

Responsible for the promise that a digest is either stored whole and verified, or not at all, and for staying
below its size. Keeps facts for others, without knowing what they mean. Must not know who asks, nor where bytes come
from. Its methods never block the event loop; they raise `StoreError` when the disk or the index fails, and then the
caller serves without the store.

Lanes of threads, so that none waits for another: `look` for look-ups and reading, `note` for single rows, `fill` for
what takes long, `verify` for blobs that have to be read before anybody gets them, `slow` for what nobody waits for. A
locked index stops only the writing ones: what is stored is still served.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.joins import Joins
from pullthrough.messages import BodyError
from pullthrough.store import repair
from pullthrough.store.disk import Adopted
from pullthrough.store.faults import INDEX_ERRORS, StoreError, Taken, from_index, is_bad_medium, is_damage
from pullthrough.store.files import BlobFiles, DamagedError, Fate, Filling, Partial, read
from pullthrough.store.index import Index, Link, folders
from pullthrough.store.inspector import Inspector
from pullthrough.store.lane import Lane, Rest
from pullthrough.store.opened import Shelf, open_index
from pullthrough.store.quarantine import Quarantine
from pullthrough.store.room import KEEP_FREE, Holds, Room
from pullthrough.store.scrub import RATE, Scrub
from pullthrough.store.tidying import tidy

__all__ = ["DamagedBlob", "Fate", "Filling", "Link", "Partial", "Store", "StoreError", "StoredBlob", "Taken"]

#: Seconds to wait for another process that writes to the index. Longer, and a pull is better served uncached.
BUSY: Final = 3.0
#: Seconds for which an index that failed is left alone.
REST: Final = 5.0
#: A blob that is no longer than this is read in the step that opens it: to come back for it would cost more.
_SHORT: Final = 128 << 10
#: Seconds between two steps of work in the background.
_PAUSE: Final = 0.001

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """An open store."""

    files: BlobFiles
    index: Index
    room: Room
    quarantine: Quarantine
    #: Of the databases (`repair.generation`).
    generation: repair.Generation

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.files, self.index)


class DamagedBlob(BodyError):
    """Bytes of it that were read before may be wrong: nobody can go on from there."""


class StoredBlob:
    """A whole, committed blob, open for reading. It stays readable when it is evicted meanwhile."""

    def __init__(self, store: Store, digest: Digest, fd: int, row: Adopted, content: bytes | None) -> None:
        self._store = store
        self._digest = digest
        self._fd = fd
        self._row = row
        self._content = content
        self._read = False
        self.size = row.size

    @property
    def at_hand(self) -> bool:
        """Is all of it in memory already? Then reading it in one piece neither waits nor fails."""
        return self._content is not None

    async def read_at(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`; b"" only at or beyond the end.

        BodyError if the disk cannot read it, DamagedBlob if it was found damaged meanwhile: then it is fetched again.
        """
        if self._fd < 0:
            raise BodyError("the stored blob is closed")
        if not self._read:
            self._read = True
            self._store.is_read(self._digest)
        if self._content is not None and offset == 0 and limit >= self.size:
            return self._content  # not a part of it: before the rest it may be found damaged
        try:
            return await self._store.run(read, self._fd, limit, offset)
        except DamagedError:
            raise DamagedBlob("the stored blob was found damaged") from None
        except StoreError as error:
            if is_bad_medium(error.__cause__):
                await self.condemn(str(error))
            raise BodyError(f"the stored blob cannot be read: {error}") from error

    async def condemn(self, reason: str) -> None:
        """It was seen not to be what it should. Nobody is given it any more, if the store can do anything."""
        with contextlib.suppress(StoreError):
            await self._store.condemn(self._digest, self._row, reason)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            if self._read:
                self._store.was_read(self._digest)


class Store:
    """Blobs and links below `root`, at most `size` bytes of blobs.

    `min_free` bytes of the disk are left to others. What is `kept` is not evicted; that is asked in a thread.
    """

    def __init__(
        self,
        root: Path,
        size: int,
        health: Health,
        *,
        min_free: int = KEEP_FREE,
        kept: Callable[[Shelf], Container[Digest]] = lambda _: (),
        busy: float = BUSY,
        rest: float = REST,
        damaged: Callable[[], object] = bool,
    ) -> None:
        """`damaged` is called, from any thread, for each blob that is found damaged."""
        self.size = size
        self._damaged = damaged
        self._min_free = min_free
        self._holds = Holds()
        self._kept = kept
        self._root = root
        self._health = health
        self._busy = busy
        writing = Rest(rest)
        self._look = Lane("look", 8, Rest(rest))
        self._note = Lane("note", 4, writing)
        self._fill = Lane("fill", 8, writing)
        self._slow = Lane("slow", 1, Rest(rest), background=True)
        self._verify = Lane("verify", 2, Rest(rest))
        self._judging: Joins[Digest, None] = Joins()
        self._scrub: Scrub | None = None
        #: What the index did when it failed last: only by the same can it show that it works again.
        self._failed: Rest | None = None
        self._opened: _Parts | None = None
        self._opening = threading.Lock()
        self._unopened = Rest(rest)
        self._closing = threading.Event()
        #: The index that each thread has connections to.
        self._used = threading.local()
        #: Is the look at all files over that follows each opening?
        self.tidied = threading.Event()
        self._tidying = threading.Lock()

    # -- the calls that everybody makes

    async def open(self, digest: Digest) -> StoredBlob | None:
        """The blob, if it is stored. A file that is missing or has another size is dropped and counts as absent."""
        while True:
            found = await self._do(self._look, lambda parts: _open(parts, digest), undo=_close)
            if found is not _UNREAD:
                return None if found is None else StoredBlob(self, digest, *found)
            await self._judging.do(digest, lambda: self._do(self._verify, lambda parts: _judge(parts, digest)))

    async def condemn(self, digest: Digest, row: Adopted, reason: str) -> None:
        """Put the file of `row` aside: it is not the blob."""
        await self._do(self._note, lambda parts: parts.quarantine.condemn(digest, row, reason))

    async def has(self, digest: Digest) -> bool:
        """Is the blob stored?"""
        return await self._do(self._look, lambda parts: parts.index.find(digest) is not None)

    async def drop(self, digest: Digest) -> None:
        """Delete the blob."""
        await self._do(self._note, lambda parts: parts.index.drop(digest))

    async def link(self, repository: str, digest: Digest, media_type: str = "") -> None:
        """Remember that the upstream gave `digest` out in `repository`."""
        await self._do(self._note, lambda parts: parts.index.link(repository, digest, Link(media_type)))

    async def linked(self, repository: str, digest: Digest) -> Link | None:
        """The link between the two, if there is one."""
        return await self._do(self._look, lambda parts: parts.index.linked(repository, digest))

    async def unlink(self, repository: str, digest: Digest) -> None:
        """The upstream no longer has `digest` in `repository`."""
        await self._do(self._note, lambda parts: parts.index.unlink(repository, digest))

    async def look(self, repository: str, digest: Digest) -> tuple[Link | None, bool]:
        """As `linked` and `has`, in one step: what has to be known of a blob before anybody gets it."""
        return await self._do(
            self._look, lambda parts: (parts.index.linked(repository, digest), parts.index.find(digest) is not None)
        )

    async def recall(self, key: str) -> Any:
        """What was noted under `key`, as JSON has it; None if there is nothing."""
        return await self._do(self._look, lambda parts: parts.index.recall(key))

    async def note(self, facts: Mapping[str, tuple[Any, float] | None]) -> None:
        """Note JSON values by key, each for so many seconds; None deletes. All of them or none."""
        await self._do(self._note, lambda parts: parts.index.note(facts))

    def hold(self, digests: Iterable[Digest]) -> list[Digest]:
        """Somebody is about to ask for these: they are not evicted for some minutes. Does not block.

        Those that were evicted before, for all that was known of them.
        """
        return self._holds.hold(digests)

    async def retire(self, age: float) -> int:
        """Delete what was not used for `age` seconds; how many blobs were."""
        before, gone = time.time() - age, 0
        while not self._closing.is_set() and (
            some := await self._do(self._fill, lambda parts: parts.room.retire(before))
        ):
            gone += some
        return gone

    async def write_down(self) -> None:
        """Have what is remembered of uses on disk, for others to see."""
        await self._do(self._note, lambda parts: parts.index.flush())

    async def look_at_kept(self) -> None:
        """Have it found out what is kept now, though nothing is evicted for a long time."""
        await self._do(self._fill, lambda parts: self._kept(parts.shelf))

    async def scrub(self, interval: float, *, rate: float = RATE) -> None:
        """Verify blobs in the background, for ever: each at least once in `interval` seconds, if `rate` permits."""

        async def do[T](work: Callable[[Inspector], T]) -> T:
            return await self._slow.run(lambda: self._with_parts(lambda parts: work(_inspector(parts))), resting=True)

        self._scrub = Scrub(do, interval, rate=rate)
        await self._scrub.run()

    def is_read(self, digest: Digest) -> None:
        """Somebody begins to read the blob: that is a use, and no look at it is. Does not block."""
        if self._opened is not None and self._opened.index.touch(digest):
            self._note.spawn(lambda: self._with_parts(lambda parts: parts.index.flush()))

    def was_read(self, digest: Digest) -> None:
        """Somebody read the blob. Does not block."""
        if self._scrub is not None:
            self._scrub.read.note(digest)

    async def usage(self) -> tuple[int, int]:
        """(bytes of blobs, number of blobs)."""
        return await self._do(self._look, lambda parts: (parts.index.bytes(), parts.index.count()))

    # -- filling. An index that rests does not stop a fill: until its end the index may be well again.

    async def begin(self, digest: Digest, *, missed: bool = False) -> Partial:
        """A partial to fill, with what an earlier fill left already taken over.

        `Taken` while somebody else fills that blob, in this process or another; and with `missed`, for who did not find
        it a moment ago, also if it has come since.
        """
        return await self._do(
            self._fill, lambda parts: _begin(parts, digest, missed), resting=False, undo=Partial.close
        )

    async def follow(self, digest: Digest) -> Partial | None:
        """What somebody else is filling, to be read while it grows (`Partial.catch_up`); None if nobody is.

        What he has just committed as well, whatever the index said a moment ago.
        """
        return await self._do(self._fill, lambda parts: _followed(parts, digest), resting=False, undo=_close_partial)

    async def filling(self, digest: Digest) -> Filling | None:
        """What somebody says who is filling `digest`, in this process or another, or has just done so; else None."""
        return await self._do(self._look, lambda parts: _filling(parts, digest))

    async def reserve(self, partial: Partial, size: int) -> None:
        """Make room for a blob of `size` bytes in all. StoreError(full=True) if there can be none."""
        await self._do(self._fill, lambda parts: parts.room.reserve(partial, size), resting=False)

    async def write(self, partial: Partial, data: bytes) -> None:
        """Append to a partial. StoreError(full=True) when it outgrows the room that there is."""
        await self._do(self._fill, lambda parts: _write(parts, partial, data), resting=False)

    async def commit(self, partial: Partial) -> None:
        """Make a verified partial a stored blob. ValueError if it is not what its digest says."""
        # Not resting: no client waits for this, and what was fetched would be lost.
        await self._do(self._fill, lambda parts: _commit(parts, partial), resting=False)
        self._well()

    async def end(self, partial: Partial, *, keep: bool) -> None:
        """Stop filling. With `keep` the bytes stay, for the next fill to resume. The file stays open for readers."""
        await self._do(self._fill, lambda parts: _end(parts, partial, keep), resting=False)

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store a small blob at once. ValueError if it is not what its digest says."""
        if not digest.matches(content):
            raise ValueError(f"{len(content)} bytes are not {digest}")
        if await self._do(self._fill, lambda parts: _put(parts, digest, content)):
            self._well()

    # -- running

    async def run[**P, T](self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read an open file in one of the store's threads; failures become `StoreError`."""
        try:
            return await self._look.run(lambda: work(*args, **kwargs), resting=False)
        except StoreError as error:
            self._ill(error, self._look.rest)
            raise

    async def aclose(self) -> None:
        """Write down what is still in memory and close. Safe to call twice; afterwards everything is a StoreError."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(StoreError):
            await self._note.run(self._settle, resting=True)
        if self._scrub is not None:
            self._scrub.stop()
        for lane in (self._look, self._note, self._fill, self._verify, self._slow):
            await asyncio.to_thread(lane.close, self._part)

    async def _do[T](
        self,
        lane: Lane,
        work: Callable[[_Parts], T],
        *,
        resting: bool = True,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        if self._closing.is_set():
            raise StoreError("the store is closed")
        try:
            result = await lane.run(lambda: self._with_parts(work), resting=resting, undo=undo)
        except StoreError as error:
            self._ill(error, lane.rest)
            raise
        if resting and self._failed is lane.rest:
            self._failed = None
            self._health.recovered("index")
        return result

    def _well(self) -> None:
        """A blob was written: disk and index do all that they have to."""
        self._failed = None
        self._health.recovered("store")
        self._health.recovered("index")
        if not self.tidied.is_set() and not self._tidying.locked():  # something failed in the middle of it
            self._fill.spawn(self._tidy)

    def _ill(self, error: StoreError, failed: Rest) -> None:
        """Tell health, if `error` is news for an operator."""
        if error.part is None:
            return
        if error.part == "index":
            self._failed = failed
        self._health.degraded(error.part, f"{error} (in {self._root}); pulls go through uncached")

    # -- below here: in threads

    def _with_parts[T](self, work: Callable[[_Parts], T]) -> T:
        parts = self._parts()
        self._use(parts.index)
        try:
            return work(parts)
        except INDEX_ERRORS as error:
            # A connection may be left inside a transaction, when even COMMIT failed: the next work begins with another.
            parts.index.close()
            if is_damage(error):
                self._renew(parts)
            raise

    def _parts(self) -> _Parts:
        """Open the store when it is first needed, and again when that failed: a disk can come back."""
        with self._opening:
            if self._opened is not None and self._outdated(self._opened):
                self._opened = None
            if self._opened is None:
                self._unopened.check()
                files = BlobFiles(self._root)
                files.drop_unsynced()
                index, generation = self._open_index()
                shelf = Shelf(files, index)
                spared = functools.partial(self._spared, shelf)
                room = Room(files, index, self.size, self._min_free, spared)
                quarantine = Quarantine(shelf, self._damaged)
                self._opened = _Parts(files, index, room, quarantine, generation)
                self.tidied.clear()
                self._fill.spawn(self._tidy)
            return self._opened

    def _outdated(self, parts: _Parts) -> bool:
        """Did another process put databases aside, or is the folder another one? What is written there is lost."""
        try:
            return parts.generation != repair.generation(self._root)
        except OSError:  # nobody can tell, and whoever ends a fill must come to its end
            return False

    def _spared(self, shelf: Shelf, digest: Digest) -> bool:
        """May it not be evicted?"""
        return self._holds.spare(digest) or digest in self._kept(shelf)

    def _open_index(self) -> tuple[Index, repair.Generation]:
        try:
            return open_index(self._root, self._busy)
        except INDEX_ERRORS as error:
            self._unopened.begin(from_index(error))  # for those who wait for `_opening` now
            raise

    def _renew(self, parts: _Parts) -> None:
        """Have the next one open other databases, if one of these is damaged. Whoever works with them fails too."""
        with self._opening, repair.alone(self._root):
            if self._opened is parts and repair.put_aside_unusable(self._root, folders(self._root), thorough=True):
                self._opened = None

    def _settle(self) -> None:
        if self._opened is not None:
            self._use(self._opened.index)
            self._opened.index.flush()
            self._opened.index.expire()

    def _use(self, index: Index | None) -> None:
        """This thread goes on with `index`."""
        before, self._used.index = getattr(self._used, "index", None), index
        if before is not None and before is not index:
            before.close()

    def _part(self) -> None:
        """A thread's last act."""
        self._use(None)

    def _tidy(self) -> None:
        with self._tidying:
            parts = self._opened
            if parts is None or self.tidied.is_set():
                return
            self._use(parts.index)
            if tidy(parts.files, parts.index, self._going_on) and self._opened is parts:
                self.tidied.set()

    def _going_on(self) -> bool:
        """May work in the background take another step? It leaves the interpreter to pulls for a moment first."""
        return not self._closing.wait(_PAUSE)


class _Unread(enum.Enum):
    """Nobody knows yet whether it is what it should be: it was found without a row."""

    UNREAD = enum.auto()


_UNREAD: Final = _Unread.UNREAD

#: A blob that is open, with its row, and all of it if it is short; None if there is none.
type _Found = tuple[int, Adopted, bytes | None] | Literal[_Unread.UNREAD] | None


def _open(parts: _Parts, digest: Digest) -> _Found:
    while (row := parts.index.find(digest)) is not None:
        if not row.verified:
            return _UNREAD
        found = _whole(parts, row)
        if isinstance(found, int):
            return found, row, _content(found, row.size)
        parts.quarantine.condemn(digest, row, found)  # unless another process has replaced it since
    return None


def _content(fd: int, size: int) -> bytes | None:
    """All of an open blob, if it is short and can be read; if not, whoever reads it hears why."""
    content = None
    if size <= _SHORT:
        with contextlib.suppress(OSError, DamagedError):
            content = read(fd, size, 0)
    return content if content is not None and len(content) == size else None


def _whole(parts: _Parts, row: Adopted) -> int | str:
    """The file of `row`, open; or what is wrong with it."""
    try:
        fd = parts.files.open(row.name, row.size)
    except OSError as error:
        if is_bad_medium(error):
            return str(error.strerror)
        raise
    return f"there is no file of {row.size} bytes" if fd is None else fd


def _judge(parts: _Parts, digest: Digest) -> None:
    """Read a blob that was found without a row, once: whoever wrote it may not have come to its end."""
    row = parts.index.find(digest)
    if row is None or row.verified:
        return
    found = _whole(parts, row)
    if isinstance(found, int):
        with contextlib.closing(os.fdopen(found, "rb", buffering=0)):
            try:
                if parts.files.holds(found, digest):
                    parts.index.believe(digest, row)
                    return
                found = "its bytes have another digest"
            except OSError as error:
                if not is_bad_medium(error):
                    raise
                found = str(error.strerror)
    parts.quarantine.condemn(digest, row, found)


def _begin(parts: _Parts, digest: Digest, missed: bool) -> Partial:
    partial = parts.files.partial(digest)
    try:
        partial.retract()
        partial.rehash()
        if missed and (committed := parts.files.committed(digest, parts.index.owns)) is not None:
            committed.close()
            partial.discard()
            raise Taken
    except BaseException:
        partial.close()
        raise
    return partial


def _filling(parts: _Parts, digest: Digest) -> Filling | None:
    partial = _followed(parts, digest)
    if partial is None:
        return None
    partial.close()
    return partial.filling


def _followed(parts: _Parts, digest: Digest) -> Partial | None:
    return parts.files.followed(digest) or parts.files.committed(digest, parts.index.owns)


def _write(parts: _Parts, partial: Partial, data: bytes) -> None:
    with partial.busy:
        parts.room.grow(partial, partial.written + len(data))
        partial.write(data)


def _commit(parts: _Parts, partial: Partial) -> None:
    with partial.busy:
        name = parts.files.commit(partial)
        try:
            parts.room.settle(partial, lambda: parts.index.adopt(partial.digest, name, partial.written))
        except BaseException:
            parts.files.remove(name)
            raise


def _end(parts: _Parts, partial: Partial, keep: bool) -> None:
    with partial.busy:
        parts.room.release(partial)
        try:
            if not (keep and partial.resumable):
                partial.discard()
        finally:
            partial.unlock()


def _put(parts: _Parts, digest: Digest, content: bytes) -> bool:
    """Was it written?"""
    if parts.index.find(digest) is not None:
        return False
    try:
        partial = parts.files.partial(digest)
    except Taken:
        partial = parts.files.aside(digest)
    with contextlib.closing(partial):
        try:
            os.ftruncate(partial.fd, 0)
            parts.room.reserve(partial, len(content))
            partial.write(content)
            _commit(parts, partial)
        finally:
            _end(parts, partial, keep=False)
    return True


def _inspector(parts: _Parts) -> Inspector:
    return Inspector(parts.shelf, parts.quarantine)


def _close_partial(partial: Partial | None) -> None:
    if partial is not None:
        partial.close()


def _close(found: _Found) -> None:
    if isinstance(found, tuple):
        os.close(found[0])
