"""One fill, many readers, and everything that can befall them. Also with eager tasks, as under mitmproxy."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, basic, only
from lab.faults import Fault
from lab.inside import Inside, digest_in, inside, open_files, reached, until
from lab.journal import find
from pullthrough import sink
from pullthrough.fetch import BACK_OFF, Refused, Source, Unsuitable
from pullthrough.flight import FlightBlob, NotTheBlob
from pullthrough.flights import Flights
from pullthrough.messages import BodyError
from pullthrough.store import StoreError
from pullthrough.upstream import UnusableAnswer, UpstreamError

DATA = random.Random(2).randbytes(300_000)
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture(params=[False, True], ids=["default", "eager"])
async def proxy(request: pytest.FixtureRequest, tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=request.param) as it:
        yield it


@pytest.fixture
def digest(proxy: Inside) -> str:
    return proxy.fake.add_blob(DATA)


def join(proxy: Inside, digest: str, source: Source | None = None) -> FlightBlob:
    return proxy.flights.join(digest_in(digest), source or proxy.source())[0]


async def rest(blob: FlightBlob, offset: int = 0, limit: int = 100_000) -> bytes:
    """Everything from `offset` on; the blob is closed."""
    got = bytearray()
    try:
        while chunk := await blob.read_at(offset + len(got), limit):
            assert len(chunk) <= limit
            got += chunk
    finally:
        blob.close()
    return bytes(got)


async def until_cut(blob: FlightBlob) -> bytes:
    """What comes before the cut."""
    got = bytearray()
    try:
        while True:
            chunk = await blob.read_at(len(got), 100_000)
            assert chunk, f"{len(got)} bytes and then the end"
            got += chunk
    except BodyError:
        return bytes(got)
    finally:
        blob.close()


async def pulled(proxy: Inside, digest: str, source: Source | None = None) -> bytes:
    """One client that wants all of it."""
    blob = join(proxy, digest, source)
    try:
        await blob.opened()
    except BaseException:
        blob.close()
        raise
    return await rest(blob)


def gets(proxy: Inside, digest: str) -> list[str | None]:
    return [request.range for request in find(proxy.fake.journal, digest, method="GET")]


async def nothing_kept(proxy: Inside, digest: str) -> None:
    await proxy.landed()
    assert proxy.partials() == []
    assert not await proxy.has(digest)


async def visible(proxy: Inside, digest: str, size: int) -> None:
    """Wait until so many bytes are on disk."""
    flight = proxy.flights.find(digest_in(digest))
    assert flight is not None
    await until(lambda: flight.visible == size)


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- sharing


async def test_one_request_for_fifty_readers(proxy: Inside, digest: str) -> None:
    joined = [proxy.flights.join(digest_in(digest), proxy.source(f"Bearer {number}")) for number in range(50)]

    assert [started for _, started in joined] == [True] + [False] * 49
    assert set(await asyncio.gather(*(rest(blob) for blob, _ in joined))) == {DATA}
    await proxy.landed()
    assert gets(proxy, digest) == [None]
    assert await proxy.has(digest)
    assert proxy.partials() == []


async def test_readers_come_at_any_time_and_read_anywhere(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=200_000))
    first = join(proxy, digest)
    assert await first.read_at(199_000, 10) == DATA[199_000:199_010]
    await reached(armed)
    late = join(proxy, digest)
    assert await late.read_at(0, 5) == DATA[:5]
    waiting = asyncio.ensure_future(late.read_at(290_000, 5))
    await spin()
    assert not waiting.done()
    armed.release()

    assert await waiting == DATA[290_000:290_005]
    assert await rest(first, 250_000) == DATA[250_000:]
    assert await rest(late, len(DATA)) == b""
    assert len(gets(proxy, digest)) == 1


async def test_the_size_is_known_while_the_body_stalls(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=0))
    blob = join(proxy, digest)
    await blob.opened()
    await reached(armed)

    assert blob.size == len(DATA)
    assert await blob.sized() == len(DATA)
    armed.release()
    assert await rest(blob) == DATA


async def test_what_has_come_is_read_while_the_rest_stalls(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000))
    blob = join(proxy, digest)
    got = b""
    while len(got) < 100_000:
        got += await blob.read_at(len(got), 100_000)

    assert not armed.fault.cut_after
    assert got == DATA[:100_000]
    armed.release()
    assert got + await rest(blob, len(got)) == DATA


async def test_a_leaving_reader_does_not_stop_the_fill(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=1000))
    only_one = join(proxy, digest)
    await only_one.read_at(0, 1)
    only_one.close()
    only_one.close()
    armed.release()
    await proxy.landed()

    assert await proxy.has(digest)
    assert open_files(proxy.folder) == []


async def test_a_reader_that_leaves_before_the_upstream_answers(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    blob = join(proxy, digest)
    waiting = asyncio.ensure_future(blob.opened())
    await reached(armed)
    waiting.cancel()
    await spin()
    blob.close()
    armed.release()
    await proxy.landed()

    assert waiting.cancelled()
    assert await proxy.has(digest)


async def test_a_reader_that_leaves_while_it_waits_for_bytes(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=1000, chunked=True))
    blob = join(proxy, digest)
    waiting = [asyncio.ensure_future(blob.read_at(5000, 1)), asyncio.ensure_future(blob.sized())]
    await reached(armed)
    await spin()
    for task in waiting:
        task.cancel()
    await spin()
    blob.close()
    armed.release()
    await proxy.landed()

    assert [task.cancelled() for task in waiting] == [True, True]
    assert await proxy.has(digest)


async def test_a_reader_that_leaves_in_the_middle_of_a_read(proxy: Inside, digest: str) -> None:
    blob = join(proxy, digest)
    await proxy.landed()
    for _ in range(50):
        reading = asyncio.ensure_future(blob.read_at(0, 100_000))
        await asyncio.sleep(0)
        reading.cancel()
    blob.close()
    await spin()

    assert open_files(proxy.folder) == []


async def test_late_readers_of_a_blob_that_was_evicted_meanwhile(proxy: Inside, digest: str) -> None:
    blob = join(proxy, digest)
    await proxy.landed()
    await proxy.store.drop(digest_in(digest))

    assert await rest(blob) == DATA


async def test_a_reader_knows_when_all_is_here(proxy: Inside, digest: str) -> None:
    blob = join(proxy, digest)
    await blob.opened()

    assert await rest(blob) == DATA
    assert blob.landed
    blob.close()


async def test_two_blobs_are_two_flights(proxy: Inside, digest: str) -> None:
    other = proxy.fake.add_blob(DATA[::-1])
    held = proxy.fake.fault(digest, Fault(stall_after=10))
    one = join(proxy, digest)

    assert await pulled(proxy, other) == DATA[::-1]
    held.release()
    assert await rest(one) == DATA


async def test_flights_are_counted(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    blob = join(proxy, digest)
    flight = proxy.flights.find(digest_in(digest))
    assert flight is not None
    assert (len(proxy.flights), proxy.flights.ended) == (1, 0)
    assert blob.opener == flight.opener == proxy.source()
    assert (flight.took_off, flight.visible, flight.read(10, 0)) == (False, 0, b"")
    await reached(armed)
    armed.release()
    await proxy.landed()

    assert (len(proxy.flights), proxy.flights.ended) == (0, 1)
    assert proxy.flights.find(digest_in(digest)) is None
    blob.close()


async def test_an_empty_blob(proxy: Inside) -> None:
    digest = proxy.fake.add_blob(b"")
    blob = join(proxy, digest)

    assert await blob.sized() == 0
    assert await rest(blob) == b""
    await proxy.landed()
    assert await proxy.has(digest)


# -- the length


async def test_a_length_that_nobody_says(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=1000))
    blob = join(proxy, digest)
    await blob.opened()
    sizing = asyncio.ensure_future(blob.sized())
    await reached(armed)
    await spin()
    assert blob.size is None
    assert not sizing.done()
    armed.release()

    assert await sizing == len(DATA)
    assert await rest(blob) == DATA


async def test_a_length_that_never_comes(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=1000, cut_after=1000))
    blob = join(proxy, digest)
    await visible(proxy, digest, 999)
    armed.release()

    with pytest.raises(UpstreamError):
        await blob.sized()
    assert await until_cut(blob) == DATA[:999]


async def test_the_last_byte_waits_for_the_verdict(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=len(DATA)))  # everything has come, but is it all?
    blob = join(proxy, digest)
    await blob.opened()
    await visible(proxy, digest, len(DATA) - 1)
    last = asyncio.ensure_future(blob.read_at(len(DATA) - 1, 1))
    await spin()
    assert not last.done()
    armed.release()

    assert await last == DATA[-1:]
    assert await rest(blob) == DATA


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("corrupt_at", [0, 150_000, len(DATA) - 1])
async def test_wrong_bytes_never_arrive_whole_and_nothing_is_kept(
    proxy: Inside, digest: str, corrupt_at: int, chunked: bool
) -> None:
    proxy.fake.fault(digest, Fault(corrupt_at=corrupt_at, chunked=chunked))
    readers = [join(proxy, digest) for _ in range(3)]
    got = await asyncio.gather(*(until_cut(blob) for blob in readers))

    assert {len(bytes_) for bytes_ in got} == {len(DATA) - 1}
    await nothing_kept(proxy, digest)
    assert await pulled(proxy, digest) == DATA
    assert gets(proxy, digest) == [None, None]


async def test_less_than_was_announced_is_kept_and_readers_are_cut(proxy: Inside, digest: str) -> None:
    """It is whole and right; only those who were told another length have to ask again."""
    armed = proxy.fake.fault(digest, Fault(length_lie=5, stall_after=len(DATA)))
    blob = join(proxy, digest)
    await visible(proxy, digest, len(DATA))
    armed.release()

    assert await until_cut(blob) == DATA
    await proxy.landed()
    assert await proxy.has(digest)


async def test_more_than_was_announced_is_not_kept(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(length_lie=-5, stall_after=1000))
    blob = join(proxy, digest)
    await blob.opened()
    await reached(armed)
    armed.release()

    assert await until_cut(blob) == DATA[:-6]
    await nothing_kept(proxy, digest)
    assert await pulled(proxy, digest) == DATA


# -- an upstream that breaks


async def test_a_cut_body_is_resumed_and_nobody_notices(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000, cut_after=100_000))
    readers = [join(proxy, digest) for _ in range(5)]
    await readers[0].read_at(99_998, 1)
    armed.release()

    assert set(await asyncio.gather(*(rest(blob) for blob in readers))) == {DATA}
    assert gets(proxy, digest) == [None, "bytes=100000-"]
    assert find(proxy.fake.journal, digest)[1].if_range == f'"{digest}"'


async def test_a_fill_that_gives_up_leaves_what_it_has_to_the_next(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000, cut_after=100_000))
    proxy.fake.fault(digest, Fault(status=503), times=len(BACK_OFF))
    blob = join(proxy, digest)
    await visible(proxy, digest, 100_000)
    armed.release()

    assert await until_cut(blob) == DATA[:100_000]
    await proxy.landed()
    assert len(proxy.partials()) == 1
    assert await pulled(proxy, digest) == DATA
    await proxy.landed()
    assert gets(proxy, digest)[-1] == "bytes=100000-"
    assert proxy.partials() == []


async def test_late_readers_of_a_fill_that_gave_up_see_nothing_of_the_next(proxy: Inside, digest: str) -> None:
    """Both have the same file."""
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000, cut_after=100_000))
    proxy.fake.fault(digest, Fault(status=503), times=len(BACK_OFF))
    late = join(proxy, digest)
    await visible(proxy, digest, 100_000)
    armed.release()
    await proxy.landed()
    assert await pulled(proxy, digest) == DATA

    assert await until_cut(late) == DATA[:100_000]


async def test_a_fresher_token_of_another_reader_continues(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=1000, cut_after=1000))
    first = join(proxy, digest, proxy.source(ALICE))
    await first.opened()
    await reached(armed)
    second = join(proxy, digest, proxy.source(BOB))
    proxy.fake.manners.accepts = only(BOB)
    armed.release()

    assert set(await asyncio.gather(rest(first), rest(second))) == {DATA}
    assert [request.headers.get("authorization") for request in find(proxy.fake.journal, digest)] == [ALICE, BOB]


async def test_sources_are_few_and_the_newest_first(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    sources = [proxy.source(f"Bearer {number}") for number in range(20)]
    readers = [join(proxy, digest, source) for source in [*sources, sources[-1]]]
    flight = proxy.flights.find(digest_in(digest))
    assert flight is not None
    assert flight.sources == sources[:-9:-1]
    await reached(armed)
    armed.release()

    assert set(await asyncio.gather(*(rest(blob) for blob in readers))) == {DATA}


async def test_the_opener_is_asked_for_alone_even_if_another_joined_before(proxy: Inside, digest: str) -> None:
    """The answer is taken as a proof for the opener: it must not be one for somebody else."""
    proxy.fake.manners.accepts = only(BOB)
    opener, other = join(proxy, digest, proxy.source(ALICE)), join(proxy, digest, proxy.source(BOB))

    for blob in (opener, other):
        with pytest.raises(Refused):
            await blob.opened()
        blob.close()
    assert [request.headers.get("authorization") for request in find(proxy.fake.journal, digest)] == [ALICE]


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Fault(status=404), Refused),
        (Fault(status=401), Refused),
        (Fault(gzip=True), Unsuitable),
        (Fault(status=302, headers={"Location": "ftp://storage.test/"}), UnusableAnswer),
    ],
)
async def test_a_flight_that_never_takes_off_says_why_to_all(
    proxy: Inside, digest: str, fault: Fault, failure: type[Exception]
) -> None:
    proxy.fake.fault(digest, fault)
    readers = [join(proxy, digest) for _ in range(3)]
    results = await asyncio.gather(*(blob.opened() for blob in readers), return_exceptions=True)
    for blob in readers:
        blob.close()

    assert [type(result) for result in results] == [failure] * 3
    await nothing_kept(proxy, digest)
    assert await pulled(proxy, digest) == DATA


# -- what an earlier fill left


async def leave_partial(proxy: Inside, digest: str, content: bytes) -> None:
    partial = await proxy.store.begin(digest_in(digest))
    await proxy.store.write(partial, content)
    await proxy.store.end(partial, keep=True)
    partial.close()


async def test_the_rest_is_asked_for_and_the_beginning_is_there_at_once(proxy: Inside, digest: str) -> None:
    await leave_partial(proxy, digest, DATA[:200_000])
    armed = proxy.fake.fault(digest, Fault(stall_after=0))
    blob = join(proxy, digest)
    await blob.opened()

    assert await blob.read_at(0, 300_000) == DATA[:200_000]
    armed.release()
    assert await rest(blob) == DATA
    assert gets(proxy, digest) == ["bytes=200000-"]


async def test_a_partial_that_is_whole_still_asks_the_upstream_and_reads_no_body(proxy: Inside, digest: str) -> None:
    await leave_partial(proxy, digest, DATA)
    proxy.fake.fault(digest, Fault(status=416))
    armed = proxy.fake.fault(digest, Fault(stall_after=10))

    assert await pulled(proxy, digest) == DATA
    assert gets(proxy, digest) == [f"bytes={len(DATA)}-", None]
    await proxy.landed()
    assert await proxy.has(digest)
    armed.release()


@pytest.mark.parametrize("size", [200_000, len(DATA)])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=403),
        Fault(status=404),
        Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>please log in"),
    ],
)
async def test_nothing_of_a_partial_is_shown_to_whom_the_upstream_refuses(
    proxy: Inside, digest: str, size: int, fault: Fault
) -> None:
    await leave_partial(proxy, digest, DATA[:size])
    proxy.fake.fault(digest, fault, times=None)
    blob = join(proxy, digest)

    with pytest.raises((Refused, Unsuitable)):
        await blob.opened()
    with pytest.raises(BodyError):
        await blob.read_at(0, 1)
    blob.close()
    await proxy.landed()
    assert len(proxy.partials()) == 1


@pytest.mark.parametrize("content", [bytes(200_000), DATA + b"surplus"])
async def test_a_partial_that_is_wrong_is_dropped_and_the_next_pull_is_clean(
    proxy: Inside, digest: str, content: bytes
) -> None:
    await leave_partial(proxy, digest, content)
    blob = join(proxy, digest)

    with pytest.raises((NotTheBlob, BodyError)):
        await blob.opened()
        await rest(blob)
    blob.close()
    await nothing_kept(proxy, digest)
    assert await pulled(proxy, digest) == DATA


# -- a store that fails


@pytest.mark.parametrize("call", ["begin", "reserve"])
async def test_a_store_that_fails_before_anything_was_sent(proxy: Inside, digest: str, call: str) -> None:
    proxy.store.failing[call] = 1
    readers = [join(proxy, digest) for _ in range(2)]
    for blob in readers:
        with pytest.raises(StoreError):
            await blob.opened()
        blob.close()
    await nothing_kept(proxy, digest)

    proxy.store.failing.clear()
    assert await pulled(proxy, digest) == DATA


async def test_a_blob_larger_than_the_store(tmp_path: Path, origin: FakeRegistry) -> None:
    async with inside(tmp_path, origin, size=len(DATA) - 1) as proxy:
        digest = proxy.fake.add_blob(DATA)
        blob = join(proxy, digest)
        with pytest.raises(StoreError):
            await blob.opened()
        blob.close()
        await nothing_kept(proxy, digest)


async def test_a_blob_of_unknown_length_that_outgrows_the_store(tmp_path: Path, origin: FakeRegistry) -> None:
    async with inside(tmp_path, origin, size=len(DATA) - 1) as proxy:
        digest = proxy.fake.add_blob(DATA)
        proxy.fake.fault(digest, Fault(chunked=True))
        assert await pulled(proxy, digest) == DATA
        await nothing_kept(proxy, digest)


async def stalled_then_full(proxy: Inside, digest: str, readers: int = 1) -> list[FlightBlob]:
    """Readers that have the first 100,000 bytes; after them the disk is full."""
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000))
    blobs = [join(proxy, digest) for _ in range(readers)]
    await visible(proxy, digest, 100_000)
    proxy.store.failing["write"] = proxy.store.calls["write"] + 1
    armed.release()
    await proxy.landed()
    return blobs


async def test_readers_go_on_alone_where_the_disk_was_full(proxy: Inside, digest: str) -> None:
    blobs = await stalled_then_full(proxy, digest, 3)

    assert await asyncio.gather(*(rest(blob, limit=7000) for blob in blobs)) == [DATA] * 3
    assert gets(proxy, digest) == [None] + ["bytes=100000-"] * 3
    await nothing_kept(proxy, digest)


async def test_a_fault_of_ours_is_as_a_full_disk(proxy: Inside, digest: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy.store.failure = ZeroDivisionError()
    blobs = await stalled_then_full(proxy, digest)

    assert await rest(blobs[0]) == DATA
    assert "ZeroDivisionError" in caplog.text
    assert open_files(proxy.folder) == []


async def test_ranges_in_any_order_past_a_full_disk(proxy: Inside, digest: str) -> None:
    (blob,) = await stalled_then_full(proxy, digest)
    wanted = [(250_000, 10), (150_000, 40_000), (190_000, 5), (10, 5), (190_005, 7), (120_000, 1), (299_999, 9)]

    for offset, length in wanted:
        got = b""
        while len(got) < length and (chunk := await blob.read_at(offset + len(got), length - len(got))):
            got += chunk
        assert got == DATA[offset : offset + length]
    blob.close()


async def test_a_reader_alone_is_cut_when_the_upstream_refuses(proxy: Inside, digest: str) -> None:
    (blob,) = await stalled_then_full(proxy, digest)
    proxy.fake.fault(digest, Fault(status=401))

    assert await until_cut(blob) == DATA[:100_000]


async def test_a_reader_alone_is_cut_when_the_blob_has_another_size(proxy: Inside, digest: str) -> None:
    (blob,) = await stalled_then_full(proxy, digest)
    proxy.fake.fault(digest, Fault(status=206, headers={"Content-Range": "bytes 100000-100001/100002"}, body=b"xx"))

    assert await until_cut(blob) == DATA[:100_000]


async def test_a_reader_alone_that_leaves(proxy: Inside, digest: str) -> None:
    (blob,) = await stalled_then_full(proxy, digest)
    armed = proxy.fake.fault(digest, Fault(stall_after=10))
    await blob.read_at(100_000, 5)
    held = proxy.fake.fault(digest, Fault(hold_headers=True))
    reading = asyncio.ensure_future(blob.read_at(150_000, 5))
    await reached(held)
    reading.cancel()
    await spin()
    blob.close()

    assert reading.cancelled()
    armed.release()
    held.release()
    await until(lambda: all(request.done for request in find(proxy.fake.journal, digest)))


async def test_a_disk_that_loses_bytes(proxy: Inside, digest: str) -> None:
    proxy.store.holding["commit"] = asyncio.Event()
    blob = join(proxy, digest)
    await blob.read_at(len(DATA) - 1, 1)
    os.truncate(proxy.store.begun[0].path, 50_000)

    assert await rest(blob) == DATA
    proxy.store.holding["commit"].set()


async def test_a_disk_that_is_full_at_the_end_disturbs_nobody(proxy: Inside, digest: str) -> None:
    proxy.store.failing["commit"] = 1
    readers = [join(proxy, digest) for _ in range(3)]

    assert await asyncio.gather(*(rest(blob) for blob in readers)) == [DATA] * 3
    await nothing_kept(proxy, digest)


async def test_a_failure_to_tidy_up_is_no_failure(proxy: Inside, digest: str) -> None:
    proxy.store.failing["end"] = 1

    assert await pulled(proxy, digest) == DATA
    await proxy.landed()
    assert await proxy.has(digest)


async def test_a_full_disk_while_the_upstream_breaks(proxy: Inside, digest: str) -> None:
    """Both at once: ours counts, as it can be helped."""
    proxy.store.failing["write"] = 1
    go = proxy.store.holding["write"] = asyncio.Event()
    armed = proxy.fake.fault(digest, Fault(chunked=True, stall_after=1000, cut_after=1000))
    blob = join(proxy, digest)
    await until(lambda: proxy.store.calls["write"])
    armed.release()
    go.set()

    assert await rest(blob) == DATA


async def test_a_disk_that_fails_while_the_upstream_waits_for_it(
    proxy: Inside, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_WRITE_AHEAD", 10)
    go = proxy.store.holding["write"] = asyncio.Event()
    proxy.store.failing["write"] = 1
    blob = join(proxy, digest)
    await until(lambda: proxy.store.calls["write"])
    go.set()

    assert await rest(blob) == DATA


# -- what the end of a flight proves


@pytest.mark.parametrize(
    ("fault", "proofs"),
    [
        (Fault(), 1),
        (Fault(cut_after=1000), 1),
        (Fault(corrupt_at=5), 0),
        (Fault(length_lie=5), 0),
        (Fault(chunked=True, cut_after=1000), 0),
        (Fault(status=404), 0),
        (Fault(gzip=True), 0),
    ],
)
async def test_only_the_whole_and_right_blob_is_a_proof(proxy: Inside, digest: str, fault: Fault, proofs: int) -> None:
    proxy.fake.fault(digest, fault)
    told: list[bool] = []

    async def proved() -> None:
        told.append(proxy.flights.find(digest_in(digest)) is not None)

    blob, _ = proxy.flights.join(digest_in(digest), proxy.source(), 1.0, proved)
    await proxy.landed()
    blob.close()

    assert told == [True] * proofs  # and while the flight is still there to be found


async def test_a_fault_in_who_is_told_disturbs_nobody(proxy: Inside, digest: str) -> None:
    async def proved() -> None:
        raise ZeroDivisionError

    blob, _ = proxy.flights.join(digest_in(digest), proxy.source(), 1.0, proved)

    assert await rest(blob) == DATA
    await proxy.landed()
    assert await proxy.has(digest)


# -- the end of it all


async def test_what_is_under_way_at_the_end_is_kept_and_resumed(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(stall_after=100_000))
    blob = join(proxy, digest)
    await visible(proxy, digest, 100_000)
    await proxy.flights.aclose()
    await proxy.flights.aclose()

    assert await until_cut(blob) == DATA[:100_000]
    armed.release()
    proxy.flights = Flights(proxy.store, proxy.upstream, 64)
    assert await pulled(proxy, digest) == DATA
    assert gets(proxy, digest) == [None, "bytes=100000-"]


@pytest.mark.parametrize("call", ["begin", "reserve", "write", "commit", "end"])
async def test_the_end_may_come_before_any_step(proxy: Inside, digest: str, call: str) -> None:
    await end_at(proxy, digest, call, proxy.store.holding, proxy.store.calls)


@pytest.mark.parametrize("call", ["reserve", "write", "commit", "end"])
async def test_the_end_may_come_after_any_step(proxy: Inside, digest: str, call: str) -> None:
    await end_at(proxy, digest, call, proxy.store.lingering, proxy.store.done)


async def end_at(
    proxy: Inside, digest: str, call: str, moments: dict[str, asyncio.Event], counts: Mapping[str, int]
) -> None:
    moments[call] = asyncio.Event()
    blob = join(proxy, digest)
    await until(lambda: counts[call])
    ending = asyncio.ensure_future(proxy.flights.aclose())
    await spin()
    moments[call].set()
    await ending
    blob.close()
    assert len(proxy.flights) == 0
    assert open_files(proxy.folder) == []

    moments.clear()
    proxy.flights = Flights(proxy.store, proxy.upstream, 64)
    assert await proxy.has(digest) or await pulled(proxy, digest) == DATA


async def test_the_end_while_the_upstream_is_silent(proxy: Inside, digest: str) -> None:
    armed = proxy.fake.fault(digest, Fault(hold_headers=True))
    blob = join(proxy, digest)
    await reached(armed)
    await proxy.flights.aclose()

    with pytest.raises(UpstreamError) as failure:
        await blob.opened()
    assert failure.value.status == 503
    blob.close()
    await nothing_kept(proxy, digest)
