"""One fill under way, as its readers see it.

Responsible for what they may have of it, and when: all that is on disk but for the last byte, wherever it comes from.
Must not know who fills it, nor about access: whoever boards was allowed to before.

Everything runs on one event loop, but for reading from disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.direct import Direct
from pullthrough.fetch import Mirror, Mirrored, Refused, Source, Unsuitable
from pullthrough.messages import BodyError
from pullthrough.store import Partial, Store, StoreError
from pullthrough.upstream import Upstream, UpstreamError

#: Sources that a flight remembers, newest first: enough for fresher tokens, not a list of all readers.
_SOURCES: Final = 8


class NotTheBlob(Exception):
    """What arrived has another digest or length than it should. Nothing of it was kept."""


type Failure = Refused | Unsuitable | UpstreamError | StoreError | NotTheBlob


class Flight:
    """One fill under way (or just ended), and what its readers may see of it."""

    def __init__(
        self,
        digest: Digest,
        source: Source,
        asked: float,
        mirrored: Mirrored,
        *,
        entitled: bool,
        deserted: Callable[[Flight], None],
    ) -> None:
        self.digest = digest
        #: May its readers have the blob whoever fetches it? Else it is for the upstream to say so, by sending it.
        self.entitled = entitled
        #: Did the first bytes come from somebody else's fill?
        self.followed = False
        #: Does it wait for others to end?
        self.queued = False
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
        self._files: list[Partial] = []
        self._deserted = deserted
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
        """Did the upstream begin to send, to us or to whom we follow?"""
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
        """One user less; the last one closes the files."""
        self._users -= 1
        if self._users == 0:
            for partial in self._files:
                partial.close()
        elif self._users == 1 and self.queued:
            self._deserted(self)

    # -- for the fill

    @property
    def partial(self) -> Partial | None:
        """What readers read."""
        return self._partial

    def hold(self, partial: Partial) -> None:
        """Keep this file open for as long as anybody might read it."""
        self._files.append(partial)

    def take_off(self, partial: Partial, size: int | None, mirror: Mirror | None) -> None:
        """The upstream sends, or a mirror: readers may have their headers.

        Again, if this goes on with what somebody else began.
        """
        self._partial, self.size, self.mirror = partial, size, mirror
        self.advance(partial.written)
        self._opened.set()

    def show(self, partial: Partial) -> None:
        """Somebody else has written that much of it. Raises `NotTheBlob` if that cannot become the blob."""
        size = self.size if self.took_off else self._told(partial)
        if size is not None and partial.written + (not partial.verified) > size:
            # Said before anything is shown: bytes of the length that readers are told must be the blob.
            raise NotTheBlob(f"the {partial.written} bytes of another fill are not {self.digest}")
        if not self.took_off:
            if not (partial.filling.sends or partial.verified):
                return
            self.followed = True
            self.take_off(partial, size, None)
        self.advance(partial.written)
        if partial.verified:
            self.land()

    def _told(self, partial: Partial) -> int | None:
        said = partial.filling.size
        return self.mirrored.size if said is None else said

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

    @property
    def followed(self) -> bool:
        """Did another fill fetch the beginning?"""
        return self._flight.followed

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
