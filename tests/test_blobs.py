"""Blobs for those who may have them, from the store, from a flight or from upstream."""

import asyncio
import errno
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, Redirect, basic, only
from lab.faults import Fault
from lab.inside import GRANT_TTL, Inside, digest_in, inside, reached, until, until_cut, whole
from lab.journal import find
from pullthrough.messages import Answer, BodyError, Pass
from pullthrough.store import Store
from pullthrough.store.files import DAMAGED

DATA = random.Random(5).randbytes(200_000)
ALICE, BOB, EVE = basic("alice", "a"), basic("bob", "b"), basic("eve", "e")


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=True) as it:  # as under mitmproxy
        yield it


@pytest.fixture
def digest(proxy: Inside) -> str:
    return proxy.fake.add_blob(DATA)


def at(digest: str, repository: str = "team/app") -> str:
    return f"/v2/{repository}/blobs/{digest}"


async def cached(proxy: Inside, digest: str, authorization: str | None = None, repository: str = "team/app") -> None:
    """Somebody pulled it before; the journal does not know of that."""
    got = await proxy.get(at(digest, repository), authorization=authorization)
    assert (got.status, got.body) == (200, proxy.fake.content.blobs[digest])
    await proxy.landed()
    assert await proxy.has(digest)
    proxy.fake.journal.clear()


def asked(proxy: Inside) -> list[str]:
    return [request.method for request in proxy.fake.journal.requests()]


# -- the plain road


async def test_a_miss_and_then_a_hit_that_asks_nobody(proxy: Inside, digest: str) -> None:
    first = await proxy.get(at(digest))
    await proxy.landed()
    second = await proxy.get(at(digest))

    assert (first.body, second.body) == (DATA, DATA)
    assert (first.outcome, second.outcome) == ("fwd=miss; stored", "hit")
    assert asked(proxy) == ["GET"]
    for got in (first, second):
        assert got.headers.get("docker-content-digest") == digest
        assert got.headers.get("etag") == f'"{digest}"'
        assert got.headers.get("content-type") == "application/octet-stream"
        assert got.headers.get("accept-ranges") == "bytes"


@pytest.mark.parametrize("call", ["commit", "link"])
async def test_who_has_it_all_is_not_asked_for_proof_while_it_is_being_put_away(
    proxy: Inside, digest: str, call: str
) -> None:
    go = proxy.store.holding[call] = asyncio.Event()
    assert (await proxy.get(at(digest))).body == DATA
    await until(lambda: proxy.store.calls[call])

    assert (await proxy.get(at(digest))).body == DATA
    assert asked(proxy) == ["GET"]
    go.set()


async def test_headers_at_once_while_the_body_stalls(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=0))
    answer = await proxy.ask(at(digest))

    assert isinstance(answer, Answer)
    assert not isinstance(answer.body, bytes)
    assert answer.body.length == len(DATA)
    armed.release()
    assert await whole(answer.body) == DATA


@pytest.mark.parametrize("same", [True, False])
async def test_one_get_for_fifty_clients(proxy: Inside, digest: str, same: bool) -> None:
    names = [basic(f"client{number}", "x") for number in range(50)]
    proxy.fake.manners.redirect = Redirect()
    got = await asyncio.gather(*(proxy.get(at(digest), authorization=ALICE if same else name) for name in names))

    assert {one.body for one in got} == {DATA}
    outcomes = Counter(one.outcome for one in got)
    assert outcomes.pop("fwd=miss; stored") == 1
    assert set(outcomes) <= {"fwd=miss; collapsed", "hit"}
    assert len(find(proxy.fake.journal, "/storage/", method="GET")) == 1


async def test_an_empty_blob(proxy: Inside) -> None:
    digest = proxy.fake.add_blob(b"")
    first = await proxy.get(at(digest), range="bytes=0-")
    await proxy.landed()

    assert (first.status, first.body) == (200, b"")
    assert (await proxy.get(at(digest))).outcome == "hit"


