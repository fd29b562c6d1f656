"""Disk and index that fail: a StoreError soon, words for the operator, and recovery without a restart."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lab.stores import MIB, Stores, blob, content, files, fill, opened
from lab.system import System
from pullthrough.core.digest import Digest
from pullthrough.messages import BodyError
from pullthrough.store import Store, StoreError
from pullthrough.store.files import BlobFiles

ONE = blob("one")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Every index of the store held by somebody who writes and does not come to an end."""
    connections = [sqlite3.connect(root / name / "cache.db", isolation_level=None) for name in ("", "links", "recency")]
    for connection in connections:
        connection.execute("BEGIN EXCLUSIVE")
    yield
    for connection in connections:
        connection.close()


async def refused(store: Store, *, within: float) -> StoreError:
    """The error that a link meets; it must come soon."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await store.link("repo", Digest.of(ONE))
    assert time.monotonic() - began < within
    return caught.value


# -- a locked index


async def test_a_locked_index_fails_soon_and_then_at_once(stores: Stores) -> None:
    store = stores(busy=0.3, rest=60.0)
    await fill(store, ONE)
    with locked(stores.root):
        assert "locked by another process" in str(await refused(store, within=3.0))
        for _ in range(100):
            await refused(store, within=0.2)
    assert "locked by another process" in stores.health.reasons["index"]
    assert "uncached" in stores.health.reasons["index"]


async def test_those_who_wait_for_a_thread_do_not_wait_for_the_lock_again(stores: Stores) -> None:
    store = stores(busy=0.3, rest=60.0)
    await fill(store, ONE)
    with locked(stores.root):
        began = time.monotonic()
        links = [store.link("repo", Digest.of(ONE)) for _ in range(100)]
        failures = await asyncio.gather(*links, return_exceptions=True)
        assert all(isinstance(failure, StoreError) for failure in failures)
        assert time.monotonic() - began < 5.0


async def test_what_is_stored_is_served_while_the_index_is_locked(stores: Stores) -> None:
    store = stores(rest=60.0)
    await fill(store, ONE)
    await store.link("repo", Digest.of(ONE), "type")
    with locked(stores.root):
        await refused(store, within=3.0)
        assert await content(store, Digest.of(ONE)) == ONE
        assert await store.linked("repo", Digest.of(ONE))
        assert await store.usage() == (len(ONE), 1)
        assert "index" in stores.health.reasons, "reading proves nothing about writing"


async def test_after_the_lock_everything_is_well_again(stores: Stores) -> None:
    store = stores(rest=0.0)
    await fill(store, ONE)
    with locked(stores.root):
        await refused(store, within=3.0)
        with pytest.raises(StoreError):
            await fill(store, blob("other"))
    await store.link("repo", Digest.of(ONE))
    assert stores.health.status == "ok"
    await fill(store, blob("other"))
    assert await content(store, Digest.of(blob("other"))) == blob("other")
    assert len(files(stores.root)) == 2, "what could not be entered in the index was deleted"


async def test_a_rest_ends(stores: Stores) -> None:
    store = stores(rest=0.05)
    await fill(store, ONE)
    with locked(stores.root):
        await refused(store, within=3.0)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            await store.link("repo", Digest.of(ONE))
        except StoreError:
            continue
        break
    assert stores.health.status == "ok"


async def test_a_locked_index_does_not_hold_up_the_start(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    store = stores(busy=0.2, rest=60.0)
    with locked(stores.root):
        began = time.monotonic()
        attempts = [store.has(Digest.of(ONE)) for _ in range(50)]
        failures = await asyncio.gather(*attempts, return_exceptions=True)
        assert all(isinstance(failure, StoreError) for failure in failures)
        assert time.monotonic() - began < 3.0, "the threads did not wait for the lock one after the other"


async def test_a_start_with_a_locked_index_recovers(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    store = stores()
    with locked(stores.root), pytest.raises(StoreError, match="locked"):
        await store.has(Digest.of(ONE))
    assert "index" in stores.health.reasons
    assert await content(store, Digest.of(ONE)) == ONE
    assert stores.health.status == "ok"


# -- a damaged index


def garbage(file: Path) -> None:
    file.write_bytes(b"this is no database, " * 1000)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def other_tables(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE Cache (something)")


@pytest.mark.parametrize("name", ["cache.db", "recency/cache.db", "links/cache.db", "facts/cache.db"])
@pytest.mark.parametrize("damage", [garbage, truncated, other_tables])
async def test_a_damaged_index_is_put_aside_and_the_blobs_are_found_again(
    stores: Stores, name: str, damage: Callable[[Path], None]
) -> None:
    blobs = [blob(number, 10) for number in range(12)]
    first = stores()
    for data in blobs:
        await fill(first, data)
        await first.link("repo", Digest.of(data))
    await first.aclose()
    damage(stores.root / name)
    store = stores()
    await recovered(store)

    for data in blobs:
        assert await content(store, Digest.of(data)) == data
        await store.link("repo", Digest.of(data))
        await fill(store, data + b"new")
    assert stores.health.status == "ok"
    place = "index" if name == "cache.db" else Path(name).parent.name
    assert (stores.root / "damaged" / place / "cache.db").exists()
    assert (stores.root / "damaged").stat().st_mode & 0o777 == 0o700
    await store.aclose()
    assert opened(stores.root) == []


async def recovered(store: Store) -> None:
    """Work on it until every part of the index has been used and does what it has to."""

    async def tried() -> list[object]:
        every = (
            fill(store, blob("any", 10)),
            store.link("repo", Digest.of(ONE)),
            store.note({"fact": (1, 60.0)}),
            store.open(Digest.of(ONE)),
        )
        return [done for done in await asyncio.gather(*every, return_exceptions=True) if isinstance(done, Exception)]

    failures = await tried()
    for _ in range(10):
        assert all(isinstance(failure, StoreError) for failure in failures), failures
        failures = failures and await tried()
    assert not failures
    await asyncio.to_thread(store.tidied.wait, 20)


@pytest.mark.parametrize("damage", [garbage, truncated])
async def test_an_index_that_is_damaged_under_us_is_put_aside(stores: Stores, damage: Callable[[Path], None]) -> None:
    store = stores()
    blobs = [blob(number, 10) for number in range(12)]
    for data in blobs:
        await fill(store, data)
    damage(stores.root / "cache.db")
    await recovered(store)

    for data in blobs:
        if not await store.has(Digest.of(data)):
            await fill(store, data)
        assert await content(store, Digest.of(data)) == data
    assert stores.health.status == "ok"


@pytest.mark.parametrize("name", ["cache.db", "links/cache.db"])
async def test_an_index_of_a_later_version_is_put_aside(
    stores: Stores, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    with closing(sqlite3.connect(stores.root / name)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("PRAGMA user_version = 2")
    store = stores()
    await recovered(store)

    assert await content(store, Digest.of(ONE)) == ONE
    assert "is of version 2, which this program does not know; it was moved to" in caplog.text


async def test_an_index_from_before_there_were_versions_is_taken_over(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.link("repo", Digest.of(ONE))
    await first.aclose()
    for file in stores.root.glob("**/cache.db"):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 0")
    store = stores()

    assert await store.linked("repo", Digest.of(ONE))
    assert await content(store, Digest.of(ONE)) == ONE
    assert not (stores.root / "damaged").exists()


async def test_a_locked_index_is_not_taken_for_a_damaged_one(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    store = stores()
    with locked(stores.root), pytest.raises(StoreError, match="locked"):
        await store.has(Digest.of(ONE))
    assert not (stores.root / "damaged").exists()


async def test_files_without_rows_are_found_again_and_read_before_they_are_believed(stores: Stores) -> None:
    wrong = blob("wrong", 3000)
    first = stores()
    for data in (ONE, wrong):
        await fill(first, data)
    await first.aclose()
    (stores.root / "cache.db").unlink()
    [file] = [file for file in files(stores.root) if Digest.of(wrong).hex in file.name]
    file.write_bytes(b"x" * 3000)
    store = stores()
    await fill(store, blob("other"))
    await asyncio.to_thread(store.tidied.wait, 20)

    assert await content(store, Digest.of(ONE)) == ONE
    assert await store.open(Digest.of(wrong)) is None
    assert not await store.has(Digest.of(wrong))
    assert not file.exists()
    await store.aclose()

    file = next(file for file in files(stores.root) if Digest.of(ONE).hex in file.name)
    file.write_bytes(b"y" * len(ONE))
    assert await content(stores(), Digest.of(ONE)) == b"y" * len(ONE), "it was believed: clients check digests"


async def test_of_two_files_of_one_blob_one_stays(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    await store.aclose()
    [file] = files(stores.root)
    shutil.copy(file, file.with_name(f"{Digest.of(ONE).hex}-{'0' * 16}"))
    store = stores()
    await fill(store, blob("other"))
    await asyncio.to_thread(store.tidied.wait, 20)

    assert len(files(stores.root)) == 2
    assert await content(store, Digest.of(ONE)) == ONE


async def test_a_commit_that_fails_leaves_no_transaction_open(stores: Stores, system: System) -> None:
    store = stores(busy=20.0)  # threads wait for each other here, and for nobody else
    await fill(store, ONE)

    def fail_commit(number: int, name: str) -> None:
        if system.statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")

    system.before = fail_commit
    for _ in range(20):  # in every thread
        with pytest.raises(StoreError, match="disk I/O error"):
            await store.link("repo", Digest.of(ONE))
    system.before = lambda number, name: None
    await asyncio.gather(*(store.link("repo", Digest.of(ONE)) for _ in range(40)))
    assert stores.health.status == "ok"


# -- a disk that cannot be used


def a_file(root: Path) -> Callable[[], None]:
    root.write_bytes(b"")
    return root.unlink


def a_dangling_link(root: Path) -> Callable[[], None]:
    root.symlink_to(root.with_name("nowhere"))
    return root.unlink


def a_file_as_parent(root: Path) -> Callable[[], None]:
    root.parent.rename(root.parent.with_name("away"))
    root.parent.write_bytes(b"")

    def undo() -> None:
        root.parent.unlink()
        root.parent.with_name("away").rename(root.parent)

    return undo


@pytest.mark.parametrize("what", [a_file, a_dangling_link, a_file_as_parent])
async def test_a_folder_that_is_none(stores: Stores, what: Callable[[Path], Callable[[], None]]) -> None:
    stores.root.parent.mkdir(exist_ok=True)
    mend = what(stores.root)
    store = stores()
    for attempt in (store.has(Digest.of(ONE)), store.usage(), store.put(Digest.of(ONE), ONE), fill(store, ONE)):
        with pytest.raises(StoreError):
            await attempt
    assert f"in {stores.root}" in stores.health.reasons["store"]
    mend()
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE
    assert stores.health.status == "ok"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own, of 80 MiB; only root can have that."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        stores = Stores(tmp_path / "disk" / "store")
        store, one = stores(), blob("real", 8 * MIB)
        partial = await store.begin(Digest.of(one))
        await store.reserve(partial, len(one))
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(b"x" * (76 * MIB))
        with pytest.raises(StoreError) as caught:
            await store.write(partial, one)
        assert caught.value.full
        assert "No space left" in stores.health.reasons["store"]
        ballast.unlink()
        await store.write(partial, one[partial.written :])
        await store.commit(partial)
        await store.end(partial, keep=True)
        partial.close()
        assert await content(store, Digest.of(one)) == one
        assert stores.health.status == "ok"
        await store.aclose()


async def test_a_disk_that_became_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        stores = Stores(tmp_path / "disk" / "store")
        first = stores()
        await fill(first, ONE)
        await first.aclose()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        store = stores()
        for attempt in (store.has(Digest.of(ONE)), fill(store, blob("other"))):
            with pytest.raises(StoreError):
                await attempt
        assert "Read-only file system" in stores.health.reasons["store"]
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True)
        assert await content(store, Digest.of(ONE)) == ONE
        await fill(store, blob("other"))
        assert stores.health.status == "ok"
        await store.aclose()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_without_permission(stores: Stores) -> None:
    stores.root.parent.chmod(0o500)
    store = stores()
    with pytest.raises(StoreError):
        await fill(store, ONE)
    assert "Permission denied" in stores.health.reasons["store"]
    stores.root.parent.chmod(0o700)
    await fill(store, ONE)
    assert stores.health.status == "ok"


# -- blobs that are not what they were


def gone(file: Path) -> None:
    file.unlink()


def short(file: Path) -> None:
    os.truncate(file, 10)


def long(file: Path) -> None:
    file.write_bytes(ONE + b"x")


def a_link(file: Path) -> None:
    target = file.with_name("elsewhere")
    target.write_bytes(ONE)
    file.unlink()
    file.symlink_to(target)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def without_its_folder(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()
    file.parent.write_bytes(b"")


@pytest.mark.parametrize("damage", [gone, short, long, a_link, a_folder, a_fifo, without_its_folder])
async def test_a_damaged_blob_is_absent_and_fetched_again(stores: Stores, damage: Callable[[Path], None]) -> None:
    store = stores()
    await fill(store, ONE)
    (file,) = files(stores.root)
    damage(file)
    assert await content(store, Digest.of(ONE)) is None
    assert not await store.has(Digest.of(ONE))
    assert await store.usage() == (0, 0)
    if file.parent.is_file():
        file.parent.unlink()
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE
    assert stores.health.status == "ok"


async def test_a_blob_that_was_replaced_meanwhile_is_not_dropped(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = stores(), stores()
    await fill(ours, ONE)
    (old,) = files(stores.root)
    reached, go_on = threading.Event(), threading.Event()
    real = os.open

    def between_row_and_file(path: str, *args: int) -> int:
        if threading.current_thread().name.startswith("store-look") and "/blobs/" in str(path):
            reached.set()
            go_on.wait(10)
        return real(path, *args)

    monkeypatch.setattr(os, "open", between_row_and_file)
    early = asyncio.create_task(content(ours, Digest.of(ONE)))
    await asyncio.to_thread(reached.wait, 10)
    await fill(theirs, ONE)
    assert not old.exists()
    go_on.set()
    assert await early == ONE
    assert await ours.has(Digest.of(ONE))


@pytest.mark.parametrize("size", [100, 1 << 20])
async def test_a_blob_that_the_disk_cannot_read_is_dropped(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = stores()
    digest = await fill(store, blob("one", size))
    real = os.pread

    def pread(*args: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    found = await store.open(digest)
    assert found is not None
    with pytest.raises(BodyError, match="Input/output error"):
        await found.read_at(0, 100)
    monkeypatch.setattr(os, "pread", real)
    found.close()
    assert not await store.has(digest)
    assert "store" in stores.health.reasons


async def test_reading_after_closing_is_nobodys_trouble(stores: Stores) -> None:
    store = stores()
    found = await store.open(await fill(store, ONE))
    assert found is not None
    found.close()
    with pytest.raises(BodyError, match="closed"):
        await found.read_at(0, 100)
    assert stores.health.status == "ok"


async def test_a_partial_that_cannot_be_read_back_is_let_go_of(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = stores(), os.pread

    def pread(*args: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(StoreError, match="Input/output error"):
        await store.begin(Digest.of(ONE))
    monkeypatch.setattr(os, "pread", real)
    assert opened(stores.root / "partial") == []
    await fill(store, ONE)
    assert stores.health.status == "ok"


async def test_a_blob_that_cannot_be_opened_for_lack_of_descriptors_is_not_dropped(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = stores(), os.open
    await fill(store, ONE)

    def no_descriptor(path: str, *args: int) -> int:
        if "/blobs/" in str(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args)

    monkeypatch.setattr(os, "open", no_descriptor)
    with pytest.raises(StoreError, match="Too many open files"):
        await store.open(Digest.of(ONE))
    monkeypatch.setattr(os, "open", real)
    assert await content(store, Digest.of(ONE)) == ONE


def test_a_file_whose_commit_is_under_way_is_not_tidied_away(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    partial = blobs.partial(Digest.of(ONE))
    partial.write(ONE)
    name = blobs.commit(partial)
    offered: list[dict[str, int]] = []

    def settle(*, owned: bool, adopts: bool) -> bool:
        def adopt(found: Mapping[str, int]) -> set[str]:
            offered.append(dict(found))
            return set(found) if adopts else set()

        blobs.settle([name], lambda name: owned, adopt)
        return blobs.blobs(name.rpartition("/")[0]) == {name}

    assert settle(owned=False, adopts=False), "its row may still come"
    partial.unlock()
    assert settle(owned=True, adopts=False), "it has come"
    assert not any(offered)
    assert settle(owned=False, adopts=True)
    assert offered[-1] == {name: len(ONE)}
    assert not settle(owned=False, adopts=False)
    assert not settle(owned=False, adopts=False)
    partial.close()
