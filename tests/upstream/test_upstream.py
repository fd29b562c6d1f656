"""The HTTP client towards upstreams, against real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from lab.deadline import eventually
from lab.names import NameMap
from lab.pages import NOTHING, Make, Serve, Web, failure, fetch
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.web import Exchange
from pullthrough.core.headers import Headers
from pullthrough.guard import Guard
from pullthrough.upstream import MAX_REDIRECTS, Timeouts, Upstream, UpstreamError

SIGNED = "/signed/a%2Fb?X-Sig=A+b%2Fc%3D%zz&q=%D7;x=(1)~!*'"
SECRETS = Headers(
    (
        ("Authorization", "Bearer the-token"),
        ("Cookie", "the=cookie"),
        ("X-JFrog-Art-Api", "the-key"),
        ("X-Token", "the-token"),
        ("Range", "bytes=5-"),
        ("Accept", "*/*"),
    )
)


@pytest.fixture
async def upstream(make: Make) -> Upstream:
    return make()


# -- one request


async def test_a_request_goes_out_as_it_was_given(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    headers = Headers((("Accept", "a"), ("Accept", "b"), ("X-Own", "Kept As It Is"), ("Accept-Encoding", "identity")))
    assert await fetch(upstream, f"{server.url}{SIGNED}", headers) == b"hello"
    (request,) = server.journal.requests()
    assert request.target == SIGNED
    assert request.headers["x-own"] == "Kept As It Is"
    assert request.headers["user-agent"] == "pullthrough/test"
    assert set(request.headers) == {"host", "accept", "x-own", "accept-encoding", "user-agent"}


async def test_the_clients_user_agent_is_kept(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    await fetch(upstream, f"{server.url}/", Headers((("user-agent", "skopeo/1"),)))
    assert server.journal.requests()[0].headers["user-agent"] == "skopeo/1"


async def test_a_field_that_cannot_be_sent_is_left_out(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    headers = Headers(
        (
            ("X-A", "one\r\nX-Forged: two"),
            ("X-B", "one\nX-Forged: two"),
            ("X-C", "one\0two"),
            ("X-D", "caf\udce9"),  # a byte that is no UTF-8, as mitmproxy hands it over
            ("X-E\r\nX-Forged", "two"),
            ("X-F", "café"),
        )
    )
    assert await fetch(upstream, f"{server.url}/", headers) == b"hello"
    (request,) = server.journal.requests()
    assert {name for name in request.headers if name.startswith("x-")} == {"x-f"}
    assert request.headers["x-f"].encode("latin-1").decode() == "café"


async def test_strange_bytes_in_an_answer_are_handed_on(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.says("/", b"HTTP/1.1 200 OK\r\nX-A: caf\xe9\r\nX-B: caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n")
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    reply.close()
    assert (reply.headers.get("x-a") or "").encode("utf-8", "surrogateescape") == b"caf\xe9"
    assert reply.headers.get("x-b") == "café"


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"Content-Length: 5\r\n", 5),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"", None),
    ],
)
async def test_the_length_of_an_answer(serve: Serve, upstream: Upstream, head: bytes, length: int | None) -> None:
    server = serve()
    body = b"5\r\nhello\r\n0\r\n\r\n" if b"chunked" in head else b"hello"
    server.says("/", b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    assert (reply.length, reply.ok, reply.foreign) == (length, True, False)
    assert await reply.body(5) == b"hello"
    reply.close()


async def test_a_head_request_has_no_body(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    reply = await upstream.ask("HEAD", f"{server.url}/", NOTHING)
    assert (reply.status, reply.length) == (200, 5)
    assert await reply.body(10) == b""
    reply.close()


async def test_an_answer_is_not_decoded(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.pages["/"] = lambda exchange: exchange.reply(200, {"Content-Encoding": "gzip"}, b"no gzip")
    assert await fetch(upstream, f"{server.url}/") == b"no gzip"


async def test_a_body_that_is_too_long_is_not_read_to_its_end(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.waits("/", after=b"x" * 50)
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    assert await reply.body(40) is None
    reply.close()


async def test_cookies_are_not_kept(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.pages["/"] = lambda exchange: exchange.reply(200, {"Set-Cookie": "a=b; Path=/"}, b"")
    await fetch(upstream, f"{server.url}/")
    await fetch(upstream, f"{server.url}/")
    assert all("cookie" not in request.headers for request in server.journal.requests())


async def test_a_body_is_sent_whole_with_its_length(serve: Serve, upstream: Upstream) -> None:
    server, got = serve(), bytearray()

    def answer(exchange: Exchange) -> None:
        got.extend(b"".join(exchange.body()))
        exchange.reply(200, {}, b"{}")

    server.pages["/token"] = answer
    form = b"grant_type=password&username=alice&password=" + b"x" * 50_000
    of_the_client = (("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "7"))
    reply = await upstream.ask("POST", f"{server.url}/token", Headers(of_the_client), body=form)
    assert await reply.body(10) == b"{}"
    reply.close()
    (request,) = server.journal.requests()
    assert bytes(got) == form
    assert request.headers["content-length"] == str(len(form))
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "transfer-encoding" not in request.headers


async def test_a_post_without_a_body_says_so(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    framing = Headers((("Transfer-Encoding", "chunked"), ("Expect", "100-continue")))
    (await upstream.ask("POST", f"{server.url}/", framing)).close()
    (request,) = server.journal.requests()
    assert request.headers["content-length"] == "0"
    assert not {"transfer-encoding", "expect", "content-type"} & set(request.headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_body_follows_no_redirect(serve: Serve, upstream: Upstream, status: int) -> None:
    server = serve()
    server.redirects("/token", status, "/there")
    reply = await upstream.ask("POST", f"{server.url}/token", NOTHING, body=b"password=the-password", follow=True)
    reply.close()
    assert reply.status == status
    assert server.asked() == [("POST", "/token")]


# -- connections


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_connection_is_used_again(serve: Serve, upstream: Upstream, method: str) -> None:
    server = serve()
    for _ in range(5):
        reply = await upstream.ask(method, f"{server.url}/", NOTHING)
        await reply.body(10)
        reply.close()
        reply.close()
    assert server.connections == 1


async def test_a_redirects_page_does_not_cost_the_connection(serve: Serve, upstream: Upstream) -> None:
    server, cdn = serve(), serve("cdn.test")
    server.redirects("/", 307, f"{cdn.url}/blob", b"<a href='x'>Temporary Redirect</a>")
    for _ in range(5):
        assert await fetch(upstream, f"{server.url}/", follow=True) == b"hello"
    assert (server.connections, cdn.connections) == (1, 1)


@pytest.mark.parametrize("length", [100, 100_000])
async def test_a_redirects_page_that_never_ends_does_not_hold_up(serve: Serve, upstream: Upstream, length: int) -> None:
    server = serve()

    def answer(exchange: Exchange) -> None:
        exchange.begin(307, {"Location": "/there", "Content-Length": str(length)})
        server.go_on.wait(10)
        exchange.cut()

    server.pages["/"] = answer
    assert await fetch(upstream, f"{server.url}/", follow=True) == b"hello"


async def test_an_answer_that_is_left_early_gives_its_place_back(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.waits("/", after=b"x")
    for _ in range(40):  # more than there are places for checks
        reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
        reply.close()
    assert await fetch(upstream, f"{server.url}/other") == b"hello"


async def test_a_check_does_not_wait_behind_fills(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.waits("/blob", after=b"x")
    fills = [await upstream.ask("GET", f"{server.url}/blob", NOTHING, bulk=True) for _ in range(64)]
    assert await fetch(upstream, f"{server.url}/manifest") == b"hello"
    for fill in fills:
        fill.close()


async def test_waiting_for_a_place_is_not_the_upstreams_slowness(serve: Serve, make: Make) -> None:
    server = serve()
    upstream = make(timeouts=Timeouts(0.2, 0.2, 5.0))
    server.waits("/blob", after=b"x")
    fills = [await upstream.ask("GET", f"{server.url}/blob", NOTHING, bulk=True) for _ in range(64)]
    more = asyncio.create_task(fetch(upstream, f"{server.url}/more", bulk=True))
    began = asyncio.get_running_loop().time()
    done, _ = await asyncio.wait([more], timeout=0.8)
    assert not done, "it fails no more than it is served"
    assert asyncio.get_running_loop().time() - began > 0.4
    fills.pop().close()
    assert await more == b"hello"
    for fill in fills:
        fill.close()


async def test_nothing_stays_open(serve: Serve, make: Make) -> None:
    server = serve()
    upstream = make()
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    await reply.body(10)
    reply.close()
    await upstream.aclose()
    await asyncio.to_thread(eventually, lambda: all(r.done for r in server.journal.requests()), "the answer is over")
    with pytest.raises(Exception, match="closed"):
        await upstream.ask("GET", f"{server.url}/", NOTHING)


# -- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_redirect_is_followed(serve: Serve, upstream: Upstream, status: int, method: str) -> None:
    server = serve()
    server.redirects("/v2/blob", status, "/there")
    reply = await upstream.ask(method, f"{server.url}/v2/blob", SECRETS, follow=True)
    reply.close()
    assert (reply.status, reply.foreign) == (200, False)
    assert server.asked() == [(method, "/v2/blob"), (method, "/there")]
    assert server.journal.requests()[1].headers["authorization"] == "Bearer the-token", "the origin is the same"


@pytest.mark.parametrize("status", [300, 304, 305, 306])
async def test_other_answers_are_not_followed(serve: Serve, upstream: Upstream, status: int) -> None:
    server = serve()
    server.redirects("/", status, "/there")
    reply = await upstream.ask("HEAD", f"{server.url}/", NOTHING, follow=True)
    reply.close()
    assert reply.status == status


async def test_a_redirect_is_left_alone_unless_asked_to_follow(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.redirects("/", 307, f"https://cdn.test{SIGNED}")
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    reply.close()
    assert (reply.status, reply.headers.get("location")) == (307, f"https://cdn.test{SIGNED}")


async def test_a_redirect_without_location_is_an_answer(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.pages["/"] = lambda exchange: exchange.reply(307, {}, b"where?")
    assert await fetch(upstream, f"{server.url}/", follow=True) == b"where?"


async def test_nothing_secret_goes_to_another_origin(serve: Serve, upstream: Upstream) -> None:
    server, cdn = serve(), serve("cdn.test")
    server.redirects("/", 307, f"{cdn.url}/hop")
    cdn.redirects("/hop", 302, f"{server.url}/back")
    reply = await upstream.ask("GET", f"{server.url}/", SECRETS, follow=True)
    reply.close()
    assert reply.foreign
    for request in (*cdn.journal.requests(), server.journal.requests()[1]):
        assert set(request.headers) == {"host", "range", "accept", "user-agent"}
        assert request.headers["range"] == "bytes=5-"


async def test_another_port_is_another_origin(serve: Serve, upstream: Upstream, names: NameMap) -> None:
    server, other = serve(), serve("registry.test")
    names.publish("registry.test", server.port, server.address, server.port)
    server.redirects("/", 307, f"{other.url}/")
    await fetch(upstream, f"{server.url}/", SECRETS, follow=True)
    assert not other.journal.requests()[0].authorized


async def test_the_default_port_may_be_said(serve: Serve, upstream: Upstream, names: NameMap) -> None:
    server = serve()
    names.publish("registry.test", 80, server.address, server.port)
    server.redirects("/", 307, "http://registry.test:80/there")
    await fetch(upstream, "http://registry.test/", SECRETS, follow=True)
    assert server.journal.requests()[1].authorized, "that is the same origin"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (SIGNED, SIGNED),
        (f"http://cdn.test:{{port}}{SIGNED}", SIGNED),
        (f"//cdn.test:{{port}}{SIGNED}#fragment", SIGNED),
        ("there", "/v2/there"),
        ("../up?x=%2e", "/up?x=%2e"),
        ("?only=query", "/v2/blob?only=query"),
        ("http://cdn.test:{port}", "/"),
        ("/a b", "/a%20b"),
        ("/caf\xe9", "/caf%E9"),
        ("/a\tb", "/a%09b"),
    ],
)
async def test_a_location_is_taken_byte_for_byte(
    serve: Serve, upstream: Upstream, names: NameMap, location: str, target: str
) -> None:
    server = serve()
    names.publish("cdn.test", server.port, server.address, server.port)
    server.redirects("/v2/blob", 307, location.format(port=server.port))
    await fetch(upstream, f"{server.url}/v2/blob", follow=True)
    assert server.asked()[1] == ("GET", target)


@pytest.mark.parametrize(
    "location",
    [
        "ftp://cdn.test/blob",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://cdn.test:99999/",
        "http://cdn.test:x/?X-Sig=1",
        "http://[::1/?X-Sig=1",
        "http://cdn.test\\@other.test/?X-Sig=1",
    ],
)
async def test_a_location_that_leads_nowhere(serve: Serve, upstream: Upstream, location: str) -> None:
    server = serve()
    server.redirects("/", 307, location)
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert error.status == 502
    assert "redirected to something that is no http URL" in str(error)
    assert "registry.test" in str(error)


async def test_never_from_https_to_http(serve: Serve, upstream: Upstream, pki: Pki) -> None:
    server, plain = serve("registry.test", pki.identity("registry.test")), serve("cdn.test")
    server.redirects("/", 307, f"{plain.url}{SIGNED}")
    assert "from https to http" in str(await failure(upstream, f"{server.url}/", follow=True))
    assert plain.asked() == []


async def test_from_http_to_https(serve: Serve, upstream: Upstream, pki: Pki) -> None:
    server, secure = serve(), serve("cdn.test", pki.identity("cdn.test"))
    server.redirects("/", 307, f"{secure.url}/")
    assert await fetch(upstream, f"{server.url}/", follow=True) == b"hello"


async def test_a_loop_comes_to_an_end(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.redirects("/", 307, "/")
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert f"more than {MAX_REDIRECTS} times" in str(error)
    assert len(server.asked()) == MAX_REDIRECTS + 1


async def test_all_redirects_together_have_the_time_of_one(serve: Serve, make: Make) -> None:
    server, cdn = serve(), serve("cdn.test")
    upstream = make(timeouts=Timeouts(0.3, 0.3, 5.0))
    server.redirects("/", 307, f"{cdn.url}{SIGNED}")
    cdn.waits("/signed/a%2Fb")
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert error.status == 504
    assert "cdn.test" in str(error), "who was slow is named"


# -- upstreams that fail


async def test_nobody_listens(upstream: Upstream, names: NameMap) -> None:
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    names.publish("registry.test", port, "127.0.0.2", port)
    error = await failure(upstream, f"http://registry.test:{port}/?X-Sig=1")
    assert error.status == 502
    assert str(error).startswith(f"cannot connect to http://registry.test:{port}: ")
    assert "0x" not in str(error)


async def test_an_unknown_name(upstream: Upstream) -> None:
    error = await failure(upstream, "https://unknown.test/?X-Sig=1")
    assert (error.status, "cannot connect to https://unknown.test:443" in str(error)) == (502, True)


async def test_an_address_that_does_not_answer(make: Make) -> None:
    upstream = make(timeouts=Timeouts(0.3, 5.0, 5.0))
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(4):  # the kernel accepts no more than the backlog
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        error = await failure(upstream, f"http://127.0.0.2:{full.getsockname()[1]}/")
    assert error.status == 504


async def test_no_first_byte(serve: Serve, make: Make) -> None:
    server = serve()
    server.waits("/")
    error = await failure(make(timeouts=Timeouts(0.2, 0.2, 60.0)), f"{server.url}/?X-Sig=1")
    assert (error.status, "did not answer in time" in str(error)) == (504, True)


async def test_no_handshake(make: Make, names: NameMap) -> None:
    upstream = make(timeouts=Timeouts(0.2, 0.2, 60.0))
    with socket.create_server(("127.0.0.2", 0)) as silent:
        port = silent.getsockname()[1]
        names.publish("registry.test", port, "127.0.0.2", port)
        error = await failure(upstream, f"https://registry.test:{port}/")
    assert error.status == 504


async def test_a_body_that_falls_silent(serve: Serve, make: Make) -> None:
    server = serve()
    server.waits("/", after=b"first")
    reply = await make(timeouts=Timeouts(5.0, 5.0, 0.3)).ask("GET", f"{server.url}/?X-Sig=1", NOTHING)
    chunks = reply.chunks()
    assert await anext(chunks) == b"first"
    with pytest.raises(UpstreamError) as caught:
        await anext(chunks)
    reply.close()
    assert (caught.value.status, "X-Sig" in str(caught.value)) == (504, False)


async def test_a_body_may_take_longer_than_its_head(serve: Serve, make: Make) -> None:
    server = serve()
    server.waits("/", after=b"first")
    upstream = make(timeouts=Timeouts(0.1, 0.1, 5.0))
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING)
    reading = asyncio.create_task(reply.body(1000))
    done, _ = await asyncio.wait([reading], timeout=0.5)
    assert not done
    server.go_on.set()
    with pytest.raises(UpstreamError, match="cut the body"):
        await reading
    reply.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.test ESMTP\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLocation: http://a.test/?X-Sig=1",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLocation: /?X-Sig=1\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Sig\0: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLocation: /?X-Sig=" + b"1" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Sig: 1\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nX-Sig\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    ],
    ids=range(15),
)
async def test_an_answer_that_is_no_http(serve: Serve, upstream: Upstream, answer: bytes) -> None:
    server = serve()
    server.says("/", answer)
    error = await failure(upstream, f"{server.url}/?X-Sig=1", SECRETS)
    assert error.status == 502
    assert "registry.test" in str(error)


async def test_a_long_location_and_challenge_are_taken(serve: Serve, upstream: Upstream) -> None:
    server = serve()
    server.redirects("/", 307, f"/there?{'x' * 30_000}")
    assert await fetch(upstream, f"{server.url}/", follow=True) == b"hello"


async def test_a_certificate_that_nobody_vouches_for(serve: Serve, make: Make, public: Pki, pki: Pki) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    error = await failure(make(tls=public.client_context()), f"{server.url}/?X-Sig=1")
    assert error.status == 502
    assert "certificate of https://registry.test" in str(error)
    assert "--upstream-ca" in str(error)


async def test_a_certificate_of_somebody_else(serve: Serve, upstream: Upstream, pki: Pki) -> None:
    server = serve("registry.test", pki.identity("cdn.test"))
    error = await failure(upstream, f"{server.url}/")
    assert "certificate" in str(error)
    assert server.asked() == []


async def test_http_spoken_where_tls_is_expected(upstream: Upstream, names: NameMap) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.2") as server:
        port = server.sockets[0].getsockname()[1]
        names.publish("registry.test", port, "127.0.0.2", port)
        error = await failure(upstream, f"https://registry.test:{port}/")
    assert (error.status, "cannot connect" in str(error)) == (502, True)


@pytest.mark.parametrize("url", ["https://[::1/?X-Sig=1", "http://a.test:x/?X-Sig=1", "http://a.test:99999/?X-Sig=1"])
async def test_an_address_that_is_no_url(upstream: Upstream, url: str) -> None:
    assert (await failure(upstream, url)).status == 502


# -- addresses that are never an upstream

FORBIDDEN = ["169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1", "[fe80::1]", "[::ffff:169.254.169.254]"]


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_forbidden_address_is_not_asked(upstream: Upstream, scheme: str, address: str) -> None:
    error = await failure(upstream, f"{scheme}://{address}/latest/meta-data?X-Sig=1")
    assert error.status == 502
    assert "never connects there" in str(error) or "not the address of a server" in str(error)


@pytest.mark.parametrize("address", ["2852039166", "0xa9fea9fe", "169.254.43518", "169.254.169.254.", "[fe80::1%25lo]"])
async def test_however_it_is_spelled(upstream: Upstream, address: str) -> None:
    assert (await failure(upstream, f"http://{address}/")).status == 502


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1"])
async def test_nor_by_a_name_that_leads_there(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        return [(family, socket.SOCK_STREAM, 6, "", (address, port, 0, 2)[: 4 if ":" in address else 2])]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    error = await failure(upstream, "https://metadata.test/")
    assert "never connects there" in str(error)


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_nor_by_a_redirect(serve: Serve, upstream: Upstream, address: str) -> None:
    server = serve()
    server.redirects("/", 307, f"http://{address}/latest?X-Sig=1")
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert "never connects there" in str(error) or "not the address of a server" in str(error)


async def test_nor_ourselves(serve: Serve, make: Make) -> None:
    server, guard = serve(), Guard()
    guard.listening([("127.0.0.2", server.port)])
    error = await failure(make(guard=guard), f"{server.url}/")
    assert "this proxy itself" in str(error)
    assert server.connections == 0


async def test_nor_by_asking_a_parent_proxy_to(parent: ParentProxy, make: Make) -> None:
    upstream = make(environ={"http_proxy": parent.proxy_url, "https_proxy": parent.proxy_url})
    for scheme in ("http", "https"):
        error = await failure(upstream, f"{scheme}://169.254.169.254/")
        assert "never connects there" in str(error)
    assert parent.journal.requests() == []


async def test_a_name_with_one_good_address_is_asked_there(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        bad = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))
        return [bad, *real(host, port, *args, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert await fetch(upstream, f"{server.url}/") == b"hello"


async def test_a_public_upstream_cannot_lead_to_our_loopback(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    server.redirects("/", 307, f"http://127.0.0.1:{server.port}/inside")
    real = socket.getaddrinfo
    seen: list[str] = []

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        seen.append(host)
        if host == "registry.test" and seen.count(host) > 1:  # where it is found once its answer is there
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]
        return list(real(host, port, *args, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert "own loopback" in str(error)
    assert server.asked() == [("GET", "/")]


async def test_nor_when_the_name_changes_its_mind_in_between(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, inside = serve(), serve("cdn.test")
    server.redirects("/", 307, f"{inside.url}/inside")
    real = socket.getaddrinfo
    seen: list[str] = []

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        seen.append(host)
        if host == "cdn.test" and seen.count(host) == 1:  # when the redirect is judged, but not when it is followed
            return address("192.0.2.1")
        return list(real(host, port, *args, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    error = await failure(upstream, f"{server.url}/", follow=True)
    assert "own loopback" in str(error)
    assert (seen.count("cdn.test"), inside.connections) == (2, 0)


async def test_nor_through_a_connection_that_is_open_already(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, inside = serve(), serve("cdn.test")
    server.redirects("/", 307, f"{inside.url}/inside")
    await fetch(upstream, f"{inside.url}/")  # by a client that may
    await fetch(upstream, f"{server.url}/")
    placed(monkeypatch, {"registry.test": "192.0.2.1"})
    assert "own loopback" in str(await failure(upstream, f"{server.url}/", follow=True))
    assert inside.asked() == [("GET", "/")]


# -- addresses that somebody else named


def address(text: str, port: int = 443) -> list[object]:
    """The answer of a look-up that finds just this."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))]


