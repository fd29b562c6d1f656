"""Bit rot, looked for in the background.

Responsible for what is verified next and how fast: each blob once in an interval, and one that was just read sooner, so
that a client who was given rotten bytes and tries again does not get them again. Must not know what is done about
them. Work is done in the one thread that it is given; everything else here is for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pullthrough.core.digest import Digest
from pullthrough.store.disk import Adopted
from pullthrough.store.faults import StoreError
from pullthrough.store.inspector import Inspector
from pullthrough.store.pace import Pace

#: Bytes a second. One slow disk reads four times that, one core hashes ten times that; in 30 days it is 80 TiB.
RATE: Final = 32 << 20
#: What a file costs beside its bytes (a look-up, an open, a row to write): no more than 32 small files a second.
_FILE: Final = 1 << 20
#: Seconds for which a blob that was verified is not verified again, however often it is read. So clients that check
#: digests can be given rotten bytes for as long, and what is read all day costs one reading a minute.
_FRESH: Final = 60.0
#: Blobs that were read and wait to be verified, and verified ones that are remembered. Beyond, the interval has to do.
_MAX_READ: Final = 1024
#: Seconds between looks for what is due, while there is nothing to do; and after a failure of the index.
_LOOK: Final = 60.0


#: A blob and its row.
type _Found = tuple[Digest, Adopted]

log = logging.getLogger(__name__)


class Work(Protocol):
    """Does something with an inspector in the scrub's thread. StoreError if the store cannot do it now."""

    def __call__[T](self, work: Callable[[Inspector], T]) -> Awaitable[T]: ...


class JustRead:
    """Blobs that clients read since they were verified, at most so many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[Digest, None] = {}  # what was read last at the end
        self._verified: dict[Digest, float] = {}  # what was verified last at the end
        self.some = asyncio.Event()

    def note(self, digest: Digest) -> None:
        """It was read. Costs next to nothing: this is called for every answer."""
        if self._is_fresh(digest):
            return
        self._waiting.pop(digest, None)
        self._waiting[digest] = None
        _cut(self._waiting)
        self.some.set()

    def take(self) -> Digest | None:
        """The one that was read last: a client who tries again puts its blob before all others."""
        while self._waiting:
            digest, _ = self._waiting.popitem()
            if not self._is_fresh(digest):
                return digest
        self.some.clear()
        return None

    def verified(self, digest: Digest) -> None:
        """It was verified just now."""
        self._verified.pop(digest, None)
        self._verified[digest] = self._clock()
        _cut(self._verified)

    def _is_fresh(self, digest: Digest) -> bool:
        return self._clock() - self._verified.get(digest, float("-inf")) < _FRESH


class Scrub:
    """Verifies blobs for as long as it runs, each at least once in `interval` seconds if `rate` permits."""

    def __init__(
        self, do: Work, interval: float, *, rate: float = RATE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._do = do
        self._interval = interval
        self._stopped = threading.Event()
        self._pace = Pace(rate, clock=clock, sleep=self._sleep)
        self.read = JustRead(clock)

    async def run(self) -> None:
        """For ever. What was read and what is due take turns, so that neither waits for the end of the other."""
        while True:
            try:
                busy = await self._verify_read()
                busy = await self._do(self._verify_due) or busy
            except StoreError:  # whoever pulls hears of it, too, and says so
                await asyncio.sleep(_LOOK)
                continue
            if not busy:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.read.some.wait(), min(_LOOK, max(1.0, self._interval / 10)))

    def stop(self) -> None:
        """The thread is needed for nothing else: whatever it reads, it stops soon."""
        self._stopped.set()

    async def _verify_read(self) -> bool:
        digest = self.read.take()
        if digest is None:
            return False
        await self._do(lambda inspector: self._verify(inspector, inspector.find(digest), from_disk=False))
        self.read.verified(digest)
        return True

    # -- below here: in the thread

    def _verify_due(self, inspector: Inspector) -> bool:
        return self._verify(inspector, inspector.due(self._interval), from_disk=True)

    def _verify(self, inspector: Inspector, found: _Found | None, *, from_disk: bool) -> bool:
        """Was there one?"""
        if found is None:
            return False
        self._pace.spend(_FILE)
        finding = inspector.inspect(*found, self._pace.spend, from_disk=from_disk)
        if finding is None:
            return True
        if finding.inconclusive:
            log.warning("stored blob %s could not be verified: %s", found[0], finding.reason)
            inspector.postpone(found[0], self._interval)
        else:
            inspector.conclude(*found, finding)
        return True

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise StoreError("the store is closed")


def _cut[T](entries: dict[Digest, T]) -> None:
    """Let go of the first if there are too many."""
    if len(entries) > _MAX_READ:
        del entries[next(iter(entries))]
