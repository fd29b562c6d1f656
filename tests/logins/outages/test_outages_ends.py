"""How long what was pulled is given in an outage: until somebody ends it, or it is too old."""

from __future__ import annotations

import pytest

from lab.fake_registry import FakeImage, only
from lab.inside import GRACE, Chosen, Inside
from lab.logins import ALICE, BOB, ask_token, bearer, token_in
from lab.outages import APP, BLOB, HOUR, INDEX, MOVED, V1, get, pulled

# -- what ends it


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("method", "target"), [("GET", V1), ("HEAD", V1), ("GET", BLOB)])
async def test_a_refusal_ends_it_for_who_was_refused(
    proxy: Inside, alice: str, image: FakeImage, method: str, target: str, status: int
) -> None:
    proxy.fake.refuse(status)
    assert (await get(proxy, target, alice, method)).status == status
    proxy.fake.stop()

    for wanted in (V1, BLOB, f"/v2/{APP}/manifests/{image.digest}"):
        assert (await get(proxy, wanted, alice)).status == 503


async def test_a_refusal_ends_it_for_nobody_else(proxy: Inside, alice: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.manners.accepts = lambda request: True
    await pulled(proxy, bob)
    proxy.clock.time += 61
    proxy.fake.manners.accepts = only(alice)
    assert (await get(proxy, V1, bob)).status == 401
    proxy.fake.stop()

    assert (await get(proxy, V1, bob)).status == 503
    assert (await get(proxy, V1, alice)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_tag_that_is_gone(proxy: Inside, alice: str, image: FakeImage, method: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.manners.accepts = lambda request: True
    await pulled(proxy, bob)
    del proxy.fake.content.manifests[APP, "v1"]
    assert (await get(proxy, V1, alice, method)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, BLOB, alice)).status == 503, "it may be the repository that is hidden from alice now"
    assert (await get(proxy, V1, bob)).status == 503, "the tag is gone for all"
    assert (await get(proxy, BLOB, bob)).status == 200


async def test_a_tag_that_nobody_knew(proxy: Inside, alice: str) -> None:
    assert (await get(proxy, f"/v2/{APP}/manifests/typo", alice)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_404_to_other_media_types_says_nothing(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.refuse(404)
    for target in (V1, f"/v2/{APP}/manifests/{image.digest}"):
        assert (await get(proxy, target, alice, accept=INDEX)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_manifest_that_is_gone(proxy: Inside, alice: str, image: FakeImage) -> None:
    by_digest = f"/v2/{APP}/manifests/{image.digest}"
    del proxy.fake.content.manifests[APP, image.digest]
    assert (await get(proxy, by_digest, alice)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, by_digest, alice)).status == 503


@pytest.mark.parametrize(("method", "status"), [("PUT", 201), ("DELETE", 202)])
async def test_a_push_or_a_deletion_of_a_tag(
    proxy: Inside, alice: str, image: FakeImage, method: str, status: int
) -> None:
    await proxy.observe(V1, method, status, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice)).status == 200


@pytest.mark.parametrize(("method", "status"), [("PUT", 401), ("DELETE", 405), ("DELETE", 500)])
async def test_one_that_was_refused(proxy: Inside, alice: str, method: str, status: int) -> None:
    await proxy.observe(V1, method, status, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_tag_that_was_pulled_again_after_a_push(proxy: Inside, alice: str) -> None:
    await proxy.observe(V1, "PUT", 201, authorization=alice)
    proxy.fake.add_manifest(APP, "v1", MOVED)
    assert (await get(proxy, V1, alice)).body == MOVED
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).body == MOVED


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_digest_that_was_deleted(proxy: Inside, alice: str, image: FakeImage, kind: str) -> None:
    target = f"/v2/{APP}/{kind}/{image.digest if kind == 'manifests' else image.layers[0]}"
    await proxy.observe(target, "DELETE", 202, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, target, alice)).status == 503


# -- for how long


@pytest.mark.parametrize("chosen", [Chosen(max_stale=HOUR)], ids=["an hour"])
@pytest.mark.parametrize(("seconds", "status"), [(HOUR - 120, 200), (HOUR + 60, 503)])
async def test_a_tag_counts_for_max_stale(proxy: Inside, alice: str, seconds: float, status: int) -> None:
    proxy.fake.stop()
    proxy.clock.time += seconds
    token = await bearer(proxy, ALICE, APP)

    assert (await get(proxy, V1, token)).status == status
    assert (await get(proxy, BLOB, token)).status == 200, "content by digest does not age"


@pytest.mark.parametrize("chosen", [Chosen(max_stale=HOUR)], ids=["an hour"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_since_it_was_last_checked(proxy: Inside, alice: str, method: str) -> None:
    proxy.clock.time += HOUR / 2
    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP), method)).status == 200
    proxy.clock.time += HOUR - 120
    proxy.fake.stop()

    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP))).status == 200


@pytest.mark.parametrize("chosen", [Chosen(max_stale=0)], ids=["never"])
async def test_a_tag_that_may_never_be_stale(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice)).status == 200


@pytest.mark.parametrize(("seconds", "status"), [(GRACE - 120, 200), (GRACE + 60, 503)])
async def test_a_principal_counts_for_the_grace(proxy: Inside, alice: str, seconds: float, status: int) -> None:
    proxy.fake.stop()
    proxy.clock.time += seconds
    token = f"Bearer {token_in(await ask_token(proxy, ALICE, APP))}"

    assert (await get(proxy, V1, token)).status == status
    assert (await get(proxy, BLOB, token)).status == status


@pytest.mark.parametrize("chosen", [Chosen(grace=0)], ids=["none"])
async def test_without_a_grace_a_grant_counts_and_no_more(proxy: Inside, image: FakeImage) -> None:
    token = await bearer(proxy, ALICE, APP)
    await pulled(proxy, token)
    proxy.fake.stop()
    assert (await get(proxy, V1, token)).outcome.startswith("fwd=stale")
    proxy.clock.time += 61

    assert (await get(proxy, V1, token)).status == 503
