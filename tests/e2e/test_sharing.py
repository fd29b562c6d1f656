"""However many clients ask for a blob at once, the upstream sends it once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from lab.asking import Asking, cache_status, from_cache
from lab.cdn import Cdn
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.gulp import gulp
from lab.images import KIB, MIB, Layer, Layout
from lab.journal import body_bytes, find, wait_for
from lab.proxy import Proxy
from lab.registry import Registry
from lab.tokens import TokenServer

CLIENTS = 50


def test_fifty_cold_pulls_of_one_large_blob_cost_the_cdn_one_get(
    registry: Registry, cdn: Cdn, tokens: TokenServer, layout: Layout, site_proxy: Proxy, repository: str
) -> None:
    image = layout.image(None, [Layer(64 * MIB, sparse=True)], seed=repository)
    registry.seed(image, repository, "v1")
    layer = image.layers[0]
    bearer = "Bearer " + tokens.mint(None, [f"repository:{repository}:pull"])
    blob = f"/v2/{repository}/blobs/{layer.digest}"

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(lambda _: gulp(site_proxy, registry, blob, bearer), range(CLIENTS)))

    assert [answer.digest for answer in answers] == [layer.digest] * CLIENTS
    assert len(find(cdn.journal, layer.digest, method="GET")) == 1
    assert body_bytes(cdn.journal) == layer.size


async def test_those_who_join_are_said_to_and_share_one_check_for_each_account(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=100 * KIB))

    async with AsyncExitStack() as stack:
        coming = [await stack.enter_async_context(asking.open_blob(repository, digest)) for _ in range(5)]
        stalled.release()
        answers = await asyncio.gather(*(answer.read() for answer in coming))

    stored, *joined = map(cache_status, answers)
    assert {answer.digest for answer in answers} == {digest}
    assert (stored, set(joined)) == ("pullthrough; fwd=miss; stored", {"pullthrough; fwd=miss; collapsed"})
    assert len(find(fake.journal, digest, method="GET")) == 1
    assert len(find(fake.journal, digest, method="HEAD")) == 1


async def test_headers_and_bytes_reach_a_client_while_the_blob_is_still_on_its_way(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=400 * KIB))

    async with asyncio.timeout(10), asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(300 * KIB)
        assert not stalled.hits[0].done
        stalled.release()
        assert (await answer.read()).digest == digest


async def test_a_client_that_leaves_does_not_stop_the_fill(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=100 * KIB))

    async with asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(10 * KIB)
    stalled.release()
    again = await asking.blob(repository, digest)

    assert again.digest == digest
    assert len(find(fake.journal, digest, method="GET")) == 1
    assert from_cache(await asking.blob(repository, digest))


async def test_identical_tag_checks_at_the_same_time_are_asked_once(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    image = fake.add_image(repository, "v1", [data])
    held = fake.fault("/manifests/v1", Fault(hold_headers=True), method="HEAD")

    pulls = [asyncio.create_task(asking.manifest(repository, "v1")) for _ in range(8)]
    await asyncio.to_thread(wait_for, fake.journal, "/manifests/v1", method="HEAD")
    held.release()
    answers = await asyncio.gather(*pulls)

    assert {answer.digest for answer in answers} == {image.digest}
    assert len(find(fake.journal, "/manifests/v1", method="GET")) == 1


async def test_tag_checks_of_different_accounts_are_not_joined(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    fake.add_image(repository, "v1", [data])
    fake.manners.accepts = lambda request: request.headers.get("authorization") == "Bearer good"

    good, bad = await asyncio.gather(
        asking.as_account("Bearer good").manifest(repository, "v1"),
        asking.as_account("Bearer bad").manifest(repository, "v1"),
    )

    assert (good.status, bad.status) == (200, 401)
