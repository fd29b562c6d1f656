"""The commit protocol: whatever fails, and wherever the process dies, a digest is stored whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.stores import Stores, blob, content, files, fill, opened
from lab.system import System
from pullthrough.core.digest import Digest
from pullthrough.store import Fate, Filling, StoreError, Taken
from pullthrough.store import files as store_files

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [0, 1, 400, 401, 5000])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_filled_blob_is_stored(stores: Stores, size: int, announced: bool) -> None:
    store, one = stores(), blob(size, size)
    digest = await fill(store, one, announced=size if announced else None)
    assert await store.has(digest)
    assert await content(store, digest) == one
    assert files(stores.root, "partial") == []


async def test_sha512_is_a_digest_too(stores: Stores) -> None:
    store, one = stores(), blob("sha512")
    await store.put(Digest.of(one, "sha512"), one)
    assert await content(store, Digest.of(one, "sha512")) == one
    assert not await store.has(Digest.of(one))


async def test_bytes_that_are_not_the_blob_are_never_committed(stores: Stores) -> None:
    store, digest = stores(), Digest.of(blob("right"))
    partial = await store.begin(digest)
    await store.write(partial, blob("wrong"))
    with pytest.raises(ValueError, match="does not hold"):
        await store.commit(partial)
    await store.end(partial, keep=False)
    partial.close()
    with pytest.raises(ValueError, match="are not sha256:"):
        await store.put(digest, blob("wrong"))
    assert not await store.has(digest)
    assert files(stores.root, "partial") == []


async def test_a_second_copy_replaces_the_first(stores: Stores) -> None:
    store, one = stores(), blob("twice")
    digest = await fill(store, one)
    early = await store.open(digest)
    assert early is not None
    await fill(store, one)
    assert await early.read_at(0, 2000) == one, "a reader of the old file is not disturbed"
    early.close()
    assert await content(store, digest) == one
    assert len(files(stores.root)) == 1
    assert await store.usage() == (len(one), 1)


async def test_putting_what_is_there_changes_nothing(stores: Stores) -> None:
    store, one = stores(), blob("put")
    await store.put(Digest.of(one), one)
    before = files(stores.root)
    await store.put(Digest.of(one), one)
    assert files(stores.root) == before
    assert files(stores.root, "partial") == []


@pytest.mark.parametrize("number", range(1, 300, 17))
async def test_a_failure_while_opening_is_no_end(stores: Stores, system: System, number: int) -> None:
    store, one = stores(), blob("opening")
    system.fail_at(number, FULL)
    with contextlib.suppress(StoreError):
        await fill(store, one)
    system.before = lambda number, name: None
    await fill(store, one)
    assert await content(store, Digest.of(one)) == one
    assert stores.health.status == "ok"


async def test_a_fill_is_resumed_after_a_restart(stores: Stores) -> None:
    one = blob("resumed", 3000)
    first = stores()
    partial = await first.begin(Digest.of(one))
    await first.write(partial, one[:1700])
    await first.end(partial, keep=True)
    partial.close()
    await first.aclose()

    second = stores()
    partial = await second.begin(Digest.of(one))
    assert partial.written == 1700
    await second.write(partial, one[1700:])
    await second.commit(partial)
    await second.end(partial, keep=True)
    partial.close()
    assert await content(second, Digest.of(one)) == one


async def test_what_was_damaged_meanwhile_is_not_believed(stores: Stores) -> None:
    store, one = stores(), blob("damaged", 3000)
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one[:1700])
    await store.end(partial, keep=True)
    partial.close()
    (left,) = files(stores.root, "partial")
    left.write_bytes(b"x" + left.read_bytes()[1:])
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one[1700:])
    with pytest.raises(ValueError, match="does not hold"):
        await store.commit(partial)
    await store.end(partial, keep=False)
    partial.close()
    assert files(stores.root, "partial") == []
    await fill(store, one)
    assert await content(store, Digest.of(one)) == one


async def test_a_partial_is_not_given_to_two_writers(stores: Stores) -> None:
    store, one = stores(), blob("two", 2000)
    assert await store.follow(Digest.of(one)) is None
    first = await store.begin(Digest.of(one))
    with pytest.raises(Taken):
        await store.begin(Digest.of(one))
    await store.write(first, one[:500])
    await store.end(first, keep=True)
    first.close()
    assert await store.follow(Digest.of(one)) is None
    second = await store.begin(Digest.of(one))
    assert (second.path, second.written) == (first.path, 500)
    await store.end(second, keep=False)
    second.close()


async def test_a_small_blob_is_put_past_whoever_fills_it(stores: Stores) -> None:
    store, one = stores(), blob("past", 700)
    filling = await store.begin(Digest.of(one))
    await store.write(filling, one[:500])
    await store.put(Digest.of(one), one)
    assert await content(store, Digest.of(one)) == one
    assert files(stores.root, "partial") == [filling.path]
    await store.end(filling, keep=False)
    filling.close()


async def test_what_somebody_fills_is_followed_and_told_of(stores: Stores) -> None:
    store, one = stores(), blob("followed", 2000)
    assert await store.filling(Digest.of(one)) is None
    partial = await store.begin(Digest.of(one))
    assert await store.filling(Digest.of(one)) == Filling(sends=False)
    partial.announce(None)
    assert await store.filling(Digest.of(one)) == Filling(sends=True, size=None)
    partial.announce(2000)
    followed = await store.follow(Digest.of(one))
    assert followed is not None
    assert (followed.locked, followed.filling) == (False, Filling(sends=True, size=2000))
    await store.write(partial, one[:500])
    assert followed.catch_up() is Fate.GROWS
    await store.end(followed, keep=False)
    assert (followed.written, partial.path.exists()) == (500, True), "it is not his to delete"
    await store.end(partial, keep=True)
    assert followed.catch_up() is Fate.OURS
    with pytest.raises(Taken):
        await store.begin(Digest.of(one))
    await store.end(followed, keep=True)
    again = await store.begin(Digest.of(one))
    assert await store.filling(Digest.of(one)) == Filling(sends=False), "what an earlier fill said is forgotten"
    for kept, done in ((False, again), (True, followed), (True, partial)):
        await store.end(done, keep=kept)
        done.close()


@pytest.mark.parametrize("commit", [True, False])
async def test_who_follows_sees_the_end(stores: Stores, commit: bool) -> None:
    store, one = stores(), blob("end", 2000)
    partial = await store.begin(Digest.of(one))
    followed = await store.follow(Digest.of(one))
    assert followed is not None
    await store.write(partial, one if commit else one[1:])
    if commit:
        await store.commit(partial)
    await store.end(partial, keep=False)
    partial.close()
    assert followed.catch_up() is Fate.GONE
    assert (followed.verified, followed.locked) == (commit, False)
    followed.close()


async def test_much_of_what_somebody_wrote_is_taken_over_in_steps(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "_STEP", 600)
    monkeypatch.setattr(store_files, "_REHASH_CHUNK", 400)
    store, one = stores(), blob("steps", 2000)
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one)
    followed = await store.follow(Digest.of(one))
    assert followed is not None
    await store.end(partial, keep=True)
    partial.close()
    assert [(followed.catch_up(), followed.written) for _ in range(3)] == [
        (Fate.GROWS, 800),
        (Fate.GROWS, 1600),
        (Fate.OURS, 2000),
    ]
    await store.end(followed, keep=False)
    followed.close()


async def test_where_files_have_no_attributes_nobody_waits_for_a_word(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    for name in ("setxattr", "getxattr", "removexattr"):
        monkeypatch.setattr(os, name, refuse)
    store, one = stores(), blob("plain", 2000)
    partial = await store.begin(Digest.of(one))
    partial.announce(2000)
    assert await store.filling(Digest.of(one)) == Filling(sends=True, size=None)
    await store.end(partial, keep=False)
    partial.close()


async def test_a_file_that_cannot_be_locked_is_a_failure(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, one = stores(), blob("locks", 2000)
    partial = await store.begin(Digest.of(one))

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        for call in (store.begin, store.follow, store.filling):
            with pytest.raises(StoreError, match="No locks"):
                await call(Digest.of(one))
    assert len(blobs_open(stores.root)) == 1
    await store.end(partial, keep=False)
    partial.close()


async def test_discarding_after_the_commit_spares_the_next_fill(stores: Stores) -> None:
    store, one = stores(), blob("next", 100)
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one)
    await store.commit(partial)
    following = await store.begin(Digest.of(one))
    assert following.path == partial.path
    await store.end(partial, keep=False)
    assert following.path.exists()
    await store.end(following, keep=False)
    for done in (partial, following):
        done.close()


async def test_a_full_disk_in_the_middle_keeps_what_was_written(stores: Stores, system: System) -> None:
    store, one = stores(), blob("half", 2000)
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one[:1000])

    def full(number: int, name: str) -> None:
        if name == "pwrite":
            raise FULL

    system.before = full
    with pytest.raises(StoreError) as caught:
        await store.write(partial, one[1000:])
    assert caught.value.full
    assert "store" in stores.health.reasons
    assert partial.written == 1000
    system.before = lambda number, name: None
    await store.write(partial, one[1000:])
    await store.commit(partial)
    await store.end(partial, keep=True)
    partial.close()
    assert stores.health.status == "ok"
    assert await content(store, Digest.of(one)) == one


def blobs_open(root: Path) -> list[str]:
    """What is open but the index."""
    return opened(root / "blobs") + opened(root / "partial")


class Gate:
    """Holds the store's threads at one kind of call."""

    def __init__(self, system: System, name: str) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._name = name
        system.before = self._before

    def _before(self, number: int, name: str) -> None:
        if name == self._name:
            self.reached.set()
            self._open.wait(10)

    def open(self) -> None:
        self._open.set()


