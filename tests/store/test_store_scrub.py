"""Bit rot is found by a slow look at everything, and soon where somebody reads; a damaged blob is never given again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.deadline import eventually
from lab.stores import MIB, Stores, blob, content, files, fill
from pullthrough.core.digest import Digest
from pullthrough.messages import BodyError
from pullthrough.store import Store, StoredBlob, disk, quarantine
from pullthrough.store import index as index_module
from pullthrough.store import scrub as scrub_module
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index
from pullthrough.store.lane import Lane, Rest
from pullthrough.store.opened import opened
from pullthrough.store.pace import Pace
from pullthrough.store.quarantine import Quarantine
from pullthrough.store.scrub import JustRead

DAY = 24 * 3600.0
ONE = blob("one", 3000)
#: Nobody waits in these tests.
FAST = float(1 << 50)


def rot(root: Path, one: bytes = ONE) -> Path:
    """Flip a bit in the file of this blob."""
    (file,) = (file for file in files(root) if file.name.startswith(Digest.of(one).hex))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return file


def damaged(root: Path) -> list[str]:
    return [file.name for file in files(root, "damaged/blobs")]


@contextlib.contextmanager
def rows(root: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(root / "cache.db", isolation_level=None)) as connection:
        yield connection


def dated(root: Path, one: bytes, moment: float) -> None:
    """The blob was verified at that time."""
    with rows(root) as table:
        table.execute("UPDATE Cache SET access_time = ? WHERE key = ?", (moment, str(Digest.of(one))))


@contextlib.asynccontextmanager
async def scrubbing(store: Store, interval: float = 30 * DAY) -> AsyncIterator[None]:
    task = asyncio.create_task(store.scrub(interval, rate=FAST))
    await asyncio.sleep(0)  # it begins
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def gone(store: Store, *blobs: bytes) -> None:
    """Until none of them is stored."""

    def none_is() -> bool:
        held = [asyncio.run_coroutine_threadsafe(store.has(Digest.of(one)), loop).result() for one in blobs]
        return not any(held)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(eventually, none_is, "the damaged blobs are gone")


async def reading(store: Store, one: bytes = ONE) -> StoredBlob:
    found = await store.open(Digest.of(one))
    assert found is not None
    return found


# -- each blob once in an interval


async def test_a_blob_that_is_due_and_rotten_is_put_aside(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []
    store = Store(stores.root, MIB, stores.health, damaged=lambda: told.append(None))
    stores.made.append(store)
    await fill(store, ONE)
    await fill(store, blob("sound"))
    dated(stores.root, ONE, 0)
    file = rot(stores.root)
    async with scrubbing(store):
        await asyncio.to_thread(eventually, lambda: told, "it is found")

    assert not await store.has(Digest.of(ONE))
    assert damaged(stores.root) == [file.name]
    assert await content(store, Digest.of(blob("sound"))) == blob("sound")
    assert len(told) == 1
    assert f"stored blob {Digest.of(ONE)} is damaged (its bytes have another digest)" in caplog.text
    assert f"the file is now {stores.root}/damaged/blobs/{file.name}; it is fetched anew" in caplog.text
    assert stores.health.status == "ok", "it mends itself, and no pull passes uncached for it"
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE


async def test_what_is_not_due_is_left_alone(stores: Stores) -> None:
    store, due = stores(), blob("due")
    await fill(store, ONE)
    await fill(store, due)
    for one in (ONE, due):
        rot(stores.root, one)
    dated(stores.root, due, 0)
    async with scrubbing(store):
        await gone(store, due)
    assert await store.has(Digest.of(ONE))


async def test_when_a_blob_was_verified_outlives_a_restart(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    dated(stores.root, ONE, 0)
    async with scrubbing(store):
        await asyncio.to_thread(eventually, lambda: not due(stores.root), "it was verified")
    await store.aclose()
    rot(stores.root)
    store, other = stores(), blob("other")
    await fill(store, other)
    rot(stores.root, other)
    dated(stores.root, other, 0)
    async with scrubbing(store):
        await gone(store, other)
    assert await store.has(Digest.of(ONE)), "its turn has not come"


def due(root: Path, interval: float = DAY) -> Digest | None:
    with opened(root) as shelf:
        found = shelf.index.due(interval)
        return found and found[0]


async def test_the_one_that_waits_for_longest_is_first(stores: Stores) -> None:
    store = stores()
    for number in (2, 1, 3):
        await fill(store, blob(number))
        dated(stores.root, blob(number), 1000.0 * number)
    assert due(stores.root) == Digest.of(blob(1))


async def test_a_new_blob_is_due_after_the_interval(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(stores(), ONE)
    assert due(stores.root) is None
    with rows(stores.root) as table:
        [(stored,)] = table.execute("SELECT store_time FROM Cache").fetchall()
    clock = SimpleNamespace(time=lambda: stored + DAY + 1)
    monkeypatch.setattr(index_module, "time", clock)
    assert due(stores.root) == Digest.of(ONE)


async def test_a_clock_that_was_wrong_makes_blobs_due_sooner_and_never_later_than_twice_the_interval(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(stores(), ONE)
    now = 10_000 * DAY
    monkeypatch.setattr(index_module, "time", SimpleNamespace(time=lambda: now))
    for moment, is_due in ((now + 3600, False), (now + DAY + 1, True), (now * 2, True), (0, True)):
        dated(stores.root, ONE, moment)
        assert (due(stores.root) is not None) == is_due, moment


async def test_a_store_from_before_there_were_dates_is_taken_over(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    with rows(stores.root) as table:
        table.execute("DROP INDEX Cache_date")
    assert due(stores.root) is None, "it was verified when it was stored"
    dated(stores.root, ONE, 0)
    assert due(stores.root) == Digest.of(ONE)


async def test_the_look_for_what_is_due_reads_no_table(stores: Stores) -> None:
    await fill(stores(), ONE)
    with rows(stores.root) as table:
        for query, sign in ((disk._OLDEST, "<"), (disk._BEYOND, ">")):
            [(*_, step)] = table.execute(f"EXPLAIN QUERY PLAN {query}", (5,))
            assert step == f"SEARCH Cache USING INDEX Cache_date (access_time{sign}?)"


async def test_a_row_that_is_no_blob_is_in_nobodys_way(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    with rows(stores.root) as table:
        table.execute("INSERT INTO Cache (key, raw, access_time, mode, value) VALUES ('strange', 1, 0, 1, '0')")
    dated(stores.root, ONE, 1)
    assert due(stores.root) == Digest.of(ONE)


async def test_a_file_that_was_found_without_a_row_is_verified_first(stores: Stores) -> None:
    first = stores()
    await fill(first, ONE)
    await first.aclose()
    rot(stores.root)
    (stores.root / "cache.db").unlink()
    store = stores()
    await fill(store, blob("other"))
    assert await asyncio.to_thread(store.tidied.wait, 20)
    async with scrubbing(store):
        await gone(store, ONE)
    assert len(damaged(stores.root)) == 1


@pytest.mark.parametrize(("code", "kept"), [(errno.EIO, False), (errno.EUCLEAN, False), (errno.EACCES, True)])
async def test_a_file_that_cannot_be_read_does_not_end_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, code: int, kept: bool
) -> None:
    store, rotten = stores(), blob("rotten")
    for one in (ONE, rotten):
        await fill(store, one)
    rot(stores.root, rotten)
    dated(stores.root, ONE, 0)
    dated(stores.root, rotten, 1)
    real = BlobFiles.holds

    def holds(self: BlobFiles, fd: int, digest: Digest, **how: Any) -> bool:
        if digest == Digest.of(ONE):
            raise OSError(code, "cannot be read")
        return real(self, fd, digest, **how)

    monkeypatch.setattr(BlobFiles, "holds", holds)
    async with scrubbing(store):
        await gone(store, rotten)
    assert await store.has(Digest.of(ONE)) == kept
    assert due(stores.root, 30 * DAY) is None, "it is not tried again at once"
    assert (due(stores.root, 30 * DAY - 3601) == Digest.of(ONE)) == kept, "but in an hour"
    assert stores.health.status == "ok"


async def test_an_index_that_is_locked_for_a_while_does_not_end_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_LOOK", 0.01)
    store = stores(busy=0.01)
    await fill(store, ONE)
    dated(stores.root, ONE, 0)
    rot(stores.root)
    with rows(stores.root) as table:
        table.execute("BEGIN EXCLUSIVE")
        async with scrubbing(store):
            await asyncio.to_thread(eventually, lambda: damaged(stores.root), "the file went first")
            table.execute("ROLLBACK")
            await gone(store, ONE)


# -- sooner where somebody reads


async def test_what_is_read_is_verified_behind_its_reader(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    rot(stores.root)
    async with scrubbing(store):
        assert await content(store, Digest.of(ONE)) != ONE, "nobody knows yet, but the client that checks"
        await gone(store, ONE)
        await fill(store, ONE)
        assert await content(store, Digest.of(ONE)) == ONE


async def test_who_only_looks_has_not_read(stores: Stores) -> None:
    store, read = stores(), blob("read")
    for one in (ONE, read):
        await fill(store, one)
        rot(stores.root, one)
    async with scrubbing(store):
        (await reading(store)).close()
        await content(store, Digest.of(read))
        await gone(store, read)
    assert await store.has(Digest.of(ONE))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


DIGESTS = [Digest.of(blob(number)) for number in range(2000)]


def taken(read: JustRead) -> list[Digest]:
    found = []
    while (digest := read.take()) is not None:
        found.append(digest)
    return found


def test_what_was_read_last_is_first() -> None:
    read = JustRead(Clock())
    for number in (0, 1, 2, 0, 0):
        read.note(DIGESTS[number])
    assert read.some.is_set()
    assert taken(read) == [DIGESTS[0], DIGESTS[2], DIGESTS[1]]
    assert not read.some.is_set()


def test_what_was_verified_just_now_is_passed_over() -> None:
    clock = Clock()
    read = JustRead(clock)
    read.note(DIGESTS[0])
    read.verified(DIGESTS[0])
    read.note(DIGESTS[0])
    assert taken(read) == [], "not if it was read meanwhile either"
    clock.now += 59
    read.note(DIGESTS[0])
    assert taken(read) == []
    clock.now += 1
    read.note(DIGESTS[0])
    assert taken(read) == [DIGESTS[0]]


def test_only_so_many_wait_and_those_that_were_read_last() -> None:
    read = JustRead(Clock())
    for digest in DIGESTS:
        read.note(digest)
    assert taken(read) == DIGESTS[: -1024 - 1 : -1]


def test_only_so_many_are_remembered() -> None:
    read = JustRead(Clock())
    for digest in DIGESTS:
        read.verified(digest)
        read.note(DIGESTS[0])
    assert taken(read) == [DIGESTS[0]], "forgotten"


# -- in nobody's way


class Sleeper(Clock):
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_pace_is_so_many_bytes_a_second() -> None:
    clock = Sleeper()
    pace = Pace(100.0, clock=clock, sleep=clock.sleep)
    for count in (50, 200, 0):
        pace.spend(count)
    assert clock.slept == [0.5, 2.0, 0.0]
    clock.now += 0.25
    pace.spend(50)
    assert clock.slept[3:] == [0.25], "the time that reading took counts"


def test_what_was_idle_is_not_made_up_for() -> None:
    clock = Sleeper()
    pace = Pace(100.0, clock=clock, sleep=clock.sleep)
    for _ in range(3):
        clock.now += 1000
        pace.spend(100)
        pace.spend(100)
    assert clock.slept == [0.0, 1.0] * 3


async def test_the_pace_counts_every_byte_and_something_for_each_file(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(Pace, "spend", lambda self, count: spent.append(count))
    store, large = stores(), blob("large", 2 * MIB + 5)
    await fill(store, large, chunk=MIB)
    await fill(store, ONE)
    for one in (ONE, large):
        dated(stores.root, one, len(one))
    async with scrubbing(store):
        await asyncio.to_thread(eventually, lambda: due(stores.root) is None, "both were verified")
    assert spent == [MIB, 3000, MIB, MIB, MIB, 5]


async def test_its_thread_gives_way_to_all_others(stores: Stores) -> None:
    lane = Lane("test", 1, Rest(0), background=True)
    try:
        nice = await lane.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), resting=False)
    finally:
        await asyncio.to_thread(lane.close, lambda: None)
    assert nice == 19
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


async def test_closing_does_not_wait_for_a_blob_that_takes_hours(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    dated(stores.root, ONE, 0)
    task = asyncio.create_task(store.scrub(DAY, rate=1.0))
    await asyncio.to_thread(eventually, lambda: "store-slow" in threads(), "it has begun")
    async with asyncio.timeout(30):
        await store.aclose()
    assert due(stores.root) == Digest.of(ONE), "what was not read to its end is not verified"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def threads() -> str:
    return " ".join(thread.name for thread in threading.enumerate())


# -- what becomes of a damaged blob


async def condemned(store: Store, root: Path, one: bytes = ONE) -> None:
    """As another process does it."""
    with opened(root) as shelf:
        row = shelf.index.find(Digest.of(one))
        assert row is not None
        assert Quarantine(shelf, bool).condemn(Digest.of(one), row, "so the test has it")
    assert not await store.has(Digest.of(one))


async def test_whoever_is_in_the_middle_of_it_is_cut(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    found = await reading(store)
    assert await found.read_at(0, 1000) == ONE[:1000]
    await condemned(store, stores.root)
    for offset in (0, 2999, 3000):
        with pytest.raises(BodyError, match="found damaged"):
            await found.read_at(offset, 1000)
    found.close()
    assert stores.health.status == "ok"


async def test_blobs_that_have_to_be_read_first_keep_nobody_else_waiting(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [blob(f"found {number}") for number in range(10)]
    store = stores()
    for one in (*some, ONE):
        await fill(store, one)
    await store.aclose()
    (stores.root / "cache.db").unlink()
    store = stores()
    await store.usage()
    assert await asyncio.to_thread(store.tidied.wait, 60)
    assert await content(store, Digest.of(ONE)) == ONE
    going_on, real, asked = threading.Event(), BlobFiles.holds, list[Digest]()

    def holds(files: BlobFiles, fd: int, digest: Digest, **more: Any) -> bool:
        asked.append(digest)
        assert going_on.wait(60)
        return real(files, fd, digest, **more)

    monkeypatch.setattr(BlobFiles, "holds", holds)
    waiting = [asyncio.create_task(content(store, Digest.of(one))) for one in some for _ in range(2)]
    while len(asked) < 2:
        await asyncio.sleep(0)

    assert await content(store, Digest.of(ONE)) == ONE
    assert await store.has(Digest.of(some[0]))
    going_on.set()
    assert await asyncio.gather(*waiting) == [one for one in some for _ in range(2)]
    assert sorted(asked, key=str) == sorted(map(Digest.of, some), key=str), "each is read once"


async def test_a_reader_of_the_copy_before_is_not_cut(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    found = await reading(store)
    await fill(store, ONE)
    await condemned(store, stores.root)
    assert await found.read_at(0, 5000) == ONE
    found.close()


async def test_a_row_that_was_replaced_stays(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    with opened(stores.root) as shelf:
        old = shelf.index.find(Digest.of(ONE))
        assert old is not None
        await fill(store, ONE)
        assert not Quarantine(shelf, bool).condemn(Digest.of(ONE), old, "late")
    assert await content(store, Digest.of(ONE)) == ONE
    assert damaged(stores.root) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
async def test_a_file_that_cannot_be_moved_is_not_given_out_either(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    store = stores()
    await fill(store, ONE)

    def rename(self: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "rename", rename)
    await condemned(store, stores.root)
    assert files(stores.root) == []
    assert f"could not be moved ({os.strerror(code)}) and is deleted" in caplog.text


async def test_what_somebody_moves_back_is_not_believed(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    (file,) = files(stores.root)
    await condemned(store, stores.root)
    await store.aclose()
    (stores.root / "damaged" / "blobs" / file.name).rename(file)
    store = stores()
    await fill(store, blob("other"))
    assert await asyncio.to_thread(store.tidied.wait, 20)
    assert await store.open(Digest.of(ONE)) is None
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE


async def test_a_few_damaged_blobs_are_kept(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_MAX_KEPT", 3)
    store = stores()
    for number in range(5):
        await fill(store, blob(number))
        await condemned(store, stores.root, blob(number))
    assert sorted(name[:64] for name in damaged(stores.root)) == sorted(d.hex for d in DIGESTS[2:5])


async def test_a_few_bytes_of_damaged_blobs_are_kept(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quarantine, "_MAX_KEPT_BYTES", 2500)
    store = stores()
    for number in range(3):
        await fill(store, blob(number))
        await condemned(store, stores.root, blob(number))
    assert sorted(name[:64] for name in damaged(stores.root)) == sorted(d.hex for d in DIGESTS[1:3])
    await fill(store, ONE)
    await condemned(store, stores.root)
    assert not any(name.startswith(Digest.of(ONE).hex) for name in damaged(stores.root)), "larger than all that is kept"
    assert "the file is gone; it is fetched anew" in caplog.text


async def test_damaged_blobs_take_room_and_go_first(stores: Stores) -> None:
    store, old = stores(10_000), blob("old", 4000)
    await fill(store, old)
    await fill(store, ONE)
    await condemned(store, stores.root)
    await fill(store, blob("new", 2500), announced=2500)
    assert len(damaged(stores.root)) == 1, "there is room for it"
    await fill(store, blob("next", 3000), announced=3000)
    assert damaged(stores.root) == []
    assert await store.has(Digest.of(old))


async def test_one_that_turns_out_unreadable_when_it_is_opened_is_put_aside(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores()
    await fill(store, ONE)
    real = BlobFiles.open

    def bad(self: BlobFiles, name: str, size: int) -> int | None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(BlobFiles, "open", bad)
    assert await store.open(Digest.of(ONE)) is None
    monkeypatch.setattr(BlobFiles, "open", real)
    assert len(damaged(stores.root)) == 1
    await fill(store, ONE)
    assert await content(store, Digest.of(ONE)) == ONE


async def test_the_dates_are_the_indexes_own(tmp_path: Path) -> None:
    """A row that is merely read must keep its date: diskcache has policies that change it."""
    root = tmp_path / "store"
    root.mkdir()
    with contextlib.closing(Index(root, 1.0)) as index:
        index.adopt(Digest.of(ONE), f"blobs/sha256/{Digest.of(ONE).hex[:2]}/{Digest.of(ONE).hex}-{'0' * 16}", 3000)
        dated(root, ONE, 5)
        assert index.find(Digest.of(ONE)) is not None
        assert index.owns("nothing") is False
        with rows(root) as table:
            assert table.execute("SELECT access_time FROM Cache").fetchall() == [(5,)]
