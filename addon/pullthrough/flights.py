"""One fill per digest, however many clients ask at once; all of them read while it grows.

Responsible for sharing: who asks for a blob that is already on its way joins it. A flight belongs to the cache and
not to a client: a leaving client removes a reader, nothing else. Must not know about access: whoever joins was
allowed to before.

Everything runs on one event loop. Between looking a flight up and changing the table there is no await.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.fetch import Fetch, Refused, Source, Unsuitable
from pullthrough.messages import BodyError
from pullthrough.store import Partial, Store, StoreError
from pullthrough.upstream import Upstream, UpstreamError

log = logging.getLogger(__name__)

#: Bytes that may wait for the disk before the upstream has to wait too.
_WRITE_AHEAD: Final = 4 << 20
#: Sources that a flight remembers, newest first: enough for fresher tokens, not a list of all readers.
_SOURCES: Final = 8


class NotTheBlob(Exception):
    """What arrived has another digest or length than it should. Nothing of it was kept."""


type Failure = Refused | Unsuitable | UpstreamError | StoreError | NotTheBlob


class Flight:
    """One fill under way (or just ended), and what its readers may see of it."""

    def __init__(self, digest: Digest, source: Source) -> None:
        self.digest = digest
        self.opener = source
        self.sources = [source]
        self.size: int | None = None
        self.failure: Failure | None = None
        self.landed = False
        self._written = 0
        self._partial: Partial | None = None
        self._users = 1  # the fill itself
        self._moved = asyncio.Event()
        self._opened = asyncio.Event()

    # -- for readers

    @property
    def over(self) -> bool:
        """Is there nothing more to come?"""
        return self.landed or self.failure is not None

    @property
    def visible(self) -> int:
        """Bytes from the start that readers may have.

        The last one is held back until the digest is known to be right: a client that lacks it knows that its
        copy is not whole, so a wrong blob is never taken for a good one.
        """
        if self.landed:
            return self._written
        whole = self.size is None or self._written >= self.size
        return max(0, self._written - 1) if whole else self._written

    @property
    def took_off(self) -> bool:
        """Did the upstream begin to send?"""
        return self._partial is not None

    async def opened(self) -> None:
        """Wait for the upstream's word. Raises the failure if the flight never took off."""
        await self._opened.wait()
        if self.failure is not None and not self.took_off:
            raise self.failure

    async def progress(self) -> None:
        """Wait until more is visible or the flight is over."""
        if not self.over:
            await self._moved.wait()

    def read(self, limit: int, offset: int) -> bytes:
        """Visible bytes; blocks on the disk."""
        if self._partial is None:
            return b""
        return os.pread(self._partial.fd, min(limit, self.visible - offset), offset)

    def board(self, source: Source) -> None:
        """One more reader, who may also help with credentials."""
        self._users += 1
        if source not in self.sources:
            self.sources = [source, *self.sources[: _SOURCES - 1]]

    def leave(self) -> None:
        """One user less; the last one closes the file."""
        self._users -= 1
        if self._users == 0 and self._partial is not None:
            self._partial.close()

    # -- for the fill

    def take_off(self, partial: Partial, size: int | None) -> None:
        """The upstream sends: readers may have their headers."""
        self._partial, self.size = partial, size
        self.advance(partial.written)
        self._opened.set()

    def advance(self, written: int) -> None:
        """That many bytes are on disk."""
        self._written = written
        self._wake()

    def land(self) -> None:
        """All bytes are there, and they are the blob."""
        self.landed = True
        if self.size is None:
            self.size = self._written
        self._wake()

    def fail(self, failure: Failure) -> None:
        """It ends here. A flight that landed cannot fail any more: only its file was not kept."""
        if not self.landed:
            self.failure = failure
        self._opened.set()
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


