"""Network and disk at the same time, within bounds."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.inside import TroubledStore, until
from pullthrough import sink
from pullthrough.core.digest import Digest
from pullthrough.sink import Sink
from pullthrough.store import Partial, StoreError

DATA = bytes(range(100))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TroubledStore]:
    made = TroubledStore(tmp_path / "store")
    yield made
    await made.aclose()


@pytest.fixture
async def partial(store: TroubledStore) -> AsyncIterator[Partial]:
    begun = await store.begin(Digest.of(DATA))
    yield begun
    await store.end(begun, keep=False)
    begun.close()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "_WRITE_AHEAD", 20)


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_everything_is_written_in_order(store: TroubledStore, partial: Partial) -> None:
    told: list[int] = []
    async with Sink(store, partial, told.append) as into:
        for at in range(0, 100, 7):
            await into.put(DATA[at : at + 7])

    assert partial.verified
    assert told == sorted(told)
    assert told[-1] == 100


async def test_nothing_is_written_when_nothing_comes(store: TroubledStore, partial: Partial) -> None:
    async with Sink(store, partial, lambda _: None):
        pass

    assert (partial.written, store.calls["write"]) == (0, 0)


async def test_little_does_not_wait_for_the_disk_and_much_does(store: TroubledStore, partial: Partial) -> None:
    go = store.holding["write"] = asyncio.Event()
    async with Sink(store, partial, lambda _: None) as into:
        await into.put(DATA[:1])
        await until(lambda: store.calls["write"])  # this much is on its way to the disk
        await into.put(DATA[1:21])
        waiting = asyncio.ensure_future(into.put(DATA[21:]))
        await spin()
        assert not waiting.done()
        go.set()
        await waiting

    assert partial.verified
    assert store.calls["write"] == 2  # what waited was written together


async def test_a_failure_is_told_to_who_puts_next(store: TroubledStore, partial: Partial) -> None:
    store.failing["write"] = 1
    with pytest.raises(StoreError):
        async with Sink(store, partial, lambda _: None) as into:
            await into.put(DATA)
            await until(lambda: store.calls["write"])
            await spin()
            await into.put(DATA)


async def test_a_failure_wakes_who_waits_for_room(store: TroubledStore, partial: Partial) -> None:
    store.failing["write"] = 1
    go = store.holding["write"] = asyncio.Event()
    with pytest.raises(StoreError):
        async with Sink(store, partial, lambda _: None) as into:
            await into.put(DATA[:1])
            await until(lambda: store.calls["write"])
            waiting = asyncio.ensure_future(into.put(DATA))
            await spin()
            go.set()
            await waiting


async def test_a_failure_of_the_last_write_is_told_at_the_end(store: TroubledStore, partial: Partial) -> None:
    store.failing["write"] = 1
    with pytest.raises(StoreError):
        async with Sink(store, partial, lambda _: None) as into:
            await into.put(DATA[:1])


async def test_what_came_before_a_fault_elsewhere_is_still_written(store: TroubledStore, partial: Partial) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Sink(store, partial, lambda _: None) as into:
            await into.put(DATA[:10])
            raise ZeroDivisionError

    assert partial.written == 10


async def test_who_is_cancelled_while_the_rest_is_written(store: TroubledStore, partial: Partial) -> None:
    go = store.holding["write"] = asyncio.Event()

    async def fill() -> None:
        async with Sink(store, partial, lambda _: None) as into:
            await into.put(DATA)

    filling = asyncio.ensure_future(fill())
    await until(lambda: store.calls["write"])
    filling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filling
    go.set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
