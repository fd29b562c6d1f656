"""Mirrors of a registry: bytes come from them, rights and tags from the registry alone."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from lab.dripping import Dripping
from lab.fake_registry import MANIFEST, Content, FakeImage, FakeRegistry, Manners, Redirect, basic, digest_of, only
from lab.faults import Fault
from lab.inside import REPOSITORY, Chosen, Inside, digest_in, inside, plain_registry, reached, until, until_cut, whole
from lab.journal import find
from pullthrough import fetch, upstream_mirrors
from pullthrough.core import ocierrors
from pullthrough.messages import Answer, Body, BodyError

LONG = {"Content-Length": "60000"}
#: Answers that never come to their end.
DRIPPING: Final[Mapping[str, tuple[int, Mapping[str, str]]]] = {
    "the content": (200, {"Content-Length": str(200_000)}),
    "without a length": (200, {"Transfer-Encoding": "chunked"}),
    "not found": (404, LONG),
    "a challenge": (401, {"WWW-Authenticate": 'Bearer realm="https://auth.test/"', **LONG}),
    "unavailable": (503, LONG),
    "a redirect": (307, {"Location": "/v2/", **LONG}),
}
ALICE, BOB = basic("alice", "a"), basic("bob", "b")
LAYERS = [random.Random(seed).randbytes(200_000) for seed in range(2)]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[FakeRegistry]]:
    with plain_registry() as one, plain_registry() as two:
        yield [one, two]


@pytest.fixture
def mirrors(servers: list[FakeRegistry]) -> list[FakeRegistry]:
    """Two of them, as new."""
    for server in servers:
        server.reset()
        server.manners, server.content = Manners(), Content()
    return servers


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry, mirrors: list[FakeRegistry]) -> AsyncIterator[Inside]:
    """Before a registry whose blobs lie elsewhere, and who speaks of digests."""
    registry = f"{origin.address}:{origin.port}"
    named = [f"{registry}={url_of(mirror)}/hub" for mirror in mirrors]
    async with inside(tmp_path, origin, chosen=Chosen(more={"registry": [registry], "upstream_mirror": named})) as it:
        yield it


@pytest.fixture
def image(proxy: Inside, mirrors: list[FakeRegistry]) -> FakeImage:
    for mirror in mirrors:
        mirror.add_image(f"hub/{REPOSITORY}", "1.0", LAYERS)
    return proxy.fake.add_image(REPOSITORY, "1.0", LAYERS)


def url_of(server: FakeRegistry) -> str:
    return f"http://{server.address}:{server.port}"


def blob(digest: str) -> str:
    return f"/v2/{REPOSITORY}/blobs/{digest}"


def manifest(reference: str) -> str:
    return f"/v2/{REPOSITORY}/manifests/{reference}"


def well(proxy: Inside) -> int:
    return len(proxy.mirrors.of(proxy.repository()))


async def begun(proxy: Inside, digest: str, **fields: str) -> Body:
    answer = await proxy.ask(blob(digest), **fields)
    assert isinstance(answer, Answer)
    assert not isinstance(answer.body, bytes)
    return answer.body


def asked(server: FakeRegistry, method: str = "GET") -> list[str]:
    """The paths that were asked for."""
    return [request.path for request in server.journal.requests() if request.method == method]


@pytest.mark.parametrize("redirected", [False, True])
async def test_bytes_come_from_the_first_mirror_and_the_registrys_word_from_the_registry(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage, redirected: bool
) -> None:
    """Behind a redirect, Docker Hub's storage for one says no digest, but the size."""
    if redirected:
        proxy.fake.manners = replace(proxy.fake.manners, redirect=Redirect())
    for method in ("tag", "digest"):
        got = await proxy.get(manifest(image.digest if method == "digest" else "1.0"), accept=MANIFEST)
        assert (got.status, digest_of(got.body)) == (200, image.digest)
    for digest, data in zip(image.layers, LAYERS, strict=True):
        got = await proxy.get(blob(digest))
        assert got.body == data
        assert got.outcome == f'fwd=miss; stored; detail="from mirror {mirrors[0].address}:{mirrors[0].port}"'
    await proxy.landed()

    assert asked(proxy.fake) == []
    assert [path.removeprefix(f"/v2/hub/{REPOSITORY}/") for path in asked(mirrors[0])] == [
        f"manifests/{image.digest}",
        *(f"blobs/{digest}" for digest in image.layers),
    ]
    assert asked(mirrors[1]) == []
    for server in (proxy.fake, *mirrors):
        server.journal.clear()

    assert [(await proxy.get(blob(digest))).outcome for digest in image.layers] == ["hit", "hit"]
    assert proxy.fake.journal.requests() == mirrors[0].journal.requests() == []


