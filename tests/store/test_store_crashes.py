"""kill -9, power failure and faults at any call: what is indexed is whole, what was stored is there, and it goes on."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import storework
from lab.powerloss import Disk, Image, write
from lab.programs import environment
from lab.proxy import SOURCES
from lab.stores import content, opened
from lab.storework import STEPS, Step
from lab.system import System
from pullthrough.core.digest import Digest
from pullthrough.messages import BodyError
from pullthrough.store import Store, StoreError, files

SHM = Path("/dev/shm")  # noqa: S108  # a folder of our own is made in it
#: Of the calls that change something, each so-and-so-many-th kills a real process.
KILLED = 41
#: Ways for a call to fail.
FAULTS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
#: The steps that do not end the store.
LASTING = 13


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory, if there is such: an fsync that costs nothing is as good as any for this."""
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Moment:
    """A disk as it may be found, and the blobs that must be on it."""

    image: Image
    held: frozenset[bytes]


async def moments(root: Path, system: System, *, power: bool) -> list[Moment]:
    """All that differ, from before the first call of a store's work to after its last."""
    disk, chance = Disk(root), random.Random(0)
    found: dict[int, Moment] = {}
    done = 0

    def note(number: int = 0, name: str = "") -> None:
        if number and not system.changes:
            return
        held = frozenset(storework.promised(STEPS[:done], STEPS[done : done + 1]))
        for image in disk.after_power_loss(chance) if power else (disk.after_death(),):
            seen = {name: data for name, data in image.items() if not name.startswith(("recency", "links", "facts"))}
            key = hash((held, frozenset(seen.items())))
            found.setdefault(key, Moment(image, held))

    system.before, system.after = note, disk.saw
    store = storework.make(root)
    for done, step in enumerate(STEPS):  # noqa: B007
        await step.work(store)
    done = len(STEPS)
    note()
    return list(found.values())


def assert_whole(root: Path, moment: Moment, *, power: bool) -> None:
    """What is indexed is right; what must be there is there, be it with a row or not."""
    write(moment.image, root)
    storework.assert_indexed_are_whole(root, missing=power)
    kept = {data for name, data in moment.image.items() if name.startswith("blobs/")}
    assert moment.held <= kept


def all_moments(root: Path, *, power: bool) -> list[Moment]:
    system = System()
    with system.installed():
        return asyncio.run(moments(root, system, power=power))


def assert_all_are_sound(folder: Path, found: list[Moment], *, power: bool, restarted: int) -> None:
    """Look at every one, and start the store again on each so-and-so-many-th."""
    for number, moment in enumerate(found):
        root = folder / str(number)
        assert_whole(root, moment, power=power)
        if number % restarted == 0:
            asyncio.run(storework.assert_restarts(root, moment.held))
        shutil.rmtree(root)


def test_whoever_is_killed_at_any_call_leaves_whole_blobs(quick: Path) -> None:
    found = all_moments(quick / "store", power=False)
    assert len(found) > 100
    assert_all_are_sound(quick, found, power=False, restarted=3)


def test_a_power_failure_at_any_call_leaves_whole_blobs(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was synced is surely there; the rest came, or came in parts, or did not come."""
    found = all_moments(quick / "store", power=True)
    assert len(found) > 500
    (quick / "boot").write_text("the next one")
    monkeypatch.setattr(files, "_BOOT_ID", quick / "boot")
    assert_all_are_sound(quick, found, power=True, restarted=20)


def test_processes_that_are_killed(quick: Path) -> None:
    """The same with real processes, SIGKILL, and locks that the kernel takes back."""
    command = [sys.executable, "-m", "lab.dying", str(quick), str(KILLED)]
    env = environment(quick, PYTHONPATH=":".join(map(str, SOURCES)))
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    killed = ran.stdout.split()
    assert len(killed) > 8
    for number in killed:
        done = (quick / number / "done").stat().st_size if (quick / number / "done").exists() else 0
        root = quick / number / "store"
        storework.assert_indexed_are_whole(root)
        asyncio.run(storework.assert_restarts(root, storework.promised(STEPS[:done], STEPS[done : done + 1])))


async def test_any_call_may_fail(quick: Path, system: System) -> None:
    """In one store that goes on running; each time another call, of all that its work consists of, in another way."""
    root = quick / "store"
    store, work = storework.make(root), STEPS[:LASTING]
    for number, code in zip(itertools.count(), itertools.cycle(FAULTS)):
        began = len(system.calls)
        system.fail_at(began + number, OSError(code, os.strerror(code)))
        held = await worked(store, work)
        made = len(system.calls) - began
        system.fail_no_more()
        for whole in held:
            assert await content(store, Digest.of(whole)) == whole
        assert store._opened is None or store._opened.room._reserved == {}
        assert opened(root / "blobs") + opened(root / "partial") == []
        if number > made > 0:
            break
    assert number > 200
    await store.aclose()
    assert opened(root) == []
    await storework.assert_restarts(root, ())


async def worked(store: Store, steps: Iterable[Step]) -> set[bytes]:
    """Do that; what the store says that it cannot do is left. The blobs that must be there."""
    held: set[bytes] = set()
    for step in steps:
        held.difference_update(step.loses)
        try:
            await step.work(store)
        except (StoreError, BodyError):
            held.difference_update(step.stores, step.reads)
        else:
            held.update(step.stores)
    return held
