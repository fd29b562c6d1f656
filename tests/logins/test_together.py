"""Two processes of one installation that tell each other what they learn: a client may come to either, at any time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeImage, FakeRegistry, digest_of
from lab.inside import Inside, beside, digest_in, reached, until
from lab.logins import ALICE, BOB, OUR_REALM, ask_token, bearer, behind_tls, token_in, trusting
from lab.names import NameMap, resolver
from lab.outages import APP, BLOB, LAYER, V1, asked, get, pulled
from lab.pki import Pki
from lab.siblings import joined
from lab.tokens import TokenServer
from pullthrough import siblings
from pullthrough.accounts import Credential
from pullthrough.core.headers import Headers
from pullthrough.siblings import Siblings


@dataclass(frozen=True)
class Two:
    """One process, another, and how they speak."""

    one: Inside
    other: Inside
    siblings: tuple[Siblings, Siblings]


@pytest.fixture
async def two(
    tmp_path: Path,
    short_folder: Path,
    fake: FakeRegistry,
    tokens: TokenServer,
    names: NameMap,
    pki: Pki,
    public: Pki,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Two]:
    """Before `fake`, which takes tokens of `tokens` alone."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    async with (
        joined(short_folder, "0", "1") as [first, second],
        behind_tls(tmp_path, fake, tokens, pki, public, siblings=first) as one,
        beside(one, second, trusting(pki, public)) as other,
    ):
        yield Two(one, other, (first, second))


@pytest.fixture
def image(fake: FakeRegistry, two: Two) -> FakeImage:
    """`APP:v1`, alice's alone."""
    return fake.add_image(APP, "v1", [LAYER])


@pytest.fixture
async def alice(two: Two, image: FakeImage) -> str:
    """Her token, by which she has pulled the image through the one of the two; nobody has been asked since."""
    token = await bearer(two.one, ALICE, APP)
    await pulled(two.one, token)
    return token


def no_outage(two: Two) -> None:
    """The registry answers again."""
    two.one.fake.start()


async def test_what_one_may_give_the_other_may_give(two: Two, alice: str) -> None:
    got = await get(two.other, BLOB, alice)

    assert (got.body, got.outcome) == (LAYER, "hit")
    assert asked(two.one) == []


async def test_whose_a_token_is_both_know(two: Two, alice: str) -> None:
    callers = [proxy.accounts.caller(proxy.request("/v2/", authorization=alice), APP) for proxy in (two.one, two.other)]

    assert callers[0] == callers[1]
    assert callers[0].credential is Credential.TOKEN


async def test_a_client_that_was_sent_to_us_by_one_asks_the_other_for_its_token(two: Two, image: FakeImage) -> None:
    challenged = await get(two.one, V1, None)
    assert challenged.status == 401
    found = OUR_REALM.search(challenged.headers.get("www-authenticate") or "")
    assert found
    path = found["path"]

    assert token_in(await two.other.get(f"{path}?scope=repository:{APP}:pull", authorization=ALICE))


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_that_one_heard_ends_it_for_both(two: Two, alice: str, status: int) -> None:
    await two.one.observe(BLOB, "GET", status, authorization=alice)
    await get(two.other, BLOB, alice)
    assert ("HEAD", BLOB) in asked(two.one), "the registry is asked anew"

    await two.one.observe(BLOB, "GET", status, authorization=alice)
    two.one.fake.stop()
    assert (await get(two.other, BLOB, alice)).status == 503
    no_outage(two)


async def test_an_answer_that_the_other_waits_for_does_not_undo_a_refusal(two: Two, alice: str) -> None:
    two.one.clock.time += 61
    held = two.one.fake.hang("/blobs/")
    asking = asyncio.ensure_future(get(two.other, BLOB, alice))
    await reached(held)
    await two.one.observe(BLOB, "GET", 403, authorization=alice)
    held.release()
    await asking
    two.one.fake.journal.clear()

    await get(two.other, BLOB, alice)
    assert asked(two.one) != []


async def test_what_was_deleted_through_one_is_gone_at_the_other(two: Two, alice: str) -> None:
    two.one.fake.content.blobs.pop(digest_of(LAYER))
    await two.one.observe(BLOB, "DELETE", 202, authorization=alice)

    assert (await get(two.other, BLOB, alice)).status == 404