async def test_a_caller_that_leaves_holds_nothing(stores: Stores, system: System) -> None:
    store, one = stores(), blob("left")
    digest = await fill(store, one)
    other = Digest.of(blob("other"))
    gate = Gate(system, "sql")
    opening = asyncio.create_task(store.open(digest))
    await asyncio.to_thread(gate.reached.wait, 10)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    gate.open()
    assert await content(store, digest) == one
    for _ in range(20):
        beginning = asyncio.create_task(store.begin(other))
        await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
    await asyncio.to_thread(eventually, lambda: not blobs_open(stores.root), "no descriptor is left open")
    partial = await store.begin(other)
    assert partial.resumable, "no lock is left either"
    await store.end(partial, keep=False)
    partial.close()


async def test_the_end_of_a_fill_does_not_overtake_its_commit(stores: Stores, system: System) -> None:
    store, one = stores(), blob("overtaken")
    partial = await store.begin(Digest.of(one))
    await store.write(partial, one)
    gate = Gate(system, "rename")
    commit = asyncio.create_task(store.commit(partial))
    await asyncio.to_thread(gate.reached.wait, 10)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    end = asyncio.create_task(store.end(partial, keep=True))
    with pytest.raises(Taken):
        await store.begin(Digest.of(one))
    assert not end.done(), "the file is still the first fill's"
    gate.open()
    await end
    partial.close()
    assert await content(store, Digest.of(one)) == one


