"""How many connections each worker has, where all of them see it; and whose turn it is to take the next one.

Responsible for the counts, in memory that forked processes share, and for the rule. Must not know sockets. Without a
rule whoever happens to run first takes all of a crowd that comes at once, and one processor then serves it alone.
"""

from __future__ import annotations

import mmap
import time
from typing import Final

#: Processes at a time, at most; more would not be seen.
_SLOTS: Final = 1024
#: Seconds that a worker leaves a connection to one that has fewer. That one may be busy, and nobody is to wait for it.
_HESITATION: Final = 0.005
#: One in so many: a difference of that size does not matter.
_SLIGHT: Final = 8


class Balance:
    """Make it before the processes are forked. Each writes its own count alone, so there is no lock."""

    def __init__(self) -> None:
        # 0 where there is nobody, else one more than the connections.
        self._counts = memoryview(mmap.mmap(-1, 4 * _SLOTS)).cast("I")
        self._slot: int | None = None
        self._hesitates: float | None = None

    def join(self, slot: int) -> None:
        """From now on this process takes connections. A process that never joins is alone, and takes all."""
        if slot < _SLOTS:
            self._slot = slot
            self._counts[slot] = 1

    def leave(self) -> None:
        """This process takes no more of them."""
        if self._slot is not None:
            self._counts[self._slot] = 0
            self._slot = None

    def gone(self, slot: int) -> None:
        """The process with this slot is no more."""
        if slot < _SLOTS:
            self._counts[slot] = 0

    def took(self, count: int = 1) -> None:
        """This process has one more connection."""
        if self._slot is not None:
            self._counts[self._slot] += count

    def lost(self) -> None:
        """It has one less."""
        self.took(-1)

    def may_take(self) -> bool:
        """Is it this process's turn? It is also if those whose turn it is do not take what waits."""
        if self._slot is None:
            return True
        least = min(filter(None, self._counts.tolist()))
        if self._counts[self._slot] <= least + (least - 1) // _SLIGHT:
            self._hesitates = None
            return True
        now = time.monotonic()
        if self._hesitates is None:
            self._hesitates = now
        if now - self._hesitates < _HESITATION:
            return False
        self._hesitates = None
        return True
