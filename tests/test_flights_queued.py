"""More fills at the same time than there may be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry
from lab.faults import Armed, Fault
from lab.inside import Chosen, Inside, digest_in, inside, reached, until
from lab.journal import find
from pullthrough import turns
from pullthrough.flight import FlightBlob
from pullthrough.messages import Pass
from pullthrough.store import StoreError
from pullthrough.upstream import UpstreamError

DATA = bytes(range(256)) * 40


@pytest.fixture(params=[False, True], ids=["default", "eager"])
async def proxy(request: pytest.FixtureRequest, tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    """One fill at a time."""
    async with inside(tmp_path, origin, eager=request.param, chosen=Chosen(more={"max_fills": "1"})) as it:
        yield it


@pytest.fixture
def names(proxy: Inside) -> list[str]:
    return [proxy.fake.add_blob(DATA + bytes([number])) for number in range(8)]


def join(proxy: Inside, name: str) -> FlightBlob:
    return proxy.flights.join(digest_in(name), proxy.source())[0]


async def held(proxy: Inside, name: str) -> tuple[Armed, FlightBlob]:
    """A fill that has its turn."""
    armed = proxy.fake.fault(name, Fault(stall_after=10))
    blob = join(proxy, name)
    await reached(armed)
    return armed, blob


async def rest(blob: FlightBlob) -> bytes:
    got = bytearray()
    try:
        while chunk := await blob.read_at(len(got), 100_000):
            got += chunk
    finally:
        blob.close()
    return bytes(got)


def asked(proxy: Inside, name: str) -> int:
    return len(find(proxy.fake.journal, name))


async def test_further_ones_wait_and_have_their_turn_in_order(proxy: Inside, names: list[str]) -> None:
    armed, first = await held(proxy, names[0])
    waiting = [join(proxy, name) for name in names[1:4]]
    joined = join(proxy, names[1])
    await asyncio.sleep(0)
    assert [asked(proxy, name) for name in names[:4]] == [1, 0, 0, 0]
    assert len(proxy.flights) == 4
    armed.release()

    assert await rest(first) == DATA + b"\0"
    assert await asyncio.gather(*map(rest, waiting)) == [DATA + bytes([number]) for number in (1, 2, 3)]
    assert await rest(joined) == DATA + b"\1"
    paths = [request.path.rpartition("/")[2] for request in proxy.fake.journal.requests()]
    assert paths == names[:4]


async def test_a_failure_gives_the_turn_away(proxy: Inside, names: list[str]) -> None:
    armed = proxy.fake.fault(names[0], Fault(status=404, hold_headers=True))
    refused = join(proxy, names[0])
    await reached(armed)
    waiting = join(proxy, names[1])
    armed.release()

    assert await rest(waiting) == DATA + b"\1"
    refused.close()


async def test_when_too_many_wait_more_are_turned_away(
    proxy: Inside, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_WAITING", 1)
    armed, first = await held(proxy, names[0])
    second, third = join(proxy, names[1]), join(proxy, names[2])
    with pytest.raises(StoreError, match="too many downloads"):
        await third.opened()
    third.close()
    await until(lambda: len(proxy.flights) == 2)
    armed.release()

    assert (await rest(first), await rest(second)) == (DATA + b"\0", DATA + b"\1")
    assert await rest(join(proxy, names[2])) == DATA + b"\2"


async def test_nobody_waits_for_ever(proxy: Inside, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    armed, first = await held(proxy, names[0])
    monkeypatch.setattr(turns, "_PATIENCE", 0.01)
    second = join(proxy, names[1])
    with pytest.raises(StoreError, match="too many downloads"):
        await second.opened()
    second.close()
    answer = await proxy.ask(f"/v2/team/app/blobs/{names[1]}")
    armed.release()

    assert isinstance(answer, Pass)
    assert answer.cache.header() == 'pullthrough; fwd=bypass; detail="too many downloads at the same time"'
    assert await rest(first) == DATA + b"\0"
    assert asked(proxy, names[1]) == 0


async def test_what_nobody_waits_for_any_more_is_dropped(proxy: Inside, names: list[str]) -> None:
    armed, first = await held(proxy, names[0])
    one, two = join(proxy, names[1]), join(proxy, names[1])
    await asyncio.sleep(0)
    one.close()
    assert len(proxy.flights) == 2
    two.close()
    assert len(proxy.flights) == 1
    again = join(proxy, names[1])
    await asyncio.sleep(0)
    again.close()
    last = join(proxy, names[2])
    armed.release()

    assert (await rest(first), await rest(last)) == (DATA + b"\0", DATA + b"\2")
    await proxy.landed()
    assert asked(proxy, names[1]) == 0
    assert proxy.partials() == []


async def test_whoever_comes_after_the_last_left_begins_anew(proxy: Inside, names: list[str]) -> None:
    armed, first = await held(proxy, names[0])
    gone = join(proxy, names[1])
    await asyncio.sleep(0)
    gone.close()
    again = join(proxy, names[1])
    armed.release()

    assert (await rest(first), await rest(again)) == (DATA + b"\0", DATA + b"\1")
    assert asked(proxy, names[1]) == 1


async def test_the_end_comes_for_those_who_wait_too(proxy: Inside, names: list[str]) -> None:
    _, first = await held(proxy, names[0])
    waiting = join(proxy, names[1])
    await asyncio.sleep(0)
    await proxy.flights.aclose()

    with pytest.raises(UpstreamError):
        await waiting.opened()
    assert asked(proxy, names[1]) == 0
    first.close()
    waiting.close()
