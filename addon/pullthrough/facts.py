"""Facts that outlive a restart: proofs of access, the last digests of tags, challenges.

Responsible for writing them down behind the back of whoever learned them, in order, and for how long they count. Must
not know what they mean. What cannot be written counts as long as this process lives; what cannot be read is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from pullthrough.siblings import Siblings
from pullthrough.store import Store, StoreError

log = logging.getLogger(__name__)

#: A fact that was learned again is written again only after this part of its time: not with every pull.
_RENEW: Final = 1 / 24
#: Seconds by which a clock may be set back without making what was learned before worthless.
_SET_BACK: Final = 300.0
#: Seconds for which counts what an operator brought: as long as links, without which it is worth nothing.
LASTING: Final = 90 * 24 * 3600.0
#: Facts that may wait for a disk that does not take them, and facts of which is remembered that they are written.
_MAX: Final = 16384

#: Since when it holds, how many seconds it counts, and what it says. What is gone is remembered as gone: None.
type Fact = tuple[float, float, Any] | None
#: The same as the store takes it: what it says, and for how many seconds it is kept.
type Row = tuple[list[Any], float]


class Facts:
    """JSON values by key. `now` counts seconds since the epoch, and may jump: it has to mean the same tomorrow."""

    def __init__(self, store: Store, now: Callable[[], float], siblings: Siblings | None = None) -> None:
        self._store = store
        self._siblings = siblings or Siblings()
        self._siblings.hear("fact", self._hear)
        self._siblings.missed(self._forget)
        self._now = now
        #: Later than what is on disk; what is being written just now is in both.
        self._waiting: OrderedDict[str, Fact] = OrderedDict()
        self._written: OrderedDict[str, Fact] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None
        #: When something was last given up that the disk did not take: what lies there from before may hold no more.
        self._given_up = -math.inf

    async def get(self, key: str, within: float = math.inf, *, shared: bool = False) -> Any:
        """What is known under `key`; None if nothing is, no more, or only from longer than `within` seconds ago.

        What is `shared` an operator's commands may have written since we did.
        """
        fact = await self._find(key, shared)
        if fact is None:
            return None
        since, seconds, value = fact
        age = self._now() - since
        return value if age >= -_SET_BACK and max(age, 0.0) < min(seconds, within) else None

    def put(self, key: str, value: Any, seconds: float) -> None:
        """`value` holds from now on, for so long unless it is put again."""
        fact, now = self._latest(key), self._now()
        if fact is None or fact[1:] != (seconds, value) or not 0 <= now - fact[0] < seconds * _RENEW:
            self._learn(key, (now, seconds, value))

    def drop(self, key: str, *, shared: bool = False) -> None:
        """It holds no more."""
        if shared or not self._learned(key) or self._latest(key) is not None:
            self._learn(key, None)

    async def flush(self) -> None:
        """Have everything written down, as far as the disk takes it."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait((self._writing,))
        await asyncio.wait((self._write_behind(),))

    def _learned(self, key: str, shared: bool = False) -> bool:
        """Is what is on disk known without looking, or out of date?"""
        return key in self._waiting or (key in self._written and not shared)

    def _latest(self, key: str) -> Fact:
        return self._waiting[key] if key in self._waiting else self._written.get(key)

    def _learn(self, key: str, fact: Fact) -> None:
        if _keep(self._waiting, key, fact):
            self._given_up = self._now()
        self._siblings.tell("fact", key, fact)
        self._write_behind()

    def _hear(self, key: str, row: Any) -> None:
        """A sibling learned it, and writes it down. That something holds no more goes before what we are writing."""
        fact = fact_of(row)
        _keep(self._written, key, fact)
        if fact is None and key in self._waiting:
            self._waiting[key] = None

    def _forget(self) -> None:
        """Siblings may have learned what we did not hear of; what is on disk counts."""
        self._written.clear()

    def _write_behind(self) -> asyncio.Task[None]:
        """The one task that writes: two at once could write in the wrong order."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="facts")
        return self._writing

    async def _find(self, key: str, shared: bool) -> Fact:
        row = None
        if not self._learned(key, shared):
            with contextlib.suppress(StoreError):
                row = await self._store.recall(key)
        if self._learned(key, shared):
            return self._latest(key)
        fact = fact_of(row)
        return fact if fact is not None and fact[0] > self._given_up else None

    async def _write(self) -> None:
        """Until nothing waits. What the disk does not take waits for the next fact that is learned."""
        while self._waiting:
            batch = dict(self._waiting)
            rows = {key: fact and row_of(*fact) for key, fact in batch.items()}
            try:
                await self._store.note(rows)
            except StoreError as error:
                log.debug("%d facts are not written down: %s", len(batch), error)
                return
            for key, fact in batch.items():
                if self._waiting.get(key, batch) is fact:
                    del self._waiting[key]
                _keep(self._written, key, fact)


def row_of(since: float, seconds: float, value: Any) -> Row:
    """How a fact is noted in the store."""
    return [since, seconds, value], seconds


def fact_of(row: Any) -> Fact:
    """What a row of the store says, if we wrote it."""
    match row:
        case [int() | float() as since, int() | float() as seconds, value]:
            with contextlib.suppress(OverflowError):
                return float(since), float(seconds), value
    return None


def _keep(facts: OrderedDict[str, Fact], key: str, fact: Fact) -> bool:
    """Was an older one given up for it?"""
    facts[key] = fact
    facts.move_to_end(key)
    full = len(facts) > _MAX
    if full:
        facts.popitem(last=False)
    return full