async def test_a_client_that_leaves_does_not_stop_the_fill(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=10))
    answer = await proxy.ask(at(digest))
    assert isinstance(answer, Answer)
    assert not isinstance(answer.body, bytes)
    await answer.body.read(5)
    await answer.body.aclose()
    armed.release()
    await proxy.landed()

    assert (await proxy.get(at(digest))).outcome == "hit"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_client_that_leaves_while_its_rights_are_checked(proxy: Inside, digest: str, method: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    asking = asyncio.ensure_future(proxy.ask(at(digest), method))
    await reached(armed)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    armed.release()
    await until(lambda: proxy.access.granted(proxy.source().principal, proxy.repository()))


async def test_a_client_that_leaves_before_the_upstream_answers(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    asking = asyncio.ensure_future(proxy.ask(at(digest)))
    await reached(armed)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    armed.release()
    await proxy.landed()

    assert await proxy.has(digest)


@pytest.mark.parametrize("wanted", [None, "bytes=100-"])
@pytest.mark.parametrize("fails", ["at once", "in the middle"])
async def test_a_disk_that_fails_under_a_hit_is_not_the_clients_trouble(
    proxy: Inside, digest: str, fails: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached(proxy, digest)
    real, first = os.pread, [fails == "in the middle"]

    def pread(fd: int, size: int, offset: int) -> bytes:
        if first and first.pop():
            return real(fd, size // 2, offset)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    got = await proxy.get(at(digest), range=wanted)
    monkeypatch.undo()

    assert (got.status, got.body) == ((206, DATA[100:]) if wanted else (200, DATA))
    assert not await proxy.has(digest), "it is fetched again"


async def test_who_was_given_a_part_of_a_damaged_blob_is_cut(
    proxy: Inside, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the upstream has beyond it would make a whole body of it."""
    await cached(proxy, digest)
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if offset:  # another process has found it out by now
            os.fchmod(fd, DAMAGED)
        return real(fd, 100, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(BodyError, match="found damaged"):
        await proxy.get(at(digest))


# -- access


async def test_evidence_counts_for_a_minute_and_is_renewed_by_head(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL - 1
    assert (await proxy.get(at(digest))).body == DATA
    assert asked(proxy) == []

    proxy.clock.time += 1
    got = await proxy.get(at(digest))
    assert (got.body, got.outcome, asked(proxy)) == (DATA, "hit", ["HEAD"])
    proxy.clock.time += GRANT_TTL - 1
    await proxy.get(at(digest))
    assert asked(proxy) == ["HEAD"]


async def test_evidence_is_as_old_as_its_question(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    asking = asyncio.ensure_future(proxy.get(at(digest)))
    await reached(armed)
    proxy.clock.time += GRANT_TTL - 1
    armed.release()
    await asking

    proxy.clock.time += 2
    await proxy.get(at(digest))
    assert asked(proxy) == ["HEAD", "HEAD"]


async def test_an_answer_that_takes_ages_is_still_one_for_who_asked(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    asking = asyncio.ensure_future(proxy.get(at(digest)))
    await reached(armed)
    proxy.clock.time += 10 * GRANT_TTL
    armed.release()

    assert (await asking).outcome == "hit"
    assert asked(proxy) == ["HEAD"]


async def test_the_same_check_at_the_same_time_is_asked_once(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    asking = [asyncio.ensure_future(proxy.get(at(digest))) for _ in range(10)]
    await reached(armed)
    await asyncio.sleep(0.05)
    armed.release()

    assert {got.body for got in await asyncio.gather(*asking)} == {DATA}
    assert asked(proxy) == ["HEAD"]


@pytest.mark.parametrize("stranger", [None, EVE])
async def test_others_get_the_upstreams_own_refusal(proxy: Inside, digest: str, stranger: str | None) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    await cached(proxy, digest, ALICE)
    got = await proxy.get(at(digest), authorization=stranger)

    assert got.status == 401
    assert b"UNAUTHORIZED" in got.body
    assert got.headers.get("www-authenticate") == 'Basic realm="lab"'
    assert got.outcome == "fwd=miss; fwd-status=401"
    assert "content-length" not in got.headers


async def test_others_who_may_are_checked_and_served(proxy: Inside, digest: str) -> None:
    proxy.fake.manners.accepts = only(ALICE, BOB)
    await cached(proxy, digest, ALICE)
    got = await proxy.get(at(digest), authorization=BOB)

    assert (got.body, got.outcome, asked(proxy)) == (DATA, "hit", ["HEAD"])
    assert (await proxy.get(at(digest), authorization=ALICE)).outcome == "hit"


@pytest.mark.parametrize("field", ["Cookie", "Private-Token", "X-JFrog-Art-Api"])
async def test_a_key_in_any_field_is_somebody(proxy: Inside, digest: str, field: str) -> None:
    proxy.fake.manners.accepts = lambda request: request.headers.get(field.lower()) == "k"
    got = await proxy.get(at(digest), **{field: "k"})
    await proxy.landed()

    assert got.body == DATA
    assert (await proxy.get(at(digest))).status == 401
    assert (await proxy.get(at(digest), **{field: "K"})).status == 401
    assert (await proxy.get(at(digest), **{field: "k"})).outcome == "hit"


async def test_a_grant_for_one_repository_opens_no_other(proxy: Inside, digest: str) -> None:
    proxy.fake.fault("/v2/other/app/", Fault(status=404, body=b"unknown"), times=None, method=None)
    await cached(proxy, digest)
    got = await proxy.get(at(digest, "other/app"))

    assert (got.status, got.body) == (404, b"unknown")


async def test_a_grant_for_a_repository_is_not_enough_for_a_blob_of_another(proxy: Inside, digest: str) -> None:
    """Whoever may push can name any digest in a manifest: that proves nothing."""
    mine = proxy.fake.add_blob(b"mine")
    image = proxy.fake.add_image("eve/app", "v1", [DATA])
    await cached(proxy, digest, repository="secret/app")
    await cached(proxy, mine, EVE, repository="eve/app")
    proxy.fake.fault(f"/v2/eve/app/blobs/{digest}", Fault(status=404, body=b"unknown"), times=None, method=None)
    manifest = await proxy.get("/v2/eve/app/manifests/v1", authorization=EVE)
    assert digest in image.layers
    assert digest.encode() in manifest.body

    got = await proxy.get(at(digest, "eve/app"), authorization=EVE)
    assert (got.status, got.body) == (404, b"unknown")


async def test_joining_a_flight_takes_a_right_of_ones_own(proxy: Inside, digest: str) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    armed = proxy.fake.fault(digest, Fault(stall_after=1000))
    first = await proxy.ask(at(digest), authorization=ALICE)
    await reached(armed)
    stranger = await proxy.get(at(digest), authorization=EVE)

    assert stranger.status == 401
    armed.release()
    assert isinstance(first, Answer)
    assert await whole(first.body) == DATA


async def test_who_opens_a_flight_gains_nothing_from_who_joins_it(proxy: Inside, digest: str) -> None:
    """Eve may see her own repository, and asks for a blob of Bob's there at the moment when he asks too."""
    proxy.fake.fault(f"/v2/eve/app/blobs/{digest}", Fault(status=404), times=None, method=None)
    proxy.fake.manners.accepts = only(BOB, EVE)
    await cached(proxy, digest, BOB, repository="bob/app")
    await cached(proxy, proxy.fake.add_blob(b"mine"), EVE, repository="eve/app")
    await proxy.store.drop(digest_in(digest))
    go = proxy.store.holding["begin"] = asyncio.Event()
    eve = asyncio.ensure_future(proxy.get(at(digest, "eve/app"), authorization=EVE))
    await until(lambda: proxy.flights.find(digest_in(digest)))
    bob = asyncio.ensure_future(proxy.get(at(digest, "bob/app"), authorization=BOB))
    await asyncio.sleep(0.02)
    go.set()

    assert (await eve).status == 404
    assert (await bob).body == DATA
    await proxy.landed()
    assert (await proxy.get(at(digest, "eve/app"), authorization=EVE)).status == 404
    assert len(find(proxy.fake.journal, f"bob/app/blobs/{digest}", method="GET")) == 1


@pytest.mark.parametrize(("status", "shared"), [(404, True), (403, True), (503, False), (429, False)])
async def test_who_joined_a_flight_that_the_upstream_refuses(
    proxy: Inside, digest: str, status: int, shared: bool
) -> None:
    """A refusal may be meant for the opener: then they fly together without it. Trouble is trouble for everybody."""
    clients = [ALICE, BOB]
    for client in clients:
        await cached(proxy, digest, client)
    await proxy.store.drop(digest_in(digest))
    armed = proxy.fake.fault(digest, Fault(hold_headers=True, status=status))
    opener = asyncio.ensure_future(proxy.ask(at(digest), authorization=EVE))
    await reached(armed)
    joined = [asyncio.ensure_future(proxy.ask(at(digest), authorization=client)) for client in clients]
    flight = proxy.flights.find(digest_in(digest))
    assert flight is not None
    await until(lambda: len(flight.sources) == 3)
    armed.release()

    answers = [await one for one in joined]
    first = await opener
    assert isinstance(first, Answer)
    assert first.status == status
    for answer in answers:
        assert isinstance(answer, Answer) == shared
        assert not isinstance(answer, Answer) or await whole(answer.body) == DATA
    assert len(find(proxy.fake.journal, digest, method="GET")) == 1 + shared


async def test_a_refusal_ends_what_was_granted(proxy: Inside, digest: str) -> None:
    other = proxy.fake.add_blob(b"other")
    await cached(proxy, digest, ALICE)
    proxy.fake.manners.accepts = only(BOB)
    assert (await proxy.get(at(other), authorization=ALICE)).status == 401

    assert (await proxy.get(at(digest), authorization=ALICE)).status == 401


async def test_an_upstream_in_trouble_refuses_nobody_for_good(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest, ALICE)
    proxy.clock.time += GRANT_TTL
    proxy.fake.fault(digest, Fault(status=503, body=b"later"), times=2, method=None)

    got = await proxy.get(at(digest), authorization=BOB)
    assert (got.status, asked(proxy)) == (503, ["HEAD"])
    got = await proxy.get(at(digest), authorization=ALICE)
    assert (got.body, got.outcome.startswith('hit; detail="http')) == (DATA, True)
    assert (await proxy.get(at(digest), authorization=ALICE)).outcome == "hit"


async def test_a_cookie_for_one_client_reaches_no_other(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(status=403, headers={"Set-Cookie": "session=1"}), times=None)

    assert "set-cookie" not in (await proxy.get(at(digest))).headers


# -- what proves a right


async def test_a_registry_that_refuses_head_is_asked_for_one_byte(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    proxy.fake.fault(digest, Fault(status=405), times=None, method="HEAD")
    got = await proxy.get(at(digest))

    assert (got.body, got.outcome) == (DATA, "hit")
    assert [(one.method, one.range) for one in proxy.fake.journal.requests()] == [("HEAD", None), ("GET", "bytes=0-0")]


async def test_of_nothing_there_is_no_byte_to_ask_for(proxy: Inside) -> None:
    digest = proxy.fake.add_blob(b"")
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    proxy.fake.fault(digest, Fault(status=405), times=None, method="HEAD")

    assert (await proxy.get(at(digest))).outcome == "hit"


async def test_the_registrys_word_about_the_digest_is_enough(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL
    proxy.fake.fault(digest, Fault(chunked=True, headers={"Docker-Content-Digest": digest}), method="HEAD")

    assert (await proxy.get(at(digest))).outcome == "hit"
    assert asked(proxy) == ["HEAD"]


PAGE = Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>please log in")


@pytest.mark.parametrize(
    "answer",
    [
        PAGE,
        Fault(status=200, headers={"Content-Type": "application/json"}, body=b'{"login": "required"}'),
        Fault(status=200, headers={"Content-Type": "text/html"}, body=bytes(len(DATA))),
        Fault(gzip=True),
        Fault(chunked=True, ignore_range=True),
    ],
)
async def test_a_2xx_that_is_about_something_else_opens_nothing(proxy: Inside, digest: str, answer: Fault) -> None:
    """A login page behind a redirect answers 200 to everybody."""
    await cached(proxy, digest, ALICE)
    proxy.fake.fault(digest, answer, times=None, method=None)

    assert isinstance(await proxy.ask(at(digest), authorization=EVE), Pass)
    assert isinstance(await proxy.ask(at(digest), authorization=EVE), Pass)
    assert not proxy.access.granted(proxy.source(EVE).principal, proxy.repository())


async def test_a_login_page_grants_nothing_to_who_opens_a_flight(proxy: Inside, digest: str) -> None:
    private = proxy.fake.add_blob(b"private")
    await cached(proxy, private, ALICE)
    proxy.fake.fault("", PAGE, times=None, method=None)

    assert isinstance(await proxy.ask(at(digest), authorization=EVE), Pass)
    assert isinstance(await proxy.ask(at(private), authorization=EVE), Pass)


async def test_wrong_bytes_grant_nothing(proxy: Inside, digest: str) -> None:
    private = proxy.fake.add_blob(b"private")
    await cached(proxy, private, ALICE)
    proxy.fake.fault(digest, Fault(corrupt_at=10))
    answer = await proxy.ask(at(digest), authorization=EVE)
    assert isinstance(answer, Answer)
    assert len(await until_cut(answer.body)) == len(DATA) - 1
    proxy.fake.manners.accepts = only(ALICE)

    assert (await proxy.get(at(private), authorization=EVE)).status == 401
    assert (await proxy.get(at(digest), authorization=EVE)).status == 401


# -- deletions


async def test_a_deleted_blob_is_gone_at_once(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    await proxy.observe(at(digest), "DELETE", 202)
    del proxy.fake.content.blobs[digest]

    assert (await proxy.get(at(digest))).status == 404


@pytest.mark.parametrize("status", [401, 404, 405])
async def test_a_delete_that_was_refused_changes_nothing(proxy: Inside, digest: str, status: int) -> None:
    await cached(proxy, digest, ALICE)
    await proxy.observe(at(digest), "DELETE", status, authorization=BOB)

    assert (await proxy.get(at(digest), authorization=ALICE)).outcome == "hit"
    assert asked(proxy) == []


async def test_a_check_from_before_a_deletion_is_not_joined_and_links_nothing(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    await proxy.store.unlink(str(proxy.repository()), digest_in(digest))
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    early = asyncio.ensure_future(proxy.ask(at(digest)))
    await reached(armed)
    await proxy.observe(at(digest), "DELETE", 202)
    del proxy.fake.content.blobs[digest]
    late = await proxy.get(at(digest))
    assert late.status == 404

    proxy.fake.content.blobs[digest] = DATA  # what the early one hears is from before
    armed.release()
    answer = await early
    assert isinstance(answer, Answer)
    assert await whole(answer.body) == DATA
    assert await proxy.store.linked(str(proxy.repository()), digest_in(digest)) is None


async def test_a_deletion_while_the_link_is_being_written(proxy: Inside, digest: str) -> None:
    go = proxy.store.lingering["link"] = asyncio.Event()
    got = await proxy.get(at(digest))
    assert got.body == DATA
    await until(lambda: proxy.store.done["link"])
    await proxy.observe(at(digest), "DELETE", 202)
    go.set()
    await proxy.landed()

    assert await proxy.store.linked(str(proxy.repository()), digest_in(digest)) is None


async def test_a_flight_from_before_a_deletion_is_not_joined_unasked_and_links_nothing(
    proxy: Inside, digest: str
) -> None:
    await cached(proxy, proxy.fake.add_blob(b"for the grant"))
    armed = proxy.fake.fault(digest, Fault(stall_after=1000))
    first = await proxy.ask(at(digest))
    await reached(armed)
    await proxy.observe(at(digest), "DELETE", 202)
    proxy.fake.fault(digest, Fault(status=404), times=None, method=None)
    assert (await proxy.get(at(digest))).status == 404

    armed.release()
    assert isinstance(first, Answer)
    assert await whole(first.body) == DATA
    await proxy.landed()
    assert await proxy.store.linked(str(proxy.repository()), digest_in(digest)) is None


# -- HEAD


async def test_head_of_a_stored_blob(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    got = await proxy.get(at(digest), "HEAD", range="bytes=0-1")

    assert (got.status, got.answer.length, got.body, got.outcome) == (200, len(DATA), b"", "hit")
    assert asked(proxy) == []
    known = await proxy.get(at(digest), "HEAD", if_none_match=f'"{digest}"')
    assert (known.status, known.answer.length) == (304, None)


async def test_head_of_a_blob_that_nobody_pulled(proxy: Inside, digest: str) -> None:
    proxy.fake.manners.redirect = Redirect()
    got = await proxy.get(at(digest), "HEAD")

    assert (got.status, got.answer.length, got.outcome) == (200, len(DATA), "fwd=miss")
    assert set(asked(proxy)) == {"HEAD"}
    assert (await proxy.get(at(digest), "HEAD", if_none_match="*")).status == 304


async def test_head_of_a_blob_that_others_pulled(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest, ALICE)
    got = await proxy.get(at(digest), "HEAD", authorization=BOB)

    assert (got.answer.length, asked(proxy)) == (len(DATA), ["HEAD"])


async def test_head_of_a_growing_blob(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=1000))
    answer = await proxy.ask(at(digest))
    await reached(armed)
    got = await proxy.get(at(digest), "HEAD")
    armed.release()

    assert got.answer.length == len(DATA)
    assert isinstance(answer, Answer)
    assert await whole(answer.body) == DATA


async def test_head_without_a_length_upstream_has_one_if_we_know_it(proxy: Inside, digest: str) -> None:
    headers = {"Docker-Content-Digest": digest}
    proxy.fake.fault(digest, Fault(chunked=True, headers=headers), times=None, method="HEAD")
    assert isinstance(await proxy.ask(at(digest), "HEAD"), Pass)
    await cached(proxy, digest)
    proxy.clock.time += GRANT_TTL

    assert (await proxy.get(at(digest), "HEAD")).answer.length == len(DATA)


@pytest.mark.parametrize("status", [401, 404, 405])
async def test_head_that_the_upstream_refuses_passes(proxy: Inside, digest: str, status: int) -> None:
    proxy.fake.fault(digest, Fault(status=status), times=None, method=None)
    answer = await proxy.ask(at(digest), "HEAD")

    assert isinstance(answer, Pass)
    assert answer.cache.fwd_status == status
    assert asked(proxy) == ["HEAD", "GET"]


async def test_head_that_speaks_of_another_size_than_ours_passes(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest, ALICE)
    proxy.fake.fault(digest, Fault(status=200, body=b"not it"), times=None, method=None)

    assert isinstance(await proxy.ask(at(digest), "HEAD", authorization=EVE), Pass)


async def test_head_of_a_page_passes(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, PAGE, times=None, method=None)

    assert isinstance(await proxy.ask(at(digest), "HEAD"), Pass)


# -- ranges


@pytest.mark.parametrize("state", ["stored", "growing", "cold", "unknown size"])
@pytest.mark.parametrize(
    ("asked_for", "status", "got"),
    [
        ("bytes=1000-1999", 206, DATA[1000:2000]),
        ("bytes=150000-", 206, DATA[150_000:]),
        ("bytes=-1000", 206, DATA[-1000:]),
        ("bytes=0-", 206, DATA),
        ("bytes=200000-", 416, b""),
        ("bytes=nonsense", 200, DATA),
    ],
)
async def test_ranges(proxy: Inside, digest: str, state: str, asked_for: str, status: int, got: bytes) -> None:
    if state == "stored":
        await cached(proxy, digest)
    armed = proxy.fake.fault(digest, Fault(stall_after=1200, chunked=state == "unknown size"))
    growing = await proxy.ask(at(digest)) if state == "growing" else None
    asking = asyncio.ensure_future(proxy.get(at(digest), range=asked_for))
    if state != "stored":
        await reached(armed)
        armed.release()
    answer = await asking

    assert (answer.status, answer.body) == (status, got)
    assert len(find(proxy.fake.journal, digest, method="GET")) == (state != "stored")
    assert {request.range for request in proxy.fake.journal.requests()} <= {None}
    if status == 416:
        assert answer.headers.get("content-range") == "bytes */200000"
    if growing is not None:
        assert isinstance(growing, Answer)
        assert await whole(growing.body) == DATA


@pytest.mark.parametrize("warm", [True, False])
async def test_several_ranges(proxy: Inside, digest: str, warm: bool) -> None:
    if warm:
        await cached(proxy, digest)
    got = await proxy.get(at(digest), range="bytes=199990-,0-9")

    assert got.status == 206
    assert (got.headers.get("content-type") or "").startswith("multipart/byteranges")
    assert got.body.index(DATA[-10:]) < got.body.index(DATA[:10])


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(("validator", "status"), [("right", 206), ('"wrong"', 200)])
async def test_if_range(proxy: Inside, digest: str, warm: bool, validator: str, status: int) -> None:
    if warm:
        await cached(proxy, digest)
    etag = f'"{digest}"' if validator == "right" else validator
    got = await proxy.get(at(digest), range="bytes=0-9", if_range=etag)

    assert (got.status, got.body) == (status, DATA[:10] if status == 206 else DATA)


@pytest.mark.parametrize("warm", [True, False])
async def test_if_none_match(proxy: Inside, digest: str, warm: bool) -> None:
    if warm:
        await cached(proxy, digest)
    got = await proxy.get(at(digest), if_none_match=f'"{digest}"')

    assert (got.status, got.body) == (304, b"")


async def test_parallel_ranges_that_are_dropped_early_cost_one_request(proxy: Inside, digest: str) -> None:
    """As containerd 2 pulls a layer."""

    async def part(start: int) -> bytes:
        answer = await proxy.ask(at(digest), range=f"bytes={start}-")
        assert isinstance(answer, Answer)
        assert not isinstance(answer.body, bytes)
        got = bytearray()
        while len(got) < 25_000:
            got += await answer.body.read(25_000 - len(got))
        await answer.body.aclose()
        return bytes(got)

    parts = await asyncio.gather(*(part(start) for start in range(0, len(DATA), 25_000)))
    assert b"".join(parts) == DATA
    assert len(find(proxy.fake.journal, digest, method="GET")) == 1


# -- trouble


async def test_wrong_bytes_are_cut_and_the_next_pull_is_clean(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(corrupt_at=199_999))
    answer = await proxy.ask(at(digest))
    assert isinstance(answer, Answer)
    assert await until_cut(answer.body) == DATA[:-1]
    await proxy.landed()

    assert (await proxy.get(at(digest))).body == DATA


async def test_a_coded_blob_passes(proxy: Inside, digest: str) -> None:
    proxy.fake.fault(digest, Fault(gzip=True))
    answer = await proxy.ask(at(digest))

    assert isinstance(answer, Pass)
    assert answer.cache.header() == 'pullthrough; fwd=bypass; detail="upstream coded the blob (gzip)"'


async def test_an_upstream_that_is_gone_is_explained(proxy: Inside, digest: str) -> None:
    proxy.fake.stop()
    got = await proxy.get(at(digest))
    proxy.fake.start()

    assert got.status == 503
    assert b'"UNAVAILABLE"' in got.body


async def test_an_unknown_length_that_never_comes_is_explained(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=1000, cut_after=1000))
    asking = asyncio.ensure_future(proxy.get(at(digest), range="bytes=5-"))
    await reached(armed)
    armed.release()

    assert (await asking).status == 502


async def test_an_index_that_fails_lets_it_pass(proxy: Inside, digest: str) -> None:
    proxy.store.failing["look"] = 1
    answer = await proxy.ask(at(digest))

    assert isinstance(answer, Pass)
    assert answer.cache.fwd == "bypass"


async def test_a_disk_that_fails_at_once_lets_it_pass(proxy: Inside, digest: str) -> None:
    proxy.store.failing["begin"] = 1

    assert isinstance(await proxy.ask(at(digest)), Pass)


@pytest.mark.parametrize("call", ["write", "commit", "link", "end"])
async def test_a_disk_that_fails_later_disturbs_no_pull(proxy: Inside, digest: str, call: str) -> None:
    proxy.store.failing[call] = 1

    assert (await proxy.get(at(digest))).body == DATA


async def test_links_that_cannot_be_written_cost_a_check_and_no_more(proxy: Inside, digest: str) -> None:
    proxy.store.failing["link"] = 1
    assert (await proxy.get(at(digest))).body == DATA
    await proxy.landed()
    proxy.fake.journal.clear()

    assert (await proxy.get(at(digest))).outcome == "hit"
    assert asked(proxy) == ["HEAD"]


async def test_a_blob_that_is_evicted_between_look_and_open_is_fetched(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    go = proxy.store.holding["open"] = asyncio.Event()
    asking = asyncio.ensure_future(proxy.get(at(digest)))
    await until(lambda: proxy.store.calls["open"])
    await proxy.store.drop(digest_in(digest))
    go.set()
    got = await asking

    assert (got.body, got.outcome, asked(proxy)) == (DATA, "fwd=miss; stored", ["GET"])


async def test_a_blob_that_is_evicted_while_it_is_checked_is_fetched(proxy: Inside, digest: str) -> None:
    await cached(proxy, digest)
    armed = proxy.fake.fault(digest, Fault(hold_headers=True), method="HEAD")
    asking = asyncio.ensure_future(proxy.get(at(digest), authorization=ALICE))
    await reached(armed)
    await proxy.store.drop(digest_in(digest))
    armed.release()

    assert (await asking).body == DATA
    assert asked(proxy) == ["HEAD", "GET"]


async def test_a_cache_that_never_holds_still_is_passed_by(
    proxy: Inside, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached(proxy, digest)

    async def gone(store: Store, wanted: object) -> None:
        return None

    monkeypatch.setattr(type(proxy.store), "open", gone)
    assert isinstance(await proxy.ask(at(digest)), Pass)


async def test_a_blob_that_lands_while_the_index_is_asked_is_not_fetched_again(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=1000))
    first = await proxy.ask(at(digest))
    await reached(armed)
    go = proxy.store.lingering["look"] = asyncio.Event()
    done = proxy.store.done["look"]
    second = asyncio.ensure_future(proxy.get(at(digest)))
    await until(lambda: proxy.store.done["look"] > done)  # which found nothing
    armed.release()
    await proxy.landed()
    go.set()

    assert (await second).outcome == "hit"
    assert isinstance(first, Answer)
    assert await whole(first.body) == DATA
    assert len(find(proxy.fake.journal, digest, method="GET")) == 1


# -- flights of unknown size


async def test_others_join_a_flight_of_unknown_size_only_on_the_registrys_word(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=1000))
    first = await proxy.ask(at(digest), authorization=ALICE)
    await reached(armed)
    assert isinstance(await proxy.ask(at(digest), authorization=EVE), Pass)
    proxy.fake.fault(digest, Fault(headers={"Docker-Content-Digest": digest}), method="HEAD")
    second = await proxy.ask(at(digest), authorization=BOB)
    armed.release()

    for answer in (first, second):
        assert isinstance(answer, Answer)
        assert await whole(answer.body) == DATA


async def test_a_check_waits_for_the_size_of_a_flight_that_has_not_taken_off(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    first = asyncio.ensure_future(proxy.get(at(digest), authorization=ALICE))
    await reached(armed)
    second = asyncio.ensure_future(proxy.get(at(digest), authorization=BOB))
    await until(lambda: find(proxy.fake.journal, digest, method="HEAD"))
    armed.release()

    assert [(await first).body, (await second).body] == [DATA, DATA]
    assert len(find(proxy.fake.journal, digest, method="GET")) == 1


async def test_a_check_on_a_flight_that_is_refused_leads_to_one_of_ones_own(proxy: Inside, digest: str) -> None:
    proxy.fake.manners.accepts = only(BOB)
    armed = proxy.fake.fault(digest, Fault(hold_headers=True, status=401))
    first = asyncio.ensure_future(proxy.get(at(digest), authorization=ALICE))
    await reached(armed)
    second = asyncio.ensure_future(proxy.get(at(digest), authorization=BOB))
    await until(lambda: find(proxy.fake.journal, digest, method="HEAD"))
    armed.release()

    assert ((await first).status, (await second).body) == (401, DATA)
