"""Which origins are not asked for now, because they kept requests waiting and then failed them.

Responsible for counting failures and for the sentence that a request gets instead of half a minute's wait. Must not
know how anybody is asked: whoever asks reports what came of it, and tries in the background while a breaker is open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

#: So many slow failures, with no answer between them, open a breaker.
FAILURES: Final = 3
#: Seconds from which on a failure is slow. A quicker one needs no breaker: the request itself is the cheapest probe,
#: and that the origin is back is seen at once.
SLOW: Final = 1.0
#: Seconds after which an old failure says nothing about a new one.
_FORGOTTEN: Final = 3600.0
_MOST_ORIGINS: Final = 1024


@dataclass(slots=True)
class _Trouble:
    """One origin's failures since its last answer."""

    since: datetime
    last: float
    reason: str
    slow: int = 0
    opened: bool = False


class Breaker:
    """Failures by origin, which is a text such as `https://registry.test:443`.

    `clock` counts seconds, `now` tells the time for people. Only the origins that failed last are remembered.
    """

    def __init__(self, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._clock = clock
        self._now = now
        self._troubles: dict[str, _Trouble] = {}  # the one that failed last at the end

    def failed(self, origin: str, reason: str, seconds: float) -> None:
        """There was no answer, or a gateway's that there is none (502, 503, 504), and that took `seconds`."""
        trouble = self._current(origin) or _Trouble(self._now(), self._clock(), reason)
        trouble.last, trouble.reason = self._clock(), reason
        if seconds >= SLOW:
            trouble.slow += 1
            trouble.opened = trouble.opened or trouble.slow >= FAILURES
        self._troubles.pop(origin, None)
        self._troubles[origin] = trouble
        if len(self._troubles) > _MOST_ORIGINS:
            del self._troubles[next(iter(self._troubles))]

    def worked(self, origin: str) -> None:
        """There was any other answer."""
        self._troubles.pop(origin, None)

    def close(self, origin: str) -> None:
        """Let requests find out for themselves again. The origin goes on counting as failing."""
        if trouble := self._troubles.get(origin):
            trouble.slow, trouble.opened = 0, False

    def since(self, origin: str) -> datetime | None:
        """When the first failure after the last answer was; None if the last thing known is an answer."""
        trouble = self._current(origin)
        return trouble.since if trouble else None

    def opened(self, origin: str) -> bool:
        """Is the breaker open: are requests to be refused?"""
        trouble = self._current(origin)
        return trouble is not None and trouble.opened

    def refusal(self, origin: str) -> str | None:
        """The sentence with which a request fails fast; None while the breaker is closed."""
        trouble = self._current(origin)
        if trouble is None or not trouble.opened:
            return None
        since = f"{trouble.since:%Y-%m-%d %H:%M:%S %Z}".rstrip()
        return f"{trouble.reason}; it has been failing since {since} and is tried again in the background"

    def count(self) -> int:
        """How many breakers are open."""
        return sum(trouble.opened for trouble in self._troubles.values())

    def failing(self) -> dict[str, datetime]:
        """Since when, by origin."""
        return {origin: trouble.since for origin, trouble in self._troubles.items() if self._current(origin)}

    def _current(self, origin: str) -> _Trouble | None:
        trouble = self._troubles.get(origin)
        if trouble is None or (not trouble.opened and self._clock() - trouble.last > _FORGOTTEN):
            return None
        return trouble
