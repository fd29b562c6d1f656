"""Names of upstreams to addresses: one look-up at a time for each name, and who may lead us how close to home.

Responsible for look-ups that cannot hang on one another, and for leaving out or refusing what they must not lead to.
Must not know what is asked there.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pullthrough.guard import ForbiddenAddressError, Guard, literal, reached
from pullthrough.joins import Joins
from pullthrough.resolver import Resolver

#: A look-up that hangs keeps its thread until the system gives up: there must be some left for the others.
_THREADS: Final = 32


class Ground(enum.IntEnum):
    """How close to us an address is. Who stands on higher ground may not lead us down (see `Lookups.footing`)."""

    LOOPBACK = 0
    PRIVATE = 1
    PUBLIC = 2

    @classmethod
    def of(cls, address: str) -> Ground:
        """Where this address is; a name is no address, and nobody's ground: ValueError."""
        spelled = literal(address)
        if spelled is None:
            raise ValueError(f"{address} is no address")
        if spelled.is_loopback:
            return cls.LOOPBACK
        return cls.PUBLIC if reached(spelled).is_global else cls.PRIVATE


_WHERE: Final = {
    Ground.LOOPBACK: "on this machine's own loopback",
    Ground.PRIVATE: "not on the public internet",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One address of a name, with the port to connect to."""

    host: str
    port: int
    family: int
    proto: int


class Lookups:
    """Looks names up in threads of its own. `aclose` it."""

    def __init__(self, guard: Guard, resolver: Resolver) -> None:
        self._guard = guard
        self._resolver = resolver
        self._under_way: Joins[tuple[str, int, int], list[Found]] = Joins()
        self._threads = ThreadPoolExecutor(_THREADS, "lookup")

    def aclose(self) -> None:
        """Look nothing up any more. What hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(
        self, host: str, port: int, *, family: int = socket.AF_UNSPEC, lowest: Ground = Ground.LOOPBACK
    ) -> list[Found]:
        """The addresses of `host`, at least one, less those that the guard objects to. OSError if there is none.

        ForbiddenAddressError if the guard objects to all, or if one is on lower ground than `lowest`.
        """
        found, _ = await self._under_way.do((host, port, family), lambda: self._look_up(host, port, family))
        allowed = [entry for entry in found if self._guard.objection(entry.host, port) is None]
        if found and not allowed:
            self._guard.check(found[0].host, port)
        if not allowed:
            raise OSError(f"{host} has no address")
        if (least := min(_grounds(allowed))) < lowest:
            raise ForbiddenAddressError(f"{host} is now {_WHERE[least]}; it was not when it was looked up before")
        return allowed

    async def footing(self, target: tuple[str, int], namer: tuple[str, int], most: Ground) -> Ground:
        """The lowest ground on which a connection to `target` may land, because `namer` named it. Both are host, port.

        Below `most`, nobody leads to lower ground than their own: the target's lowest address against the namer's
        highest. ForbiddenAddressError if that is so. A name may lead elsewhere a moment later (DNS rebinding), so
        that whoever connects has to give `find` this ground.
        """
        seen = min(await self._grounds(*target))
        if seen < most and seen < max(await self._grounds(*namer)):
            raise ForbiddenAddressError(f"{namer[0]} may not lead to {target[0]}, which is {_WHERE[seen]}")
        return min(seen, most)

    async def _grounds(self, host: str, port: int) -> list[Ground]:
        if literal(host) is not None:
            return [Ground.of(host)]
        return _grounds(await self.find(host, port))

    async def _look_up(self, host: str, port: int, family: int) -> list[Found]:
        infos = await self._resolver.find(host, port, family, self._threads)
        return [Found(str(info[4][0]), int(info[4][1]), info[0], info[2]) for info in infos]


def _grounds(found: Iterable[Found]) -> list[Ground]:
    return [Ground.of(entry.host) for entry in found]
