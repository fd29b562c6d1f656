"""A web server whose pages a test writes one by one, an upstream client to ask it with, and time that stands still.

For tests of the client itself: what is sent, which connections are made, what becomes of an answer that goes wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lab.names import NameMap
from lab.pki import Identity, Pki
from lab.web import Exchange, WebServer, Wire
from pullthrough.breaker import Breaker
from pullthrough.core.headers import Headers
from pullthrough.guard import Guard
from pullthrough.parent import ParentProxies
from pullthrough.upstream import Timeouts, Upstream, UpstreamError

NOTHING = Headers()
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)

type Serve = Callable[..., Web]
type Make = Callable[..., Upstream]


class Web(WebServer):
    """Answers as the test's functions say, by path; counts connections."""

    def __init__(self, name: str, identity: Identity | None = None) -> None:
        super().__init__(name, identity, public_port=None)
        self.pages: dict[str, Callable[[Exchange], None]] = {}
        self.connections = 0
        self.go_on = threading.Event()

    def answer(self, exchange: Exchange) -> None:
        page = self.pages.get(exchange.request.path)
        if page is None:
            exchange.reply(200, {}, b"hello")
        else:
            page(exchange)

    def release(self) -> None:
        self.go_on.set()

    def _converse(self, wire: Wire) -> None:
        self.connections += 1
        super()._converse(wire)

    def asked(self) -> list[tuple[str, str]]:
        """(method, target) of every request."""
        return [(request.method, request.target) for request in self.journal.requests()]

    def says(self, path: str, raw: bytes) -> None:
        """Answer with exactly these bytes, and hang up."""

        def answer(exchange: Exchange) -> None:
            exchange.wire.send(raw)
            exchange.cut()

        self.pages[path] = answer

    def redirects(self, path: str, status: int, location: str, body: bytes = b"") -> None:
        """Lead from `path` to `location`; with a query, the same path is another page."""

        def answer(exchange: Exchange) -> None:
            if exchange.request.target == path:
                exchange.reply(status, {"Location": location}, body)
            else:
                exchange.reply(200, {}, b"hello")

        self.pages[path] = answer

    def waits(self, path: str, *, after: bytes = b"") -> None:
        """Send `after`, then nothing until `go_on`."""

        def answer(exchange: Exchange) -> None:
            if after:
                exchange.begin(200, {"Content-Length": "100"})
                exchange.write(after)
            self.go_on.wait(10)
            exchange.cut()

        self.pages[path] = answer


class Time:
    """A clock that goes on when it is told to, from any thread, and naps that end when their time has passed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.naps: list[float] = []
        self._asleep: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Seconds."""
        return self.seconds

    def now(self) -> datetime:
        """The same, for people."""
        return EPOCH + timedelta(seconds=self.seconds)

    def passes(self, seconds: float) -> None:
        """Go on; who sleeps does so a little longer, until `wake`."""
        self.seconds += seconds

    async def sleep(self, seconds: float) -> None:
        """Until that much has passed and `wake` was called."""
        self.naps.append(seconds)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asleep.append((self.seconds + seconds, over))
        await over

    def wake(self) -> None:
        """End the naps whose time has passed."""
        for until, over in self._asleep:
            if until <= self.seconds and not over.done():
                over.set_result(None)


@contextlib.contextmanager
def serving(names: NameMap) -> Iterator[Serve]:
    """Starts servers: `serve("cdn.test", identity)`; plain HTTP without one."""
    started: list[Web] = []

    def start(name: str = "registry.test", identity: Identity | None = None) -> Web:
        server = Web(name, identity)
        server.start()
        server.publish(names)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.stop()


@contextlib.asynccontextmanager
async def making(pki: Pki) -> AsyncIterator[Make]:
    """Makes clients, on a clock of the test's if there is one."""
    made: list[Upstream] = []

    def build(
        *,
        environ: dict[str, str] | None = None,
        guard: Guard | None = None,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        offline: bool = False,
        time: Time | None = None,
    ) -> Upstream:
        clock = time or Time()
        upstream = Upstream(
            tls=tls or pki.client_context(),
            timeouts=timeouts or Timeouts(5.0, 5.0, 5.0),
            parents=ParentProxies(environ or {}),
            guard=guard or Guard(),
            agent="pullthrough/test",
            breaker=Breaker(clock, clock.now),
            offline=offline,
            clock=clock,
            sleep=clock.sleep,
        )
        made.append(upstream)
        return upstream

    yield build
    for upstream in made:
        await upstream.aclose()


async def fetch(
    upstream: Upstream, url: str, headers: Headers = NOTHING, *, follow: bool = False, bulk: bool = False
) -> bytes:
    """The body of the answer to a GET."""
    reply = await upstream.ask("GET", url, headers, follow=follow, bulk=bulk)
    with contextlib.closing(reply):
        return await reply.body(1 << 20) or b""


async def failure(
    upstream: Upstream, url: str, headers: Headers = NOTHING, *, named_by: str | None = None, follow: bool = False
) -> UpstreamError:
    """The error of a GET, head or body. It never tells secrets."""
    with pytest.raises(UpstreamError) as caught:
        reply = await upstream.ask("GET", url, headers, follow=follow, named_by=named_by)
        with contextlib.closing(reply):
            await reply.body(1 << 20)
    text = str(caught.value)
    assert "?" not in text
    assert not any(secret in text for secret in ("X-Sig", "the-token", "the-key", "cookie", "pass-word"))
    return caught.value
