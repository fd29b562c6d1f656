"""Manifests: tags are always asked for, digests are kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeRegistry, basic, digest_of, only
from lab.faults import Fault
from lab.inside import GRANT_TTL, Inside, digest_in, inside, reached, until
from pullthrough.core import media
from pullthrough.core.children import MAX_MANIFEST
from pullthrough.core.digest import Digest
from pullthrough.messages import Pass
from pullthrough.store import Link

BODY = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).encode()
MOVED = BODY + b"\n"
DIGEST = digest_of(BODY)
ALICE, BOB, EVE = basic("alice", "a"), basic("bob", "b"), basic("eve", "e")
PAGE = Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>please log in")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=True) as it:  # as under mitmproxy
        it.fake.add_manifest("team/app", "v1", BODY)
        yield it


def at(reference: str, repository: str = "team/app") -> str:
    return f"/v2/{repository}/manifests/{reference}"


async def cached(proxy: Inside, authorization: str | None = None, reference: str = "v1") -> None:
    """Somebody pulled it before; the journal does not know of that."""
    got = await proxy.get(at(reference), authorization=authorization, accept=MANIFEST)
    assert (got.status, got.body) == (200, BODY)
    proxy.fake.journal.clear()


def asked(proxy: Inside) -> list[str]:
    return [request.method for request in proxy.fake.journal.requests()]


async def link(proxy: Inside, digest: str = DIGEST) -> Link | None:
    return await proxy.store.linked(str(proxy.repository()), digest_in(digest))


# -- by tag


async def test_a_tag_is_checked_each_time_and_its_manifest_fetched_once(proxy: Inside) -> None:
    first = await proxy.get(at("v1"))
    second = await proxy.get(at("v1"))

    assert (first.body, second.body) == (BODY, BODY)
    assert asked(proxy) == ["HEAD", "GET", "HEAD"]
    assert first.outcome == "fwd=miss; fwd-status=200; stored"
    assert second.outcome == 'hit; detail="tag checked"'
    for got in (first, second):
        assert got.headers.get("docker-content-digest") == DIGEST
        assert got.headers.get("content-type") == MANIFEST
        assert got.headers.get("etag") == f'"{DIGEST}"'
        assert "content-length" not in got.headers


async def test_a_tag_that_moved_names_the_new_manifest(proxy: Inside) -> None:
    await cached(proxy)
    proxy.fake.add_manifest("team/app", "v1", MOVED)

    assert (await proxy.get(at("v1"))).body == MOVED
    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).body == BODY


async def test_a_tag_that_is_gone_is_gone(proxy: Inside) -> None:
    await cached(proxy)
    proxy.fake.content.manifests.clear()
    got = await proxy.get(at("v1"))

    assert got.status == 404
    assert b"MANIFEST_UNKNOWN" in got.body


async def test_head_of_a_tag_is_the_upstreams(proxy: Inside) -> None:
    for _ in range(2):
        got = await proxy.get(at("v1"), "HEAD")
        assert (got.status, got.body, got.answer.length) == (200, b"", len(BODY))
        assert got.headers.get("docker-content-digest") == DIGEST
        assert got.outcome == 'fwd=request; fwd-status=200; detail="tags are always checked"'
    assert asked(proxy) == ["HEAD", "HEAD"]
    assert (await proxy.get(at("none"), "HEAD")).status == 404


async def test_a_head_without_a_digest(proxy: Inside) -> None:
    proxy.fake.manners.digest_on_head = False
    for _ in range(2):
        assert (await proxy.get(at("v1"))).body == BODY

    assert asked(proxy) == ["HEAD", "GET"] * 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
async def test_a_head_that_is_refused(proxy: Inside, status: int) -> None:
    proxy.fake.manners.head_status = status

    assert (await proxy.get(at("v1"))).body == BODY
    assert (await proxy.get(at("v1"), "HEAD")).status == status


async def test_a_head_that_fails_is_bridged_once_the_tag_is_known(proxy: Inside) -> None:
    proxy.fake.manners.head_status = 500

    assert (await proxy.get(at("v1"), "HEAD")).status == 500
    assert (await proxy.get(at("v1"))).body == BODY
    assert (await proxy.get(at("v1"), "HEAD")).outcome.startswith("fwd=stale")


async def test_a_head_that_is_one_too_many_is_not_followed_by_a_get(proxy: Inside) -> None:
    proxy.fake.manners.head_status = 429
    got = await proxy.get(at("v1"))

    assert (got.status, got.headers.get("content-type")) == (429, "application/json")
    assert b"TOOMANYREQUESTS" in got.body
    assert asked(proxy) == ["HEAD"]


async def test_a_get_without_a_digest_is_named_by_its_body(proxy: Inside) -> None:
    proxy.fake.manners.digest_on_get = False
    got = await proxy.get(at("v1"))

    assert got.headers.get("docker-content-digest") == DIGEST
    assert (await proxy.get(at("v1"))).outcome.startswith("hit")


async def test_a_wrong_digest_by_tag_is_relayed_and_not_kept(proxy: Inside) -> None:
    """Signed schema 1 manifests are named by the digest of a part of them: clients know how."""
    proxy.fake.manners.digest_header = digest_of(b"something else")
    got = await proxy.get(at("v1"))

    assert (got.status, got.body) == (200, BODY)
    assert got.headers.get("docker-content-digest") == digest_of(b"something else")
    assert not await proxy.has(DIGEST)
    assert not await proxy.has(digest_of(b"something else"))


async def test_the_algorithm_is_the_upstreams(proxy: Inside) -> None:
    long = str(Digest.of(BODY, "sha512"))
    proxy.fake.manners.digest_header = long

    assert (await proxy.get(at("v1"))).headers.get("docker-content-digest") == long
    assert (await proxy.get(at("v1"))).outcome.startswith("hit")


async def test_a_range_is_ignored_as_registries_do(proxy: Inside) -> None:
    for _ in range(2):
        got = await proxy.get(at("v1"), range="bytes=0-")
        assert (got.status, got.body) == (200, BODY)
    assert {request.range for request in proxy.fake.journal.requests()} == {None}


@pytest.mark.parametrize("known", [f'"{DIGEST}"', f'W/"{DIGEST}"', f'"x", "{DIGEST}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_the_client_has_already(proxy: Inside, known: str, method: str) -> None:
    for reference in ("v1", DIGEST, DIGEST):
        got = await proxy.get(at(reference), method, if_none_match=known, accept=MANIFEST)
        assert (got.status, got.body) == (304, b"")
        assert "content-type" not in got.headers


@pytest.mark.parametrize("known", ["", ",", '"x"', '"None"'])
@pytest.mark.parametrize("etag", [True, False])
async def test_what_the_client_has_not(proxy: Inside, known: str, etag: bool) -> None:
    proxy.fake.manners.etag = proxy.fake.manners.digest_on_head = etag

    assert (await proxy.get(at("v1"), if_none_match=known)).body == BODY
    assert (await proxy.get(at("v1"), "HEAD", if_none_match=known)).status == 200


async def test_the_upstreams_own_validator(proxy: Inside) -> None:
    proxy.fake.manners.digest_on_head = False
    headers = {"Content-Type": MANIFEST, "ETag": '"own"'}
    proxy.fake.fault("v1", Fault(status=200, headers=headers, body=BODY), times=None, method=None)

    assert (await proxy.get(at("v1"))).headers.get("etag") == '"own"'
    for method in ("GET", "HEAD"):
        assert (await proxy.get(at("v1"), method, if_none_match='W/"own"')).status == 304


@pytest.mark.parametrize("reference", ["v1", DIGEST])
async def test_a_coded_manifest_passes(proxy: Inside, reference: str) -> None:
    proxy.fake.fault(reference, Fault(status=200, headers={"Content-Encoding": "gzip"}, body=b"x"))

    assert isinstance(await proxy.ask(at(reference)), Pass)


async def test_a_head_that_speaks_of_a_coding_does_not_code_what_we_have(proxy: Inside) -> None:
    await cached(proxy)
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": DIGEST, "Content-Encoding": "gzip"}
    proxy.fake.fault("v1", Fault(status=200, headers=headers), method="HEAD")
    got = await proxy.get(at("v1"))

    assert (got.body, got.headers.get("content-encoding")) == (BODY, None)


@pytest.mark.parametrize("by_digest", [True, False])
async def test_manifests_up_to_a_bound_are_kept(proxy: Inside, by_digest: bool) -> None:
    body = BODY.ljust(MAX_MANIFEST)
    digest = proxy.fake.add_manifest("team/app", "big", body)
    reference = digest if by_digest else "big"
    assert (await proxy.get(at(reference))).body == body
    assert await proxy.has(digest)

    digest = proxy.fake.add_manifest("team/app", "big", body + b" ")
    assert isinstance(await proxy.ask(at(digest if by_digest else "big")), Pass)
    assert not await proxy.has(digest)


async def test_a_layer_that_is_stored_is_no_manifest(proxy: Inside) -> None:
    data = bytes(MAX_MANIFEST + 1)
    digest = proxy.fake.add_blob(data)
    assert (await proxy.get(f"/v2/team/app/blobs/{digest}")).body == data
    await proxy.landed()

    assert (await proxy.get(at(digest))).status == 404


async def test_an_upstream_that_is_gone_is_explained(proxy: Inside) -> None:
    proxy.fake.stop()
    got = await proxy.get(at("v1"))
    proxy.fake.start()

    assert got.status == 503
    assert b'"UNAVAILABLE"' in got.body


# -- the same question at the same time


async def test_the_same_question_at_the_same_time_is_asked_once(proxy: Inside) -> None:
    armed = proxy.fake.fault("v1", Fault(hold_headers=True), method="HEAD")
    asking = [asyncio.ensure_future(proxy.get(at("v1"), accept=accept)) for accept in ("a/b, c/d", "c/d ,a/b") * 10]
    await reached(armed)
    await asyncio.sleep(0.02)
    whole = proxy.fake.fault("v1", Fault(hold_headers=True))
    armed.release()
    await reached(whole)
    await asyncio.sleep(0.02)
    whole.release()

    got = await asyncio.gather(*asking)
    assert {one.body for one in got} == {BODY}
    assert asked(proxy) == ["HEAD", "GET"]
    assert sorted("collapsed" in one.outcome for one in got) == [False] + [True] * 19
    assert [one.outcome for one in got].count("fwd=miss; fwd-status=200; stored") == 1


@pytest.mark.parametrize(
    "other", [{"accept": "x/y"}, {"authorization": ALICE}, {"cookie": "c"}, {"private-token": "t"}], ids=str
)
async def test_another_question_is_another_question(proxy: Inside, other: dict[str, str]) -> None:
    armed = proxy.fake.fault("v1", Fault(hold_headers=True), times=None, method="HEAD")
    asking = [asyncio.ensure_future(proxy.get(at("v1"), "HEAD", **fields)) for fields in ({}, other)]
    await until(lambda: len(armed.hits) == 2)
    armed.release()

    assert [got.status for got in await asyncio.gather(*asking)] == [200, 200]


async def test_whoever_asked_first_may_leave(proxy: Inside) -> None:
    armed = proxy.fake.fault("v1", Fault(hold_headers=True), method="HEAD")
    first = asyncio.ensure_future(proxy.get(at("v1")))
    await reached(armed)
    second = asyncio.ensure_future(proxy.get(at("v1")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    armed.release()

    assert (await second).body == BODY
    assert first.cancelled()


async def test_a_cookie_for_one_client_reaches_no_other(proxy: Inside) -> None:
    headers = {"Content-Type": MANIFEST, "Set-Cookie": "session=1"}
    proxy.fake.fault("v1", Fault(status=200, headers=headers, body=BODY), times=None, method=None)
    proxy.fake.fault("none", Fault(status=403, headers=headers), times=None, method=None)

    for reference, method in (("v1", "GET"), ("v1", "HEAD"), ("none", "GET"), ("none", "HEAD")):
        assert "set-cookie" not in (await proxy.get(at(reference), method)).headers


# -- by digest


async def test_by_digest_it_is_fetched_once_and_then_asks_nobody(proxy: Inside) -> None:
    first = await proxy.get(at(DIGEST), accept=MANIFEST)
    second = await proxy.get(at(DIGEST), accept=MANIFEST)
    third = await proxy.get(at(DIGEST), "HEAD", accept=MANIFEST)

    assert (first.body, second.body, third.body) == (BODY, BODY, b"")
    assert asked(proxy) == ["GET"]
    assert (second.outcome, third.outcome, third.answer.length) == ("hit", "hit", len(BODY))
    assert second.headers.get("content-type") == MANIFEST
    assert second.headers.get("docker-content-digest") == DIGEST


async def test_by_digest_after_the_tag(proxy: Inside) -> None:
    await cached(proxy)

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome == "hit"
    assert asked(proxy) == []


async def test_evidence_counts_for_a_minute(proxy: Inside) -> None:
    await cached(proxy)
    proxy.clock.time += GRANT_TTL
    got = await proxy.get(at(DIGEST), accept=MANIFEST)

    assert (got.body, got.outcome) == (BODY, 'hit; detail="access checked"')
    assert asked(proxy) == ["HEAD"]
    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome == "hit"


async def test_head_by_digest_is_the_upstreams_unless_it_is_known(proxy: Inside) -> None:
    got = await proxy.get(at(DIGEST), "HEAD", accept=MANIFEST)
    assert (got.status, got.answer.length, got.outcome) == (200, len(BODY), "fwd=miss; fwd-status=200")
    await cached(proxy)
    assert (await proxy.get(at(DIGEST), "HEAD", accept=MANIFEST)).outcome == "hit"
    proxy.clock.time += GRANT_TTL

    assert (await proxy.get(at(DIGEST), "HEAD", accept=MANIFEST)).outcome == "fwd=miss; fwd-status=200"


@pytest.mark.parametrize("accept", [None, "*/*", media.OCI_INDEX, f"{MANIFEST};q=0"])
async def test_an_accept_that_does_not_list_the_type_is_the_upstreams_to_decide(
    proxy: Inside, accept: str | None
) -> None:
    await cached(proxy)
    assert (await proxy.get(at(DIGEST), accept=accept)).body == BODY
    assert asked(proxy) == ["HEAD"]
    proxy.fake.fault(DIGEST, Fault(status=404, body=b"not in this form"), times=None, method=None)

    assert (await proxy.get(at(DIGEST), accept=accept)).body == b"not in this form"
    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).body == BODY


async def test_a_check_without_a_digest_header_is_believed_if_it_speaks_of_a_manifest(proxy: Inside) -> None:
    await cached(proxy)
    proxy.clock.time += GRANT_TTL
    proxy.fake.manners.digest_on_head = False

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome.startswith("hit")
    assert asked(proxy) == ["HEAD"]


async def test_a_check_that_speaks_of_another_digest_is_not_believed(proxy: Inside) -> None:
    await cached(proxy)
    proxy.clock.time += GRANT_TTL
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(b"x")}
    proxy.fake.fault(DIGEST, Fault(status=200, headers=headers), method="HEAD")

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome.startswith("fwd=miss")


async def test_wrong_bytes_by_digest_are_an_error_and_not_kept(proxy: Inside) -> None:
    proxy.fake.fault(DIGEST, Fault(status=200, headers={"Content-Type": MANIFEST}, body=MOVED))
    got = await proxy.get(at(DIGEST))

    assert got.status == 502
    assert not await proxy.has(DIGEST)
    assert not await proxy.has(digest_of(MOVED))
    assert (await proxy.get(at(DIGEST))).body == BODY


async def test_a_signed_manifest_has_a_digest_of_its_own_kind(proxy: Inside) -> None:
    headers = {"Content-Type": f"{media.DOCKER_SCHEMA1_SIGNED}; charset=utf-8"}
    proxy.fake.fault(DIGEST, Fault(status=200, headers=headers, body=b"signed"))
    got = await proxy.get(at(DIGEST))

    assert (got.status, got.body) == (200, b"signed")
    assert not await proxy.has(DIGEST)


async def test_stored_bytes_that_went_bad_are_fetched_again(proxy: Inside) -> None:
    await cached(proxy)
    (file,) = (path for path in (proxy.folder / "blobs").glob("*/*/*") if path.is_file())
    file.chmod(0o600)
    file.write_bytes(bytes(len(BODY)))

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).body == BODY
    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome == "hit"


async def test_a_type_that_nobody_knows_is_kept_but_asked_for(proxy: Inside) -> None:
    digest = proxy.fake.add_manifest("team/app", None, b"{}", "application/json")
    for _ in range(2):
        assert (await proxy.get(at(digest), accept="application/json")).body == b"{}"

    assert asked(proxy) == ["GET", "HEAD"]


# -- access


async def test_others_get_the_upstreams_own_refusal(proxy: Inside) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    await cached(proxy, ALICE)
    await cached(proxy, ALICE, DIGEST)

    for reference in ("v1", DIGEST):
        got = await proxy.get(at(reference), authorization=EVE, accept=MANIFEST)
        assert got.status == 401
        assert b"UNAUTHORIZED" in got.body
        assert got.headers.get("www-authenticate") == 'Basic realm="lab"'
        head = await proxy.get(at(reference), "HEAD", authorization=EVE, accept=MANIFEST)
        assert head.status == 401


async def test_a_refusal_ends_what_was_granted(proxy: Inside) -> None:
    await cached(proxy, ALICE)
    proxy.fake.manners.accepts = only(BOB)
    assert (await proxy.get(at("v2"), authorization=ALICE)).status == 401

    assert (await proxy.get(at(DIGEST), authorization=ALICE, accept=MANIFEST)).status == 401


async def test_another_repository_is_another_matter(proxy: Inside) -> None:
    await cached(proxy)
    proxy.fake.add_manifest("eve/app", "v1", MOVED)
    assert (await proxy.get(at("v1", "eve/app"), accept=MANIFEST)).body == MOVED

    assert (await proxy.get(at(DIGEST, "eve/app"), accept=MANIFEST)).status == 404


@pytest.mark.parametrize("reference", ["v1", DIGEST])
async def test_a_login_page_opens_nothing(proxy: Inside, reference: str) -> None:
    await cached(proxy, ALICE)
    proxy.fake.fault("team/app", PAGE, times=None, method=None)
    got = await proxy.get(at(reference), authorization=EVE, accept=MANIFEST)

    assert BODY not in got.body
    assert not proxy.access.granted(proxy.source(EVE).principal, proxy.repository())
    assert (await proxy.get(at(DIGEST), authorization=EVE, accept=MANIFEST)).status == 502
    assert await link(proxy, digest_of(PAGE.body)) is None


async def test_a_blob_is_no_manifest_though_it_belongs_to_the_repository(proxy: Inside) -> None:
    digest = proxy.fake.add_blob(BODY + b" ")
    await proxy.get(f"/v2/team/app/blobs/{digest}")
    await proxy.landed()

    assert (await proxy.get(at(digest), accept=MANIFEST)).status == 404


# -- pushes and deletions


async def test_a_deleted_manifest_is_gone_at_once(proxy: Inside) -> None:
    await cached(proxy)
    await proxy.observe(at(DIGEST), "DELETE", 202)
    proxy.fake.content.manifests.clear()

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).status == 404
    assert (await proxy.get(at(DIGEST), "HEAD", accept=MANIFEST)).status == 404


@pytest.mark.parametrize(("method", "status"), [("PUT", 400), ("DELETE", 404), ("DELETE", 500)])
async def test_a_change_that_was_refused_changes_nothing(proxy: Inside, method: str, status: int) -> None:
    await cached(proxy)
    await proxy.observe(at(DIGEST), method, status)

    assert (await proxy.get(at(DIGEST), accept=MANIFEST)).outcome == "hit"


@pytest.mark.parametrize("call", ["HEAD", "GET"])
async def test_what_was_asked_before_a_push_is_not_joined_after_it(proxy: Inside, call: str) -> None:
    armed = proxy.fake.fault("v1", Fault(hold_headers=True), method=call)
    early = asyncio.ensure_future(proxy.get(at("v1")))
    await reached(armed)
    proxy.fake.add_manifest("team/app", "v1", MOVED)
    await proxy.observe(at("v1"), "PUT", 201)
    late = await proxy.get(at("v1"))
    armed.release()

    assert late.body == MOVED
    assert (await early).status == 200


async def test_a_push_to_another_repository_disturbs_no_joining(proxy: Inside) -> None:
    armed = proxy.fake.fault("v1", Fault(hold_headers=True), method="HEAD")
    asking = [asyncio.ensure_future(proxy.get(at("v1"), "HEAD"))]
    await reached(armed)
    await proxy.observe(at("v1", "other/app"), "PUT", 201)
    asking.append(asyncio.ensure_future(proxy.get(at("v1"), "HEAD")))
    await asyncio.sleep(0.02)
    armed.release()

    assert [got.status for got in await asyncio.gather(*asking)] == [200, 200]
    assert asked(proxy) == ["HEAD"]


@pytest.mark.parametrize("call", ["HEAD", "GET"])
async def test_what_was_asked_before_a_deletion_links_nothing(proxy: Inside, call: str) -> None:
    if call == "HEAD":
        await cached(proxy)
        proxy.clock.time += GRANT_TTL
    armed = proxy.fake.fault(DIGEST, Fault(hold_headers=True), method=call)
    early = asyncio.ensure_future(proxy.get(at(DIGEST), accept=MANIFEST))
    await reached(armed)
    await proxy.observe(at(DIGEST), "DELETE", 202)
    armed.release()

    assert (await early).body == BODY  # as the upstream said when it was asked
    assert await link(proxy) is None


async def test_a_deletion_while_the_link_is_being_written(proxy: Inside) -> None:
    proxy.fake.manners.digest_on_head = False  # so that GET alone is heard of it
    go = proxy.store.lingering["link"] = asyncio.Event()
    early = asyncio.ensure_future(proxy.get(at("v1")))
    await until(lambda: proxy.store.done["link"])
    await proxy.observe(at(DIGEST), "DELETE", 202)
    go.set()

    assert (await early).body == BODY
    assert await link(proxy) is None


# -- trouble with the store


@pytest.mark.parametrize(("call", "reference"), [("open", "v1"), ("open", DIGEST), ("linked", DIGEST)])
async def test_a_store_that_fails_lets_it_pass(proxy: Inside, call: str, reference: str) -> None:
    proxy.store.failing[call] = 1

    assert isinstance(await proxy.ask(at(reference)), Pass)


@pytest.mark.parametrize("call", ["put", "link", "linked"])
@pytest.mark.parametrize("reference", ["v1", DIGEST])
async def test_a_store_that_fails_later_disturbs_no_pull(proxy: Inside, call: str, reference: str) -> None:
    proxy.store.failing[call] = 2 if (call, reference) == ("linked", DIGEST) else 1
    got = await proxy.get(at(reference))

    assert got.body == BODY
    assert ("stored" in got.outcome) == (call != "put")
