"""A registry's rate limit costs nobody an image that is cached, and is not used up by us."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.front import Budget, Front
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.proxy import Proxies, Proxy
from lab.pullers import KINDS, Puller
from lab.registry import Registry
from lab.token_path import login

ALICE = "alice:secret"


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [20 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


@pytest.fixture
def other(registry: Registry, layout: Layout, repository: str) -> Image:
    """Of the same repository, and never pulled."""
    made = layout.image(None, [KIB], seed=f"{repository} other")
    registry.seed(made, repository, "other")
    return made


@pytest.fixture
def anybody(front: Front, brisk_proxy: Proxy) -> Asking:
    return Asking.through(brisk_proxy, front)


async def pulled(asking: Asking, repository: str, tag: str, image: Image) -> bool:
    """Does the image come by tag and by digest, every byte of it?"""
    manifests = [(await asking.manifest(repository, reference)).digest for reference in (tag, image.digest)]
    blobs = [(await asking.blob(repository, blob.digest)).digest for blob in image.blobs]
    return manifests == [image.digest] * 2 and blobs == [blob.digest for blob in image.blobs]


def remaining(proxy: Proxy, front: Front) -> tuple[dict[str, Any], str]:
    """What the page of health and the metrics say."""
    said: dict[str, Any] = json.loads(proxy.get("/readyz")[1])["ratelimit"][front.host]
    lines = proxy.get("/metrics")[1].decode().splitlines()
    metric = f'pullthrough_ratelimit_remaining{{registry="{front.host}"}} '
    return said, next(line.removeprefix(metric) for line in lines if line.startswith(metric))


@pytest.mark.parametrize("kind", KINDS)
def test_with_429_on_every_manifest_cached_images_are_pulled(
    front: Front, make: Callable[[str], Puller], image: Image, repository: str, kind: str
) -> None:
    client = make(kind)
    first = client.pull(front.image_name(repository, "v1"))
    assert first, first.err
    client.clean()
    front.refuse(429, "/manifests/", method="GET")

    for reference in ("v1", image.digest):
        again = client.pull(front.image_name(repository, reference))
        assert again, again.err
        assert client.holds(front.image_name(repository, reference), image)
        client.clean()


# skopeo and podman try for half a minute
@pytest.mark.parametrize("kind", ["docker", "ctr", "cri"])
def test_with_429_on_every_manifest_uncached_images_get_the_429(
    front: Front, make: Callable[[str], Puller], other: Image, repository: str, kind: str
) -> None:
    client = make(kind)
    front.refuse(429, "/manifests/", method="GET")

    refused = client.pull(front.image_name(repository, "other"))

    assert not refused
    assert "too many requests" in refused.err.lower().replace("toomanyrequests", "too many requests")


async def test_a_429_to_everything_is_answered_from_the_cache(
    front: Front, anybody: Asking, image: Image, other: Image, repository: str
) -> None:
    """Docker Hub's second limit: HEADs and blobs get it too."""
    alice = await login(anybody, ALICE, repository)
    assert await pulled(alice, repository, "v1", image)
    front.refuse(429)

    assert await pulled(alice, repository, "v1", image)
    assert "429" in cache_status(await alice.manifest(repository, "v1"))
    assert (await alice.manifest(repository, "other")).status == 429
    assert (await alice.blob(repository, other.layers[0].digest)).status == 429


async def test_a_registry_that_said_when_to_come_again_is_not_asked_before(
    front: Front, registry: Registry, proxy_factory: Proxies, image: Image, other: Image, repository: str
) -> None:
    anybody = Asking.through(proxy_factory(front), front)
    alice, bob = await login(anybody, ALICE, repository), await login(anybody, "bob:hunter2", repository)
    assert await pulled(alice, repository, "v1", image)
    front.refuse(429, "/manifests/", retry_after="3600")
    limited = await alice.manifest(repository, "other")
    front.release()
    front.journal.clear()

    again = await alice.manifest(repository, "other")
    blob = await alice.blob(repository, other.layers[0].digest)
    cached = await pulled(alice, repository, "v1", image)

    assert front.journal.requests() == []
    assert (limited.status, limited.headers["retry-after"]) == (429, "3600")
    assert cached
    for answer in (again, blob):
        assert answer.status == 429
        assert 3500 < int(answer.headers["retry-after"]) <= 3600
        assert b"asked to wait" in answer.body
    assert await pulled(bob, repository, "other", other)  # limits are counted by account


async def test_what_is_left_of_a_budget_is_told(
    front: Front, brisk_proxy: Proxy, anybody: Asking, image: Image, repository: str
) -> None:
    front.budget = Budget(100, 76)
    alice = await login(anybody, ALICE, repository)

    assert await pulled(alice, repository, "v1", image)

    assert front.budget.remaining == 75
    assert remaining(brisk_proxy, front) == ({"remaining": 75, "limit": 100}, "75.0")


async def test_the_last_pull_of_a_budget_is_not_spent_on_a_tag_that_moved(
    front: Front,
    registry: Registry,
    proxy_factory: Proxies,
    layout: Layout,
    image: Image,
    other: Image,
    repository: str,
) -> None:
    anybody = Asking.through(proxy_factory(front, flags=["--rate-limit-floor", "5"]), front)
    alice = await login(anybody, ALICE, repository)
    assert await pulled(alice, repository, "v1", image)
    moved = layout.image(None, [2 * KIB], seed=f"{repository} moved")
    registry.seed(moved, repository, "v1")
    front.budget = Budget(100, 4)
    front.journal.clear()

    stale = await alice.manifest(repository, "v1")
    assert (stale.digest, front.budget.remaining) == (image.digest, 4)
    assert "fwd=stale" in cache_status(stale)
    assert "4 pulls left" in cache_status(stale)
    assert {request.method for request in find(front.journal, "/manifests/")} == {"HEAD"}

    assert (await alice.manifest(repository, "other")).digest == other.digest  # nothing could stand in
    assert front.budget.remaining == 3
    front.budget.remaining = 5
    assert (await alice.manifest(repository, "v1")).digest == moved.digest


async def test_a_budget_that_is_used_up_is_the_registrys_429(
    front: Front, anybody: Asking, image: Image, other: Image, repository: str
) -> None:
    alice = await login(anybody, ALICE, repository)
    assert await pulled(alice, repository, "v1", image)
    front.budget = Budget(100, 0)

    checked = await alice.manifest(repository, "v1")
    refused = await alice.manifest(repository, "other")

    assert (checked.digest, from_cache(checked)) == (image.digest, True)
    assert (refused.status, b"You have reached your pull rate limit" in refused.body) == (429, True)
