"""What a store of very many entries costs: start, look-ups, eviction, disk and memory (`scripts/scale`).

Measures the real store and the real `pullthrough run` on one that `lab.multitude` made, and prints what it found; it
judges nothing. All lies in one folder, which is deleted at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from lab.deadline import eventually
from lab.multitude import REPOSITORY, entries, populate, total
from lab.ports import free_port
from lab.programs import Program, environment
from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.store import Store
from pullthrough.store.index import folders

ADDON: Final = Path(__file__).resolve().parents[2] / "addon"
#: Eviction is measured for so many entries as well, to compare.
FEW: Final = 10_000
LOOKUPS: Final = 2000
#: The first one makes a CA as well.
STARTS: Final = 3
#: How many may be held at the same time.
HELD: Final = 65_536
#: Seconds to start, and to watch files being found again.
PATIENCE: Final = 300.0
WATCH: Final = 20.0

type Lookup = Callable[[Store, Digest], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="blobs in the store (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the store is made; its disk needs an inode for each entry")
    chosen = parser.parse_args()
    if chosen.entries < 1000:
        parser.error("--entries must be 1000 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="pullthrough-scale.", dir=chosen.folder) as folder:
        server = Server(Path(folder) / "data", total(chosen.entries) * 8)
        try:
            measure(server, Path(folder), chosen.entries)
        finally:
            server.stop_if_running()


def measure(server: Server, folder: Path, count: int) -> None:
    """All of it, from an empty folder on."""
    title("start, until /readyz is 200")
    for _ in range(STARTS):
        server.start("an empty store")
        server.stop()
    with timed("(to make the store)"):
        populate(server.store, count)
    for _ in range(STARTS - 1):
        server.start(f"{count} entries")
        server.stop()
    server.start(f"{count} entries")
    say("its memory then", f"{server.resident() / 2**20:.0f} MiB")
    server.stop()
    title("on disk, without the blobs")
    for database in folders(server.store):
        size = sum(file.stat().st_size for file in database.glob("cache.db*"))
        say(
            f"database of {database.name if database != server.store else 'blobs'}",
            f"{size / 2**20:.0f} MiB, {size / count:.0f} bytes for each entry",
        )
    asyncio.run(look_up(server.store, count))
    title("eviction")
    populate(folder / "few", FEW)
    asyncio.run(evict(folder / "few", FEW))
    asyncio.run(evict(server.store, count))
    title("start on a damaged index, and what is found again by its files")
    for damage in (garbled, removed):
        damage(server.store)
        server.start(f"its database {damage.__name__}")
        server.watch()
        server.stop()


class Server:
    """`pullthrough run` on one data folder."""

    def __init__(self, data: Path, size: int) -> None:
        data.mkdir()
        self.store = data / "store"
        self._port = free_port()
        flags = ["--data-dir", str(data), "--listen", f"127.0.0.1:{self._port}", "--size", str(size)]
        self._program = Program(
            [sys.executable, "-m", "pullthrough", "run", *flags],
            environment(data, PYTHONPATH=str(ADDON)),
            data.with_suffix(".log"),
        )

    def start(self, what: str) -> None:
        """Start it, and say how long that took."""
        began = time.perf_counter()
        self._program.start()
        eventually(self._condition, "/readyz", PATIENCE)
        say(what, f"{time.perf_counter() - began:.3f} s, {self._worked():.2f} s of them work")

    def stop(self) -> None:
        self._program.end()

    def stop_if_running(self) -> None:
        """For the end, whatever came before it."""
        self._program.end_if_running()

    def _worked(self) -> float:
        """Seconds of processors."""
        fields = Path(f"/proc/{self._program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Bytes of memory."""
        status = Path(f"/proc/{self._program.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def watch(self) -> None:
        """Say how fast blobs are found again, while there are some, and how long an answer takes meanwhile."""
        began, times = time.monotonic(), list[float]()
        first = last = self._blobs()
        grown = began
        while time.monotonic() < began + WATCH:
            asked = time.perf_counter()
            now = self._blobs()
            times.append(time.perf_counter() - asked)
            if now > last:
                last, grown = now, time.monotonic()
            time.sleep(0.01)
        rate = f"{(last - first) / (grown - began):.0f} entries/s" if last > first else "all before it was ready"
        say("  found again", rate)
        say("  /readyz meanwhile", percentiles(times))

    def _blobs(self) -> int:
        return int(self._condition()["store"]["blobs"])

    def _condition(self) -> dict[str, Any]:
        """What /readyz says; {} if it does not answer yet."""
        if self._program.exit_code is not None:
            raise RuntimeError(f"pullthrough ended: {self._program.log.read_text()[-2000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        with contextlib.closing(connection), contextlib.suppress(ConnectionError):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
            return found if answer.status == 200 else {}
        return {}


# -- look-ups


async def look_up(root: Path, count: int) -> None:
    """Look-ups one after the other, while the look at all files goes on that follows a start, and without."""
    step = max(1, count // (2 * LOOKUPS))
    stored = [digest for digest, _ in itertools.islice(entries(count), 0, None, step)]
    random.Random(0).shuffle(stored)
    async with opened(root, 1 << 60) as store:
        with timed("bytes and number of all blobs"):
            await store.usage()
        title("look-ups, while all files are looked at")
        await look_up_each(store, stored)
        with timed("until all were looked at"):
            await asyncio.to_thread(store.tidied.wait)
        title("look-ups, at rest")
        await look_up_each(store, stored)


async def look_up_each(store: Store, stored: Sequence[Digest]) -> None:
    absent = [Digest.of(str(number).encode()) for number in range(LOOKUPS)]
    kinds: list[tuple[str, Lookup, Sequence[Digest]]] = [
        ("stored", Store.has, stored[:LOOKUPS]),
        ("absent", Store.has, absent),
        ("linked", lambda store, digest: store.linked(REPOSITORY, digest), stored[:LOOKUPS]),
        ("opened", _open, stored[:LOOKUPS]),
        ("opened, and 4 KiB read", _open_and_read, stored[-LOOKUPS:]),
    ]
    for name, look, digests in kinds:
        times = []
        for digest in digests:
            began = time.perf_counter()
            await look(store, digest)
            times.append(time.perf_counter() - began)
        say(name, percentiles(times))


async def _open(store: Store, digest: Digest) -> None:
    found = await store.open(digest)
    if found is None:
        raise RuntimeError(f"{digest} is not there")
    found.close()


async def _open_and_read(store: Store, digest: Digest) -> None:
    found = await store.open(digest)
    if found is None or not await found.read_at(0, 4096):
        raise RuntimeError(f"{digest} is not there")
    found.close()


# -- eviction


async def evict(root: Path, count: int) -> None:
    """Make room for what needs few blobs to go, and many, with nothing else going on."""
    async with opened(root, total(count)) as store:
        await asyncio.to_thread(store.tidied.wait)
        for needed in (1, 100, min(10_000, count // 5)):
            await make_room(store, count, needed)
        await make_room(store, count, 1, held=min(HELD, count // 5))


async def make_room(store: Store, count: int, needed: int, held: int = 0) -> None:
    """Reserve so much that about `needed` blobs must go, behind so many that are held; say how fast that was."""
    used, before = await store.usage()
    first = list(itertools.islice(entries(count), count - before, count - before + held + needed))
    store.hold(digest for digest, _ in first[:held])
    partial = await store.begin(Digest.of(b"what needs room"))
    began = time.perf_counter()
    await store.reserve(partial, store.size - used + sum(size for _, size in first[held:]))
    took = time.perf_counter() - began
    await store.end(partial, keep=False)
    partial.close()
    after, left = await store.usage()
    gone = before - left
    what = f"of {count} entries, {needed}" + (f" behind {held} that are held" if held else "")
    rate = f"{gone / took:.0f} blobs/s, {(used - after) / took / 2**20:.0f} MiB/s, {took / gone * 1e6:.0f} us for each"
    say(what, f"{gone} went in {took:.3f} s: {rate}")


# -- the store, damage, and words


@contextlib.asynccontextmanager
async def opened(root: Path, size: int) -> AsyncIterator[Store]:
    store = Store(root, size, Health(), min_free=0)
    try:
        await store.usage()
        yield store
    finally:
        await store.aclose()


def garbled(root: Path) -> None:
    """The database of blobs is none any more."""
    (root / "cache.db").write_bytes(b"garbage" * 1000)


def removed(root: Path) -> None:
    """Nor is it there."""
    for file in root.glob("cache.db*"):
        file.unlink()


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long it took."""
    began = time.perf_counter()
    yield
    say(what, f"{time.perf_counter() - began:.3f} s")


def percentiles(times: list[float]) -> str:
    """Of seconds."""
    times.sort()
    half, most, last = times[len(times) // 2], times[len(times) * 99 // 100], times[-1]
    return f"p50 {half * 1e3:.2f} ms, p99 {most * 1e3:.2f} ms, longest {last * 1e3:.2f} ms"


def title(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def say(name: str, value: str) -> None:
    sys.stdout.write(f"  {name:<46} {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
