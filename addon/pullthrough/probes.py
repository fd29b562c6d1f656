"""Whether origins answer: tried in the background while a breaker is open, or asked, but not too often.

Responsible for when and how often. Must not know how an origin is asked, or what counts as an answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from pullthrough.joins import Joins

log = logging.getLogger(__name__)

#: Seconds before each of the first probes, and before all that follow.
_DELAYS: Final = (1.0, 2.0, 4.0, 8.0)
_DELAY: Final = 15.0
#: Seconds for which an answer, or that there was none, is taken for the present state.
REMEMBERED: Final = 5.0
_MOST_ANSWERS: Final = 1024


class Probes:
    """Tries origins until their breakers are closed, each in a task of its own. `sleep` waits for seconds."""

    def __init__(self, opened: Callable[[str], bool], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._opened = opened
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, origin: str, probe: Callable[[], Awaitable[None]]) -> None:
        """Do `probe` now and then while the breaker of `origin` is open. One that is watched already stays as it is."""
        if origin in self._tasks:
            return
        log.warning("%s keeps requests waiting: it is left alone and tried in the background", origin)
        task = asyncio.ensure_future(self._until_closed(origin, probe))
        if not task.done():  # with eager tasks it may be over already
            self._tasks[origin] = task
            task.add_done_callback(lambda done: self._ended(origin, done))

    async def aclose(self) -> None:
        """Stop them all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_closed(self, origin: str, probe: Callable[[], Awaitable[None]]) -> None:
        for delay in itertools.chain(_DELAYS, itertools.repeat(_DELAY)):
            await self._sleep(delay)
            if self._opened(origin):
                await probe()
            if not self._opened(origin):
                log.warning("%s is asked again", origin)
                return

    def _ended(self, origin: str, task: asyncio.Task[None]) -> None:
        del self._tasks[origin]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Who is refused next has it watched again, so that no breaker stays open for ever.
            log.error("trying %s failed in here", origin, exc_info=error)


class Answers:
    """Yes or no by key, asked once for all who want to know, and at most every `REMEMBERED` seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._under_way: Joins[Hashable, bool] = Joins()
        self._known: dict[Hashable, tuple[float, bool]] = {}  # the oldest first

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[bool]]) -> bool:
        """The answer to `question`, or what it was a moment ago."""
        known = self._known.get(key)
        if known is not None and self._clock() - known[0] < REMEMBERED:
            return known[1]
        answer, _ = await self._under_way.do(key, lambda: self._asked(key, question))
        return answer

    async def _asked(self, key: Hashable, question: Callable[[], Awaitable[bool]]) -> bool:
        answer = await question()
        self._known.pop(key, None)
        self._known[key] = self._clock(), answer
        if len(self._known) > _MOST_ANSWERS:
            del self._known[next(iter(self._known))]
        return answer
