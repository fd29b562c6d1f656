"""Two processes on one store: the file system and SQLite keep them apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.stores import Stores, blob, content, files, fill
from pullthrough.core.digest import Digest
from pullthrough.store import Fate, Filling, Partial, Store, StoreError, Taken
from pullthrough.store.index import Index

SIZE = 10_000
ONE = blob("one", 3000)

#: Does one thing for each line it is told, and says "ok" or what went wrong.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from lab.stores import blob, content, fill
from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.store import Store

ONE = blob("one", 3000)

async def main(root):
    store = Store(root, 10_000, Health())
    partial = None
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        if word == "begin":
            partial = await store.begin(Digest.of(ONE))
            await store.reserve(partial, len(ONE))
        elif word == "write":
            await store.write(partial, ONE[partial.written:int(number)])
        elif word == "announce":
            partial.announce(int(number))
        elif word == "commit":
            await store.commit(partial)
            await store.end(partial, keep=True)
        elif word == "delete":
            await store.end(partial, keep=False)
        elif word == "fill":
            await fill(store, blob(int(number), 1000), announced=1000)
        elif word == "has":
            assert await content(store, Digest.of(ONE)) == ONE
        print("ok", flush=True)
    await store.aclose()

asyncio.run(main(Path(sys.argv[1])))
"""


