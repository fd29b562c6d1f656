"""A cache that does not work is no reason for a pull to fail: it goes on uncached, and health says why."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.images import KIB, MIB
from lab.journal import find
from lab.proxy import Proxies, Proxy


def health(proxy: Proxy) -> tuple[str, str]:
    """The status and all reasons."""
    said = json.loads(proxy.get("/healthz")[1])
    return said["status"], " ".join(said["reasons"].values())


async def assert_pulls_go_on(fake: FakeRegistry, proxy: Proxy, data: bytes, repository: str) -> None:
    image = fake.add_image(repository, "v1", [data])
    asking = Asking.through(proxy, fake)
    for _ in range(2):
        assert (await asking.manifest(repository, "v1")).digest == image.digest
        assert (await asking.manifest(repository, image.digest)).digest == image.digest
        assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
        ranged = await asking.blob(repository, image.layers[0], headers={"Range": "bytes=5-9"})
        assert (ranged.status, ranged.body) == (206, data[5:10])


async def test_an_index_full_of_garbage(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake)
    kept = fake.add_blob(data[: 10 * KIB])
    assert (await Asking.through(proxy, fake).blob(repository, kept)).digest == kept
    proxy.stop()
    for file in (proxy.data_dir / "store").glob("**/cache.db*"):
        file.write_bytes(b"garbage " * 4096)
    proxy.start()

    await assert_pulls_go_on(fake, proxy, data, repository)
    assert health(proxy)[0] == "ok"
    assert "is damaged (file is not a database); it was moved to" in proxy.log_text()
    assert (await Asking.through(proxy, fake).blob(repository, kept)).digest == kept
    assert len(find(fake.journal, kept, method="GET")) == 1, "found again by its file"


@pytest.mark.parametrize("what", ["store", "."])
async def test_a_folder_that_becomes_a_file_while_we_run(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str, what: str
) -> None:
    proxy = proxy_factory(fake)
    cached = fake.add_blob(data[: 10 * KIB])
    await Asking.through(proxy, fake).blob(repository, cached)
    folder = (proxy.data_dir / what).resolve()
    shutil.move(folder, folder.with_name("moved"))
    folder.write_text("no folder")
    try:
        await assert_pulls_go_on(fake, proxy, data, repository)
        assert (await Asking.through(proxy, fake).blob(repository, cached)).digest == cached
        assert health(proxy)[0] == "degraded"
    finally:
        folder.unlink()


async def test_a_folder_that_comes_back_is_used_again(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake)
    blobs = proxy.data_dir / "store" / "partial"
    shutil.rmtree(blobs)
    blobs.write_text("no folder")
    await assert_pulls_go_on(fake, proxy, data, repository)
    assert health(proxy)[0] == "degraded"

    blobs.unlink()
    blobs.mkdir()
    asking, digest = Asking.through(proxy, fake), fake.add_blob(data[: 10 * KIB])
    for _ in range(2):
        await asking.blob(repository, digest)

    assert from_cache(await asking.blob(repository, digest))
    assert health(proxy) == ("ok", "")


async def test_an_index_that_another_process_has_locked(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake)
    asking = Asking.through(proxy, fake)
    await asking.blob(repository, fake.add_blob(data[: 10 * KIB]))
    with closing(sqlite3.connect(index_of(proxy), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        digest = fake.add_blob(data)
        answer = await asking.blob(repository, digest, deadline=15)
        assert answer.digest == digest
        await assert_pulls_go_on(fake, proxy, data[::-1], repository)
        status, reasons = health(proxy)
        other.execute("ROLLBACK")

    assert (status, "locked" in reasons) == ("degraded", True)


async def test_a_blob_that_disappears_from_the_disk_is_fetched_again(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake)
    asking, digest = Asking.through(proxy, fake), fake.add_blob(data)
    await asking.blob(repository, digest)
    file = stored(proxy, digest)
    file.unlink()

    assert (await asking.blob(repository, digest)).digest == digest
    stored(proxy, digest).write_bytes(data[:-1])
    assert (await asking.blob(repository, digest)).digest == digest
    assert len(find(fake.journal, digest, method="GET")) == 3
    assert from_cache(await asking.blob(repository, digest))


# -- size


async def test_a_blob_that_is_larger_than_the_whole_store_passes_uncached(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--size", "500KiB"])
    asking, digest = Asking.through(proxy, fake), fake.add_blob(data)

    answers = [await asking.blob(repository, digest) for _ in range(2)]

    assert [answer.digest for answer in answers] == [digest, digest]
    assert not any("stored" in cache_status(answer) or from_cache(answer) for answer in answers)
    assert "more than the whole store holds" in cache_status(answers[0])
    assert list((proxy.data_dir / "store" / "partial").glob("*/*")) == []


async def test_a_blob_of_unknown_length_that_outgrows_the_store_comes_whole_all_the_same(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--size", "500KiB"])
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(chunked=True), times=None)

    answer = await Asking.through(proxy, fake).blob(repository, digest)

    assert answer.digest == digest


async def test_what_was_unused_for_longest_makes_room(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--size", "3500KiB"])
    asking = Asking.through(proxy, fake)
    blobs = [fake.add_blob(bytes([number]) * MIB) for number in range(4)]
    for digest in [*blobs[:3], blobs[0]]:
        assert (await asking.blob(repository, digest)).digest == digest

    assert (await asking.blob(repository, blobs[3])).digest == blobs[3]

    hits = {number: from_cache(await asking.blob(repository, blobs[number])) for number in (0, 2, 3)}
    assert hits == {0: True, 2: True, 3: True}
    assert not from_cache(await asking.blob(repository, blobs[1]))
    assert json.loads(proxy.get("/readyz")[1])["store"]["bytes"] <= 3500 * KIB


async def test_a_blob_that_is_evicted_while_it_is_sent_comes_whole(
    fake: FakeRegistry, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--size", "17MiB"])
    asking = Asking.through(proxy, fake)
    large, other = fake.add_blob(b"1" * 16 * MIB), fake.add_blob(b"2" * 16 * MIB)
    await asking.blob(repository, large)

    async with asking.open_blob(repository, large, receive_buffer=64 * KIB) as slow:
        await slow.read_at_least(1)
        assert (await asking.blob(repository, other)).digest == other
        assert from_cache(await asking.blob(repository, other))
        assert (await slow.read()).digest == large


def index_of(proxy: Proxy) -> Path:
    return proxy.data_dir / "store" / "cache.db"


def stored(proxy: Proxy, digest: str) -> Path:
    """The blob's file, which has its name a moment after the last reader has its last byte."""
    pattern = f"sha256/*/{digest.removeprefix('sha256:')}*"
    (file,) = eventually(lambda: list((proxy.data_dir / "store" / "blobs").glob(pattern)), f"{digest} is stored")
    return file