def placed(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str]) -> None:
    """Have these names at these addresses, whatever there is."""
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        if host in addresses:
            return address(addresses[host], port)
        return list(real(host, port, *args, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize("private", ["10.0.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1"])
async def test_a_public_server_may_not_name_a_private_one(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    placed(monkeypatch, {"registry.test": "93.184.215.14", "auth.test": private})
    error = await failure(upstream, "https://auth.test/jwt/auth?X-Sig=1", named_by="https://registry.test/v2/?X-Sig=1")
    assert (error.status, error.since) == (502, None)
    assert "registry.test may not lead to auth.test" in str(error)


@pytest.mark.parametrize("spelled", ["10.0.0.1", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:10.0.0.1]"])
async def test_nor_its_address(upstream: Upstream, monkeypatch: pytest.MonkeyPatch, spelled: str) -> None:
    placed(monkeypatch, {"registry.test": "93.184.215.14"})
    error = await failure(upstream, f"https://{spelled}/jwt/auth", named_by="https://registry.test/v2/")
    assert "registry.test may not lead to" in str(error)


async def test_a_private_server_may_not_name_our_loopback(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("auth.test")
    placed(monkeypatch, {"registry.test": "10.0.0.1"})
    assert "own loopback" in str(await failure(upstream, f"{server.url}/", named_by="https://registry.test/v2/"))
    assert server.connections == 0


async def test_a_name_that_was_public_when_it_was_judged_must_still_be(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("auth.test")
    real = socket.getaddrinfo
    seen: list[str] = []

    def lookup(host: str, port: int, *args: object, **options: object) -> list[object]:
        seen.append(host)
        if len(seen) == 1:
            return address("93.184.215.14", port)
        return list(real(host, port, *args, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    error = await failure(upstream, f"{server.url}/", named_by="https://registry.test/v2/")
    assert "own loopback" in str(error)
    assert (seen, server.connections) == (["auth.test", "auth.test"], 0)


async def test_who_is_named_by_its_equal_is_asked(serve: Serve, upstream: Upstream) -> None:
    registry, auth, elsewhere = serve(), serve("auth.test"), serve("cdn.test")
    auth.redirects("/", 307, f"{elsewhere.url}/")
    reply = await upstream.ask("GET", f"{auth.url}/", NOTHING, named_by=f"{registry.url}/v2/", follow=True)
    reply.close()
    assert (reply.status, elsewhere.asked()) == (200, [("GET", "/")])


async def test_a_name_behind_a_parent_proxy_is_the_parents_business(
    serve: Serve, parent: ParentProxy, make: Make, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("auth.test", pki.identity("auth.test"))
    upstream = make(environ={"https_proxy": parent.proxy_url})
    placed(monkeypatch, {"registry.test": "93.184.215.14"})
    reply = await upstream.ask("GET", f"{server.url}/", NOTHING, named_by="https://registry.test/v2/")
    reply.close()
    assert reply.status == 200


# -- a parent proxy


class Forward(Web):
    """A proxy for plain HTTP: answers itself, whoever was asked for."""

    def answer(self, exchange: Exchange) -> None:
        exchange.reply(200, {}, exchange.request.target.encode())


CREDENTIALS = "Basic dXNlcjpwYXNzLXdvcmQ="


@pytest.fixture
def guarded(names: NameMap) -> Iterator[ParentProxy]:
    """A parent proxy that wants credentials."""
    server = ParentProxy(names, CREDENTIALS)
    server.start()
    yield server
    server.stop()


def with_credentials(parent: ParentProxy, password: str = "pass-word") -> str:
    return parent.proxy_url.replace("http://", f"http://user:{password}@")


async def test_https_goes_through_a_tunnel(serve: Serve, parent: ParentProxy, make: Make, pki: Pki) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    upstream = make(environ={"HTTPS_PROXY": parent.proxy_url})
    for _ in range(3):
        assert await fetch(upstream, f"{server.url}/", SECRETS) == b"hello"
    (connect,) = parent.journal.requests()
    assert (connect.method, connect.target) == ("CONNECT", server.host)
    assert "authorization" not in connect.headers


async def test_the_parent_gets_its_credentials_and_nobody_else(
    serve: Serve, guarded: ParentProxy, make: Make, pki: Pki
) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    upstream = make(environ={"https_proxy": with_credentials(guarded)})
    assert await fetch(upstream, f"{server.url}/") == b"hello"
    assert guarded.journal.requests()[0].headers["proxy-authorization"] == CREDENTIALS
    assert "proxy-authorization" not in server.journal.requests()[0].headers


async def test_wrong_credentials_are_explained(serve: Serve, guarded: ParentProxy, make: Make, pki: Pki) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    upstream = make(environ={"https_proxy": with_credentials(guarded, "wrong-pass-word")})
    error = await failure(upstream, f"{server.url}/?X-Sig=1")
    assert f"the parent proxy {guarded.proxy_url} refused the way to {server.url}: 407" in str(error)


async def test_plain_http_is_handed_to_the_parent(names: NameMap, make: Make) -> None:
    forward = Forward("parent.test")
    forward.start()
    url = f"http://user:pass-word@{forward.address}:{forward.port}"
    try:
        upstream = make(environ={"http_proxy": url})
        assert await fetch(upstream, "http://registry.test:5000/v2/") == b"http://registry.test:5000/v2/"
    finally:
        forward.stop()
    assert forward.journal.requests()[0].headers["proxy-authorization"] == CREDENTIALS


async def test_where_a_redirect_leads_is_the_parents_business(
    serve: Serve, parent: ParentProxy, make: Make, pki: Pki
) -> None:
    server, cdn = (serve(name, pki.identity(name)) for name in ("registry.test", "cdn.test"))
    server.redirects("/", 307, f"{cdn.url}/")
    upstream = make(environ={"https_proxy": parent.proxy_url})
    assert await fetch(upstream, f"{server.url}/", follow=True) == b"hello"
    assert [request.target for request in parent.journal.requests()] == [server.host, cdn.host]


async def test_a_parent_that_is_down_is_named(parent: ParentProxy, make: Make) -> None:
    upstream = make(environ={"https_proxy": with_credentials(parent)})
    parent.stop()
    error = await failure(upstream, "https://registry.test/?X-Sig=1")
    parent.start()
    assert f"cannot connect to the parent proxy {parent.proxy_url}: " in str(error)


async def test_hosts_of_no_proxy_are_asked_directly(serve: Serve, parent: ParentProxy, make: Make, pki: Pki) -> None:
    server = serve("registry.test", pki.identity("registry.test"))
    upstream = make(environ={"https_proxy": parent.proxy_url, "NO_PROXY": "registry.test"})
    assert await fetch(upstream, f"{server.url}/") == b"hello"
    assert parent.journal.requests() == []