async def test_many_fills_and_readers_at_once(stores: Stores) -> None:
    store = stores(size=30_000)
    blobs = [blob(number, 1000 + number) for number in range(40)]
    for _ in range(3):
        await asyncio.gather(*(fill(store, one, announced=len(one)) for one in blobs[:20]), return_exceptions=True)
        found = await asyncio.gather(*(content(store, Digest.of(one)) for one in blobs))
        assert all(got in (None, one) for got, one in zip(found, blobs, strict=True))
        await asyncio.gather(*(store.put(Digest.of(one), one) for one in blobs[20:]), return_exceptions=True)
        used, count = await store.usage()
        assert used <= 30_000
        assert count == len(files(stores.root))
        assert blobs_open(stores.root) == []


async def test_closing_gives_every_descriptor_back(stores: Stores) -> None:
    store = stores()
    digest = await fill(store, blob("closed"))
    await asyncio.gather(*(content(store, digest) for _ in range(50)))
    assert opened(stores.root) != []
    await store.aclose()
    assert opened(stores.root) == []


async def test_a_closed_store_says_so(stores: Stores) -> None:
    store = stores()
    digest = await fill(store, blob("closed"))
    found = await store.open(digest)
    assert found is not None
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.has(digest)
    with pytest.raises(StoreError, match="closed"):
        await store.begin(digest)
    with pytest.raises(Exception, match="closed"):
        await found.read_at(0, 10)
    found.close()
    found.close()
    assert stores.health.status == "ok"


async def test_a_store_that_was_never_used_makes_no_folder(stores: Stores) -> None:
    await stores().aclose()
    assert not stores.root.exists()
