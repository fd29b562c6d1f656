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
from collections.abc import Awaitable, Callable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.direct import Direct
from pullthrough.fetch import UNMIRRORED, Fetch, Mirror, Mirrored, Refused, Source, Unsuitable
from pullthrough.messages import BodyError
from pullthrough.sink import Sink
from pullthrough.store import Partial, Store, StoreError
from pullthrough.upstream import Upstream, UpstreamError

log = logging.getLogger(__name__)

#: Sources that a flight remembers, newest first: enough for fresher tokens, not a list of all readers.
_SOURCES: Final = 8


class NotTheBlob(Exception):
    """What arrived has another digest or length than it should. Nothing of it was kept."""


type Failure = Refused | Unsuitable | UpstreamError | StoreError | NotTheBlob


async def _nothing() -> None:
    """For a flight of which nobody wants to hear."""


class Flight:
    """One fill under way (or just ended), and what its readers may see of it."""

    def __init__(self, digest: Digest, source: Source, asked: float, mirrored: Mirrored) -> None:
        self.digest = digest
        self.opener = source
        self.asked = asked
        self.mirrored = mirrored
        self.sources = [source]
        self.size: int | None = None
        #: Who began to send, if it was not the registry.
        self.mirror: Mirror | None = None
        #: Did a part come from somebody who is not the registry?
        self.doubtful = False
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
        """Wait until more is visible or the flight is over, which it must not be yet."""
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

    def take_off(self, partial: Partial, size: int | None, mirror: Mirror | None) -> None:
        """The upstream sends, or a mirror: readers may have their headers."""
        self._partial, self.size, self.mirror = partial, size, mirror
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
        self._store = store
        self._direct = Direct(upstream, source, flight.digest)
        self._closed = False

    @property
    def landed(self) -> bool:
        """Is every byte there, and right?"""
        return self._flight.landed

    @property
    def opener(self) -> Source:
        """In whose name the flight was opened."""
        return self._flight.opener

    @property
    def size(self) -> int | None:
        """Bytes of the blob, if the upstream said so."""
        return self._flight.size

    @property
    def mirror(self) -> Mirror | None:
        """Who sends it, if it is not the registry."""
        return self._flight.mirror

    async def opened(self) -> None:
        """Wait for the upstream's word. Raises the failure if the flight never took off."""
        await self._flight.opened()

    async def sized(self) -> int:
        """The size, if need be after waiting for the end of the blob. Raises the failure if that never comes."""
        flight = self._flight
        while flight.size is None:
            if flight.failure is not None:
                raise flight.failure
            await flight.progress()
        return flight.size

    async def read_at(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`, waiting for at least one; b"" only at the end. BodyError if cut.

        For a fault of ours, the reader goes on alone, uncached.
        """
        flight = self._flight
        while offset >= flight.visible and not flight.over:
            await flight.progress()
        try:
            if offset < flight.visible:
                return await self._stored(offset, limit)
            if flight.failure is not None:
                raise flight.failure
        except StoreError:
            return await self._direct.read_at(offset, limit, flight.size)
        except (Refused, Unsuitable, UpstreamError, NotTheBlob) as failure:
            raise BodyError(str(failure)) from failure
        return b""

    async def _stored(self, offset: int, limit: int) -> bytes:
        data = await self._store.run(self._flight.read, limit, offset)
        if not data:
            raise StoreError("the file is shorter than what was written to it")
        return data

    def close(self) -> None:
        """Leave the flight. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._flight.leave()
            self._direct.close()


class Flights:
    """The flights of this process, by digest."""

    def __init__(self, store: Store, upstream: Upstream) -> None:
        self._store = store
        self._upstream = upstream
        self._flying: dict[Digest, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many have ended. Who looked into the store while one did has to look again.
        self.ended = 0

    def __len__(self) -> int:
        return len(self._flying)

    def find(self, digest: Digest) -> Flight | None:
        """The flight under way for `digest`."""
        return self._flying.get(digest)

    def join(
        self,
        digest: Digest,
        source: Source,
        asked: float = 0.0,
        proved: Callable[[], Awaitable[None]] = _nothing,
        mirrored: Mirrored = UNMIRRORED,
    ) -> tuple[FlightBlob, bool]:
        """Read `digest` from the flight that is under way, or from a new one. Also: was it a new one?

        A new one is asked for in the name of `source` alone, at `asked` on the caller's clock; with `mirrored` the
        registry said then already that it may have the blob. If all came, whole and right, `proved` is called before
        the flight is over.
        """
        flight = self._flying.get(digest)
        started = flight is None
        if flight is None:
            flight = self._flying[digest] = Flight(digest, source, asked, mirrored)
            task = asyncio.create_task(self._fly(flight, proved), name=f"fill {digest}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        flight.board(source)
        return FlightBlob(flight, source, self._store, self._upstream), started

    async def aclose(self) -> None:
        """Stop all fills; what they have stays on disk and is resumed by the next fill."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _fly(self, flight: Flight, proved: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._fill(flight)
            await proved()
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
            del self._flying[flight.digest]
            self.ended += 1
            flight.leave()

    async def _fill(self, flight: Flight) -> None:
        partial = await self._store.begin(flight.digest)
        keep = True
        try:
            await self._transfer(flight, partial)
        except UpstreamError:
            keep = not flight.doubtful  # nobody would know where wrong bytes came from that the next fill goes on with
            raise
        except (StoreError, NotTheBlob):
            keep = False  # a disk that is full or fails, or bytes that are wrong: what is there only takes room
            raise
        finally:
            with contextlib.suppress(StoreError):
                await self._store.end(partial, keep=keep and partial.written > 0)
            if not flight.took_off:
                partial.close()

    async def _transfer(self, flight: Flight, partial: Partial) -> None:
        fetch = await Fetch.open(
            self._upstream,
            flight.digest,
            flight.opener,
            offset=partial.written,
            others=lambda: flight.sources,
            mirrored=flight.mirrored,
        )
        with contextlib.closing(fetch):
            if fetch.size is not None and fetch.size < partial.written:
                raise NotTheBlob(f"an earlier fill left more than the {fetch.size} bytes that there are")
            # An earlier fill may have got it all. The upstream had to be asked nevertheless: not everybody may have it.
            whole = partial.verified
            await self._store.reserve(partial, partial.written if whole else fetch.size or partial.written)
            flight.take_off(partial, partial.written if whole else fetch.size, fetch.mirror)
            cut = None if whole else await self._receive(flight, partial, fetch)
        flight.doubtful = fetch.mirrored
        try:
            await self._land(flight, partial, cut)
        except NotTheBlob:
            fetch.spoiled()
            raise

    async def _receive(self, flight: Flight, partial: Partial, fetch: Fetch) -> UpstreamError | None:
        """Write the body down. What cut it short, if something did."""
        try:
            async with Sink(self._store, partial, flight.advance) as sink:
                while chunk := await fetch.read():
                    await sink.put(chunk)
        except UpstreamError as error:
            return error
        return None

    async def _land(self, flight: Flight, partial: Partial, cut: UpstreamError | None) -> None:
        """Judge what arrived by its digest, whatever the upstream said of its length."""
        if not partial.verified:
            raise cut or NotTheBlob(f"the {partial.written} bytes that the upstream sent are not {flight.digest}")
        if cut is None:
            # Readers may have the last byte before the disk has everything for good: it is right in any case.
            flight.land()
        await self._store.commit(partial)
        if cut is not None:  # whole and right, but not as long as announced: readers were told another length
            raise cut
