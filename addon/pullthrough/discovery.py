"""Finding out whether a host that nobody named is a registry (`--discover`).

Responsible for the one question that tells, and for remembering the answer. Must not know what follows from it, nor who
wants to know.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pullthrough.core import challenges
from pullthrough.core.headers import Headers
from pullthrough.core.registries import Registries
from pullthrough.facts import Facts
from pullthrough.joins import Joins
from pullthrough.messages import Registry
from pullthrough.upstream import Reply, Upstream, UpstreamError

#: Seconds that a client waits for the answer, and no longer: most hosts are none.
_PATIENCE: Final = 5.0
#: Seconds that a registry is taken for one, and for which a host that is none is not asked again.
_REMEMBERED: Final = 30 * 24 * 3600.0
_AGAIN: Final = 3600.0
_MAX_OTHERS: Final = 4096
#: Bytes of the answer of a registry that lets everybody in: it is {}.
_MAX_WELCOME: Final = 64


class Discovery:
    """Tells `registries` of what it finds. `clock` counts seconds and never goes back."""

    def __init__(self, registries: Registries, upstream: Upstream, facts: Facts, clock: Callable[[], float]) -> None:
        self._registries = registries
        self._upstream = upstream
        self._facts = facts
        self._clock = clock
        self._asking: Joins[tuple[str, int], bool] = Joins()
        self._others: OrderedDict[tuple[str, int], float] = OrderedDict()

    async def look(self, host: str, port: int) -> bool:
        """Is this host a registry? Then `registries` covers it from now on."""
        place = host, port
        if self._others.get(place, 0.0) > self._clock():
            return False
        known = await self._facts.get(_fact(host, port)) is True
        if known or (await self._asking.do(place, lambda: self._is_one(host, port)))[0]:
            forgotten = self._registries.found(host, port)
            self._facts.put(_fact(host, port), True, _REMEMBERED)
            if forgotten is not None:
                self._facts.drop(_fact(*forgotten))
            return True
        self._others[place] = self._clock() + _AGAIN
        self._others.move_to_end(place)
        while len(self._others) > _MAX_OTHERS:
            self._others.popitem(last=False)
        return False

    async def _is_one(self, host: str, port: int) -> bool:
        """OCI distribution specification 1.1, end-1: what `/v2/` answers tells a registry from any other host."""
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._upstream.ask("GET", f"{Registry('https', host, port)}/v2/", Headers())
                try:
                    return await _speaks_like_one(reply)
                finally:
                    reply.close()
        except (UpstreamError, TimeoutError):
            return False


def _fact(host: str, port: int) -> str:
    return f"registry {Registry('https', host, port)}"


async def _speaks_like_one(reply: Reply) -> bool:
    if (reply.headers.get("docker-distribution-api-version") or "").startswith("registry/2"):
        return reply.status in (200, 401)
    if reply.status == 401:
        lines = reply.headers.all("www-authenticate")
        found = [challenge for line in lines for challenge in challenges.parse(line) or ()]
        return any(one.scheme.lower() == "bearer" and one.get("realm") and one.get("service") for one in found)
    return reply.status == 200 and ((await reply.body(_MAX_WELCOME)) or b"").strip() == b"{}"
