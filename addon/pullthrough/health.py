"""What is wrong with us right now, in words.

Responsible for remembering the reasons why we are degraded. Must not know how to mend them: whoever reported
a trouble takes it back.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Health:
    """Named troubles. Each is logged when it begins and when it ends, not every time it is met."""

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by part; empty when nothing is."""
        return dict(self._troubles)

    @property
    def status(self) -> str:
        """`ok`, or `degraded`: pulls go on, some of them uncached."""
        return "degraded" if self._troubles else "ok"

    def degraded(self, part: str, reason: str) -> None:
        """`part` does not work for `reason`; pulls go on without it."""
        if part not in self._troubles:
            log.warning("degraded: %s: %s", part, reason)
        self._troubles[part] = reason

    def recovered(self, part: str) -> None:
        """`part` works again (or always did)."""
        if self._troubles.pop(part, None) is not None:
            log.warning("recovered: %s", part)
