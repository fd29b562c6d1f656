"""Rate limits: a registry that says when to come back is left alone, and the last pulls are not spent."""

from __future__ import annotations

import pytest

from lab.fake_registry import MANIFEST, FakeImage, digest_of
from lab.faults import Fault
from lab.inside import Chosen, Inside
from lab.logins import ALICE, BOB, bearer
from lab.outages import APP, BLOB, HOUR, LAYER, MOVED, OTHER, V1, asked, get


async def test_a_registry_that_said_when_is_not_asked_before(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="30")
    assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")
    assert asked(proxy) == [("HEAD", V1)]
    proxy.clock.time += 10
    again, blob, ping = [await get(proxy, target, alice) for target in (V1, BLOB, "/v2/")]
    unknown = await get(proxy, f"/v2/{APP}/manifests/v2", alice)

    assert asked(proxy) == [("HEAD", V1)]
    assert again.outcome.startswith("fwd=stale")
    assert "asked to wait 20 s more" in again.outcome
    assert (blob.body, ping.status) == (LAYER, 200)
    assert (unknown.status, unknown.headers.get("retry-after")) == (429, "20")
    assert b"TOOMANYREQUESTS" in unknown.body
    proxy.fake.release()
    assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")
    proxy.clock.time += 21
    assert (await get(proxy, V1, alice)).outcome == 'hit; detail="tag checked"'


async def test_others_are_not_made_to_wait(proxy: Inside, alice: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.journal.clear()
    proxy.fake.refuse(429, retry_after="30")
    await get(proxy, V1, alice)
    before = len(asked(proxy))
    await get(proxy, V1, bob)

    assert len(asked(proxy)) > before


@pytest.mark.parametrize("retry_after", [None, "0", "soon"])
async def test_a_registry_that_did_not_say_when_is_asked_again(
    proxy: Inside, alice: str, retry_after: str | None
) -> None:
    proxy.fake.refuse(429, retry_after=retry_after)
    for _ in range(2):
        assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")

    assert asked(proxy) == [("HEAD", V1)] * 2


async def test_nobody_waits_for_days(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="864000")
    await get(proxy, V1, alice)
    proxy.fake.release()
    proxy.clock.time += HOUR + 1

    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP))).outcome == 'hit; detail="tag checked"'


async def test_what_is_not_cached_gets_the_429(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="30")
    got = await get(proxy, f"/v2/{APP}/blobs/{digest_of(OTHER)}", alice)

    assert (got.status, got.headers.get("retry-after")) == (429, "30")


def left(proxy: Inside, remaining: int, body: bytes = MOVED, tag: str = "v1") -> None:
    """Let the tag name `body` now, and each HEAD say so, and how many pulls are left."""
    digest = proxy.fake.add_manifest(APP, tag, body)
    fields = {
        "Content-Type": MANIFEST,
        "Docker-Content-Digest": digest,
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": f"{remaining};w=21600",
    }
    proxy.fake.fault(f"/manifests/{tag}", Fault(status=200, headers=fields, body=body), times=None, method="HEAD")


@pytest.mark.parametrize(
    ("chosen", "remaining", "spared"),
    [(Chosen(), 0, True), (Chosen(), 1, False), (Chosen(floor=10), 9, True), (Chosen(floor=0), 0, False)],
    ids=["none", "one", "nine of ten", "no floor"],
)
async def test_the_last_pulls_are_not_spent_on_a_tag_that_moved(
    proxy: Inside, alice: str, image: FakeImage, remaining: int, spared: bool
) -> None:
    left(proxy, remaining)
    got = await get(proxy, V1, alice)

    assert digest_of(got.body) == (image.digest if spared else digest_of(MOVED))
    assert asked(proxy) == [("HEAD", V1)] if spared else [("HEAD", V1), ("GET", V1)]
    if spared:
        assert got.outcome == (
            f'fwd=stale; detail="the registry\'s rate limit has {remaining} pulls left; the tag moved"'
        )


async def test_a_tag_that_did_not_move_costs_nothing(proxy: Inside, alice: str) -> None:
    (body,) = {body for (_, reference), (_, body) in proxy.fake.content.manifests.items() if reference == "v1"}
    left(proxy, 0, body)

    assert (await get(proxy, V1, alice)).outcome == 'hit; detail="tag checked"'
    assert asked(proxy) == [("HEAD", V1)]


async def test_a_pull_is_spent_where_nothing_can_stand_in(proxy: Inside, alice: str) -> None:
    left(proxy, 0, tag="v2")
    got = await get(proxy, f"/v2/{APP}/manifests/v2", alice)

    assert (got.status, got.body) == (200, MOVED)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_the_upstreams_word_is_not_spared(proxy: Inside, alice: str, status: int) -> None:
    fields = {"RateLimit-Remaining": "0;w=21600"}
    proxy.fake.fault("", Fault(status=status, headers=fields, body=b"no"), times=None, method=None)

    assert (await get(proxy, V1, alice)).status == status
