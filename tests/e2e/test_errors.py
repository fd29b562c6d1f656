"""Our own error answers are OCI error bodies with the right status, never a page of HTML."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.asking import Asking
from lab.fake_registry import FakeRegistry, basic
from lab.faults import Fault
from lab.http import Fetched
from lab.names import Endpoint, NameMap
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.raw import Spoken, ask, say
from lab.web import Exchange, WebServer, served

IMPATIENT = ("--connect-timeout", "1s", "--first-byte-timeout", "1s")
DIGEST = f"sha256:{'0' * 64}"
STRANGER = basic("who", "was never seen")  # to whom nothing is given in an outage
REQUESTS = [
    ("GET", f"/v2/app/blobs/{DIGEST}"),
    ("HEAD", f"/v2/app/blobs/{DIGEST}"),
    ("GET", "/v2/app/manifests/v1"),
    ("HEAD", "/v2/app/manifests/v1"),
    ("GET", f"/v2/app/manifests/{DIGEST}"),
    ("GET", "/v2/"),
    ("GET", "/v2/app/tags/list"),
    ("PUT", "/v2/app/manifests/v1"),
    ("POST", "/v2/app/blobs/uploads/"),
    ("DELETE", f"/v2/app/manifests/{DIGEST}"),
]


class Rude(WebServer):
    """Hangs up instead of answering."""

    def answer(self, exchange: Exchange) -> None:
        exchange.cut()


class Gibberish(WebServer):
    """Answers what is no HTTP."""

    def answer(self, exchange: Exchange) -> None:
        exchange.write(b"220 mail.test ESMTP\r\n")
        exchange.cut()


@pytest.fixture(params=[Rude, Gibberish])
def broken(request: pytest.FixtureRequest, pki: Pki, names: NameMap) -> Iterator[WebServer]:
    with served(request.param("storage.test", pki.identity("storage.test")), names) as server:
        yield server


def unreachable(method: str, target: str) -> int:
    """The status for an upstream that is not there: of what the cache might have answered in its place, 503."""
    pull = "/manifests/" in target or "/blobs/" in target or target == "/v2/"
    return 503 if pull and method in {"GET", "HEAD"} else 502


def assert_oci_error(answer: Fetched | Spoken, method: str, *statuses: int) -> None:
    assert answer.status in statuses, answer
    assert answer.headers["content-type"] == "application/json"
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert Spoken(answer.status, answer.headers, answer.body).message.startswith("pullthrough: ")


@pytest.mark.parametrize(("method", "target"), REQUESTS)
async def test_an_upstream_that_is_down(fake: FakeRegistry, asking: Asking, method: str, target: str) -> None:
    fake.stop()
    try:
        answer = await asking.as_account(STRANGER).fetch(target, method=method, body=b"{}" if method == "PUT" else None)
    finally:
        fake.start()

    assert_oci_error(answer, method, unreachable(method, target))


async def test_an_upstream_that_does_not_answer(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    """All at once, and with a proxy of its own: after a few of them, one by one, it would be left alone for a while."""
    asking = Asking.through(proxy_factory(fake, flags=IMPATIENT), fake)
    # Not for writes: a registry may take minutes to put an uploaded blob in its place.
    reads = [(method, target) for method, target in REQUESTS if method in {"GET", "HEAD"}]
    held = fake.fault("/v2/", Fault(hold_headers=True), times=None, method=None)
    try:
        answers = await asyncio.gather(*(asking.fetch(target, method=method, deadline=12) for method, target in reads))
    finally:
        held.release()

    for (method, target), answer in zip(reads, answers, strict=True):
        assert_oci_error(answer, method, unreachable(method, target), 504)


@pytest.mark.parametrize(("method", "target"), [("GET", "/v2/app/manifests/v1"), ("GET", "/v2/")])
async def test_an_upstream_that_accepts_connections_and_says_nothing(
    names: NameMap, proxy_factory: Proxies, method: str, target: str
) -> None:
    mute = Endpoint("storage.test")
    with socket.create_server((mute.address, 0)) as listener:
        mute.port = listener.getsockname()[1]
        mute.publish(names)
        asking = Asking.through(proxy_factory(mute, flags=IMPATIENT), mute)
        answer = await asking.fetch(target, method=method, deadline=12)

    assert_oci_error(answer, method, 503)


async def test_an_upstream_that_hangs_up_or_speaks_something_else(broken: WebServer, proxy_factory: Proxies) -> None:
    asking = Asking.through(proxy_factory(broken), broken)

    for method, target in REQUESTS:
        answer = await asking.fetch(target, method=method, body=b"{}" if method == "PUT" else None)
        assert_oci_error(answer, method, unreachable(method, target))


async def test_an_upstream_with_a_certificate_that_nobody_vouches_for(
    tmp_path: Path, names: NameMap, proxy_factory: Proxies
) -> None:
    identity = Pki(tmp_path / "stranger").identity("storage.test")
    with served(FakeRegistry("storage.test", identity), names) as stranger:
        asking = Asking.through(proxy_factory(stranger), stranger)
        answers = [await asking.fetch(target, method=method) for method, target in REQUESTS]

    for (method, target), answer in zip(REQUESTS, answers, strict=True):
        assert_oci_error(answer, method, unreachable(method, target))
    assert b"--upstream-ca" in answers[0].body


def test_a_host_that_does_not_exist(fake_proxy: Proxy) -> None:
    assert_oci_error(ask(fake_proxy, "CONNECT", "nowhere.test:443"), "CONNECT", 502)


@pytest.mark.parametrize(
    "data",
    [
        b"what is this\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT nonsense HTTP/1.1\r\n\r\n",
        b"GET ftp://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n\r\n",
    ],
)
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_malformed_request(fake: FakeRegistry, fake_proxy: Proxy, data: bytes, place: str) -> None:
    answer = say(fake_proxy, data, inside=fake.host if place == "inside" else None)

    assert answer.headers["content-type"] != "text/html"
    assert answer.status >= 400 or data.startswith(b"GET / HTTP/1.1")
    if answer.status >= 400:
        assert answer.message


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_huge_request_head(fake: FakeRegistry, fake_proxy: Proxy, place: str) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(200))

    answer = say(fake_proxy, b"GET /v2/ HTTP/1.1\r\n" + lines, inside=fake.host if place == "inside" else None)

    assert_oci_error(answer, "GET", 431)


def test_a_long_token_is_no_huge_head(fake: FakeRegistry, fake_proxy: Proxy) -> None:
    head = f"GET /v2/ HTTP/1.1\r\nHost: {fake.host}\r\nAuthorization: Bearer {'x' * 30_000}\r\n\r\n"

    assert say(fake_proxy, head.encode(), inside=fake.host).status == 200
