"""What a manifest names that was given out stays until its client had time to ask for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeRegistry
from lab.inside import REPOSITORY, Inside, inside
from lab.stores import blob as some


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, size=20_000) as it:
        yield it


async def pulled(proxy: Inside, digest: str) -> None:
    assert (await proxy.get(f"/v2/{REPOSITORY}/blobs/{digest}")).status == 200
    await proxy.landed()


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("reference", ["tag", "digest"])
async def test_layers_are_not_evicted_between_the_manifest_and_them(proxy: Inside, held: bool, reference: str) -> None:
    image = proxy.fake.add_image(REPOSITORY, "1.0", [some(number, 4000) for number in range(2)])
    target = f"/v2/{REPOSITORY}/manifests/{'1.0' if reference == 'tag' else image.digest}"
    for digest in image.layers:
        await pulled(proxy, digest)
    if held:
        assert (await proxy.get(target, accept=MANIFEST)).status == 200
    for number in range(4):
        await pulled(proxy, proxy.fake.add_blob(some(f"other {number}", 4000)))

    assert [await proxy.has(digest) for digest in image.layers] == [held] * 2
