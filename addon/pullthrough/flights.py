"""One fill per digest, however many clients ask at once; all of them read while it grows.

Responsible for sharing: who asks for a blob that is already on its way joins it, also if another process fetches it.
Then the flight follows that one's file, and goes on with it if that one ends. A flight belongs to the cache and not to
a client: a leaving client removes a reader, nothing else. Must not know about access: whoever joins was allowed to
before.

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
from pullthrough.fetch import UNMIRRORED, Fetch, Mirrored, Refused, Source, Unsuitable
from pullthrough.flight import Flight, FlightBlob, NotTheBlob
from pullthrough.following import follow
from pullthrough.sink import Sink
from pullthrough.store import Fate, Partial, Store, StoreError, Taken
from pullthrough.turns import Turns
from pullthrough.upstream import Upstream, UpstreamError

log = logging.getLogger(__name__)

#: Bytes of a file that is copied, at a time.
_COPIED: Final = 1 << 20


async def _nothing() -> None:
    """For a flight of which nobody wants to hear."""


class Flights:
    """The flights of this process, by digest; at most `most` of them in the air."""

    def __init__(self, store: Store, upstream: Upstream, most: int) -> None:
        self._store = store
        self._upstream = upstream
        self._turns = Turns(most)
        self._flying: dict[Digest, Flight] = {}
        self._tasks: dict[Flight, asyncio.Task[None]] = {}
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
        *,
        entitled: bool = False,
    ) -> tuple[FlightBlob, bool]:
        """Read `digest` from the flight that is under way, or from a new one. Also: was it a new one?

        A new one is asked for in the name of `source` alone, at `asked` on the caller's clock; with `mirrored` the
        registry said then already that it may have the blob. If all came, whole and right, `proved` is called before
        the flight is over.

        If somebody else is filling that blob, also in another process, an `entitled` source reads what he fetches: it
        must have a grant and a link (which that flight does not prove anew). For others the flight fails with `Taken`.
        """
        flight = self._flying.get(digest)
        started = flight is None
        if flight is None:
            flight = Flight(digest, source, asked, mirrored, entitled=entitled, deserted=self._drop)
            self._flying[digest] = flight
            self._tasks[flight] = asyncio.create_task(self._fly(flight, proved), name=f"fill {digest}")
            self._tasks[flight].add_done_callback(lambda _: self._tasks.pop(flight))
        flight.board(source)
        return FlightBlob(flight, source, self._store, self._upstream), started

    async def aclose(self) -> None:
        """Stop all fills; what they have stays on disk and is resumed by the next fill."""
        while self._tasks:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.wait(self._tasks.values())

    def _drop(self, flight: Flight) -> None:
        """Nobody waits any more for this one, which waits for others. Whoever comes now begins a new one."""
        del self._flying[flight.digest]
        self._tasks[flight].cancel()

    async def _fly(self, flight: Flight, proved: Callable[[], Awaitable[None]]) -> None:
        try:
            flight.queued = True
            async with self._turns.take():
                flight.queued = False
                while not flight.landed:
                    await self._fill(flight)
            if not flight.followed:
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
            flight.queued = False
            if self._flying.get(flight.digest) is flight:
                del self._flying[flight.digest]
            self.ended += 1
            flight.leave()

    async def _fill(self, flight: Flight) -> None:
        """Get it, if nobody else does; else follow him until he has ended one way or another."""
        partial = await self._begin(flight)
        keep = True
        try:
            if partial.locked or await self._follow(flight, partial) is Fate.OURS:
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

    async def _begin(self, flight: Flight) -> Partial:
        """The file to fill, or that of somebody who does already or has just done so."""
        while True:
            try:
                partial: Partial | None = await self._store.begin(flight.digest, missed=True)
            except Taken:
                if not flight.entitled or flight.took_off:
                    raise
                partial = await self._store.follow(flight.digest)
            if partial is not None:
                flight.hold(partial)
                return partial

    async def _follow(self, flight: Flight, partial: Partial) -> Fate:
        return await follow(self._store, partial, lambda: flight.show(partial))

    async def _transfer(self, flight: Flight, partial: Partial) -> None:
        if flight.partial is not None:
            await self._inherit(flight.partial, partial)
            if partial.verified:  # whoever began it ended just before he could commit it
                await self._land(flight, partial, None)
                return
        fetch = await self._open(flight, partial.written)
        with contextlib.closing(fetch):
            if fetch.size is not None and fetch.size < partial.written:
                raise NotTheBlob(f"an earlier fill left more than the {fetch.size} bytes that there are")
            # An earlier fill may have got it all. The upstream had to be asked nevertheless: not everybody may have it.
            whole = partial.verified
            size = partial.written if whole else fetch.size
            await self._store.reserve(partial, size or partial.written)
            await self._store.run(partial.announce, size)
            flight.take_off(partial, size, fetch.mirror)
            cut = None if whole else await self._receive(flight, partial, fetch)
        flight.doubtful = fetch.mirrored
        try:
            await self._land(flight, partial, cut)
        except NotTheBlob:
            fetch.spoiled()
            raise

    async def _open(self, flight: Flight, offset: int) -> Fetch:
        if flight.took_off:
            return await Fetch.resume(
                self._upstream,
                flight.digest,
                lambda: flight.sources,
                offset=offset,
                size=flight.size,
                mirrored=flight.mirrored,
            )
        return await Fetch.open(
            self._upstream,
            flight.digest,
            flight.opener,
            offset=offset,
            others=lambda: flight.sources,
            mirrored=flight.mirrored,
        )

    async def _inherit(self, shown: Partial, partial: Partial) -> None:
        """What readers have seen is what they get the rest of; whether it was right, the digest tells in the end.

        Whoever wrote it may have deleted it because it was not, or because his disk was full: nobody knows.
        """
        if shown is partial:
            return
        if partial.written:
            raise StoreError("somebody began anew with what this fill shows already")
        while partial.written < shown.written:
            length = min(_COPIED, shown.written - partial.written)
            chunk = await self._store.run(os.pread, shown.fd, length, partial.written)
            if not chunk:
                raise StoreError("the file is shorter than what was read from it")
            await self._store.write(partial, chunk)

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
