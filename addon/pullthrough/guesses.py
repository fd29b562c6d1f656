"""How often somebody was wrong: in an outage passwords are checked here, and nobody may try them one after the other.

Responsible for counting. Must not know what was tried, nor by whom but for a fingerprint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

#: Wrong tries that are free, and seconds after which they are forgotten.
FREE: Final = 20
FORGOTTEN: Final = 600.0
_MAX: Final = 16384


class Guesses[K: Hashable]:
    """Wrong tries by key. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[K, tuple[int, float]] = OrderedDict()

    def wait(self, key: K) -> float:
        """Seconds until another try is looked at; 0 for now."""
        count, until = self._wrong.get(key, (0, 0.0))
        return max(0.0, until - self._clock()) if count >= FREE else 0.0

    def wrong(self, key: K) -> None:
        """One more. The time begins with the first."""
        now = self._clock()
        count, until = self._wrong.pop(key, (0, 0.0))
        self._wrong[key] = (count + 1, until) if until > now else (1, now + FORGOTTEN)
        while len(self._wrong) > _MAX:
            self._wrong.popitem(last=False)