class FlightBlob:
    """One reader of a flight."""

    def __init__(self, flight: Flight, source: Source, store: Store, upstream: Upstream) -> None:
        self._flight = flight
        self._source = source
        self._store = store
        self._upstream = upstream
        self._direct: Fetch | None = None
        self._closed = False

    @property
    def opener(self) -> Source:
        """In whose name the flight was opened."""
        return self._flight.opener

    @property
    def size(self) -> int | None:
        """Bytes of the blob, if the upstream said so."""
        return self._flight.size

    async def opened(self) -> None:
        """Wait for the upstream's word. Raises the failure if the flight never took off."""
        await self._flight.opened()

    async def sized(self) -> int | None:
        """The size, if need be after waiting for the end of the blob."""
        while self._flight.size is None and not self._flight.over:
            await self._flight.progress()
        return self._flight.size

    async def read_at(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`, waiting for at least one; b"" only at the end. BodyError if cut."""
        flight = self._flight
        while offset >= flight.visible and not flight.over:
            await flight.progress()
        if offset < flight.visible:
            return await self._store.run(flight.read, limit, offset)
        if flight.failure is not None:
            return await self._after(flight.failure, offset)
        return b""

    async def _after(self, failure: Failure, offset: int) -> bytes:
        """The fill failed. For a fault of ours, the reader goes on alone, uncached; else it is cut."""
        if not isinstance(failure, StoreError):
            raise BodyError(str(failure)) from failure
        try:
            if self._direct is None:
                self._direct = await Fetch.open(self._upstream, lambda: [self._source], self._flight.digest, offset)
                self._rest = self._direct.chunks()
            return await anext(self._rest, b"")
        except (Refused, Unsuitable, UpstreamError) as error:
            raise BodyError(str(error)) from error

    def close(self) -> None:
        """Leave the flight. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._flight.leave()
            if self._direct is not None:
                self._direct.close()


class Flights:
    """The flights of this process, by digest."""

    def __init__(self, store: Store, upstream: Upstream) -> None:
        self._store = store
        self._upstream = upstream
        self._flying: dict[Digest, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._flying)

    def find(self, digest: Digest) -> Flight | None:
        """The flight under way for `digest`."""
        return self._flying.get(digest)

    def join(self, digest: Digest, source: Source) -> tuple[FlightBlob, bool]:
        """Read `digest` from the flight that is under way, or from a new one. Also: was it a new one?"""
        flight = self._flying.get(digest)
        started = flight is None
        if flight is None:
            flight = self._flying[digest] = Flight(digest, source)
            task = asyncio.create_task(self._fly(flight), name=f"fill {digest}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        flight.board(source)
        return FlightBlob(flight, source, self._store, self._upstream), started

    async def aclose(self) -> None:
        """Stop all fills; what they have stays on disk and is resumed by the next fill."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, flight: Flight) -> None:
        try:
            await self._fill(flight)
        except (Refused, Unsuitable, UpstreamError, StoreError, NotTheBlob) as failure:
            log.info("fill of %s failed: %s", flight.digest, failure)
            flight.fail(failure)
        except asyncio.CancelledError:
            flight.fail(UpstreamError("the proxy is shutting down", 503))
            raise
        except Exception as error:
            log.exception("fill of %s failed", flight.digest)
            flight.fail(StoreError(f"internal fault: {type(error).__name__}"))
        finally:
            self._flying.pop(flight.digest, None)
            flight.leave()

    async def _fill(self, flight: Flight) -> None:
        partial = await self._store.begin(flight.digest)
        keep = partial.written > 0
        try:
            fetch = await Fetch.open(self._upstream, lambda: flight.sources, flight.digest, partial.written)
            with contextlib.closing(fetch):
                await self._store.reserve(partial, fetch.size or partial.written)
                keep = True
                flight.take_off(partial, fetch.size)
                await self._land(flight, partial, fetch)
        except (StoreError, NotTheBlob):
            keep = False  # a disk that is full or fails, or bytes that are wrong: what is there only takes room
            raise
        finally:
            with contextlib.suppress(StoreError):
                await asyncio.shield(self._store.end(partial, keep=keep))
            if not flight.took_off:
                partial.close()

    async def _land(self, flight: Flight, partial: Partial, fetch: Fetch) -> None:
        """Write the body down and judge it by its digest, whatever the upstream said of its length."""
        failure: UpstreamError | None = None
        try:
            async with (
                _Sink(self._store, partial, flight.advance) as sink,
                contextlib.aclosing(fetch.chunks()) as body,
            ):
                async for chunk in body:
                    await sink.put(chunk)
        except UpstreamError as error:
            failure = error
        if not partial.verified:
            raise failure or NotTheBlob(f"the {partial.written} bytes that the upstream sent are not {flight.digest}")
        if failure is not None:  # whole and right, but not as long as announced: readers were told another length
            await self._store.commit(partial)
            raise failure
        # Readers may have the last byte before the disk has everything for good: it is right in any case.
        flight.land()
        await self._store.commit(partial)


class _Sink:
    """Writes to disk what arrives, while more arrives: neither waits for the other until `_WRITE_AHEAD` is full."""

    def __init__(self, store: Store, partial: Partial, advanced: Callable[[int], None]) -> None:
        self._store = store
        self._partial = partial
        self._advanced = advanced
        self._waiting: list[bytes] = []
        self._size = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> _Sink:
        self._task = asyncio.create_task(self._write(), name=f"write {self._partial.digest}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is left, also after a failure: it can be resumed from there."""
        self._ended = True
        self._more.set()
        try:
            await asyncio.shield(self._task)
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
