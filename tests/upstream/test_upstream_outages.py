"""Upstreams that keep us waiting are left alone, found again, and tell since when; and nobody is asked offline.

How long an answer took is up to the test: the server moves the clock before it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from datetime import timedelta

import pytest

from lab.inside import until
from lab.names import NameMap, resolver
from lab.pages import EPOCH, NOTHING, Make, Serve, Time, Web, failure, fetch
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.web import Exchange
from pullthrough.core.headers import Headers
from pullthrough.guard import Guard
from pullthrough.upstream import Timeouts, Upstream, UpstreamError

SECRETS = Headers((("Authorization", "Bearer the-token"), ("Cookie", "the=cookie")))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def upstream(make: Make, time: Time) -> Upstream:
    return make(time=time)


def cuts(exchange: Exchange) -> None:
    exchange.cut()


def answers(status: int) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.reply(status, {}, b"sorry")


def fails(server: Web, time: Time, seconds: float, how: Callable[[Exchange], None] = cuts) -> None:
    """Let every page take that long and go wrong."""

    def answer(exchange: Exchange) -> None:
        time.passes(seconds)
        how(exchange)

    server.pages = dict.fromkeys(("/", "/v2/"), answer)


async def broken(upstream: Upstream, server: Web, time: Time, how: Callable[[Exchange], None] = cuts) -> None:
    """Have the breaker of `server` open."""
    fails(server, time, 2.0, how)
    for _ in range(3):
        with contextlib.suppress(UpstreamError):
            (await upstream.ask("GET", f"{server.url}/", SECRETS)).close()
    await until(lambda: time.naps)


async def tried(time: Time, server: Web, *, naps: int) -> None:
    """Wait for the pause before the next probe and let it pass; then for the probe."""
    await until(lambda: len(time.naps) == naps)
    before = len(server.asked())
    time.passes(time.naps[-1])
    time.wake()
    await until(lambda: len(server.asked()) > before)


# -- the breaker


@pytest.mark.parametrize("how", [cuts, answers(502), answers(503), answers(504)], ids=["cut", "502", "503", "504"])
async def test_after_three_slow_failures_nobody_connects(
    serve: Serve, upstream: Upstream, time: Time, how: Callable[[Exchange], None]
) -> None:
    bad, good = serve(), serve("registry2.test")
    await broken(upstream, bad, time, how)
    asked, connections = bad.asked(), bad.connections
    for path in ("/", "/other?X-Sig=1"):
        error = await failure(upstream, f"{bad.url}{path}", SECRETS)
        assert error.status == 503
        assert bad.url in str(error)
        assert "tried again in the background" in str(error)
    assert (bad.asked(), bad.connections) == (asked, connections)
    assert await fetch(upstream, f"{good.url}/") == b"hello", "the others are none the worse"


async def test_so_with_an_upstream_that_hangs(serve: Serve, make: Make, time: Time) -> None:
    server, upstream = serve(), make(time=time, timeouts=Timeouts(0.1, 0.1, 5.0))
    server.waits("/")
    for _ in range(3):
        asking = asyncio.create_task(failure(upstream, f"{server.url}/"))
        await asyncio.sleep(0)  # it has looked at the clock
        time.passes(2)
        assert (await asking).status == 504
    error = await failure(upstream, f"{server.url}/")
    assert error.status == 503
    assert "did not answer in time; it has been failing" in str(error)


async def test_so_with_a_name_that_is_not_found_for_long(
    upstream: Upstream, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def lookup(host: str, *args: object, **options: object) -> list[object]:
        looked_up.append(host)
        time.passes(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for number in range(5):
        error = await failure(upstream, "https://registry.test/")
        assert ("Temporary failure" in str(error), error.status) == (True, 502 if number < 3 else 503)
    assert len(looked_up) == 3


async def test_a_name_server_that_hangs_for_one_name_holds_up_no_other(
    serve: Serve, upstream: Upstream, names: NameMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    real, looked_up = resolver(names), []

    def lookup(host: str, *args: object, **options: object) -> list[object]:
        if host == "hanging.test":
            looked_up.append(host)
            server.go_on.wait(10)
        return list(real(host, *args, **options))

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    hanging = [asyncio.create_task(failure(upstream, "https://hanging.test/")) for _ in range(30)]
    await until(lambda: looked_up)
    assert await fetch(upstream, f"{server.url}/") == b"hello"
    assert len(looked_up) == 1
    server.go_on.set()
    assert {error.status for error in await asyncio.gather(*hanging)} == {502}


async def test_quick_failures_are_asked_again_each_time(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    fails(server, time, 0.1)
    for _ in range(10):
        assert "hung up" in str(await failure(upstream, f"{server.url}/"))
    server.pages.clear()
    assert await fetch(upstream, f"{server.url}/") == b"hello", "back at once"
    assert time.naps == []


@pytest.mark.parametrize("status", [200, 307, 401, 403, 404, 429, 500, 501])
async def test_slow_answers_are_answers(serve: Serve, upstream: Upstream, time: Time, status: int) -> None:
    server = serve()
    fails(server, time, 10.0, answers(status))
    for _ in range(5):
        await fetch(upstream, f"{server.url}/")
    assert time.naps == []


async def test_waiting_for_one_of_our_connections_is_not_slow(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    server.waits("/blob", after=b"x")
    fills = [await upstream.ask("GET", f"{server.url}/blob", NOTHING, bulk=True) for _ in range(64)]
    server.says("/refused", b"no HTTP\r\n\r\n")
    waiting = [asyncio.create_task(upstream.ask("GET", f"{server.url}/refused", NOTHING, bulk=True)) for _ in range(3)]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    time.passes(100)
    for fill in fills:
        fill.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all("no valid HTTP" in str(result) for result in results)
    assert time.naps == []


async def test_an_answer_in_between_is_a_new_beginning(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    for _ in range(2):
        fails(server, time, 2.0, answers(503))
        await fetch(upstream, f"{server.url}/")
        await fetch(upstream, f"{server.url}/")
        server.pages.clear()
        await fetch(upstream, f"{server.url}/")
    assert time.naps == []


async def test_whoever_is_slow_behind_a_redirect_is_the_bad_one(serve: Serve, upstream: Upstream, time: Time) -> None:
    server, cdn = serve(), serve("cdn.test")
    server.redirects("/blob", 307, f"{cdn.url}/")
    fails(cdn, time, 2.0)
    for _ in range(3):
        await failure(upstream, f"{server.url}/blob", follow=True)
    connections = cdn.connections
    assert (await failure(upstream, f"{server.url}/blob", follow=True)).status == 503
    assert cdn.connections == connections
    assert await fetch(upstream, f"{server.url}/") == b"hello"


async def test_what_we_do_not_want_to_ask_is_no_failure(make: Make, time: Time) -> None:
    upstream = make(time=time, guard=Guard())
    for _ in range(4):
        error = await failure(upstream, "https://169.254.169.254/")
        assert (error.status, error.since) == (502, None)


# -- since when


async def test_an_error_tells_since_when(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    time.passes(60)
    fails(server, time, 0.0)
    for _ in range(2):
        assert (await failure(upstream, f"{server.url}/")).since == EPOCH + timedelta(seconds=60)
        time.passes(30)
    await broken(upstream, server, time)
    error = await failure(upstream, f"{server.url}/")
    assert error.since == EPOCH + timedelta(seconds=60)
    assert "since 2030-01-01 00:01:00 UTC" in str(error)


# -- probes


async def test_a_probe_closes_it(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    await broken(upstream, server, time)
    server.journal.clear()
    await tried(time, server, naps=1)
    await tried(time, server, naps=2)
    await until(lambda: len(time.naps) == 3)  # in vain
    server.pages["/v2/"] = answers(401)
    server.pages["/"] = answers(200)
    await tried(time, server, naps=3)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert set(server.asked()) == {("HEAD", "/v2/")}
    assert all(set(request.headers) == {"host", "user-agent"} for request in server.journal.requests())
    assert await fetch(upstream, f"{server.url}/") == b"sorry"
    assert time.naps == [1, 2, 4]


async def test_a_gateway_that_says_at_once_that_nobody_is_there_needs_no_breaker(
    serve: Serve, upstream: Upstream, time: Time
) -> None:
    server = serve()
    await broken(upstream, server, time, answers(504))
    await tried(time, server, naps=1)
    await until(lambda: len(time.naps) == 2)  # it took its two seconds again
    server.pages = dict.fromkeys(("/", "/v2/"), answers(503))
    await tried(time, server, naps=2)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    reply.close()
    assert reply.status == 503, "in its own words"


async def test_it_opens_again(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    for _ in range(2):
        time.naps.clear()
        await broken(upstream, server, time)
        assert (await failure(upstream, f"{server.url}/")).status == 503
        server.pages.clear()
        await tried(time, server, naps=1)
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        assert await fetch(upstream, f"{server.url}/") == b"hello"


async def test_probes_end_with_the_client(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    await broken(upstream, server, time)
    asked = server.asked()
    await upstream.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert server.asked() == asked


async def test_an_upstream_behind_a_parent_proxy_is_probed_through_it(
    serve: Serve, parent: ParentProxy, make: Make, time: Time, pki: Pki
) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    upstream = make(time=time, environ={"https_proxy": parent.proxy_url})
    await broken(upstream, server, time)
    server.pages.clear()
    tunnels = len(parent.journal.requests())
    await tried(time, server, naps=1)
    assert len(parent.journal.requests()) > tunnels
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert await fetch(upstream, f"{server.url}/") == b"hello"


# -- does it answer?


@pytest.mark.parametrize("status", [200, 301, 307, 401, 403, 404, 405, 429, 500, 502, 503, 504])
async def test_who_answers_is_well(serve: Serve, upstream: Upstream, status: int) -> None:
    server = serve()
    server.pages["/token"] = answers(status)
    assert await upstream.answers(f"{server.url}/token?service=x") is (status < 429)
    (request,) = server.journal.requests()
    assert (request.method, request.target) == ("HEAD", "/token?service=x")
    assert set(request.headers) == {"host", "user-agent"}


async def test_who_does_not_is_not(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.pages["/"] = cuts
    assert not await upstream.answers(f"{server.url}/")
    assert not await upstream.answers("https://unknown.test/")


async def test_many_want_to_know_and_one_asks(serve: Serve, upstream: Upstream, time: Time) -> None:
    server = serve()
    assert await asyncio.gather(*(upstream.answers(f"{server.url}/") for _ in range(20))) == [True] * 20
    server.pages["/"] = answers(503)
    time.passes(4.9)
    assert await upstream.answers(f"{server.url}/"), "that is what is remembered"
    assert len(server.asked()) == 1
    time.passes(0.2)
    assert not await upstream.answers(f"{server.url}/")
    assert len(server.asked()) == 2


async def test_nobody_asks_whom_the_namer_may_not_name(
    serve: Serve, upstream: Upstream, names: NameMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, real = serve("auth.test"), resolver(names)

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        if host == "registry.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]
        return list(real(host, port, *args, **options))

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert not await upstream.answers(f"{server.url}/", named_by="https://registry.test/v2/")
    assert server.connections == 0
    assert await upstream.answers(f"{server.url}/"), "which is another question"


# -- offline


async def test_offline_nobody_is_looked_up_or_asked(
    serve: Serve, make: Make, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, upstream = serve(), make(offline=True, time=time)
    looked_up: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **options: looked_up.append(host))
    for url in (f"{server.url}/", f"http://{server.address}:{server.port}/"):
        for named_by in (None, "https://registry2.test/"):
            error = await failure(upstream, url, named_by=named_by)
            assert (error.status, error.since) == (503, None)
            assert "--offline" in str(error)
    assert not await upstream.answers(f"{server.url}/")
    assert (server.connections, looked_up, time.naps) == (0, [], [])
