"""The bound on the store: what goes, in which order, and what never does."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.deadline import eventually
from lab.stores import Stores, blob, content, files, fill
from pullthrough import store as store_module
from pullthrough.core.digest import Digest
from pullthrough.store import Store, StoreError, room
from pullthrough.store import index as index_module
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index

SIZE = 10_000


def nobody(digest: Digest) -> bool:
    """Is spared."""
    return False


async def held(store: Store, *blobs: bytes) -> list[bool]:
    return [await store.has(Digest.of(one)) for one in blobs]


async def read(store: Store, one: bytes) -> None:
    assert await content(store, Digest.of(one)) == one


async def test_the_bound_is_in_bytes(stores: Stores) -> None:
    store = stores(SIZE)
    small = [blob(number, 10) for number in range(50)]
    for one in small:
        await fill(store, one)
    big = blob("big", 9400)
    await fill(store, big, announced=len(big))
    assert await held(store, big, *small) == [True] * 51, "many files, few bytes"
    bigger = blob("bigger", 9000)
    await fill(store, bigger, announced=len(bigger))
    assert await held(store, big, bigger) == [False, True]
    used, count = await store.usage()
    assert used == sum(file.stat().st_size for file in files(stores.root)) <= SIZE
    assert count == len(files(stores.root))


async def test_what_was_not_read_for_longest_goes_first(stores: Stores) -> None:
    store = stores(SIZE)
    blobs = [blob(number, 1500) for number in range(6)]
    for one in blobs:
        await fill(store, one)
    await read(store, blobs[0])
    await read(store, blobs[1])
    await read(store, blobs[0])
    for number in range(3):
        await fill(store, blob(f"new {number}", 1500), announced=1500)
    assert await held(store, *blobs) == [True, True, False, False, False, True]


async def test_the_order_of_use_outlives_a_restart(stores: Stores) -> None:
    store = stores(SIZE)
    blobs = [blob(number, 3000) for number in range(3)]
    for one in blobs:
        await fill(store, one)
    await read(store, blobs[0])
    await store.aclose()
    store = stores(SIZE)
    await fill(store, blob("new", 3000), announced=3000)
    assert await held(store, *blobs) == [True, False, True]


async def test_many_reads_are_written_down_together(stores: Stores) -> None:
    store = stores(1_000_000)
    blobs = [blob(number, 10) for number in range(140)]
    for one in blobs:
        await store.put(Digest.of(one), one)
    for one in blobs[:128]:
        await read(store, one)
    index = Index(stores.root, 1.0)  # as another process would see it

    def order() -> list[Digest]:
        seen: dict[Digest, bool] = {}
        index.evict(1, lambda digest: seen.setdefault(digest, True))  # who spares all has met all
        return list(seen)

    try:
        eventually(lambda: order()[0] == Digest.of(blobs[128]), "the order is written")
        assert order() == [Digest.of(one) for one in (*blobs[128:], *blobs[:128])]
    finally:
        index.close()


async def test_an_evicted_blob_stays_readable_for_who_reads_it(stores: Stores) -> None:
    store, old = stores(SIZE), blob("old", 6000)
    found = await store.open(await fill(store, old))
    assert found is not None
    await fill(store, blob("new", 6000), announced=6000)
    assert await held(store, old) == [False]
    assert files(stores.root)[0].read_bytes() != old
    assert await found.read_at(0, SIZE) == old
    assert await found.read_at(5990, SIZE) == old[5990:]
    assert await found.read_at(6000, SIZE) == b""
    found.close()


async def test_what_is_being_filled_is_not_evicted(stores: Stores) -> None:
    store, slow, old = stores(SIZE), blob("slow", 5000), blob("old", 4000)
    await fill(store, old)
    partial = await store.begin(Digest.of(slow))
    await store.reserve(partial, len(slow))
    await store.write(partial, slow[:3000])
    await fill(store, blob("new", 4500), announced=4500)
    assert await held(store, old) == [False]
    with pytest.raises(StoreError, match="being filled") as caught:
        await fill(store, blob("too much", 6000), announced=6000)
    assert caught.value.full
    assert stores.health.status == "ok", "that is no fault of the disk"
    await store.write(partial, slow[3000:])
    await store.commit(partial)
    await store.end(partial, keep=True)
    partial.close()
    await read(store, slow)


async def test_a_partial_that_another_process_fills_is_not_evicted(stores: Stores) -> None:
    ours, theirs, slow = stores(SIZE), stores(SIZE), blob("slow", 5000)
    partial = await theirs.begin(Digest.of(slow))
    await theirs.reserve(partial, len(slow))
    await theirs.write(partial, slow[:3000])
    await fill(ours, blob("new", 6000), announced=6000)
    with pytest.raises(StoreError, match="being filled"):
        await fill(ours, blob("too much", 8000), announced=8000)
    assert partial.path.stat().st_size == 3000
    await theirs.end(partial, keep=False)
    partial.close()


async def test_abandoned_partials_go_before_any_blob(stores: Stores) -> None:
    store, old = stores(SIZE), blob("old", 3000)
    await fill(store, old)
    for number in range(2):
        partial = await store.begin(Digest.of(blob(number, 4000)))
        await store.write(partial, blob(number, 4000)[:2500])
        await store.end(partial, keep=True)
        os.utime(partial.path, ns=(0, number))
        partial.close()
    await fill(store, blob("new", 3000), announced=3000)
    assert await held(store, old) == [True]
    (left,) = files(stores.root, "partial")
    assert left.name == Digest.of(blob(1, 4000)).hex, "the one that rested longer is gone"


async def test_strange_things_among_the_partials_do_no_harm(stores: Stores) -> None:
    store = stores(SIZE)
    await fill(store, blob("old", 6000))
    folder = stores.root / "partial" / "sha256"
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    os.mkfifo(folder / "fifo")
    (stores.root / "partial" / "file").write_bytes(b"x")
    await fill(store, blob("new", 6000), announced=6000)
    assert Path("/etc/hostname").exists()


async def test_a_blob_larger_than_the_store_is_refused_at_once(stores: Stores) -> None:
    store, old = stores(SIZE), blob("old", 6000)
    await fill(store, old)
    partial = await store.begin(Digest.of(blob("huge", 1)))
    with pytest.raises(StoreError, match="more than the whole store") as caught:
        await store.reserve(partial, SIZE + 1)
    assert caught.value.full
    await store.end(partial, keep=False)
    partial.close()
    assert await held(store, old) == [True], "nothing was evicted for it"
    assert stores.health.status == "ok"


async def test_a_blob_of_unknown_length_takes_room_as_it_grows(stores: Stores) -> None:
    store, old = stores(SIZE), [blob(number, 2000) for number in range(4)]
    for one in old:
        await fill(store, one)
    growing = blob("growing", 5000)
    await fill(store, growing, announced=0)
    await read(store, growing)
    assert await held(store, *old) == [False, False, True, True]
    assert (await store.usage())[0] <= SIZE


async def test_a_blob_that_outgrows_the_store_is_given_up(stores: Stores) -> None:
    store = stores(SIZE)
    with pytest.raises(StoreError, match="more than the whole store"):
        await fill(store, blob("endless", SIZE + 1), announced=0)
    assert await store.usage() == (0, 0)
    assert files(stores.root, "partial") == []
    await fill(store, blob("next", 9000), announced=9000)


async def test_a_growth_that_is_refused_changes_no_reservation(stores: Stores) -> None:
    store, slow = stores(SIZE), blob("slow", 5000)
    partial = await store.begin(Digest.of(slow))
    await store.reserve(partial, 5000)
    with pytest.raises(StoreError):
        await store.reserve(partial, SIZE + 1)
    other = await store.begin(Digest.of(blob("other")))
    await store.reserve(other, 4000)
    with pytest.raises(StoreError, match="being filled"):
        await store.reserve(partial, 7000)
    await store.reserve(other, 5000)
    for done in (partial, other):
        await store.end(done, keep=False)
        done.close()


async def test_a_reservation_ends_with_its_fill(stores: Stores) -> None:
    store = stores(SIZE)
    for number in range(5):
        partial = await store.begin(Digest.of(blob(number)))
        await store.reserve(partial, 9000)
        await store.end(partial, keep=False)
        partial.close()
    await fill(store, blob("whole", 9500), announced=9500)


class Disk:
    """A file system of which a test says what is free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 40
        real = os.statvfs

        def statvfs(path: Any) -> os.statvfs_result:
            fields = list(real(path))
            fields[1], fields[4] = 1, self.free
            return os.statvfs_result(fields)

        monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_a_full_disk_is_said_and_recovers_by_itself(stores: Stores, disk: Disk) -> None:
    store, one = stores(SIZE), blob("one", 2000)
    disk.free = 1 << 20
    with pytest.raises(StoreError, match="disk is full") as caught:
        await fill(store, one, announced=2000)
    assert caught.value.full
    assert "disk is full" in stores.health.reasons["store"]
    assert "uncached" in stores.health.reasons["store"]
    disk.free = 1 << 40
    await fill(store, one, announced=2000)
    assert stores.health.status == "ok"