class Other:
    """Another process with a store of its own on the same folder."""

    def __init__(self, root: Path) -> None:
        here = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONPATH": f"{here / 'addon'}:{here / 'tests'}"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def does(self, what: str) -> None:
        """Have it do that, and wait for the end of it."""
        self.begins(what)
        self.ends()

    def begins(self, what: str) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def ends(self) -> None:
        """It has done what it was told."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ok\n"

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """No more lines: it closes its store."""
        self._process.communicate()


@pytest.fixture
def other(stores: Stores) -> Iterator[Callable[[], Other]]:
    made: list[Other] = []

    def start() -> Other:
        made.append(Other(stores.root))
        return made[-1]

    yield start
    for process in made:
        process.end()


async def followed(store: Store) -> Partial:
    partial = await store.follow(Digest.of(ONE))
    assert partial is not None
    return partial


async def test_what_one_fills_the_other_follows_to_its_end(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    assert await store.filling(Digest.of(ONE)) == Filling(sends=False)
    theirs.does("announce 3000")
    assert await store.filling(Digest.of(ONE)) == Filling(sends=True, size=3000)
    theirs.does("write 1000")
    with pytest.raises(Taken):
        await store.begin(Digest.of(ONE))
    partial = await followed(store)
    assert (partial.catch_up(), partial.written) == (Fate.GROWS, 1000)
    theirs.does("write 3000")
    assert (partial.catch_up(), partial.verified) == (Fate.GROWS, True)
    theirs.does("commit")
    assert partial.catch_up() is Fate.GONE
    assert os.pread(partial.fd, SIZE, 0) == ONE, "the file is still read"
    await store.end(partial, keep=False)
    partial.close()
    assert await content(store, Digest.of(ONE)) == ONE
    assert await store.usage() == (len(ONE), 1)
    assert files(stores.root, "partial") == []


async def test_nobody_fills_what_is_on_its_way_into_the_index(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = stores(SIZE), stores(SIZE)
    renamed, go_on, adopt = threading.Event(), threading.Event(), Index.adopt

    def later(index: Index, digest: Digest, name: str, size: int) -> None:
        renamed.set()
        assert go_on.wait(20)
        adopt(index, digest, name, size)

    monkeypatch.setattr(Index, "adopt", later)
    committing = asyncio.create_task(fill(one, ONE))
    assert await asyncio.to_thread(renamed.wait, 20)

    assert not await other.has(Digest.of(ONE))
    assert await other.filling(Digest.of(ONE)) == Filling(sends=True, size=3000)
    with pytest.raises(Taken):
        await other.begin(Digest.of(ONE), missed=True)
    partial = await followed(other)
    assert (partial.catch_up(), partial.verified) == (Fate.GROWS, True)
    go_on.set()
    await committing
    assert partial.catch_up() is Fate.GONE
    partial.close()
    with pytest.raises(Taken):  # who had asked the index before that
        await other.begin(Digest.of(ONE), missed=True)
    assert files(stores.root, "partial") == []
    assert await other.usage() == (len(ONE), 1)


async def test_a_file_without_a_row_that_nobody_commits_stands_in_nobodys_way(stores: Stores) -> None:
    store = stores(SIZE)
    await fill(store, ONE)
    [file] = files(stores.root)
    lost = file.with_name(f"{file.name[:-1]}{'0' if file.name[-1] != '0' else '1'}")
    file.rename(lost)
    assert await store.open(Digest.of(ONE)) is None

    assert await store.filling(Digest.of(ONE)) is None
    assert await store.follow(Digest.of(ONE)) is None
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE


async def test_what_the_other_deletes_is_gone_but_still_read(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    theirs.does("write 1000")
    partial = await followed(store)
    theirs.does("delete")
    assert (partial.catch_up(), partial.written, partial.verified) == (Fate.GONE, 1000, False)
    assert os.pread(partial.fd, SIZE, 0) == ONE[:1000]
    partial.close()
    assert await store.follow(Digest.of(ONE)) is None


async def test_a_killed_process_leaves_its_partial_to_one_that_follows(
    stores: Stores, other: Callable[[], Other]
) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    theirs.does("write 2000")
    first, second = await followed(store), await followed(store)
    assert first.catch_up() is Fate.GROWS
    theirs.kill()
    assert (first.catch_up(), second.catch_up()) == (Fate.OURS, Fate.GROWS), "one goes on, the next follows that"
    await store.reserve(first, len(ONE))
    await store.write(first, ONE[2000:])
    await store.commit(first)
    await store.end(first, keep=True)
    assert (second.catch_up(), second.verified) == (Fate.GONE, True)
    for partial in (first, second):
        partial.close()
    assert await content(store, Digest.of(ONE)) == ONE
    assert await store.usage() == (len(ONE), 1)


async def test_what_is_followed_makes_no_room_for_others(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    theirs.does("write 2900")
    partial = await followed(store)
    with pytest.raises(StoreError, match="being filled"):
        await fill(store, blob("big", 8000), announced=8000)
    theirs.does("write 3000")
    theirs.does("commit")
    assert partial.catch_up() is Fate.GONE
    assert partial.verified
    partial.close()


async def test_what_one_stores_the_other_has(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    await fill(store, ONE)
    theirs.does("has")
    theirs.does("fill 1")
    assert await content(store, Digest.of(blob(1))) == blob(1)


async def test_they_share_one_bound(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    for number in range(0, 30, 2):
        theirs.does(f"fill {number}")
        await fill(store, blob(number + 1), announced=1000)
    used, count = await store.usage()
    assert used <= SIZE
    assert count == len(files(stores.root)) >= 9
    assert await store.has(Digest.of(blob(29)))
    assert not await store.has(Digest.of(blob(1)))


async def test_what_the_other_fills_is_not_evicted(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    theirs.does("write 2900")
    with pytest.raises(StoreError, match="being filled"):
        await fill(store, blob("big", 8000), announced=8000)
    theirs.does("write 3000")
    theirs.does("commit")
    assert await content(store, Digest.of(ONE)) == ONE


async def test_a_killed_process_leaves_its_partial_to_others(stores: Stores, other: Callable[[], Other]) -> None:
    store, theirs = stores(SIZE), other()
    theirs.does("begin")
    theirs.does("write 2000")
    theirs.kill()
    partial = await store.begin(Digest.of(ONE))
    assert (partial.resumable, partial.written) == (True, 2000)
    await store.write(partial, ONE[2000:])
    await store.commit(partial)
    await store.end(partial, keep=True)
    partial.close()
    assert await content(store, Digest.of(ONE)) == ONE


async def test_processes_that_start_together_share_a_new_store(stores: Stores, other: Callable[[], Other]) -> None:
    processes = [other() for _ in range(3)]
    for number, process in enumerate(processes):
        process.begins(f"fill {number}")
    for process in processes:
        process.ends()
    store = stores(SIZE)
    for number in range(3):
        assert await content(store, Digest.of(blob(number))) == blob(number)


async def test_what_one_puts_aside_the_other_uses_no_more(stores: Stores, other: Callable[[], Other]) -> None:
    theirs = other()
    theirs.does("fill 1")
    with contextlib.closing(sqlite3.connect(stores.root / "cache.db")) as index:
        index.execute("PRAGMA user_version = 99")  # of no harm to who has it open already
    store = stores(SIZE)
    await store.usage()
    assert await asyncio.to_thread(store.tidied.wait, 20)
    assert await content(store, Digest.of(blob(1))) == blob(1)
    theirs.does("fill 2")
    assert await content(store, Digest.of(blob(2))) == blob(2)
    await fill(store, ONE)
    theirs.does("has")
    assert await store.usage() == (5000, 3)
    assert len(files(stores.root)) == 3
