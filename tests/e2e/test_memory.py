"""Memory does not grow with blobs or with slow clients: the process's own high-water mark says so."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from lab.asking import Asking
from lab.cdn import Cdn
from lab.gulp import gulp
from lab.images import GIB, KIB, MIB, Layer, Layout
from lab.journal import find
from lab.proxy import Proxies, Proxy
from lab.registry import Registry
from lab.tokens import TokenServer

MB = 1_000_000


@pytest.mark.timeout(600)  # gigabytes on a disk that others use as well
async def test_a_blob_of_3_gib_cold_and_warm_beside_a_slow_client_stays_below_200_mb(
    registry: Registry, cdn: Cdn, tokens: TokenServer, layout: Layout, proxy_factory: Proxies, repository: str
) -> None:
    image = layout.image(None, [Layer(3 * GIB, sparse=True)], seed=repository)
    registry.seed(image, repository, "v1")
    layer = image.layers[0]
    proxy = proxy_factory(registry)
    bearer = "Bearer " + tokens.mint(None, [f"repository:{repository}:pull"])
    blob = f"/v2/{repository}/blobs/{layer.digest}"

    async with Asking.through(proxy, registry, bearer).open_blob(
        repository, layer.digest, receive_buffer=64 * KIB
    ) as slow:
        sipping = asyncio.create_task(slow.read(rate=MB))
        cold = await asyncio.to_thread(gulp, proxy, registry, blob, bearer)
        warm = await asyncio.to_thread(gulp, proxy, registry, blob, bearer)
        assert not sipping.done()
        sipping.cancel()
        await asyncio.gather(sipping, return_exceptions=True)

    assert (cold.digest, warm.digest) == (layer.digest, layer.digest)
    assert slow.size > MB
    assert len(find(cdn.journal, layer.digest, method="GET")) == 1
    assert proxy.peak_rss() < 200 * MB


async def test_a_hundred_slow_clients_of_one_cached_blob_add_less_than_100_mb(
    registry: Registry, tokens: TokenServer, layout: Layout, site_proxy: Proxy, repository: str
) -> None:
    image = layout.image(None, [Layer(64 * MIB, sparse=True)], seed=repository)
    registry.seed(image, repository, "v1")
    layer = image.layers[0]
    token = tokens.mint(None, [f"repository:{repository}:pull"])
    asking = Asking.through(site_proxy, registry, f"Bearer {token}")
    assert (await asking.blob(repository, layer.digest)).digest == layer.digest
    site_proxy.reset_peak_rss()
    before = site_proxy.peak_rss()

    async with AsyncExitStack() as stack:
        for _ in range(100):
            slow = asking.open_blob(repository, layer.digest, receive_buffer=64 * KIB)
            answer = await stack.enter_async_context(slow)
            await answer.read_at_least(100 * KIB)

    assert site_proxy.peak_rss() - before < 100 * MB