async def test_whom_the_registry_refuses_gets_nothing_from_a_mirror(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    proxy.fake.manners.accepts = only(ALICE)

    for who in (BOB, None):
        for target in (manifest("1.0"), manifest(image.digest), blob(image.layers[0])):
            assert (await proxy.get(target, accept=MANIFEST, authorization=who)).status == 401
    assert asked(mirrors[0]) == []

    for target in (manifest("1.0"), manifest(image.digest), blob(image.layers[0])):
        assert (await proxy.get(target, accept=MANIFEST, authorization=ALICE)).status == 200
    assert all("authorization" not in request.headers for request in mirrors[0].journal.requests())
    assert (await proxy.get(blob(image.layers[0]), authorization=BOB)).status == 401


async def test_what_the_registry_has_not_is_not_had_from_a_mirror(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    more = mirrors[0].add_blob(b"more")
    tagged = mirrors[0].add_image(f"hub/{REPOSITORY}", "2.0", [b"x"])

    for target in (blob(more), manifest("2.0"), manifest(tagged.digest)):
        assert (await proxy.get(target, accept=MANIFEST)).status == 404


async def test_a_tag_is_what_the_registry_says(proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage) -> None:
    moved = proxy.fake.add_image(REPOSITORY, "1.0", [b"moved"])

    got = await proxy.get(manifest("1.0"), accept=MANIFEST)

    assert digest_of(got.body) == moved.digest
    assert asked(mirrors[0]) == [f"/v2/hub/{REPOSITORY}/manifests/{moved.digest}"]


async def test_mirrors_that_fail_are_left_alone_and_tried_again_later(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    one, two = mirrors
    one.fault("/v2/hub/", Fault(status=503), times=None)
    two.fault("/v2/hub/", Fault(status=429, headers={"Retry-After": "100"}), times=None)

    for digest in image.layers:
        assert (await proxy.get(blob(digest))).status == 200
        await proxy.landed()
    assert (len(asked(one)), len(asked(two)), len(asked(proxy.fake))) == (1, 1, 2)

    one.reset()
    two.reset()
    proxy.clock.time += 11
    await proxy.get(blob(image.config))
    assert (len(asked(one)), len(asked(two)), len(asked(proxy.fake))) == (1, 0, 2)
    assert well(proxy) == 1, "the other asked for 100 s"
    proxy.clock.time += 90
    assert well(proxy) == 2


async def test_a_mirror_that_nobody_answers_for_costs_one_try(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    mirrors[0].fault("/v2/hub/", Fault(cut_after=0, status=200), times=None)
    mirrors[1].fault("/v2/hub/", Fault(status=500), times=None)

    assert (await proxy.get(manifest("1.0"), accept=MANIFEST)).status == 200
    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
    assert well(proxy) == 0


async def took(body: Body, count: int) -> bytes:
    """The next `count` bytes."""
    got = bytearray()
    while len(got) < count:
        chunk = await body.read(count - len(got))
        assert chunk, f"{len(got)} bytes and then the end"
        got += chunk
    return bytes(got)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_body_that_a_mirror_cuts_is_continued_by_the_next(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage, reset: bool
) -> None:
    one, two = mirrors
    cuts = [
        server.fault("/blobs/", Fault(stall_after=count, cut_after=count, reset=reset))
        for server, count in ((one, 70_000), (two, 50_000))
    ]

    body = await begun(proxy, image.layers[0])
    got = b""
    for cut, count in zip(cuts, (70_000, 50_000), strict=True):
        got += await took(body, count)
        cut.release()
    got += await took(body, len(LAYERS[0]) - len(got))
    await body.aclose()
    await proxy.landed()

    assert got == LAYERS[0]
    assert await proxy.has(image.layers[0])
    [second] = find(two.journal, "/blobs/")
    [third] = find(proxy.fake.journal, "/blobs/", method="GET")
    assert (second.headers["range"], third.headers["range"]) == ("bytes=70000-", "bytes=120000-")
    assert "if-range" not in second.headers, "a validator is that of one server"
    assert well(proxy) == 0


async def test_wrong_bytes_of_a_mirror_are_not_kept_and_not_asked_for_again(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    mirrors[0].fault("/", Fault(corrupt_at=0), times=None)

    assert await until_cut(await begun(proxy, image.layers[0])) != LAYERS[0]
    await proxy.landed()
    assert not await proxy.has(image.layers[0])

    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
    assert (await proxy.get(manifest("1.0"), accept=MANIFEST)).status == 200
    assert len(asked(mirrors[0])) == 1


async def test_of_several_that_sent_a_part_nobody_knows_who_is_to_blame(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    cut = mirrors[0].fault("/blobs/", Fault(corrupt_at=0, stall_after=70_000, cut_after=70_000))

    body = await begun(proxy, image.layers[0])
    await took(body, 70_000)
    cut.release()
    await until_cut(body)
    await proxy.landed()

    assert well(proxy) == 0
    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
    proxy.clock.time += 30
    assert well(proxy) == 2, "the honest one is not left alone for ten minutes"


async def test_what_a_mirror_began_is_not_gone_on_with_by_the_next_pull(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    """While the others are away nobody else takes it to its end, and what is there may be wrong."""
    one, two = mirrors
    cut = one.fault("/blobs/", Fault(corrupt_at=0, stall_after=70_000, cut_after=70_000))
    two.fault("/v2/hub/", Fault(status=503), times=None)
    proxy.fake.fault("/blobs/", Fault(status=503), times=None)
    body = await begun(proxy, image.layers[0])
    await took(body, 70_000)
    cut.release()
    await until_cut(body)
    await proxy.landed()
    assert proxy.partials() == []

    proxy.fake.reset()
    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]


@pytest.mark.parametrize("kind", DRIPPING)
async def test_a_mirror_that_drips_holds_no_pull(
    tmp_path: Path, origin: FakeRegistry, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One byte now and then is never silence."""
    monkeypatch.setattr(fetch, "_PATIENCE", 0.3)
    monkeypatch.setattr(upstream_mirrors, "_BODY_TIME", 0.3)
    dripping = Dripping(*DRIPPING[kind])
    dripping.start()
    registry = f"{origin.address}:{origin.port}"
    named = f"{registry}=http://{dripping.address}:{dripping.port}"
    chosen = Chosen(more={"registry": [registry], "upstream_mirror": [named]})
    async with inside(tmp_path, origin, chosen=chosen) as proxy:
        image = proxy.fake.add_image(REPOSITORY, "1.0", LAYERS)
        async with asyncio.timeout(60):
            with contextlib.suppress(BodyError):  # some of it came, and was wrong
                await proxy.get(blob(image.layers[0]))
            assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
            proxy.clock.time += 700
            assert digest_of((await proxy.get(manifest("1.0"), accept=MANIFEST)).body) == image.digest
        assert len(dripping.journal.requests()) >= 2
        dripping.stop()


async def test_a_manifest_with_wrong_bytes_is_taken_from_the_next(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    mirrors[0].content.manifests[f"hub/{REPOSITORY}", image.digest] = (MANIFEST, b"{}")

    got = await proxy.get(manifest(image.digest), accept=MANIFEST)

    assert digest_of(got.body) == image.digest
    assert (len(asked(mirrors[1])), asked(proxy.fake), well(proxy)) == (1, [], 1)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(length_lie=7),
        Fault(length_lie=-7),
        Fault(chunked=True),
        Fault(gzip=True),
        Fault(headers={"Content-Type": "text/html"}),
        Fault(status=206, headers={"Content-Range": "bytes 5-9/10"}, body=b"12345"),
        Fault(status=304),
        Fault(status=404, body=b"<html>"),
        Fault(status=302, headers={"Location": "ftp://elsewhere.test/"}),
    ],
    ids=["longer", "shorter", "no length", "coded", "a page", "another part", "304", "404", "redirected to nowhere"],
)
async def test_what_is_not_the_blob_that_the_registry_spoke_of_is_not_taken(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage, fault: Fault
) -> None:
    mirrors[0].fault("/blobs/", fault)

    got = await proxy.get(blob(image.layers[0]))

    assert got.body == LAYERS[0]
    assert (len(asked(mirrors[0])), len(asked(mirrors[1])), asked(proxy.fake)) == (1, 1, [])


async def test_a_mirror_without_the_repository_is_not_asked_for_each_blob(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    one, two = mirrors
    one.fault("/v2/hub/", Fault(status=404, body=ocierrors.body(ocierrors.NAME_UNKNOWN, "no")), times=None)
    two.fault("/v2/hub/", Fault(status=404, body=ocierrors.body(ocierrors.BLOB_UNKNOWN, "no")), times=None)

    for digest in image.layers:
        assert (await proxy.get(blob(digest))).status == 200
    assert (len(asked(one)), len(asked(two))) == (1, 2)

    proxy.clock.time += 61
    await proxy.get(blob(image.config))
    assert len(asked(one)) == 2


async def test_a_mirror_that_wants_a_login_gets_none_over_plain_http(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    for mirror in mirrors:
        mirror.manners.accepts = only(ALICE)

    assert (await proxy.get(blob(image.layers[0]), authorization=ALICE)).body == LAYERS[0]
    assert all("authorization" not in request.headers for mirror in mirrors for request in mirror.journal.requests())


async def test_one_download_for_all_who_ask(proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage) -> None:
    held = mirrors[0].fault("/blobs/", Fault(stall_after=1000))
    first = await begun(proxy, image.layers[0], authorization=ALICE)
    await until(held.reached.is_set)
    second = await begun(proxy, image.layers[0], authorization=BOB)
    held.release()

    assert [await whole(body) for body in (first, second)] == [LAYERS[0]] * 2
    assert (len(asked(mirrors[0])), asked(proxy.fake)) == (1, [])


async def test_a_proof_is_as_old_as_the_question_to_the_registry(proxy: Inside, image: FakeImage) -> None:
    """A refusal that comes while the registry is asked is not undone by what a mirror then sends."""
    digest = image.layers[0]
    said = Fault(hold_headers=True, status=200, headers={"Docker-Content-Digest": digest}, body=LAYERS[0])
    held = proxy.fake.fault("/blobs/", said, method="HEAD")
    pull = asyncio.create_task(proxy.get(blob(digest), authorization=ALICE))
    await reached(held)
    proxy.fake.manners.accepts = only(BOB)
    assert (await proxy.get(manifest("1.0"), accept=MANIFEST, authorization=ALICE)).status == 401
    held.release()
    assert (await pull).body == LAYERS[0]
    await proxy.landed()

    assert (await proxy.get(blob(digest), authorization=ALICE)).status == 401


async def test_where_the_registry_says_neither_digest_nor_size_it_sends_the_content_too(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    proxy.fake.manners.redirect = Redirect()
    proxy.fake.fault("/storage/", Fault(chunked=True), method="HEAD")

    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
    assert asked(mirrors[0]) == []


async def test_a_disk_that_fails_under_a_mirrors_bytes_costs_nobody_a_pull(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    """The reader goes on alone, with the registry, in its own name."""
    proxy.store.failing["write"] = 1

    assert (await proxy.get(blob(image.layers[0]))).body == LAYERS[0]
    await proxy.landed()
    assert not await proxy.has(image.layers[0])
    assert well(proxy) == 2, "that is no fault of theirs"


async def test_head_and_other_repositories_are_none_of_a_mirrors_business(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    for target in (manifest("1.0"), manifest(image.digest), blob(image.layers[0])):
        assert (await proxy.get(target, "HEAD", accept=MANIFEST)).status == 200
    await proxy.ask(f"/v2/{REPOSITORY}/tags/list")
    assert mirrors[0].journal.requests() == []


async def test_a_pull_is_not_spent_on_what_a_mirror_has(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    proxy.fake.fault("/manifests/", Fault(headers={"RateLimit-Remaining": "0"}), times=None, method="HEAD")

    got = await proxy.get(manifest("1.0"), accept=MANIFEST)

    assert (got.status, digest_of(got.body), asked(proxy.fake)) == (200, image.digest, [])


async def test_a_signed_manifest_of_schema_1_is_the_registrys_to_send(
    proxy: Inside, mirrors: list[FakeRegistry]
) -> None:
    """It is named by the digest of a part of it."""
    schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    proxy.fake.add_manifest(REPOSITORY, "1.0", b"{}", schema1)

    assert (await proxy.get(manifest("1.0"), accept=schema1)).body == b"{}"
    assert asked(mirrors[0]) == []


async def test_the_name_of_schema_1_spares_no_liar(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    mirrors[0].content.manifests[f"hub/{REPOSITORY}", image.digest] = (schema1, b"{}")

    assert digest_of((await proxy.get(manifest("1.0"), accept=MANIFEST)).body) == image.digest
    assert well(proxy) == 1


async def test_rests_grow_and_end_with_the_first_success(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage
) -> None:
    lengths = []
    for _ in range(8):
        proxy.mirrors.of(proxy.repository())[0].failed("test")
        lengths.append(0)
        while well(proxy) < 2:
            proxy.clock.time += 5
            lengths[-1] += 5
    assert lengths == [10, 20, 40, 80, 160, 320, 600, 600]

    assert (await proxy.get(blob(image.layers[0]))).status == 200
    proxy.mirrors.of(proxy.repository())[0].failed("test")
    proxy.clock.time += 11
    assert well(proxy) == 2


@pytest.mark.parametrize("first", ["503", "Retry-After", "wrong bytes"])
async def test_what_was_under_way_at_a_failure_is_no_further_one(
    proxy: Inside, mirrors: list[FakeRegistry], image: FakeImage, first: str
) -> None:
    """Nor does it make the rest shorter."""
    one, two = mirrors
    two.fault("/v2/hub/", Fault(status=404), times=None)
    held = one.fault(image.layers[1], Fault(hold_headers=True, status=503))
    late = asyncio.create_task(proxy.get(blob(image.layers[1])))
    await reached(held)
    match first:
        case "wrong bytes":
            one.fault(image.layers[0], Fault(corrupt_at=5))
            await until_cut(await begun(proxy, image.layers[0]))
        case "Retry-After":
            one.fault(image.layers[0], Fault(status=429, headers={"Retry-After": "300"}))
            await proxy.get(blob(image.layers[0]))
        case _:
            one.fault(image.layers[0], Fault(status=503))
            await proxy.get(blob(image.layers[0]))
    held.release()
    assert (await late).status == 200
    await proxy.landed()

    rest = {"503": 10, "Retry-After": 300, "wrong bytes": 600}[first]
    proxy.clock.time += rest - 1
    assert well(proxy) == 1
    proxy.clock.time += 2
    assert well(proxy) == 2


async def test_only_so_much_is_remembered_of_what_mirrors_lack(
    proxy: Inside, mirrors: list[FakeRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_mirrors, "_MAX_LACKING", 2)
    nothing = ocierrors.body(ocierrors.NAME_UNKNOWN, "no")
    mirrors[0].fault("/v2/hub/", Fault(status=404, body=nothing), times=None)
    data = proxy.fake.add_blob(b"data")
    for number in range(3):
        assert (await proxy.get(f"/v2/app{number}/blobs/{data}")).status == 200
        await proxy.landed()
        await proxy.store.drop(digest_in(data))

    assert [len(proxy.mirrors.of(proxy.repository(f"app{number}"))) for number in range(3)] == [2, 1, 1]
