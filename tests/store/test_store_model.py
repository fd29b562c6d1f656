"""Whatever happens to a store, in whatever order: it keeps what it was given, within its size, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lab.stores import blob, content, files
from pullthrough import store as store_module
from pullthrough.catalog import Catalog
from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection
from pullthrough.health import Health
from pullthrough.pins import Keeper, PinError, Pins
from pullthrough.purging import carry_out, plan
from pullthrough.store import Link, Partial, Store, StoreError
from pullthrough.store import index as index_module
from pullthrough.store.inspector import Inspector, Verdict
from pullthrough.store.opened import opened
from pullthrough.store.quarantine import Quarantine

SIZE = 4000
LOW_WATERMARK = 0.95
CONTENTS = {
    Digest.of(one): one for one in (blob(size, size) for size in (0, 300, 700, 1000, 1500, 1600, 2000, SIZE + 1))
}
REPOSITORIES = ("https://one.test/app", "https://two.test/app")
DATABASES = ("", "recency", "links", "facts")
DAMAGES = ("absent", "garbage", "of a later version")

digests = st.sampled_from(list(CONTENTS))
repositories = st.sampled_from(REPOSITORIES)


@dataclass
class Clock:
    """The time of day."""

    now: float = 1_000_000_000.0

    def time(self) -> float:
        return self.now


@dataclass
class Fill:
    """A blob under way: what is reserved for it, 0 if nothing is yet, and what is on disk."""

    partial: Partial
    reserved: int
    written: int

    @property
    def taken(self) -> int:
        return self.reserved or self.written


@dataclass(frozen=True)
class Use:
    """When a blob was last used: its place in the order, and the time of day."""

    place: int
    time: float


class Model(RuleBasedStateMachine):
    """A store beside what must be in it."""

    clock: Clock

    @initialize(some=st.permutations(list(CONTENTS)), begun=st.lists(digests, max_size=2, unique=True))
    def start(self, some: list[Digest], begun: list[Digest]) -> None:
        self.clock.now = Clock.now
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.numbers = itertools.count()
        self.steady = True  # did the clock never go back?
        self.stored: set[Digest] = set()
        #: Without those of which nobody can say when they count as used: most reads are written down later, or never.
        self.used: dict[Digest, Use] = {}
        self.read: set[Digest] = set()  # and perhaps not written down
        self.fills: dict[Digest, Fill] = {}
        self.left: dict[Digest, int] = {}  # by earlier fills
        self.links: set[tuple[str, Digest]] = set()
        self.held: set[Digest] = set()
        self.pinned: set[Digest] = set()
        self.data = Path(self.folder.name) / "data"
        self.data.mkdir()
        self.open()
        for digest in some:
            self.a_small_blob_is_stored(digest)
        for digest in begun:
            self.a_fill_begins(digest, announced=False)
            self.write(digest, 500)
            self.stop(digest, keep=True)

    def open(self) -> None:
        self.health = Health()
        self.pins = Pins(self.data)
        self.store = Store(self.root, SIZE, self.health, min_free=0, kept=Keeper(self.pins), busy=5.0, rest=0.0)
        self.run(self.store.usage())
        assert self.store.tidied.wait(60)

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def root(self) -> Path:
        return self.data / "store"

    @property
    def spared(self) -> set[Digest]:
        return self.held | self.pinned

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for digest in self.stored:
                assert self.run(content(self.store, digest)) == CONTENTS[digest]
            self.end()
            self.runner.close()
            self.folder.cleanup()

    def end(self) -> None:
        for digest in list(self.fills):
            self.stop(digest, keep=True)
        self.run(self.store.aclose())
        self.held.clear()
        self.read.clear()

    # -- what is true at any time

    @invariant()
    def what_was_stored_is_there_and_nothing_else(self) -> None:
        assert {digest for digest in CONTENTS if self.run(self.store.has(digest))} == self.stored
        sizes = sorted(len(CONTENTS[digest]) for digest in self.stored)
        assert self.run(self.store.usage()) == (sum(sizes), len(sizes))
        assert sorted(path.stat().st_size for path in files(self.root)) == sizes, "each file has a row"

    @invariant()
    def all_together_is_within_the_size(self) -> None:
        assert self.taken() <= SIZE

    @invariant()
    def fills_are_left_alone(self) -> None:
        wanted = self.left | {digest: fill.written for digest, fill in self.fills.items()}
        found = {path.name: path.stat().st_size for path in files(self.root, "partial")}
        assert found == {digest.hex: size for digest, size in wanted.items()}

    @invariant()
    def links_are_facts_of_their_own(self) -> None:
        for repository, digest in itertools.product(REPOSITORIES, CONTENTS):
            link = Link() if (repository, digest) in self.links else None
            assert self.run(self.store.linked(repository, digest)) == link

    @invariant()
    def nothing_of_this_is_trouble(self) -> None:
        assert self.health.status == "ok"

    def taken(self) -> int:
        """Bytes of blobs, of fills, and of what fills left."""
        blobs = sum(len(CONTENTS[digest]) for digest in self.stored)
        return blobs + sum(fill.taken for fill in self.fills.values()) + sum(self.left.values())

    def damaged(self) -> dict[Path, int]:
        """The bytes of files that were put aside."""
        return {path: path.stat().st_size for path in files(self.root, "damaged/blobs")}

    # -- making room

    def make_room(self, work: Coroutine[Any, Any, object], more: int, *, possible: bool) -> bool:
        """Do what takes `more` bytes, and see that what goes for it may go. Was it done?"""
        stored, left, aside = self.stored, self.left, self.damaged()
        taken = self.taken() + sum(aside.values()) + more
        try:
            self.run(work)
            done = True
        except StoreError as error:
            assert error.full, error  # noqa: PT017  # it need not be raised
            done = False
        remaining = {path.name for path in files(self.root, "partial")}
        self.left = {digest: size for digest, size in left.items() if digest.hex in remaining}
        self.stored = {digest for digest in stored if self.run(self.store.has(digest))}
        gone = [(digest, len(CONTENTS[digest])) for digest in stored - self.stored]
        given_up = [left[digest] for digest in left.keys() - self.left.keys()]
        freed = [size for _, size in gone] + given_up + [aside[path] for path in aside.keys() - self.damaged().keys()]
        if freed:
            assert possible
            assert taken > SIZE, "without need nothing goes"
            assert taken - sum(freed) + max(freed) > SIZE * LOW_WATERMARK or sum(freed) == 0, "no more than needed"
            assert not gone or not self.left, "what was given up goes before any blob"
            assert not (gone or given_up) or not self.damaged(), "what is damaged goes first"
            self.check_order({digest for digest, _ in gone})
        if not done and possible:
            assert taken > SIZE
            assert not self.left
            assert self.stored <= self.spared, "only what is spared may stand in the way"
        return done

    def check_order(self, gone: set[Digest]) -> None:
        assert not gone & self.spared
        for digest, other in itertools.product(gone & self.used.keys(), self.stored & self.used.keys() - self.spared):
            assert self.used[digest].place < self.used[other].place, "what was used least recently goes first"
        self.forget_use(gone | self.spared)  # if what is spared was met, it stands behind all others now

    def forget_use(self, some: set[Digest]) -> None:
        self.used = {digest: use for digest, use in self.used.items() if digest not in some}

    def use(self, digest: Digest) -> None:
        self.forget_use({digest})
        if digest not in self.read:
            self.used[digest] = Use(next(self.numbers), self.clock.now)

    # -- filling

    @rule(digest=digests)
    def a_small_blob_is_stored(self, digest: Digest) -> None:
        if digest in self.stored:
            self.run(self.store.put(digest, CONTENTS[digest]))
            return
        if digest not in self.fills:
            self.left.pop(digest, None)  # taken over, and written anew
        size = len(CONTENTS[digest])
        if self.make_room(self.store.put(digest, CONTENTS[digest]), size, possible=size <= SIZE):
            self.stored.add(digest)
            self.use(digest)

    @precondition(lambda self: len(self.fills) < 3)
    @rule(digest=digests, announced=st.booleans())
    def a_fill_begins(self, digest: Digest, announced: bool) -> None:
        if digest in self.fills:
            return
        partial = self.run(self.store.begin(digest))
        assert partial.written == self.left.pop(digest, 0), "it is resumed"
        self.fills[digest] = fill = Fill(partial, 0, partial.written)
        size = len(CONTENTS[digest])
        if (
            announced
            and size
            and self.make_room(self.store.reserve(partial, size), size - fill.taken, possible=size <= SIZE)
        ):
            fill.reserved = size

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), count=st.integers(1, SIZE // 2))
    def bytes_arrive(self, data: st.DataObject, count: int) -> None:
        self.write(data.draw(st.sampled_from(list(self.fills))), count)

    def write(self, digest: Digest, count: int) -> bool:
        fill = self.fills[digest]
        some = CONTENTS[digest][fill.written : fill.written + count]
        needed = fill.written + len(some)
        reserved = fill.reserved if needed <= fill.reserved else min(needed + SIZE // 16, SIZE)
        work = self.store.write(fill.partial, some)
        if not self.make_room(work, reserved - fill.taken, possible=needed <= SIZE):
            return False
        fill.reserved, fill.written = reserved, needed
        return True

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def a_fill_comes_to_its_end(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(list(self.fills)))
        if not self.write(digest, SIZE + 1):
            self.stop(digest, keep=True)
            return
        fill = self.fills.pop(digest)
        self.run(self.store.commit(fill.partial))
        self.run(self.store.end(fill.partial, keep=True))
        fill.partial.close()
        self.stored.add(digest)
        self.use(digest)

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), keep=st.booleans())
    def a_fill_is_given_up(self, data: st.DataObject, keep: bool) -> None:
        self.stop(data.draw(st.sampled_from(list(self.fills))), keep=keep)

    def stop(self, digest: Digest, *, keep: bool) -> None:
        fill = self.fills.pop(digest)
        self.run(self.store.end(fill.partial, keep=keep))
        fill.partial.close()
        if keep:
            self.left[digest] = fill.written

    # -- reading

    @rule(digest=digests, written_down=st.booleans())
    def a_blob_is_read(self, digest: Digest, written_down: bool) -> None:
        assert self.run(content(self.store, digest)) == (CONTENTS[digest] if digest in self.stored else None)
        if digest in self.stored:
            self.was_read(digest)
        if written_down:
            self.run(self.store.write_down())
            self.read.clear()
            if digest in self.stored:
                self.use(digest)

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), offset=st.integers(0, SIZE), limit=st.integers(1, SIZE))
    def a_part_is_read(self, data: st.DataObject, offset: int, limit: int) -> None:
        digest = data.draw(st.sampled_from(sorted(self.stored, key=str)))
        found = self.run(self.store.open(digest))
        assert found is not None
        assert self.run(found.read_at(offset, limit)) == CONTENTS[digest][offset : offset + limit]
        found.close()
        self.was_read(digest)

    def was_read(self, digest: Digest) -> None:
        self.read.add(digest)
        self.forget_use({digest})

    # -- what people and clients want of it

    @rule(digest=digests, repository=repositories)
    def a_link_is_made(self, digest: Digest, repository: str) -> None:
        self.run(self.store.link(repository, digest))
        self.links.add((repository, digest))

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def a_link_is_taken_back(self, data: st.DataObject) -> None:
        link = data.draw(st.sampled_from(sorted(self.links, key=str)))
        self.run(self.store.unlink(*link))
        self.links.discard(link)

    @rule(digest=digests)
    def a_manifest_names_it(self, digest: Digest) -> None:
        self.store.hold([digest])
        self.held.add(digest)

    @precondition(lambda self: self.stored - self.pinned)
    @rule(data=st.data())
    def it_is_pinned(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.stored - self.pinned, key=str)))
        fits = sum(len(CONTENTS[one]) for one in self.pinned | {digest}) <= SIZE
        with opened(self.root) as shelf, contextlib.nullcontext() if fits else pytest.raises(PinError, match="--size"):
            self.pins.add(Catalog(shelf), str(digest), "", SIZE)
        if fits:
            self.pinned.add(digest)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def it_is_unpinned(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.pinned, key=str)))
        self.pins.remove(str(digest), "")
        self.pinned.discard(digest)

    @rule(digest=digests)
    def it_is_purged(self, digest: Digest) -> None:
        with opened(self.root) as shelf:
            pinned = self.pins.follow(Catalog(shelf))
            carry_out(shelf, plan(shelf, Selection(str(digest), digest=digest), pinned))
        if digest not in self.pinned:
            self.stored.discard(digest)
            self.links -= {(repository, digest) for repository in REPOSITORIES}

    @rule(age=st.sampled_from([1.0, 100.0, 5000.0]))
    def the_old_retires(self, age: float) -> None:
        before, stored = self.clock.now - age, self.stored
        count = self.run(self.store.retire(age))
        self.stored = {digest for digest in stored if self.run(self.store.has(digest))}
        gone = stored - self.stored
        assert len(gone) == count
        assert not gone & (self.spared | self.read)
        old = {digest for digest, use in self.used.items() if use.time < before}
        assert gone & self.used.keys() <= old
        assert not self.steady or old & stored - self.spared <= gone
        self.read.clear()
        self.forget_use(gone | self.spared)

    # -- what happens to it

    @rule(seconds=st.sampled_from([-1000, 10, 1000, 100_000]))
    def the_clock_jumps(self, seconds: int) -> None:
        self.clock.now += seconds
        self.steady &= seconds > 0

    @rule()
    def it_is_restarted(self) -> None:
        self.end()
        self.open()

    @rule()
    def it_crashes(self) -> None:
        self.crash()
        self.open()

    def crash(self) -> None:
        """What is on disk at this moment is all that remains."""
        copy = self.data.with_name(f"data-{next(self.numbers)}")
        shutil.copytree(self.data, copy)
        self.end()
        shutil.rmtree(self.data)
        self.data = copy

    @rule(which=st.sampled_from(DATABASES), how=st.sampled_from(DAMAGES), crash=st.booleans())
    def a_database_is_lost(self, which: str, how: str, crash: bool) -> None:
        if crash:
            self.crash()
        else:
            self.end()
        self.lose(which, how)
        self.open()

    def lose(self, which: str, how: str) -> None:
        file = self.root / which / "cache.db"
        if how == "absent":
            for path in file.parent.glob("cache.db*"):
                path.unlink()
        elif how == "garbage":
            file.write_bytes(b"garbage" * 1000)
        else:
            with contextlib.closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA user_version = 1000")
        self.used.clear()
        if which == "links":
            self.links.clear()

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), how=st.sampled_from(["cut", "longer", "gone"]), restarted=st.booleans())
    def a_file_is_damaged(self, data: st.DataObject, how: str, restarted: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.stored, key=str)))
        file = self.file_of(digest)
        if how == "gone":
            file.unlink()
        else:
            size = len(CONTENTS[digest]) + 1
            os.truncate(file, size if how == "longer" or size == 1 else size - 2)
        if restarted:
            self.end()
            self.open()
        assert (how == "gone" and restarted) or self.run(content(self.store, digest)) is None
        self.stored.discard(digest)

    @precondition(lambda self: any(len(CONTENTS[digest]) for digest in self.stored))
    @rule(data=st.data())
    def a_file_rots_and_its_row_is_lost(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted((one for one in self.stored if CONTENTS[one]), key=str)))
        self.end()
        self.flip(digest)
        self.lose("", "absent")
        self.open()
        assert self.run(content(self.store, digest)) is None, "what was found is read before it is given out"
        self.stored.discard(digest)

    @precondition(lambda self: any(len(CONTENTS[digest]) for digest in self.stored))
    @rule(data=st.data())
    def a_file_rots_and_all_are_verified(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted((one for one in self.stored if CONTENTS[one]), key=str)))
        self.flip(digest)
        with opened(self.root) as shelf:
            findings = list(Inspector(shelf, Quarantine(shelf, lambda: None)).survey(int, repair=True))
        assert len(findings) == len(self.stored)
        assert [finding.verdict for finding in findings if finding.damaged] == [Verdict.WRONG]
        self.stored.discard(digest)

    def flip(self, digest: Digest) -> None:
        file = self.file_of(digest)
        file.write_bytes(bytes([CONTENTS[digest][0] ^ 1]) + CONTENTS[digest][1:])

    def file_of(self, digest: Digest) -> Path:
        (file,) = (path for path in files(self.root) if path.name.startswith(digest.hex))
        return file


@pytest.mark.timeout(600)  # what fails takes a while to be made small
def test_a_store_keeps_what_it_was_given_within_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfThisTest(Model):
        clock = Clock()

    for module in (store_module, index_module):
        monkeypatch.setattr(module, "time", OfThisTest.clock)
    run_state_machine_as_test(OfThisTest, settings=settings(max_examples=20, stateful_step_count=25))
