"""One blob from one upstream, whatever breaks on the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, Redirect, basic, only
from lab.faults import Fault
from lab.inside import Inside, digest_in, inside, reached, until
from lab.journal import find
from pullthrough import fetch as module
from pullthrough.core.headers import Headers
from pullthrough.fetch import BACK_OFF, Fetch, Refused, Source, Unsuitable, refusal, repeated
from pullthrough.upstream import UpstreamError

DATA = bytes(range(256)) * 400
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin) as it:
        it.fake.add_blob(DATA)
        yield it


@pytest.fixture
def digest(proxy: Inside) -> str:
    return proxy.fake.add_blob(DATA)


async def opened(
    proxy: Inside, digest: str, offset: int = 0, source: Source | None = None, others: Sequence[Source] | None = None
) -> Fetch:
    return await Fetch.open(
        proxy.upstream,
        digest_in(digest),
        source or proxy.source(),
        offset=offset,
        others=None if others is None else lambda: others,
    )


async def rest(fetch: Fetch) -> bytes:
    got = bytearray()
    try:
        while chunk := await fetch.read():
            got += chunk
    finally:
        fetch.close()
    return bytes(got)


async def fetched(proxy: Inside, digest: str, offset: int = 0) -> bytes:
    return await rest(await opened(proxy, digest, offset))


def ranges(proxy: Inside) -> list[str | None]:
    return [request.range for request in find(proxy.fake.journal, method="GET")]


# -- without trouble


async def test_all_of_it(proxy: Inside, digest: str) -> None:
    fetch = await opened(proxy, digest)

    assert fetch.size == len(DATA)
    assert await rest(fetch) == DATA
    assert fetch.offset == len(DATA)
    assert ranges(proxy) == [None]


async def test_the_end_stays_the_end(proxy: Inside, digest: str) -> None:
    fetch = await opened(proxy, digest)
    assert await rest(fetch) == DATA

    assert await fetch.read() == b""


async def test_the_rest_of_it(proxy: Inside, digest: str) -> None:
    fetch = await opened(proxy, digest, 1000)

    assert fetch.size == len(DATA)
    assert await rest(fetch) == DATA[1000:]
    assert ranges(proxy) == ["bytes=1000-"]


async def test_an_empty_blob(proxy: Inside) -> None:
    fetch = await opened(proxy, proxy.fake.add_blob(b""))

    assert (fetch.size, await rest(fetch)) == (0, b"")


async def test_nothing_is_left_to_send(proxy: Inside, digest: str) -> None:
    """416 to a range that begins at the end: what a fill finds that was killed just before its commit."""
    fetch = await opened(proxy, digest, len(DATA))

    assert (fetch.size, await rest(fetch)) == (len(DATA), b"")
    assert ranges(proxy) == [f"bytes={len(DATA)}-", None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(proxy: Inside, digest: str, status: int) -> None:
    proxy.fake.manners.redirect = Redirect(status)

    assert await fetched(proxy, digest) == DATA


async def test_a_length_that_nobody_says(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(chunked=True))
    fetch = await opened(proxy, digest)

    assert fetch.size is None
    assert await rest(fetch) == DATA


# -- cut bodies


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_body_is_resumed_where_it_was_cut(proxy: Inside, digest: str, reset: bool) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=5000, cut_after=5000, reset=reset))
    fetch = await opened(proxy, digest)
    got = b""
    while len(got) < 5000:
        got += await fetch.read()
    armed.release()

    assert got + await rest(fetch) == DATA
    first, second = find(proxy.fake.journal, digest, method="GET")
    assert (first.range, first.if_range) == (None, None)
    assert (second.range, second.if_range) == ("bytes=5000-", f'"{digest}"')


@pytest.mark.parametrize("etag", ['W/"weak"', "", "bare"])
async def test_only_a_strong_validator_joins_parts(proxy: Inside, digest: str, etag: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000, etag=etag))

    assert await fetched(proxy, digest) == DATA
    assert find(proxy.fake.journal, digest, method="GET")[1].if_range is None


async def test_a_blob_that_changed_meanwhile_is_sent_anew_and_skipped_to_where_we_were(
    proxy: Inside, digest: str
) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000, etag='"before"'))

    assert await fetched(proxy, digest) == DATA
    assert [request.status for request in find(proxy.fake.journal, digest)] == [200, 200]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(shift_range=7),
        Fault(status=416),
        Fault(chunked=True),
        Fault(ignore_range=True, chunked=True),
    ],
)
async def test_a_server_that_does_ranges_its_own_way(proxy: Inside, digest: str, fault: Fault) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(digest, fault)

    assert await fetched(proxy, digest) == DATA


@pytest.mark.parametrize("offset", [1, 5000, len(DATA)])
async def test_a_first_request_is_as_patient_with_ranges(proxy: Inside, digest: str, offset: int) -> None:
    proxy.fake.fault(digest, Fault(ignore_range=True), times=None)

    assert await fetched(proxy, digest, offset) == DATA[offset:]


async def test_a_server_that_always_sends_another_part(proxy: Inside, digest: str) -> None:
    """It cannot be believed about parts, but it can about the whole."""
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(lambda request: request.range is not None, Fault(shift_range=-7), times=None)

    assert await fetched(proxy, digest) == DATA


async def test_a_part_without_a_size_belongs_to_the_size_that_is_known(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(
        digest, Fault(status=206, headers={"Content-Range": f"bytes 5000-{len(DATA) - 1}/*"}, body=DATA[5000:])
    )

    assert await fetched(proxy, digest) == DATA


async def test_parts_that_are_smaller_than_asked_for_are_put_together(proxy: Inside, digest: str) -> None:
    for first, last in ((5000, 5999), (6000, 69_999)):
        headers = {"Content-Range": f"bytes {first}-{last}/{len(DATA)}"}
        proxy.fake.fault(
            lambda request, wanted=first: request.range == f"bytes={wanted}-",  # type: ignore[misc]
            Fault(status=206, headers=headers, body=DATA[first : last + 1]),
        )

    assert await fetched(proxy, digest, 5000) == DATA[5000:]
    assert ranges(proxy) == ["bytes=5000-", "bytes=6000-", "bytes=70000-"]


async def test_what_we_have_already_is_skipped_however_it_comes(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(ignore_range=True, stall_after=1000))
    fetch = await opened(proxy, digest, 5000)
    reading = asyncio.ensure_future(rest(fetch))
    await reached(armed)
    await asyncio.sleep(0.02)  # the first piece comes alone
    armed.release()

    assert await reading == DATA[5000:]


async def test_a_part_that_is_longer_than_the_whole_is_cut_to_it(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    headers = {"Content-Range": f"bytes 5000-{len(DATA) - 1}/{len(DATA)}"}
    proxy.fake.fault(digest, Fault(status=206, headers=headers, body=DATA[5000:] + b"surplus"))

    assert await fetched(proxy, digest) == DATA


async def test_a_part_that_nobody_asked_for(proxy: Inside, digest: str) -> None:
    headers = {"Content-Range": f"bytes 5-9/{len(DATA)}"}
    proxy.fake.fault(digest, Fault(status=206, headers=headers, body=DATA[5:10]))

    with pytest.raises(UpstreamError, match="another part"):
        await opened(proxy, digest)


async def test_the_size_must_not_change(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(
        digest, Fault(status=206, headers={"Content-Range": "bytes 5000-5001/9999"}, body=b"xx"), times=None
    )

    with pytest.raises(UpstreamError, match="now says 9999"):
        await fetched(proxy, digest)


async def test_less_than_was_announced(proxy: Inside, digest: str) -> None:
    """All that there is arrives, and then it is an error."""
    proxy.fake.fault(digest, Fault(length_lie=5))
    fetch = await opened(proxy, digest)
    got = bytearray()

    async def read_all() -> None:
        while chunk := await fetch.read():
            got.extend(chunk)

    with pytest.raises(UpstreamError):
        await read_all()
    fetch.close()
    assert got == DATA


async def test_more_than_was_announced(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(length_lie=-5, stall_after=5000))
    fetch = await opened(proxy, digest)
    await reached(armed)
    armed.release()

    assert await rest(fetch) == DATA[:-5]


async def test_a_cut_of_unknown_length_cannot_be_resumed(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(chunked=True, cut_after=5000))

    with pytest.raises(UpstreamError):
        await fetched(proxy, digest)
    assert ranges(proxy) == [None]


# -- how long we try


async def test_tries_are_bounded(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(digest, Fault(status=503), times=None)

    with pytest.raises(UpstreamError, match="503"):
        await fetched(proxy, digest)
    assert len(ranges(proxy)) == 1 + len(BACK_OFF)


async def test_a_try_that_brings_bytes_starts_over(proxy: Inside, digest: str) -> None:
    steps = 3 * len(BACK_OFF)
    proxy.fake.fault(digest, Fault(cut_after=1000), times=steps)

    assert await fetched(proxy, digest) == DATA
    assert len(ranges(proxy)) == steps + 1


async def test_an_upstream_that_always_hangs_up_does_not_keep_us_for_ever(
    proxy: Inside, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RESUMPTIONS", 3)
    proxy.fake.fault(digest, Fault(cut_after=1), times=None)

    with pytest.raises(UpstreamError, match="cut 4 times"):
        await fetched(proxy, digest)
    assert len(ranges(proxy)) == 4


async def test_an_answer_that_is_no_blob_is_tried_again_while_resuming(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(digest, Fault(gzip=True))

    assert await fetched(proxy, digest) == DATA


async def test_a_registry_that_is_gone(proxy: Inside, digest: str) -> None:
    proxy.fake.stop()

    with pytest.raises(UpstreamError) as failure:
        await opened(proxy, digest)
    assert failure.value.status == 502
    proxy.fake.start()


# -- answers that are not the content


@pytest.mark.parametrize(
    "fault",
    [
        Fault(gzip=True),
        Fault(status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>please log in"),
        Fault(status=200, headers={"Content-Type": "APPLICATION/XHTML+XML"}, body=b"<html>"),
    ],
)
async def test_a_2xx_that_is_not_the_blob_as_it_is(proxy: Inside, digest: str, fault: Fault) -> None:
    proxy.fake.fault(digest, fault)

    with pytest.raises(Unsuitable):
        await opened(proxy, digest)


async def test_identity_is_no_coding(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(headers={"Content-Encoding": "identity"}))

    assert await fetched(proxy, digest) == DATA


async def test_a_refusal_has_the_upstreams_words(proxy: Inside) -> None:
    with pytest.raises(Refused) as refused:
        await opened(proxy, f"sha256:{'0' * 64}")

    assert refused.value.status == 404
    assert refused.value.headers.get("content-type") == "application/json"
    assert b"BLOB_UNKNOWN" in refused.value.body


async def test_a_refusal_of_many_words_has_none(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(status=403, body=b"x" * 100_000))

    with pytest.raises(Refused) as refused:
        await opened(proxy, digest)
    assert (refused.value.status, refused.value.body) == (403, b"")


async def test_a_refusal_that_is_cut(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(chunked=True, cut_after=10))
    reply = await proxy.upstream.ask("GET", proxy.source().url(digest_in(digest)), Headers())

    with pytest.raises(UpstreamError):
        await refusal(reply)


# -- in whose name


async def test_only_the_opener_is_asked_at_first(proxy: Inside, digest: str) -> None:
    """What another one may have proves nothing about the opener."""
    proxy.fake.manners.accepts = only(BOB)

    with pytest.raises(Refused):
        await opened(proxy, digest, source=proxy.source(ALICE), others=[proxy.source(BOB)])
    assert len(ranges(proxy)) == 1


async def test_another_readers_fresher_token_continues(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    fetch = await opened(
        proxy, digest, source=proxy.source(ALICE), others=[proxy.source(ALICE), proxy.source(BOB), proxy.source()]
    )
    proxy.fake.manners.accepts = only(BOB)

    assert await rest(fetch) == DATA
    asked = [request.headers.get("authorization") for request in find(proxy.fake.journal, digest)]
    assert asked == [ALICE, ALICE, BOB]


async def test_another_repository_may_still_have_it(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault("gone/app", Fault(status=404), times=None)

    fetch = await opened(proxy, digest, others=[proxy.source(repository="gone/app"), proxy.source()])
    assert await rest(fetch) == DATA


async def test_an_upstream_in_trouble_is_in_trouble_for_everybody(
    proxy: Inside, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACK_OFF", (0.0,))
    proxy.fake.fault(digest, Fault(cut_after=5000))
    proxy.fake.fault(digest, Fault(status=500))

    fetch = await opened(proxy, digest, others=[proxy.source(ALICE), proxy.source(BOB)])
    with pytest.raises(UpstreamError, match="500"):
        await rest(fetch)
    assert len(ranges(proxy)) == 2


async def test_nobody_is_left_to_ask_for(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(cut_after=5000))
    fetch = await opened(proxy, digest, others=[])

    with pytest.raises(UpstreamError, match="nobody"):
        await rest(fetch)


def test_what_is_repeated_of_a_clients_request() -> None:
    sent = Headers(
        (
            ("Host", "registry.test"),
            ("Authorization", "Bearer t"),
            ("X-JFrog-Art-Api", "k"),
            ("User-Agent", "docker"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip"),
            ("Range", "bytes=5-"),
            ("If-Range", '"x"'),
            ("If-None-Match", '"x"'),
            ("Connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Proxy-Authorization", "Basic p"),
        )
    )

    credentials = [("Accept-Encoding", "identity"), ("Authorization", "Bearer t"), ("X-JFrog-Art-Api", "k")]
    assert sorted(repeated(sent)) == credentials
    assert sorted(repeated(sent, "Accept")) == [("Accept", "*/*"), *credentials]


# -- leaving


async def test_closing_ends_the_request(proxy: Inside) -> None:
    size = 32 << 20  # more than fits between the two
    digest = proxy.fake.add_blob(bytes(size))
    armed = proxy.fake.fault(digest, Fault(stall_after=5000))
    fetch = await opened(proxy, digest)
    await reached(armed)
    fetch.close()
    fetch.close()
    armed.release()

    await until(lambda: find(proxy.fake.journal, digest)[0].done)
    assert find(proxy.fake.journal, digest)[0].sent < size


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_cancelled_read_does_not_look_like_the_end(proxy: Inside, digest: str, chunked: bool) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=0, chunked=chunked))
    fetch = await opened(proxy, digest)
    reading = asyncio.ensure_future(fetch.read())
    await asyncio.sleep(0)
    await reached(armed)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    armed.release()

    if chunked:
        with pytest.raises(UpstreamError):
            await fetch.read()
    else:
        assert await rest(fetch) == DATA
