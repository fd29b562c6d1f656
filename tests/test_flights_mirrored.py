"""Fills whose bytes come from somebody else than the registry."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.inside import REPOSITORY, Chosen, Inside, digest_in, inside, plain_registry
from pullthrough.fetch import Mirrored
from pullthrough.flight import FlightBlob
from pullthrough.messages import BodyError

DATA = bytes(range(256)) * 400


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    with plain_registry() as server:
        server.add_blob(DATA)
        yield server


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry, mirror: FakeRegistry) -> AsyncIterator[Inside]:
    registry = f"{origin.address}:{origin.port}"
    named = f"{registry}=http://{mirror.address}:{mirror.port}"
    async with inside(tmp_path, origin, chosen=Chosen(more={"registry": [registry], "upstream_mirror": [named]})) as it:
        yield it


def join(proxy: Inside, digest: str, size: int | None = None) -> FlightBlob:
    mirrored = Mirrored(lambda: proxy.mirrors.of(proxy.repository(REPOSITORY)), size)
    return proxy.flights.join(digest_in(digest), proxy.source(), mirrored=mirrored)[0]


async def read(blob: FlightBlob) -> bytes:
    got = bytearray()
    try:
        while chunk := await blob.read_at(len(got), 100_000):
            got += chunk
    finally:
        blob.close()
    return bytes(got)


@pytest.mark.parametrize("size", [None, len(DATA)])
async def test_a_reader_knows_who_sends(proxy: Inside, mirror: FakeRegistry, size: int | None) -> None:
    digest = proxy.fake.add_blob(DATA)
    blob = join(proxy, digest, size)
    await blob.opened()

    assert str(blob.mirror) == f"{mirror.address}:{mirror.port}"
    assert await read(blob) == DATA
    assert proxy.fake.journal.requests() == []


async def test_without_a_mirror_that_has_it_the_registry_sends(proxy: Inside, mirror: FakeRegistry) -> None:
    digest = proxy.fake.add_blob(DATA)
    mirror.content.blobs.clear()
    blob = join(proxy, digest)
    await blob.opened()

    assert blob.mirror is None
    assert await read(blob) == DATA


async def test_who_sent_what_is_not_the_blob_is_told_so(proxy: Inside, mirror: FakeRegistry) -> None:
    digest = proxy.fake.add_blob(DATA)
    mirror.fault("/blobs/", Fault(corrupt_at=5))

    with pytest.raises(BodyError, match="are not sha256:"):
        await read(join(proxy, digest))
    assert proxy.mirrors.of(proxy.repository(REPOSITORY)) == []

    assert await read(join(proxy, digest)) == DATA