async def test_a_full_disk_lets_go_of_blobs_before_it_refuses(stores: Stores, disk: Disk) -> None:
    store, old = stores(SIZE), [blob(number, 2000) for number in range(3)]
    for one in old:
        await fill(store, one)
    disk.free = 0
    with pytest.raises(StoreError):
        await fill(store, blob("new"), announced=1000)
    assert await held(store, *old) == [False] * 3


async def test_room_on_disk_is_counted_for_all_fills_together(stores: Stores, disk: Disk) -> None:
    store = stores(SIZE)
    disk.free = (64 << 20) + 5000
    first = await store.begin(Digest.of(blob("first")))
    await store.reserve(first, 4000)
    second = await store.begin(Digest.of(blob("second")))
    with pytest.raises(StoreError, match="disk is full"):
        await store.reserve(second, 4000)
    for partial in (first, second):
        await store.end(partial, keep=False)
        partial.close()


async def test_no_space_for_a_manifest_leaves_no_rest(stores: Stores, disk: Disk) -> None:
    store, one = stores(SIZE), blob("manifest")
    await store.usage()
    disk.free = 0
    with pytest.raises(StoreError):
        await store.put(Digest.of(one), one)
    assert files(stores.root, "partial") == []


async def test_what_is_held_is_spared_for_as_long_as_anything_else_is_there(stores: Stores) -> None:
    store = stores(SIZE)
    layers = [blob(number, 2000) for number in range(4)]
    for one in layers:
        await fill(store, one)
    store.hold([Digest.of(one) for one in layers[:2]])
    for number in range(3):
        await fill(store, blob(f"new {number}", 2000), announced=2000)

    assert await held(store, *layers) == [True, True, False, False]


