"""Flights of two processes over one store: one fetches, the other follows. With eager tasks, as under mitmproxy."""

import asyncio
import errno
import os
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, basic, only
from lab.faults import Fault
from lab.inside import Inside, TroubledStore, digest_in, inside, open_files, reached, until
from lab.journal import find
from pullthrough import following
from pullthrough.core.digest import Digest
from pullthrough.fetch import Mirrored, Source
from pullthrough.flight import Flight, FlightBlob, NotTheBlob
from pullthrough.flights import Flights
from pullthrough.messages import BodyError
from pullthrough.store import Partial, StoreError, Taken
from pullthrough.store.index import Index

DATA = random.Random(3).randbytes(300_000)
HALF = 100_000
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=True) as it:
        yield it


@pytest.fixture
def name(proxy: Inside) -> str:
    return proxy.fake.add_blob(DATA)


@pytest.fixture
def digest(name: str) -> Digest:
    return digest_in(name)


@dataclass
class Other:
    """What another process has of its own."""

    store: TroubledStore
    flights: Flights
    digest: Digest
    source: Source

    def join(self, source: Source | None = None, size: int | None = None, *, entitled: bool = True) -> FlightBlob:
        mirrored = Mirrored(size=size)
        return self.flights.join(self.digest, source or self.source, mirrored=mirrored, entitled=entitled)[0]

    @property
    def flight(self) -> Flight:
        flight = self.flights.find(self.digest)
        assert flight is not None
        return flight

    async def sees(self, size: int) -> FlightBlob:
        """A reader, when there are so many bytes for it."""
        blob = self.join()
        await blob.opened()
        await until(lambda: self.flight.visible == size)
        return blob

    async def landed(self) -> None:
        await until(lambda: not len(self.flights))


@pytest.fixture
async def other(proxy: Inside, digest: Digest) -> AsyncIterator[Other]:
    """The process that follows."""
    store = TroubledStore(proxy.folder)
    made = Other(store, Flights(store, proxy.upstream, 64), digest, proxy.source())
    yield made
    proxy.fake.release()
    await made.flights.aclose()
    await store.aclose()


@dataclass
class Filler:
    """A fill of which a test decides each step; it dies without a word."""

    store: TroubledStore
    partial: Partial

    async def write(self, content: bytes) -> None:
        await self.store.write(self.partial, content)

    async def delete(self) -> None:
        await self.store.end(self.partial, keep=False)

    def die(self) -> None:
        self.partial.close()


@pytest.fixture
async def filler(proxy: Inside, digest: Digest) -> AsyncIterator[Filler]:
    """It has the first bytes."""
    partial = await proxy.store.begin(digest)
    made = Filler(proxy.store, partial)
    partial.announce(len(DATA))
    await made.write(DATA[:HALF])
    yield made
    made.die()


def join(proxy: Inside, digest: Digest, source: Source | None = None) -> FlightBlob:
    return proxy.flights.join(digest, source or proxy.source())[0]


async def rest(blob: FlightBlob, offset: int = 0) -> bytes:
    got = bytearray()
    try:
        while chunk := await blob.read_at(offset + len(got), 70_000):
            got += chunk
    finally:
        blob.close()
    return bytes(got)


async def until_cut(blob: FlightBlob) -> bytes:
    got = bytearray()
    with pytest.raises(BodyError):
        try:
            while chunk := await blob.read_at(len(got), 70_000):
                got += chunk
        finally:
            blob.close()
    return bytes(got)


def gets(proxy: Inside, name: str) -> list[str | None]:
    return [request.range for request in find(proxy.fake.journal, name, method="GET")]


