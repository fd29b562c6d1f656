"""Everything that a store does, as a list of steps; and what must hold of it wherever the list was cut off."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.stores import blob, content, files, fill, opened
from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.store import Partial, Store

#: Bytes that the store may have: too few for all blobs.
SIZE: Final = 9000
OLD, ONE, TINY, HALF = blob("old", 900), blob("one", 1500), blob("tiny", 10), blob("half", 1200)
LARGE, LAST, NEVER = blob("large", 6000), blob("last", 300), blob("never", 700)
BLOBS: Final = (OLD, ONE, TINY, HALF, LARGE, LAST, NEVER)


@dataclass(frozen=True)
class Step:
    """One thing to do, which stores some blobs for good and may make others go."""

    work: Callable[[Store], Awaitable[object]]
    stores: tuple[bytes, ...] = ()
    loses: tuple[bytes, ...] = ()
    #: What a disk that cannot read it makes us drop.
    reads: tuple[bytes, ...] = ()


def make(root: Path) -> Store:
    """A store that waits for nobody."""
    return Store(root, SIZE, Health(), min_free=0, busy=30.0, rest=0.0)


async def write_some(store: Store, whole: bytes, upto: int) -> Partial:
    """Begin to fill, or go on."""
    partial = await store.begin(Digest.of(whole))
    try:
        await store.reserve(partial, len(whole))
        await store.write(partial, whole[partial.written : upto])
    except BaseException:
        await end(store, partial, keep=False)
        raise
    return partial


async def end(store: Store, partial: Partial, *, keep: bool) -> None:
    """Stop filling, whatever the store says to that."""
    try:
        await store.end(partial, keep=keep)
    finally:
        partial.close()


async def stop_halfway(store: Store) -> None:
    """A fill that is interrupted, to be resumed."""
    await end(store, await write_some(store, HALF, 700), keep=True)


async def give_up(store: Store) -> None:
    """A fill of which nothing is kept."""
    await end(store, await write_some(store, NEVER, 500), keep=False)


async def tidied(store: Store) -> None:
    """Wait until rows and files were compared."""
    await store.usage()
    await asyncio.to_thread(store.tidied.wait, 20)
    assert store.tidied.is_set()


STEPS: Final[Sequence[Step]] = (
    Step(tidied),
    Step(lambda store: fill(store, OLD, announced=len(OLD)), stores=(OLD,)),
    Step(lambda store: store.put(Digest.of(TINY), TINY), stores=(TINY,)),
    Step(lambda store: store.link("repo", Digest.of(TINY), "type")),
    Step(lambda store: store.note({"one": (1, 60.0), "two": (2, 60.0)})),
    Step(stop_halfway),
    Step(give_up),
    Step(lambda store: fill(store, ONE, announced=None), stores=(ONE,)),
    Step(lambda store: fill(store, OLD, announced=len(OLD)), stores=(OLD,)),
    Step(lambda store: content(store, Digest.of(TINY)), reads=(TINY,)),
    Step(lambda store: store.drop(Digest.of(ONE)), loses=(ONE,)),
    Step(lambda store: fill(store, HALF, announced=len(HALF)), stores=(HALF,)),
    Step(lambda store: fill(store, LARGE, announced=len(LARGE), chunk=2500), stores=(LARGE,), loses=(OLD, TINY, HALF)),
    Step(lambda store: store.unlink("repo", Digest.of(TINY))),
    Step(lambda store: store.note({"one": None})),
    Step(lambda store: fill(store, LAST, announced=len(LAST)), stores=(LAST,)),
    Step(lambda store: store.retire(0.0), loses=BLOBS),
    Step(lambda store: fill(store, ONE, announced=len(ONE)), stores=(ONE,)),
    Step(lambda store: store.aclose()),
)


def promised(done: Iterable[Step], begun: Iterable[Step] = ()) -> set[bytes]:
    """Blobs that are there for good, after these steps and perhaps a part of those."""
    held: set[bytes] = set()
    for step in done:
        held = held.difference(step.loses).union(step.stores)
    for step in begun:
        held.difference_update(step.loses)
    return held


def rows(root: Path, *, verified: bool = True) -> dict[str, str]:
    """The files that the index takes for (verified) blobs, by digest."""
    if not (root / "cache.db").exists():
        return {}
    with closing(sqlite3.connect(root / "cache.db")) as connection:
        if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'Cache'").fetchone() == (0,):
            return {}
        return dict(
            connection.execute("SELECT key, filename FROM Cache WHERE tag NOT LIKE ?", ("%?" if verified else "",))
        )


def assert_indexed_are_whole(root: Path, *, missing: bool = False) -> None:
    """What is indexed as verified is on disk, whole and right; or, with `missing`, not there at all."""
    for digest, name in rows(root).items():
        if not missing or (root / name).exists():
            assert Digest.of((root / name).read_bytes()) == Digest.parse(digest)


async def assert_sound(store: Store, root: Path, held: Iterable[bytes]) -> None:
    """Nothing wrong is given, nothing of what must be held is lost; index, files and numbers agree."""
    await tidied(store)
    assert [path.relative_to(root).as_posix() for path in files(root)] == sorted(rows(root, verified=False).values())
    found = []
    for whole in BLOBS:
        got = await content(store, Digest.of(whole))
        assert got in (None, whole)
        found += [whole] if got == whole else []
    assert set(held) <= set(found)
    assert await store.usage() == (sum(map(len, found)), len(found))
    assert len(files(root)) == len(found)
    assert_indexed_are_whole(root)


async def assert_goes_on(store: Store, root: Path) -> None:
    """What was left is resumed, all can be stored, and nothing is held in the end: no room, no file, no lock."""
    for whole in BLOBS:
        await fill(store, whole, announced=len(whole))
        assert await content(store, Digest.of(whole)) == whole
    await store.aclose()
    assert opened(root) == []
    assert files(root, "partial") == []


async def assert_restarts(root: Path, held: Iterable[bytes]) -> None:
    """As above, in a process that comes after."""
    store = make(root)
    try:
        await assert_sound(store, root, held)
        await assert_goes_on(store, root)
    finally:
        await store.aclose()
