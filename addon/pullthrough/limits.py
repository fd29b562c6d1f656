"""Rate limits of registries: what is left of them, and whom they told to wait.

Responsible for remembering what registries said about it, by who was told: limits are counted by account. Must not
know what is asked for, nor what is answered instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from pullthrough.core import ratelimit
from pullthrough.core.headers import Headers
from pullthrough.core.ratelimit import Budget
from pullthrough.messages import Registry
from pullthrough.siblings import Siblings

TOO_MANY_REQUESTS: Final = 429
#: Nobody waits longer than this for a registry that said so; then it is asked again.
_LONGEST: Final = 3600.0
_MAX: Final = 4096


class Limits:
    """What registries said. `now` is seconds since the epoch, `left` hears what is left.

    `clock` never goes back and is the same for all `siblings`.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        now: Callable[[], float],
        left: Callable[[str, int], None] = lambda registry, remaining: None,
        siblings: Siblings | None = None,
    ) -> None:
        self._clock = clock
        self._now = now
        self._left = left
        self._siblings = siblings or Siblings()
        self._siblings.hear("pause", self._put_pause)
        self._paused: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    def heard(self, registry: Registry, principal: bytes, status: int, headers: Headers) -> None:
        """The registry answered `principal`."""
        budget = ratelimit.budget(headers)
        if budget is not None:
            _put(self._budgets, registry.authority, budget)
            self._left(registry.authority, budget.remaining)
        if status == TOO_MANY_REQUESTS:
            seconds = ratelimit.retry_after(headers, self._now())
            if seconds:
                pause = str(registry), principal.hex(), self._clock() + min(seconds, _LONGEST)
                self._put_pause(*pause)
                self._siblings.tell("pause", *pause)

    def _put_pause(self, registry: str, principal: str, until: float) -> None:
        _put(self._paused, (registry, principal), until)

    def pause(self, registry: Registry, principal: bytes) -> float:
        """Seconds for which the registry does not want to hear from `principal`; 0 if it may be asked."""
        return max(0.0, self._paused.get((str(registry), principal.hex()), 0.0) - self._clock())

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """What was last heard of each registry's limit, whoever was told."""
        return self._budgets


def _put[K, V](table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > _MAX:
        table.popitem(last=False)