async def test_what_another_process_is_about_to_have_stored_is_not_fetched_again(
    proxy: Inside, other: Other, name: str, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, go_on, adopt = threading.Event(), threading.Event(), Index.adopt

    def later(index: Index, digest: Digest, file: str, size: int) -> None:
        renamed.set()
        assert go_on.wait(20)
        adopt(index, digest, file, size)

    monkeypatch.setattr(Index, "adopt", later)
    assert await rest(join(proxy, digest)) == DATA
    assert await asyncio.to_thread(renamed.wait, 20)

    assert await rest(other.join()) == DATA
    go_on.set()
    await other.landed()
    await proxy.landed()
    assert gets(proxy, name) == [None], "it came from the upstream once"


async def test_what_another_process_fetches_is_read_while_it_comes(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    armed = proxy.fake.fault(name, Fault(stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    assert (ours.size, ours.followed, ours.landed) == (len(DATA), True, False)
    assert await ours.read_at(10, HALF) == DATA[10:HALF]
    armed.release()

    assert await rest(ours) == await rest(theirs) == DATA
    await proxy.landed()
    await other.landed()
    assert gets(proxy, name) == [None]
    assert await other.store.usage() == (len(DATA), 1)
    assert proxy.partials() == []


async def test_to_follow_proves_nothing(proxy: Inside, other: Other, filler: Filler) -> None:
    told: list[bool] = []

    async def proved() -> None:
        told.append(True)

    blob, _ = other.flights.join(other.digest, other.source, 1.0, proved, entitled=True)
    await blob.opened()
    filler.die()

    assert await rest(blob) == DATA
    await other.landed()
    assert told == []


async def test_only_who_is_entitled_follows(proxy: Inside, other: Other, filler: Filler) -> None:
    blob = other.join(entitled=False)
    with pytest.raises(Taken):
        await blob.opened()
    blob.close()


async def test_nobody_gets_headers_before_the_upstream_sends(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    armed = proxy.fake.fault(name, Fault(hold_headers=True))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = other.join()
    await until(lambda: other.store.done["follow"])
    opened = asyncio.ensure_future(ours.opened())
    await asyncio.sleep(0.02)
    assert not opened.done()
    armed.release()
    await opened

    assert await rest(ours) == await rest(theirs) == DATA
    assert gets(proxy, name) == [None]


async def test_whom_the_upstream_refuses_leaves_the_blob_to_who_follows(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    proxy.fake.manners.accepts = only(BOB)
    armed = proxy.fake.fault(name, Fault(status=403, hold_headers=True))
    theirs = join(proxy, digest, proxy.source(ALICE))
    await reached(armed)
    ours = other.join(proxy.source(BOB))
    await until(lambda: other.store.done["follow"])
    armed.release()

    assert await rest(ours) == DATA
    assert not ours.followed
    assert await until_cut(theirs) == b""
    assert [request.headers["authorization"] for request in find(proxy.fake.journal, name)] == [ALICE, BOB]


async def test_a_length_that_nobody_says(proxy: Inside, other: Other, name: str, digest: Digest) -> None:
    armed = proxy.fake.fault(name, Fault(chunked=True, stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF - 1)  # nobody knows yet whether that was the last byte
    assert ours.size is None
    armed.release()

    assert await ours.sized() == len(DATA)
    assert await rest(ours) == await rest(theirs) == DATA


async def test_the_registry_may_have_said_the_length(
    proxy: Inside, other: Other, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "getxattr", refuse)
    ours = other.join(size=len(DATA))
    await ours.opened()
    assert ours.size == len(DATA)
    filler.die()

    assert await rest(ours) == DATA


# -- the other one ends


async def test_a_fill_whose_process_dies_goes_on(proxy: Inside, other: Other, filler: Filler, name: str) -> None:
    ours = await other.sees(HALF)
    armed = proxy.fake.fault(name, Fault(stall_after=1000))
    filler.die()
    await reached(armed)
    assert ours.size == len(DATA)
    armed.release()

    assert await rest(ours) == DATA
    await other.landed()
    assert gets(proxy, name) == [f"bytes={HALF}-"]
    assert await proxy.store.has(other.digest)
    assert proxy.partials() == []


async def test_a_fill_that_is_stopped_goes_on(proxy: Inside, other: Other, name: str, digest: Digest) -> None:
    armed = proxy.fake.fault(name, Fault(stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    await proxy.flights.aclose()

    assert await until_cut(theirs) == DATA[:HALF]
    assert await rest(ours) == DATA
    assert gets(proxy, name) == [None, f"bytes={HALF}-"]


async def test_whose_token_is_good_goes_on(proxy: Inside, other: Other, filler: Filler, name: str) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    first, second = other.join(proxy.source(ALICE)), other.join(proxy.source(BOB))
    await first.opened()
    filler.die()

    assert await rest(first) == await rest(second) == DATA
    assert [request.headers["authorization"] for request in find(proxy.fake.journal, name)] == [BOB, ALICE]


async def test_a_fill_that_dies_with_the_last_byte_is_committed_without_asking(
    proxy: Inside, other: Other, filler: Filler, name: str
) -> None:
    ours = await other.sees(HALF)
    await filler.write(DATA[HALF:])
    filler.die()

    assert await rest(ours) == DATA
    await other.landed()
    assert gets(proxy, name) == []
    assert await other.store.has(other.digest)


async def test_a_fill_that_ends_before_anybody_looks(proxy: Inside, other: Other, filler: Filler, name: str) -> None:
    """Taken, and then free: it is begun as any other."""
    go = other.store.holding["follow"] = asyncio.Event()
    ours = other.join()
    await until(lambda: other.store.calls["follow"])
    filler.die()
    go.set()

    assert await rest(ours) == DATA
    assert not ours.followed


async def test_a_fill_that_is_over_at_the_first_look(proxy: Inside, other: Other, filler: Filler, name: str) -> None:
    filler.partial.retract()
    stay = other.store.lingering["follow"] = asyncio.Event()
    ours = other.join()
    await until(lambda: other.store.done["follow"])
    await filler.write(DATA[HALF:])
    await proxy.store.commit(filler.partial)
    await proxy.store.end(filler.partial, keep=True)
    stay.set()

    assert await rest(ours) == DATA
    assert gets(proxy, name) == []


async def test_a_flight_lasts_until_the_blob_is_stored(proxy: Inside, other: Other, name: str, digest: Digest) -> None:
    """Else whoever came between would fetch it again."""
    go = proxy.store.holding["commit"] = asyncio.Event()
    theirs = join(proxy, digest)
    await until(lambda: proxy.store.calls["commit"])
    ours = other.join()

    assert await rest(ours) == DATA
    assert other.flight.landed
    assert not await other.store.has(digest)
    go.set()
    await other.landed()
    assert await other.store.has(digest)
    theirs.close()


async def test_a_commit_that_fails_disturbs_nobody(proxy: Inside, other: Other, name: str, digest: Digest) -> None:
    proxy.store.failing["commit"] = 1
    armed = proxy.fake.fault(name, Fault(stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    armed.release()

    assert await rest(ours) == await rest(theirs) == DATA
    await other.landed()
    assert proxy.partials() == []


# -- what is wrong


async def test_wrong_bytes_never_arrive_whole(proxy: Inside, other: Other, name: str, digest: Digest) -> None:
    armed = proxy.fake.fault(name, Fault(corrupt_at=5, stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    armed.release()

    assert len(await until_cut(ours)) < len(DATA)
    assert len(await until_cut(theirs)) == len(DATA) - 1
    await proxy.landed()
    await other.landed()
    assert proxy.partials() == []
    assert not await other.store.has(digest)
    assert await rest(other.join()) == DATA


@pytest.mark.parametrize("surplus", [b"", b"surplus"])
async def test_wrong_bytes_of_the_right_length_or_more(
    proxy: Inside, other: Other, filler: Filler, surplus: bytes
) -> None:
    ours = await other.sees(HALF)
    await filler.write(bytes(len(DATA) - HALF) + surplus)

    assert await until_cut(ours) == DATA[:HALF]
    await filler.delete()


@pytest.mark.parametrize("surplus", [b"", b"surplus"])
async def test_what_is_plainly_wrong_is_shown_to_nobody(
    proxy: Inside, other: Other, filler: Filler, surplus: bytes
) -> None:
    await filler.write(bytes(len(DATA) - HALF) + surplus)
    ours = other.join()
    with pytest.raises(NotTheBlob):
        await ours.opened()
    with pytest.raises(BodyError):
        await ours.read_at(0, 1)
    ours.close()
    assert filler.partial.path.exists(), "it is not ours to delete"


async def test_what_is_plainly_wrong_is_deleted_by_who_takes_it_over(
    proxy: Inside, other: Other, filler: Filler
) -> None:
    look = other.store.lingering["follow"] = asyncio.Event()
    ours = other.join()
    await until(lambda: other.store.done["follow"])
    await filler.write(bytes(len(DATA) - HALF))
    filler.die()
    look.set()

    with pytest.raises(NotTheBlob):
        await ours.opened()
    ours.close()
    await other.landed()
    assert proxy.partials() == []
    assert await rest(other.join()) == DATA


async def test_a_wrong_beginning_that_was_deleted_is_found_out_in_the_end(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    partial = await proxy.store.begin(digest)
    partial.announce(len(DATA))
    filler = Filler(proxy.store, partial)
    await filler.write(bytes(HALF))
    ours = await other.sees(HALF)
    await filler.delete()
    filler.die()

    assert await until_cut(ours) == bytes(HALF) + DATA[HALF:-1]
    await other.landed()
    assert gets(proxy, name) == [f"bytes={HALF}-"]
    assert proxy.partials() == []


async def test_less_than_was_announced_is_stored_and_readers_are_cut(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    armed = proxy.fake.fault(name, Fault(length_lie=5, stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    armed.release()

    assert ours.size == len(DATA) + 5
    assert await rest(ours) == DATA, "and that is less than its client was told"
    assert await until_cut(theirs) == DATA
    await other.landed()
    assert await other.store.has(digest)


# -- a disk that is full


async def test_a_disk_that_was_full_for_one_may_do_for_the_other(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    armed = proxy.fake.fault(name, Fault(stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    proxy.store.failing["write"] = proxy.store.calls["write"] + 1
    armed.release()

    assert await rest(ours) == await rest(theirs) == DATA
    await other.landed()
    assert gets(proxy, name) == [None] + [f"bytes={HALF}-"] * 2
    assert await other.store.has(digest)
    assert proxy.partials() == []


@pytest.mark.parametrize("call", ["begin", "write", "reserve"])
async def test_readers_go_on_alone_when_the_disk_is_full_for_both(
    proxy: Inside, other: Other, filler: Filler, call: str
) -> None:
    ours = await other.sees(HALF)
    other.store.failing[call] = other.store.calls[call] + 1
    await filler.delete()

    assert await rest(ours) == DATA
    await other.landed()
    assert proxy.partials() == []


@pytest.mark.parametrize("busy", [True, False])
async def test_readers_go_on_alone_when_a_third_began_anew(
    proxy: Inside, other: Other, filler: Filler, digest: Digest, busy: bool
) -> None:
    ours = await other.sees(HALF)
    go = other.store.holding["begin"] = asyncio.Event()
    begun = other.store.calls["begin"]
    await filler.delete()
    await until(lambda: other.store.calls["begin"] > begun)
    third = await proxy.store.begin(digest)
    await proxy.store.write(third, DATA[:10])
    if not busy:
        await proxy.store.end(third, keep=True)
    go.set()

    assert await rest(ours) == DATA
    await proxy.store.end(third, keep=False)
    third.close()


async def test_a_disk_that_loses_bytes(proxy: Inside, other: Other, filler: Filler) -> None:
    ours = await other.sees(HALF)
    assert await ours.read_at(0, HALF) == DATA[:HALF]
    go = other.store.holding["begin"] = asyncio.Event()
    begun = other.store.calls["begin"]
    os.ftruncate(filler.partial.fd, 50_000)
    await filler.delete()
    await until(lambda: other.store.calls["begin"] > begun)
    go.set()

    assert await rest(ours, HALF) == DATA[HALF:]


# -- patience


@pytest.mark.parametrize("bound", ["_SILENCE", "_UNTIL_IT_SENDS"])
async def test_a_fill_that_makes_no_progress_is_not_waited_for(
    proxy: Inside, other: Other, filler: Filler, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    if bound == "_UNTIL_IT_SENDS":
        filler.partial.retract()
    monkeypatch.setattr(following, bound, 0.0)
    ours = other.join()
    if bound == "_SILENCE":
        assert await rest(ours) == DATA
    else:
        with pytest.raises(StoreError, match="no progress"):
            await ours.opened()
        ours.close()
    assert filler.partial.path.exists()


async def test_the_end_of_who_follows_is_no_end_of_who_fetches(
    proxy: Inside, other: Other, name: str, digest: Digest
) -> None:
    armed = proxy.fake.fault(name, Fault(stall_after=HALF))
    theirs = join(proxy, digest)
    await reached(armed)
    ours = await other.sees(HALF)
    await other.flights.aclose()
    assert await until_cut(ours) == DATA[:HALF]
    assert len(open_files(proxy.folder)) == 1
    armed.release()

    assert await rest(theirs) == DATA
    assert gets(proxy, name) == [None]


async def test_more_than_two(proxy: Inside, other: Other, filler: Filler, name: str) -> None:
    """One of those that follow goes on, the others follow that one."""
    stores = [TroubledStore(proxy.folder) for _ in range(3)]
    more = [Other(store, Flights(store, proxy.upstream, 64), other.digest, other.source) for store in stores]
    readers = [await one.sees(HALF) for one in (other, *more)]
    filler.die()

    assert set(await asyncio.gather(*(rest(blob) for blob in readers))) == {DATA}
    for one in more:
        await one.landed()
        await one.store.aclose()
    assert gets(proxy, name) == [f"bytes={HALF}-"]
