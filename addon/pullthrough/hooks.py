"""mitmproxy's hooks, without the way through addons that do not listen.

Responsible for calling, for each hook, those who have a method of its name, in the order of the addons. Must not know
what they do. mitmproxy asks every addon at every hook, and once more whether it wants to hear that a flow has changed,
which none of ours does: that was the largest cost of a connection.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from mitmproxy import addonmanager, exceptions, hooks

log = logging.getLogger(__name__)


class Addons(addonmanager.AddonManager):
    """mitmproxy's addons, that remember who listens to what. There is no `update` hook."""

    def __init__(self, proxy: Any) -> None:
        super().__init__(proxy)  # type: ignore[no-untyped-call]
        self._listening: dict[str, list[Callable[[Any], Any]]] = {}

    def add(self, *addons: object) -> None:
        """As mitmproxy's; from now on these are asked as well."""
        super().add(*addons)  # type: ignore[no-untyped-call]
        self._listening.clear()

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        """Call everybody who listens. A fault of one keeps nobody from the others."""
        (subject,) = event.args()
        for call in self._listeners(event):
            try:
                outcome = call(subject)
                if inspect.isawaitable(outcome):
                    await outcome
            except exceptions.AddonHalt:
                return
            except Exception:
                log.exception("fault in %s", event.name)

    def _listeners(self, event: hooks.Hook) -> list[Callable[[Any], Any]]:
        found = self._listening.get(event.name)
        if found is None:
            found = [call for addon in self.chain for _, call in self._iter_hooks(addon, event)]
            self._listening[event.name] = found
        return found