async def test_an_answer_from_before_a_deletion_links_nothing(two: Two, alice: str) -> None:
    two.one.clock.time += 61
    held = two.one.fake.hang("/blobs/")
    asking = asyncio.ensure_future(get(two.other, BLOB, alice))
    await reached(held)
    await two.one.observe(BLOB, "DELETE", 202, authorization=alice)
    held.release()
    await asking
    two.one.fake.content.blobs.pop(digest_of(LAYER))

    for proxy in (two.one, two.other):
        assert (await get(proxy, BLOB, alice)).status == 404


async def test_a_tag_that_was_moved_through_one_is_not_answered_from_before_by_the_other(two: Two, alice: str) -> None:
    held = two.one.fake.hang("/manifests/")
    before = asyncio.ensure_future(get(two.other, V1, alice))
    await reached(held)
    moved = two.one.fake.add_image(APP, "v1", [b"other"])
    await two.one.observe(V1, "PUT", 201, authorization=alice)
    after = asyncio.ensure_future(get(two.other, V1, alice))
    await until(lambda: len(asked(two.one)) > 1)  # it did not join the other question
    held.release()

    await before
    assert (await after).headers.get("docker-content-digest") == moved.digest


async def test_a_tag_seen_by_one_and_pulled_from_the_other_is_known_in_an_outage(
    two: Two, alice: str, image: FakeImage
) -> None:
    moved = two.one.fake.add_image(APP, "v1", [LAYER, b"more"])
    assert (await get(two.one, V1, alice, "HEAD")).headers.get("docker-content-digest") == moved.digest
    assert (await get(two.other, f"/v2/{APP}/manifests/{moved.digest}", alice)).status == 200
    two.one.fake.stop()

    for proxy in (two.one, two.other):
        assert (await get(proxy, V1, alice)).headers.get("docker-content-digest") == moved.digest
    no_outage(two)


async def test_a_tag_deleted_through_one_is_unknown_in_an_outage(two: Two, alice: str) -> None:
    two.one.fake.add_image(APP, "v1", [LAYER, b"more"])
    await get(two.other, V1, alice, "HEAD")
    await two.one.observe(V1, "DELETE", 202, authorization=alice)
    two.one.fake.stop()

    for proxy in (two.one, two.other):
        assert (await get(proxy, V1, alice)).status >= 500
    no_outage(two)


async def test_who_was_told_to_wait_by_one_waits_at_the_other(two: Two, alice: str) -> None:
    refused = two.one.fake.refuse(429, retry_after="30")
    assert (await get(two.one, f"/v2/{APP}/manifests/none", alice)).status == 429
    two.one.fake.disarm(refused)
    two.one.fake.journal.clear()

    assert (await get(two.other, f"/v2/{APP}/manifests/none", alice)).status == 429
    assert asked(two.one) == []


async def test_a_token_that_one_saw_refused_is_not_given_again_by_the_other(
    two: Two, image: FakeImage, tokens: TokenServer
) -> None:
    token = token_in(await ask_token(two.other, BOB))
    assert token_in(await ask_token(two.other, BOB)) == token
    before = len(tokens.asked)
    await two.one.observe("/v2/team/app/blobs/" + digest_of(LAYER), "GET", 401, authorization=f"Bearer {token}")

    await ask_token(two.other, BOB)
    assert len(tokens.asked) == before + 1


async def test_both_know_a_registry_s_neighbours(two: Two) -> None:
    two.one.neighbours.learn("https://fake.test/v2/", Headers([("Location", "https://storage.test:9000/x")]))
    await two.siblings[0].agreed()

    assert two.other.neighbours.named("storage.test", 9000)


async def test_layers_of_a_manifest_that_one_gave_are_held_by_both(two: Two, alice: str, image: FakeImage) -> None:
    assert (await get(two.one, f"/v2/{APP}/manifests/{image.digest}", alice, accept=MANIFEST)).status == 200

    for proxy in (two.one, two.other):
        assert proxy.store.hold(map(digest_in, image.layers)) == [], "they are held already"


async def test_who_may_have_missed_a_refusal_asks_anew(two: Two, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(siblings, "_PATIENCE", 0.0)
        two.siblings[0].tell("anything")
        await two.siblings[0].agreed()  # that took the other one too long
    source = two.other.source(alice, repository=APP)
    await until(lambda: not two.other.access.granted(source.principal, source.repository))

    assert (await get(two.other, BLOB, alice)).body == LAYER
    assert ("HEAD", BLOB) in asked(two.one)
