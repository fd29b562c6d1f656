"""A bit flips on our disk: clients refuse the bytes, and soon get the right ones again."""

import asyncio
from pathlib import Path

import pytest

from lab.asking import Asking
from lab.cdn import Cdn
from lab.clients import Clients
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.http import Cut
from lab.images import KIB, MIB, Image, Layout
from lab.journal import find
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [2 * MIB, 5 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


def stored(proxy: Proxy, digest: str) -> Path:
    """The file of a blob, as soon as it has its name."""
    pattern = f"sha256/*/{digest.removeprefix('sha256:')}*"
    (file,) = eventually(lambda: list((proxy.data_dir / "store" / "blobs").glob(pattern)), f"{digest} is stored")
    return file


def flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        (byte,) = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 4]))


def test_a_client_that_refuses_rotten_bytes_gets_the_right_ones_when_it_tries_again(
    registry: Registry, cdn: Cdn, clients: Clients, public: Pki, image: Image, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(registry)
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)
    reference, layer = registry.reference(repository, "v1"), image.layers[0]
    first = skopeo.pull(reference)
    assert first.holds(image), first.result.err
    file = stored(proxy, layer.digest)
    flip(file)
    rotten = file.read_bytes()

    pulls = []

    def comes_right() -> bool:
        pulls.append(skopeo.pull(reference))
        return bool(pulls[-1])

    eventually(comes_right, "the right bytes are there again")

    assert pulls[-1].holds(image)
    assert pulls[:-1], "the first one met the rot"
    assert not any(pull.holds(image) for pull in pulls[:-1])
    assert len(find(cdn.journal, layer.digest, method="GET")) == 2, "fetched once more"
    assert (proxy.data_dir / "store" / "damaged" / "blobs" / file.name).read_bytes() == rotten
    assert f"stored blob {layer.digest} is damaged (its bytes have another digest)" in proxy.log_text()
    assert b"pullthrough_store_damaged_blobs_total 1.0" in proxy.get("/metrics")[1]
    assert b'"status": "ok"' in proxy.get("/healthz")[1]


async def test_what_nobody_reads_is_found_in_its_interval(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--scrub-interval", "1s"])
    asking, digests = Asking.through(proxy, fake), [fake.add_blob(data), fake.add_blob(data[:-1])]
    for digest in digests:
        await asking.blob(repository, digest)
    files = [await asyncio.to_thread(stored, proxy, digest) for digest in digests]
    for file in files:
        flip(file)
    await asyncio.to_thread(eventually, lambda: not any(file.exists() for file in files), "both are found")

    assert [(await asking.blob(repository, digest)).digest for digest in digests] == digests


async def test_who_is_in_the_middle_of_rotten_bytes_is_cut(
    fake: FakeRegistry, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake)
    asking, digest = Asking.through(proxy, fake), fake.add_blob(b"layer" * 4 * MIB)
    await asking.blob(repository, digest)
    file = await asyncio.to_thread(stored, proxy, digest)
    flip(file)

    async with asking.open_blob(repository, digest, receive_buffer=64 * KIB) as slow:
        await slow.read_at_least(1)
        await asking.blob(repository, digest, headers={"Range": "bytes=0-9"})  # behind which it is found
        await asyncio.to_thread(eventually, lambda: not file.exists(), "it is found")
        with pytest.raises(Cut):
            await slow.read()
    assert (await asking.blob(repository, digest)).digest == digest
