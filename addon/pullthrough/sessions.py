"""The HTTP client library's sessions, made as we need them, and the clock of a request that is sent with one.

Responsible for what is set on the library once: pools, look-ups, no cookies, no decoding. Must not know what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pullthrough.lookups import Ground, Lookups

#: A pre-signed Location or a long challenge may be far longer than aiohttp's default of 8 KiB.
_MAX_FIELD: Final = 64 * 1024
#: How low the connections may land that are made in this context: aiohttp looks names up for itself.
_LOWEST: Final = ContextVar("lowest", default=Ground.LOOPBACK)


def session(
    *, tls: ssl.SSLContext, lookups: Lookups, per_host: int, connect: float, stall: float
) -> aiohttp.ClientSession:
    """A session with at most `per_host` connections to each origin; `connect` and `stall` are seconds.

    A request needs a `Patience` as its `trace_request_ctx`.
    """
    connector = aiohttp.TCPConnector(
        ssl=tls,
        limit=0,
        limit_per_host=per_host,
        use_dns_cache=False,  # a registry that moves must be found at once; the system caches look-ups
        resolver=_Resolver(lookups),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookie must never reach another's request
        auto_decompress=False,
        trust_env=False,  # it would also read ~/.netrc; the parent proxy comes from ParentProxies
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=stall),
        trace_configs=[_unhurried_queue()],
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        max_line_size=_MAX_FIELD,
        max_field_size=_MAX_FIELD,
    )


@contextlib.contextmanager
def not_below(lowest: Ground) -> Iterator[None]:
    """Connections that requests in this block have to make must not land on lower ground."""
    before = _LOWEST.set(lowest)
    try:
        yield
    finally:
        _LOWEST.reset(before)


class _Resolver(AbstractResolver):
    """Look-ups in the form in which aiohttp wants them."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As `Lookups.find`."""
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host, host=found.host, port=found.port, family=found.family, proto=found.proto, flags=numeric
            )
            for found in await self._lookups.find(host, port, family=family, lowest=_LOWEST.get())
        ]

    async def close(self) -> None:
        """Nothing is its own."""


class Patience:
    """The seconds that an upstream may take for the head of its answer, and those that it took.

    Stands still while a request waits for one of our connections: that is not the upstream's doing. `deadline` is to
    be entered around the request; `clock` measures what was spent.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.deadline = asyncio.timeout(seconds)
        self._clock = clock
        self._began = self._stopped = clock()
        self._kept = seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return (self.deadline.when() or 0.0) - asyncio.get_running_loop().time()

    @property
    def spent(self) -> float:
        """Seconds since it was made, less those in which it stood still."""
        return self._clock() - self._began

    def stop(self) -> None:
        """Stand still."""
        self._kept, self._stopped = self.left, self._clock()
        self.deadline.reschedule(None)

    def go_on(self) -> None:
        """Run again from where it was."""
        self._began += self._clock() - self._stopped
        self.deadline.reschedule(asyncio.get_running_loop().time() + self._kept)


def _unhurried_queue() -> aiohttp.TraceConfig:
    async def stop(session: aiohttp.ClientSession, context: Any, about: Any) -> None:
        patience: Patience = context.trace_request_ctx
        patience.stop()

    async def go_on(session: aiohttp.ClientSession, context: Any, about: Any) -> None:
        patience: Patience = context.trace_request_ctx
        patience.go_on()

    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(stop)
    config.on_connection_queued_end.append(go_on)
    return config
