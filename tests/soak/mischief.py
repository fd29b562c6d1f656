"""The faults: each is committed, lasts a while, and is taken back.

Responsible for saying to the calendar what each explains, before it is committed. A fault of the disk or the index
explains no error at all. Must not judge.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lab.faults import Fault
from lab.journal import Request
from soak.census import DATABASE, digest_of_file
from soak.servers import Server
from soak.stock import KIB, MIB, MOVING
from soak.troubles import DAMAGED, ENDED, ROTTEN, UPSTREAM
from soak.world import World

#: Seconds after an upstream is well again in which clients may still feel it: a breaker asks again after 1, 2, 4 and
#: 8 seconds, and an answer that was begun may wait for its time-out.
LINGERS = 25.0
#: Seconds after a server is up again: a connection that was made to the old one may be noticed a little later.
SETTLES = 2.0
#: Seconds in which rotten bytes have to be found out once a client got them.
HEALS = 60.0
#: Seconds in which a truncated file may still be open in a reader's hands.
READ = 15.0


@dataclass(frozen=True)
class Mischief:
    """One kind of fault. `weight`: how often; `alone`: not together with another; `mounts`: needs the small disk."""

    name: str
    commit: Callable[[World], Awaitable[None]]
    weight: int = 2
    alone: bool = False
    mounts: bool = False


# -- servers


async def kill(world: World) -> None:
    """One server dies in the middle of everything; the others go on."""
    await _ended(world, world.victim(), "kill -9", Server.kill)


async def terminate(world: World) -> None:
    """One server is asked to end."""
    await _ended(world, world.victim(), "SIGTERM", Server.stop)


async def _ended(world: World, server: Server, kind: str, end: Callable[[Server], Awaitable[str | None]]) -> None:
    async with server.lock:
        with world.calendar.during(kind, ENDED, lingers=SETTLES, server=server.number):
            await told(world, end(server))
            await asyncio.sleep(world.chance.uniform(0, 1.5))
            await told(world, server.start())


async def told(world: World, doing: Awaitable[str | None]) -> None:
    """Start or stop a server; that it does not is a finding."""
    if (complaint := await doing) is not None:
        world.score.found("servers that did not come or go", complaint)


async def crash(world: World) -> None:
    """All servers die at the same moment, in full work; what they had committed is there afterwards."""
    world.crowd.hold()
    with contextlib.ExitStack() as stack:
        for server in world.servers:
            stack.enter_context(world.calendar.during("crash", ENDED, lingers=SETTLES, server=server.number))
        for server in world.servers:
            server.freeze()
        before = world.census.rows()
        for server in world.servers:
            await server.kill()
        await world.crowd.pause()
        for server in world.servers:
            await told(world, server.start())
        await reconciled(world)
        after = world.census.rows()
        for digest in before.keys() - after.keys():
            if before[digest].name not in world.damaged:
                world.score.found("entries lost", f"{digest} ({before[digest].size} bytes) after a crash")
    world.crowd.go_on()


async def reconciled(world: World) -> None:
    """Until every blob file has its row, which the servers see to in the background; else that is a finding."""
    unknown: set[str] = set()
    for _ in range(100):
        rows = world.census.rows()
        unknown = world.census.files().keys() - {row.name for row in rows.values()}
        if not unknown:
            return
        await asyncio.sleep(0.1)
    world.score.found("files without a row", f"{len(unknown)} of {len(world.census.files())}: {sorted(unknown)[:2]}")


# -- the disk


async def full(world: World) -> None:
    """Others take all room, once or again and again, and give it back."""
    with world.calendar.during("disk full", frozenset(), lingers=0):
        try:
            for _ in range(world.chance.choice((1, 1, 20))):
                await asyncio.to_thread(world.disk.fill)
                await asyncio.sleep(0.2)
            await asyncio.sleep(world.chance.uniform(0.5, 4))
        finally:
            world.disk.free()


async def read_only(world: World) -> None:
    """The servers find a disk that cannot be written when they start, and later it can."""
    async with contextlib.AsyncExitStack() as locks:
        for server in world.servers:
            await locks.enter_async_context(server.lock)
        world.crowd.hold()
        await world.crowd.pause()
        for server in world.servers:
            await told(world, server.stop())
        if not world.disk.read_only(True):
            world.score.found("faults of the soak", "the disk cannot be made read-only")
        for server in world.servers:
            await told(world, server.start())
        world.crowd.go_on()
        with world.calendar.during("disk read-only", frozenset(), lingers=0):
            try:
                await asyncio.sleep(world.chance.uniform(1, 4))
            finally:
                world.disk.read_only(False)


# -- files


async def flip(world: World) -> None:
    """Bits rot in one stored blob."""
    for path in _some_blobs(world, 1):
        if (digest := _spoil(world, path, _flip)) is not None:
            world.calendar.begin("bit flip", ROTTEN, digests={digest}, heals=HEALS)


async def truncate(world: World) -> None:
    """A stored blob lost its end."""
    for path in _some_blobs(world, 1):
        if (digest := _spoil(world, path, _shorten)) is not None:
            world.calendar.begin("truncated file", DAMAGED, digests={digest}, seconds=READ)


async def delete(world: World) -> None:
    """Somebody deletes files of the store."""
    for path in _some_blobs(world, world.chance.randint(1, 10)):
        world.damaged.add(str(path.relative_to(world.store)))
        path.unlink(missing_ok=True)


def _spoil(world: World, path: Path, change: Callable[[World, int, int], object]) -> str | None:
    """Change the file; the digest that it was. None if it is gone."""
    name = str(path.relative_to(world.store))
    world.damaged.add(name)
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        change(world, file.fileno(), os.fstat(file.fileno()).st_size)
        return digest_of_file(name)
    return None


def _shorten(_: World, fd: int, size: int) -> None:
    os.ftruncate(fd, size // 2)


def _flip(world: World, fd: int, size: int) -> None:
    at = world.chance.randrange(size)
    byte = os.pread(fd, 1, at)
    os.pwrite(fd, bytes((byte[0] ^ (1 << world.chance.randrange(8)),)), at)


def _some_blobs(world: World, number: int) -> list[Path]:
    names = sorted(name for name, size in world.census.files().items() if size > 0)
    return [world.store / name for name in world.chance.sample(names, min(number, len(names)))]


async def garbage(world: World) -> None:
    """Somebody writes over a database."""
    folder = world.chance.choice((".", ".", "recency", "links", "facts"))
    file = world.store / folder / world.chance.choice((DATABASE, DATABASE, f"{DATABASE}-wal"))
    with contextlib.suppress(FileNotFoundError), file.open("r+b") as opened:
        size = os.fstat(opened.fileno()).st_size
        for _ in range(world.chance.randint(1, 8)):
            at = world.chance.randrange(max(1, size // (4 * KIB))) * 4 * KIB
            os.pwrite(opened.fileno(), world.chance.randbytes(4 * KIB), at)


# -- the registry


def upstream(kind: str, *faults: Fault, method: str | None = None) -> Callable[[World], Awaitable[None]]:
    """The registry commits one of these faults on a part of its contents, or on all of them."""

    async def commit(world: World) -> None:
        fault = world.chance.choice(faults)
        some = None if world.chance.random() < 0.4 else _some_contents(world)
        with world.calendar.during(kind, UPSTREAM, lingers=LINGERS):
            armed = world.upstream.fault(_about(some), fault, times=None, method=method)
            await asyncio.sleep(world.chance.uniform(1, 8))
            world.upstream.disarm(armed)

    return commit


async def wrong_bytes(world: World) -> None:
    """The registry sends other bytes than it should. No client may take a blob of them for whole."""
    some = _some_contents(world)
    with world.calendar.during("upstream: wrong bytes", ROTTEN | UPSTREAM, lingers=LINGERS, digests=some):
        fault = Fault(corrupt_at=world.chance.randrange(64 * KIB))
        armed = world.upstream.fault(lambda request: _digest(request) in some, fault, times=None)
        await asyncio.sleep(world.chance.uniform(1, 8))
        world.upstream.disarm(armed)
    # What a fill left that was interrupted is found out by the fill that goes on with it, whenever that is.
    left = {digest for digest in some if (world.store / "partial" / digest.replace(":", "/")).exists()}
    world.calendar.begin("upstream: wrong bytes, in a partial", ROTTEN | UPSTREAM, digests=left)


def _some_contents(world: World) -> set[str]:
    known = sorted((*world.stock.blobs, *world.stock.manifests))
    return set(world.chance.sample(known, len(known) // 3))


def _about(digests: Collection[str] | None) -> Callable[[Request], bool]:
    return lambda request: digests is None or _digest(request) in digests


def _digest(request: Request) -> str:
    return request.path.rpartition("/")[2]


async def move_tags(world: World) -> None:
    """No fault: tags name other images now."""
    for tag in world.stock.tags:
        if tag.name == MOVING and world.chance.random() < 0.5:
            world.stock.move(world.upstream, tag)


MISCHIEF = (
    Mischief("kill -9", kill, weight=4),
    Mischief("SIGTERM", terminate),
    Mischief("crash of all servers", crash, weight=3, alone=True),
    Mischief("disk full", full, weight=4, mounts=True),
    Mischief("disk read-only", read_only, weight=1, alone=True, mounts=True),
    Mischief("bit flip", flip, weight=4),
    Mischief("truncated file", truncate),
    Mischief("deleted files", delete),
    Mischief("garbage in a database", garbage),
    Mischief("upstream: 500", upstream("upstream: 500", Fault(status=500), Fault(status=503))),
    Mischief("upstream: 429", upstream("upstream: 429", Fault(status=429, headers={"Retry-After": "2"}))),
    Mischief("upstream: silence", upstream("upstream: silence", Fault(hold_headers=True), Fault(stall_after=8 * KIB))),
    Mischief(
        "upstream: cut",
        upstream(
            "upstream: cut",
            Fault(cut_after=0),
            Fault(cut_after=100, reset=True),
            Fault(cut_after=64 * KIB),
            Fault(cut_after=MIB, reset=True),
            method="GET",
        ),
        weight=4,
    ),
    Mischief("upstream: wrong bytes", wrong_bytes, weight=3),
    Mischief("tags moved", move_tags, weight=3),
)
