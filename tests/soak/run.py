"""One run: builds the world, lets chance have its way for some minutes, looks whether all is well, tears it down.

In the first half every server may be killed. In the second half the elder is spared, so that what grows in a process
has time to show; it is measured in quiet moments only.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lab.images import Image
from lab.names import NameMap
from lab.pki import Pki
from lab.web import served
from soak import real, table
from soak.clients import Crowd
from soak.disk import Disk
from soak.mischief import MISCHIEF, Mischief, reconciled, told
from soak.score import Score
from soak.servers import COUNT, Vitals, make_servers
from soak.stock import MIB, Stock
from soak.troubles import Calendar
from soak.upstream import Upstream
from soak.world import World

type Images = list[tuple[str, Image]]

DISK = 128 * MIB
SIZE = 72 * MIB
MIN_FREE = 16 * MIB
WORKERS = 6
#: Seconds between two looks at the whole store and the processes.
EXAMINED = 60.0
#: Of `--size` by how much the blobs may be above it: a blob that is under way at each server.
ABOVE = COUNT * 20 * MIB


@dataclass(frozen=True)
class Terms:
    """What was asked for."""

    minutes: float
    seed: int
    mounts: bool


class Run:
    """The course of it."""

    def __init__(self, world: World, terms: Terms, folder: Path, images: Images) -> None:
        self.world = world
        self.vitals: dict[str, list[Vitals]] = {}
        self.terms = terms
        self._folder = folder
        self._images = images
        self._half = terms.minutes * 30
        self._mischief = [fault for fault in MISCHIEF if world.disk.mounted or not fault.mounts]

    async def go(self) -> None:
        """Until the time is over."""
        await self._begin()
        began = examined = time.monotonic()
        await self._warm()
        while (now := time.monotonic()) - began < self.terms.minutes * 60:
            if self.world.elder_too and now - began > self._half:
                await self._spare_the_elder()
            await asyncio.sleep(self.world.chance.uniform(0.2, 3))
            await asyncio.gather(*(self._commit(fault) for fault in self._chosen()))
            if time.monotonic() - examined > EXAMINED:
                await self._examine()
                self.world.crowd.go_on()
                examined = time.monotonic()
        await self._examine()

    def interrupt(self, going: asyncio.Task[None]) -> None:
        """Ctrl-C: what clients see from now on counts no more."""
        self.world.score.over = self.world.score.interrupted = True
        going.cancel()

    async def _begin(self) -> None:
        """Start the servers, and let the clients come."""
        world, seed = self.world, self.terms.seed
        say(f"{len(world.servers)} servers with {SIZE // MIB} MiB, {world.stock.weight // MIB} MiB at the registry")
        for server in world.servers:
            await told(world, server.start())
        world.crowd.begin(seed, WORKERS)
        if self._images:
            chance = Random(f"{seed} skopeo")
            world.crowd.join(real.RealPulls(self._folder, self._images, world.servers, world.score, chance).one)

    async def _warm(self) -> None:
        """Without faults: what goes wrong now has no excuse."""
        await asyncio.sleep(min(5.0, self._half / 4))

    async def _spare_the_elder(self) -> None:
        """From now on it lives to the end, and is measured."""
        self.world.elder_too = False
        await self._quiet()
        self._measure()
        self.world.crowd.go_on()

    def _chosen(self) -> list[Mischief]:
        faults = [fault for fault in self._mischief if self.world.elder_too or not fault.alone]
        weights = [fault.weight for fault in faults]
        first, second = self.world.chance.choices(faults, weights, k=2)
        together = self.world.chance.random() < 0.35 and first != second and not (first.alone or second.alone)
        return [first, second] if together else [first]

    async def _commit(self, fault: Mischief) -> None:
        score = self.world.score
        say(f"{time.monotonic() - score.began:7.1f} s  {fault.name}")
        score.faults[fault.name] += 1
        await fault.commit(self.world)

    async def _quiet(self) -> None:
        """Nothing is under way. The crowd stands still until it is told to go on."""
        await self.world.crowd.pause()
        for server in self.world.servers:
            await server.landed()

    def _measure(self) -> None:
        elder = self.world.servers[0]
        self.vitals.setdefault("the elder server", []).append(elder.vitals())

    async def _examine(self) -> None:
        """Is the store what it has to be, while nothing moves?"""
        await self._quiet()
        world = self.world
        await reconciled(world)
        await asyncio.to_thread(self._examine_files)
        if not world.elder_too:
            self._measure()
        world.upstream.journal.clear()

    def _examine_files(self) -> None:
        world, census = self.world, self.world.census
        stored = sum(census.files().values())
        if stored > SIZE + ABOVE:
            world.score.found("more bytes than --size", f"{stored} bytes of blobs, {SIZE} are allowed")
        for digest, row in census.rows().items():
            if row.name not in world.damaged and (reason := census.unsound(digest, row)) is not None:
                world.score.found("entries whose file is not the blob", f"{digest}: {reason}")
        for name in census.strangers():
            world.score.found("processes or files left behind", f"{name} in the store's folder")


def soak(terms: Terms, folder: Path) -> Score:
    """Do it in `folder`, and print the table; also after Ctrl-C, with what was so far."""
    with _world(terms, folder) as (world, images):
        run = Run(world, terms, folder, images)
        asyncio.run(_work(run))
        table.judge_growth(world.score, run.vitals)
    table.show(world.score, run.vitals, f"soak --minutes {terms.minutes:g} --seed {terms.seed}")
    return world.score


async def _work(run: Run) -> None:
    world = run.world
    going = asyncio.create_task(run.go())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, run.interrupt, going)
    try:
        await going
    except asyncio.CancelledError:
        pass
    except Exception as error:  # noqa: BLE001 - the table is to be seen in any case
        world.score.found("faults of the soak", repr(error))
    world.score.over = True
    await world.crowd.end()
    for server in world.servers:
        await told(world, server.stop())


@contextlib.contextmanager
def _world(terms: Terms, folder: Path) -> Iterator[tuple[World, Images]]:
    """Everything but the servers is up; they are made, and ended with the rest."""
    names, pki, stock = NameMap(), Pki(folder / "pki"), Stock(terms.seed)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(served(Upstream(pki.identity("fake.test"), stock), names))
        registries = [upstream.host]
        images: Images = []
        if lacking := real.missing():
            say(f"left out: real images, for lack of {' and '.join(lacking)}")
        else:
            registry, images = stack.enter_context(real.real_registry(folder / "registry", pki, names))
            registries.append(registry.host)
        disk = Disk(folder / "disk", DISK, mounts=terms.mounts)
        if not disk.mounted:
            say("left out: a full disk and a read-only one, which need mounts (root, or user namespaces)")
        flags = ("--size", str(SIZE), "--min-free", str(MIN_FREE))
        servers = make_servers(folder, disk.root / "data", names, pki.ca_file, registries, flags)
        calendar = Calendar()
        score = Score(calendar)
        crowd = Crowd(stock, upstream.url, servers, score)
        chance = Random(f"{terms.seed} faults")
        try:
            yield (
                World(chance, disk, stock, upstream, servers, disk.root / "data" / "store", calendar, score, crowd),
                images,
            )
        finally:
            for server in servers:
                server.end_if_running()
            if not disk.close():
                score.found("processes or files left behind", "somebody still uses the disk of the store")


def say(sentence: str) -> None:
    """To whoever watches."""
    sys.stderr.write(f"soak: {sentence}\n")
