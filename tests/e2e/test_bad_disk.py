"""Disks that are full, fail, go away: no client hears of it, health says why, and it is over when it is over."""

import asyncio
import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab.asking import Asking, from_cache
from lab.baddisk import BadDisk, inside, mount
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.images import KIB
from lab.names import NameMap
from lab.programs import need, need_root
from lab.proxy import Proxies, Proxy

type Fault = Callable[[Proxy, BadDisk], AbstractContextManager[object]]


@pytest.fixture(scope="module")
def bad_disk(tmp_path_factory: pytest.TempPathFactory) -> BadDisk:
    """Also skips where nobody may mount."""
    need_root("a mount namespace")
    need("nsenter")
    return BadDisk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def module_proxy(
    session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry, bad_disk: BadDisk
) -> Iterator[Proxy]:
    """A proxy whose store is on a disk of 24 MiB, which can be unmounted and mounted again."""
    session_fake.publish(session_names)
    proxy = session_proxies(session_fake, flags=["--min-free", "1MiB"], env=bad_disk.env, start=False)
    disk, store = proxy.folder / "disk", store_of(proxy)
    for folder in (disk, store):
        folder.mkdir(parents=True, mode=0o700)
    bad_disk.mounts(f"mount -t tmpfs -o size=24m,mode=700 tmpfs '{disk}'", f"mount --bind '{disk}' '{store}'")
    proxy.start()
    yield proxy
    proxy.end_if_running()


def store_of(proxy: Proxy) -> Path:
    return proxy.data_dir / "store"


# -- what can be wrong


@contextmanager
def full(proxy: Proxy, _: BadDisk) -> Iterator[None]:
    ballast = inside(proxy.pid, store_of(proxy) / "ballast")
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(64 * KIB))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def no_inodes(proxy: Proxy, _: BadDisk) -> Iterator[None]:
    disk = str(proxy.folder / "disk")
    status = os.statvfs(inside(proxy.pid, proxy.folder / "disk"))
    mount(proxy.pid, "-o", f"remount,nr_inodes={status.f_files - status.f_ffree}", disk)
    try:
        yield
    finally:
        mount(proxy.pid, "-o", "remount,nr_inodes=10000", disk)


@contextmanager
def unmounted(proxy: Proxy, _: BadDisk) -> Iterator[None]:
    mount(proxy.pid, "--lazy", str(store_of(proxy)), program="umount")
    try:
        yield
    finally:
        mount(proxy.pid, "--bind", str(proxy.folder / "disk"), str(store_of(proxy)))


@contextmanager
def deleted(proxy: Proxy, _: BadDisk) -> Iterator[None]:
    for entry in inside(proxy.pid, store_of(proxy)).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    yield


def failing(what: str, code: int) -> Fault:
    return lambda _, disk: disk.failing(what, code)


