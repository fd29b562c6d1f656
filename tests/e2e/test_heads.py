"""Heads that are too long, of clients and of upstreams: refused in bounded memory, in words where they can be.

What is at a bound still passes.
"""

import asyncio
from collections.abc import Iterator

import pytest

from lab.asking import Asking
from lab.fake_registry import FakeRegistry
from lab.http import Cut
from lab.images import MIB
from lab.names import NameMap
from lab.proxy import Proxies, Proxy
from lab.raw import Spoken, say
from lab.web import Exchange

HEAD = 64 << 10
START = b"GET /readyz HTTP/1.1\r\nHost: x\r\n"
#: What a refusal may cost, at most: it costs nothing that can be told from other things.
ROOM = 32 * MIB


@pytest.fixture(scope="module")
def proxy(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Proxy:
    """One of this module's own: what it learns here of a bad registry is no other test's."""
    session_fake.publish(session_names)
    return session_proxies(session_fake)


@pytest.fixture
def asking(proxy: Proxy, fake: FakeRegistry) -> Asking:
    return Asking.through(proxy, fake)


def padded(length: int) -> bytes:
    """A request whose head has so many bytes, the blank line left out."""
    return START + b"X: ".ljust(length - len(START), b"y")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (padded(HEAD) + b"\r\n\r\n", 200),
        (padded(HEAD + 1) + b"\r\n\r\n", 431),
        (padded(MIB) + b"\r\n\r\n", 431),
        (padded(HEAD + 1), 431),
        (b"GET /" + b"y" * MIB + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"y" * (HEAD + 1), 414),
        (b"CONNECT " + b"y" * MIB + b":443 HTTP/1.1\r\n\r\n", 414),
        (START + b"a: b\r\n" * 254 + b"\r\n", 200),
        (START + b"a: b\r\n" * 255 + b"\r\n", 431),
        (START + b"a:\n" * 20_000 + b"\n", 431),
        (START + b"a: b\n" + b" c\n" * 20_000 + b"\n", 431),
        (START + b"a: b\r\n" * 100_000, 431),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{value[:12]!r}, {len(value)} bytes",
)
def test_a_request_head_has_a_bound(fake: FakeRegistry, proxy: Proxy, data: bytes, status: int) -> None:
    answer = bluntly(proxy, data)

    assert answer.status == status
    if status != 200:
        assert "pullthrough: the request head " in answer.message


def bluntly(proxy: Proxy, data: bytes) -> Spoken:
    """Say it. The proxy does not read to the end of what it refuses, so that the answer may be lost: once more then."""
    for _ in range(20):
        try:
            return say(proxy, data)
        except ConnectionError:
            continue
    return say(proxy, data)


def test_lines_of_a_body_are_no_fields(fake: FakeRegistry, proxy: Proxy) -> None:
    body = b"\n" * 1000
    head = f"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for data in (head + body, head + body + START + b"\r\n"):
        assert bluntly(proxy, data).status == 405


# -- upstreams


class Endless:
    """An answer that is endless in one way or the other, until nobody wants it."""

    def __init__(self, first: bytes, more: bytes) -> None:
        self._first = first
        self._more = more

    def __call__(self, exchange: Exchange) -> None:
        exchange.wire.send(b"HTTP/1.1 200 OK\r\n" + self._first)
        while True:
            exchange.wire.send(self._more * 1000)


ENDLESS = {
    "field": Endless(b"X: ", b"y" * 64),
    "fields": Endless(b"", b"X: y\r\n"),
    "status line": Endless(b"X", b"y" * 64),
    "chunk size": Endless(b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 64),
    "trailers": Endless(b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}
TARGETS = {
    "asked by us": "/v2/team/app/manifests/v1",
    "a blob": f"/v2/team/app/blobs/sha256:{'a' * 64}",
    "passing": "/v2/team/app/tags/list",
}


@pytest.fixture(params=ENDLESS)
def endless(request: pytest.FixtureRequest, fake: FakeRegistry) -> Iterator[FakeRegistry]:
    """The registry, which answers so."""
    fake.answer = ENDLESS[request.param]  # type: ignore[method-assign]
    yield fake
    del fake.answer


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
async def test_an_upstream_s_answer_that_does_not_end_is_an_upstream_s_fault(
    endless: FakeRegistry, proxy: Proxy, asking: Asking, target: str
) -> None:
    proxy.reset_peak_rss()
    before = proxy.peak_rss()
    try:
        status = (await asking.fetch(target, deadline=20.0)).status
    except Cut:  # it began well
        status = 502

    assert status in (502, 503)
    assert proxy.peak_rss() - before < ROOM
    assert (await asyncio.to_thread(proxy.get, "/readyz"))[0] == 200


async def test_what_an_upstream_sent_is_neither_logged_nor_repeated(
    fake: FakeRegistry, proxy: Proxy, asking: Asking
) -> None:
    def odd(exchange: Exchange) -> None:
        exchange.wire.send(b"HTTP/1.1 200 OK\r\nLocation: https://cdn.test/?signature=hush\r\nSet-Cookie: hush")
        exchange.cut()

    fake.answer = odd  # type: ignore[method-assign]
    try:
        answer = await asking.fetch("/v2/team/app/tags/list")
    finally:
        del fake.answer

    assert answer.status == 502
    assert "hush" not in f"{answer.headers} {answer.body!r} {proxy.log_text()}"