async def test_room_is_not_made_of_what_is_held(stores: Stores) -> None:
    store = stores(SIZE)
    layers = [blob(number, 3000) for number in range(3)]
    for one in layers:
        await fill(store, one)
    store.hold([Digest.of(one) for one in layers])

    with pytest.raises(StoreError, match="or pulled") as caught:
        await fill(store, blob("new", 3000), announced=3000)
    assert caught.value.full
    assert await held(store, *layers) == [True] * 3
    assert stores.health.status == "ok"


async def test_a_hold_ends(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, one = stores(SIZE), blob("one", 6000)
    await fill(store, one)
    monkeypatch.setattr(room, "_HOLD", -1.0)
    store.hold([Digest.of(one)])
    await fill(store, blob("new", 6000), announced=6000)

    assert await held(store, one) == [False]


async def test_only_so_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MAX_HELD", 2)
    holds = room.Holds()
    digests = [Digest.of(blob(number)) for number in range(3)]
    holds.hold(digests)

    assert [holds.spare(digest) for digest in digests] == [False, True, True]


async def test_what_was_not_used_for_long_is_retired(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores(SIZE)
    old, used, new = (blob(name) for name in ("old", "used", "new"))
    began = time.time()
    clock = [began]
    monkeypatch.setattr(index_module, "time", SimpleNamespace(time=lambda: clock[0]))
    for one in (old, used):
        await fill(store, one)
    clock[0] += 1000
    await read(store, used)
    await fill(store, new)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(time=lambda: clock[0]))

    assert await store.retire(1001) == 0
    assert await store.retire(500) == 1
    assert await held(store, old, used, new) == [False, True, True]
    clock[0] += 501
    assert await store.retire(500) == 2
    assert files(stores.root) == []


async def test_a_use_of_an_unknown_time_counts_as_now(stores: Stores) -> None:
    store, one = stores(SIZE), blob("one")
    await fill(store, one)
    await store.aclose()
    with closing(sqlite3.connect(stores.root / "recency" / "cache.db")) as connection:
        connection.execute("UPDATE Cache SET value = '0'")
        connection.commit()
    store = stores(SIZE)

    assert await store.retire(10) == 0
    assert await held(store, one) == [True]


async def test_a_use_in_the_future_keeps_nothing_behind_it(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores(SIZE)
    ahead, old = blob("ahead"), blob("old")
    clock = [time.time() + 1e9]
    monkeypatch.setattr(index_module, "time", SimpleNamespace(time=lambda: clock[0]))
    monkeypatch.setattr(store_module, "time", SimpleNamespace(time=lambda: clock[0]))
    await fill(store, ahead)
    clock[0] -= 1e9
    await fill(store, old)
    clock[0] += 1000

    assert await store.retire(500) == 1
    assert await held(store, ahead, old) == [True, False]
    clock[0] += 501
    assert await store.retire(500) == 1


async def test_so_much_of_the_disk_is_left(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [3000]
    monkeypatch.setattr(BlobFiles, "free", lambda self: free[0])
    made = Store(stores.root, SIZE, stores.health, min_free=2500)
    stores.made.append(made)

    await fill(made, blob("little", 400), announced=400)
    with pytest.raises(StoreError) as caught:
        await fill(made, blob("much", 1000), announced=1000)
    assert caught.value.full