#: What is wrong, and what health says of it; "" where the store helps itself at once.
FAULTS: dict[str, tuple[Fault, str]] = {
    "disk full": (full, "full|No space left"),
    "inodes used up": (no_inodes, "full|No space left|unable to open"),
    "quota": (failing("changes", errno.EDQUOT), "quota"),
    "read-only": (failing("changes", errno.EROFS), "Read-only file system"),
    "write error": (failing("pwrite", errno.EIO), "Input/output error"),
    "sync error": (failing("fsync", errno.EIO), "Input/output error"),
    "read error": (failing("pread", errno.EIO), "Input/output error"),
    "all calls fail": (failing("any", errno.EIO), "Input/output error"),
    "too many open files": (failing("open", errno.EMFILE), "Too many open files"),
    "permissions taken away": (failing("any", errno.EACCES), "Permission denied"),
    "unmounted": (unmounted, ""),
    "deleted": (deleted, ""),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_nobody_hears_of_it_and_it_ends_by_itself(
    fake: FakeRegistry, module_proxy: Proxy, bad_disk: BadDisk, data: bytes, repository: str, name: str
) -> None:
    proxy, (fault, words) = module_proxy, FAULTS[name]
    asking = Asking.through(proxy, fake)
    old, new = fake.add_image(repository, "old", [data]), fake.add_image(repository, "new", [data[::-1]])

    async def assert_pulled() -> None:
        for image, tag, layer in ((old, "old", data), (new, "new", data[::-1])):
            assert (await asking.manifest(repository, tag)).digest == image.digest
            assert (await asking.manifest(repository, image.digest)).digest == image.digest
            assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
            ranged = await asking.blob(repository, image.layers[0], headers={"Range": "bytes=5-9"})
            assert (ranged.status, ranged.body) == (206, layer[5:10])

    await asking.manifest(repository, "old")
    await until_cached(asking, repository, old.layers[0])
    with fault(proxy, bad_disk):
        for _ in range(2):
            await assert_pulled()
        status, said = proxy.get("/readyz")
        assert status == 200
        reasons = " ".join(json.loads(said)["reasons"].values())
        assert re.search(words, reasons)
        assert bool(words) == bool(reasons)
    await assert_pulled()
    await until_cached(asking, repository, new.layers[0])
    await until_cached(asking, repository, old.layers[0])
    await until_well(proxy, asking, fake, repository)


async def until_cached(asking: Asking, repository: str, digest: str) -> None:
    """Pull it until it is a hit, which it is as soon as its file has its name."""
    for _ in range(50):
        answer = await asking.blob(repository, digest)
        assert answer.digest == digest
        if from_cache(answer):
            return
    pytest.fail(f"{digest} is not cached")


async def until_well(proxy: Proxy, asking: Asking, fake: FakeRegistry, repository: str) -> None:
    """What is stored next shows that all is well."""
    await until_cached(asking, repository, fake.add_blob(os.urandom(KIB)))
    eventually(lambda: json.loads(proxy.get("/healthz")[1])["status"] == "ok", "health is well again")


async def test_without_descriptors_clients_wait_and_are_served_when_there_are_some(
    fake: FakeRegistry, module_proxy: Proxy, data: bytes, repository: str
) -> None:
    """The limit of the process itself, below what it has open already: not even a client can be let in."""
    proxy, digest = module_proxy, fake.add_blob(data)
    asking = Asking.through(proxy, fake)
    await until_cached(asking, repository, digest)
    told = len(proxy.log_text())
    before = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        waiting = [asyncio.create_task(asking.blob(repository, digest)) for _ in range(3)]
        await asyncio.to_thread(eventually, lambda: "Too many open files" in proxy.log_text()[told:], "no descriptor")
        assert not any(task.done() for task in waiting)
    finally:
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, before)

    assert [(await task).digest for task in waiting] == [digest] * 3
    assert len(proxy.log_text()[told:].splitlines()) < 50, "it did not try all the time"


# -- the start


#: What comes before the start; $DATA is the data directory.
STARTS = {
    "read-only": 'mount --bind "$DATA" "$DATA"; mount -o remount,bind,ro "$DATA"',
    "full": 'mount -t tmpfs -o size=64k tmpfs "$DATA/store"; cat /dev/zero > "$DATA/store/ballast" || true',
    "no inodes": 'mount -t tmpfs -o nr_inodes=1 tmpfs "$DATA/store"',
}


@pytest.mark.parametrize("name", STARTS)
async def test_a_start_on_a_disk_that_takes_nothing(
    fake: FakeRegistry, proxy_factory: Proxies, tmp_path: Path, data: bytes, repository: str, name: str
) -> None:
    need_root("a mount namespace")
    bad_disk = BadDisk(tmp_path)
    proxy = proxy_factory(fake, env=bad_disk.env)
    image = fake.add_image(repository, "v1", [data])
    await until_cached(Asking.through(proxy, fake), repository, image.layers[0])
    proxy.stop()
    bad_disk.mounts(f"DATA='{proxy.data_dir}'", STARTS[name])
    proxy.start()
    asking = Asking.through(proxy, fake)
    for _ in range(2):
        assert (await asking.manifest(repository, "v1")).digest == image.digest
        assert (await asking.manifest(repository, image.digest)).digest == image.digest
        assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
    status, said = proxy.get("/readyz")
    assert (status, json.loads(said)["status"]) == (200, "degraded")

    proxy.stop()
    bad_disk.mounts()
    proxy.start()
    answer = await asking.blob(repository, image.layers[0])
    assert (answer.digest, from_cache(answer)) == (image.layers[0], True)
