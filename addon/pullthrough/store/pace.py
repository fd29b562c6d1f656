"""Work that must not be in anybody's way takes its time.

Responsible for a bound on bytes per second. Must not know what is read, nor why.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """At most `rate` bytes a second: whoever spends some waits as long as they should have taken. For one thread."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._until = clock()

    def spend(self, count: int) -> None:
        """`count` bytes were read just now; the time that this took counts. What was idle is not made up for."""
        now = self._clock()
        self._until = max(self._until + count / self._rate, now)
        self._sleep(self._until - now)
