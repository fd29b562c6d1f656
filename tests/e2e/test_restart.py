"""The end of the process, by force or by request, costs no byte that was already here."""

import asyncio

import pytest

from lab.asking import Asking, from_cache
from lab.cdn import Cdn
from lab.clients import Clients
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.http import Cut
from lab.images import KIB, MIB, Blob, Image, Layout
from lab.journal import find
from lab.partials import partial_of, wait_for_partial
from lab.pki import Pki
from lab.proxy import Proxies
from lab.registry import Registry

STALL = 3 * MIB


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [8 * MIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


def ranges(cdn: Cdn, blob: Blob) -> list[str | None]:
    return [request.range for request in find(cdn.journal, blob.digest, method="GET")]


async def test_a_pull_after_a_crash_goes_on_where_the_crash_stopped_it(
    registry: Registry, cdn: Cdn, clients: Clients, public: Pki, image: Image, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(registry)
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)
    layer = image.layers[0]
    stalled = cdn.fault(layer.digest, Fault(stall_after=STALL))

    pull = asyncio.create_task(asyncio.to_thread(skopeo.pull, registry.reference(repository, "v1")))
    await asyncio.to_thread(wait_for_partial, proxy, layer.digest, STALL)
    proxy.kill()
    stalled.release()
    assert not await pull
    had = partial_of(proxy, layer.digest).stat().st_size
    assert 0 < had < layer.size
    await asyncio.to_thread(proxy.start)
    again = await asyncio.to_thread(skopeo.pull, registry.reference(repository, "v1"))

    assert again.holds(image), again.result.err
    assert ranges(cdn, layer) == [None, f"bytes={had}-"]
    assert not partial_of(proxy, layer.digest).exists()


async def test_a_damaged_partial_is_found_out_and_fetched_anew(
    fake: FakeRegistry, data: bytes, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake)
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(stall_after=300 * KIB))
    asking = Asking.through(proxy, fake)
    async with asking.open_blob(repository, digest):
        await asyncio.to_thread(wait_for_partial, proxy, digest, 300 * KIB)
    proxy.kill()
    fake.release()
    with partial_of(proxy, digest).open("r+b") as file:
        file.write(b"not what it was")
    await asyncio.to_thread(proxy.start)
    asking = Asking.through(proxy, fake)

    with pytest.raises(Cut):
        await asking.blob(repository, digest)
    assert (await asking.blob(repository, digest)).digest == digest


async def test_what_was_cached_is_a_hit_after_a_crash(
    fake: FakeRegistry, data: bytes, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake)
    image = fake.add_image(repository, "v1", [data])
    for digest in image.layers:
        await Asking.through(proxy, fake).blob(repository, digest)
    await Asking.through(proxy, fake).manifest(repository, "v1")
    proxy.kill()
    await asyncio.to_thread(proxy.start)
    fake.journal.clear()

    asking = Asking.through(proxy, fake)
    manifest = await asking.manifest(repository, "v1")
    layer = await asking.blob(repository, image.layers[0])

    assert (manifest.digest, layer.digest) == (image.digest, image.layers[0])
    assert find(fake.journal, method="GET") == []


async def test_sigterm_lets_the_pulls_under_way_finish(
    fake: FakeRegistry, data: bytes, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake)
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=300 * KIB))
    asking = Asking.through(proxy, fake)

    async with asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(200 * KIB)
        stopping = asyncio.create_task(asyncio.to_thread(proxy.stop))
        await asyncio.to_thread(eventually, lambda: "stopping" in proxy.log_text(), "it says that it stops")
        await asyncio.to_thread(eventually, proxy.refuses, "it takes no more connections")
        assert not stopping.done()
        stalled.release()
        whole = await answer.read()

    assert whole.digest == digest
    assert await stopping == 0
    await asyncio.to_thread(proxy.start)
    assert from_cache(await Asking.through(proxy, fake).blob(repository, digest))
    assert len(find(fake.journal, digest, method="GET")) == 1


async def test_when_the_grace_is_over_the_partial_is_kept_and_continued_by_the_next_start(
    fake: FakeRegistry, data: bytes, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--shutdown-grace", "100ms"])
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=300 * KIB))

    async with Asking.through(proxy, fake).open_blob(repository, digest) as answer:
        await asyncio.to_thread(wait_for_partial, proxy, digest, 300 * KIB)
        assert await asyncio.to_thread(proxy.stop, 10) == 0
        with pytest.raises(Cut):
            await answer.read()
    stalled.release()
    had = partial_of(proxy, digest).stat().st_size
    await asyncio.to_thread(proxy.start)
    whole = await Asking.through(proxy, fake).blob(repository, digest)

    assert (had, whole.digest) == (300 * KIB, digest)
    assert [request.range for request in find(fake.journal, digest, method="GET")] == [None, f"bytes={had}-"]


async def test_a_fill_that_nobody_waits_for_does_not_hold_up_the_stop(
    fake: FakeRegistry, data: bytes, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake)
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(stall_after=300 * KIB))
    async with Asking.through(proxy, fake).open_blob(repository, digest) as answer:
        await answer.read_at_least(1)
    await asyncio.to_thread(wait_for_partial, proxy, digest, 300 * KIB)

    assert await asyncio.to_thread(proxy.stop, 10) == 0
    assert partial_of(proxy, digest).stat().st_size == 300 * KIB
