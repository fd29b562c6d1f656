"""What a store does is in proportion to what is asked of it, and not to how much it holds.

Counted in calls on the system and on SQLite, which every machine makes alike; what they take says `scripts/scale`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from lab.multitude import REPOSITORY, entries, populate, total
from lab.stores import Stores, content, files
from lab.system import System
from pullthrough.core.digest import Digest
from pullthrough.store import Link, Store, StoreError

FEW, MANY = 400, 2000


async def settled(store: Store) -> Store:
    """With nothing going on in the background."""
    await store.usage()
    assert store.tidied.wait(60)
    return store


async def reserve(store: Store, needed: int) -> None:
    """Make room for so many bytes more than there are, as a fill does, and let go of it."""
    used, _ = await store.usage()
    partial = await store.begin(Digest.of(b"what needs room"))
    try:
        await store.reserve(partial, store.size - used + needed)
    finally:
        await store.end(partial, keep=False)
        partial.close()


async def test_what_the_lab_makes_is_a_store(stores: Stores) -> None:
    populate(stores.root, 50)
    store = await settled(stores())

    assert await store.usage() == (total(50), 50)
    for digest, size in entries(50):
        assert await content(store, digest) == bytes(size)
        assert await store.linked(REPOSITORY, digest) == Link()
    assert sorted(file.stat().st_size for file in files(stores.root)) == list(range(1, 51))


async def test_eviction_costs_what_is_evicted(stores: Stores, system: System, tmp_path: Path) -> None:
    calls = []
    for count in (FEW, MANY):
        populate(tmp_path / str(count), count)
        store = await settled(stores(10 * total(count), root=tmp_path / str(count)))
        before = len(system.calls)
        await reserve(store, total(10))
        calls.append(len(system.calls) - before)

    assert calls[1] < calls[0] * 1.1, "but for connections, which each thread opens when it is first used"


async def test_who_waits_for_room_waits_for_little_more_than_it_needs(stores: Stores) -> None:
    populate(stores.root, MANY)
    store = await settled(stores(10 * total(MANY)))
    await reserve(store, 1)

    assert MANY - 300 < (await store.usage())[1] < MANY


async def test_many_that_are_held_are_passed_once(stores: Stores, system: System) -> None:
    populate(stores.root, MANY)
    store = await settled(stores(10 * total(MANY)))
    store.hold(digest for digest, _ in itertools.islice(entries(MANY), MANY // 2))
    calls = []
    for _ in range(2):
        before = len(system.calls)
        await reserve(store, 1)
        calls.append(len(system.calls) - before)

    assert calls[1] < calls[0] - MANY // 2, "at first each was put behind the others"
    assert await all_there(store, itertools.islice(entries(MANY), MANY // 2))


async def all_there(store: Store, some: Iterable[tuple[Digest, int]]) -> bool:
    return all([await store.has(digest) for digest, _ in some])


async def test_where_all_are_held_nothing_is_moved(stores: Stores, system: System) -> None:
    populate(stores.root, FEW)
    store = await settled(stores(10 * total(FEW)))
    store.hold(digest for digest, _ in entries(FEW))
    before = len(system.calls)
    with pytest.raises(StoreError, match="or pulled"):
        await reserve(store, 1)

    assert len(system.calls) - before < FEW / 4
    assert (await store.usage())[1] == FEW


async def test_the_look_at_all_files_asks_about_many_at_once(stores: Stores, system: System, tmp_path: Path) -> None:
    calls = []
    for count in (FEW, MANY):
        populate(tmp_path / str(count), count)
        before = system.calls.count("sql")
        await settled(stores(root=tmp_path / str(count)))
        calls.append(system.calls.count("sql") - before)

    assert calls[1] - calls[0] < (MANY - FEW) / 4
