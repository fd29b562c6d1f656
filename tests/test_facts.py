"""Facts: written behind and in order, believed for their time only, and whatever the disk says."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.inside import TroubledStore, until
from lab.memory import Clock, Memory, remembering
from pullthrough import facts as module
from pullthrough.facts import Facts, row_of
from pullthrough.store import StoreError

DAY = 24 * 3600.0


@pytest.fixture
def facts(memory: Memory) -> Facts:
    return memory.facts


@pytest.fixture
def clock(memory: Memory) -> Clock:
    """The facts'."""
    return memory.clock


@pytest.fixture
async def troubled(tmp_path: Path) -> AsyncIterator[Memory]:
    """On a `TroubledStore`, see `store`."""
    async with remembering(tmp_path / "troubled", TroubledStore) as made:
        yield made


def store(memory: Memory) -> TroubledStore:
    assert isinstance(memory.store, TroubledStore)
    return memory.store


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- what is known


async def test_nothing_is_known_at_first(facts: Facts) -> None:
    assert await facts.get("k") is None


async def test_what_was_put_is_known_at_once_and_after_a_restart(memory: Memory) -> None:
    values = [True, "text", "\udcff", ["a", "b"], {"a": [1, None]}, 0, ""]
    for value in values:
        memory.facts.put(repr(value), value, DAY)

    for facts in (memory.facts, await memory.restart()):
        assert [await facts.get(repr(value)) for value in values] == values


async def test_what_was_dropped_is_unknown_at_once_and_after_a_restart(memory: Memory) -> None:
    memory.facts.put("k", "v", DAY)
    await memory.facts.flush()
    memory.facts.drop("k")
    assert await memory.facts.get("k") is None

    assert await (await memory.restart()).get("k") is None
    assert memory.rows().keys() == []


async def test_what_an_earlier_process_knew_can_be_dropped_unseen(memory: Memory) -> None:
    memory.facts.put("k", "v", DAY)
    facts = await memory.restart()
    facts.drop("k")
    assert await facts.get("k") is None

    assert await (await memory.restart()).get("k") is None


async def test_what_is_dropped_while_it_is_looked_up_is_unknown(memory: Memory) -> None:
    memory.facts.put("k", "v", DAY)
    facts = await memory.restart()
    looking = asyncio.create_task(facts.get("k"))
    await spin()
    facts.drop("k")

    assert await looking is None


async def test_keys_are_apart(facts: Facts) -> None:
    facts.put("a", 1, DAY)
    facts.put("b", 2, DAY)
    facts.drop("a")

    assert await facts.get("a") is None
    assert await facts.get("b") == 2


# -- in order


async def test_only_the_last_word_counts(memory: Memory) -> None:
    words = ((1, None, 2), (1, 2), (1, None), (None, 1), (1, None, 2, None), (1, 2, 1))
    for said in words:
        for word in said:
            if word is None:
                memory.facts.drop(str(said))
            else:
                memory.facts.put(str(said), word, DAY)

    for facts in (memory.facts, await memory.restart()):
        assert [await facts.get(str(said)) for said in words] == [said[-1] for said in words]


@pytest.mark.parametrize("latest", [None, 2])
async def test_what_changes_while_it_is_written_is_written_again(troubled: Memory, latest: int | None) -> None:
    facts = troubled.facts
    store(troubled).holding["note"] = go_on = asyncio.Event()
    facts.put("k", 1, DAY)
    await until(lambda: store(troubled).calls["note"])
    facts.drop("k")
    if latest is not None:
        facts.put("k", latest, DAY)
    assert await facts.get("k") == latest
    go_on.set()
    await facts.flush()

    assert await facts.get("k") == latest
    assert await (await troubled.restart()).get("k") == latest


async def test_what_is_put_again_as_it_is_being_written_is_not_written_twice(troubled: Memory) -> None:
    store(troubled).holding["note"] = go_on = asyncio.Event()
    troubled.facts.put("k", 1, DAY)
    await spin()
    troubled.facts.put("k", 1, DAY)
    go_on.set()
    await troubled.facts.flush()

    assert store(troubled).done["note"] == 1


async def test_what_comes_together_is_written_together(troubled: Memory) -> None:
    for number in range(100):
        troubled.facts.put(f"k{number}", number, DAY)
    await troubled.facts.flush()

    assert store(troubled).done["note"] == 1


async def test_nobody_waits_for_the_disk(troubled: Memory) -> None:
    store(troubled).holding["note"] = go_on = asyncio.Event()
    troubled.facts.put("a", 1, DAY)
    await spin()
    troubled.facts.put("b", 2, DAY)

    async with asyncio.timeout(5):
        assert (await troubled.facts.get("a"), await troubled.facts.get("b")) == (1, 2)
    go_on.set()


async def test_there_is_one_writer_also_at_the_end(troubled: Memory) -> None:
    facts = troubled.facts
    store(troubled).failing["note"] = 1
    facts.put("k", 1, DAY)
    await facts.flush()
    store(troubled).failing.clear()
    store(troubled).calls.clear()
    store(troubled).holding["note"] = go_on = asyncio.Event()
    ending = asyncio.create_task(facts.flush())
    await until(lambda: store(troubled).calls["note"])
    facts.put("k", 2, DAY)
    await spin()
    assert store(troubled).calls["note"] == 1
    go_on.set()
    await ending

    assert await (await troubled.restart()).get("k") == 2


async def test_a_flush_waits_for_what_is_being_written(troubled: Memory) -> None:
    store(troubled).holding["note"] = go_on = asyncio.Event()
    troubled.facts.put("k", 1, DAY)
    ending = asyncio.create_task(troubled.facts.flush())
    await spin()
    assert not ending.done()
    go_on.set()
    await ending

    assert store(troubled).done["note"] == 1


# -- not with every pull


async def test_the_same_is_written_again_only_after_a_part_of_its_time(troubled: Memory) -> None:
    for second in range(0, 2 * 3600, 600):
        troubled.clock.time = 1_700_000_000.0 + second
        troubled.facts.put("k", True, DAY)
        await troubled.facts.flush()

    assert store(troubled).done["note"] == 2


@pytest.mark.parametrize(("value", "seconds"), [(2, DAY), (1, DAY + 1)])
async def test_something_else_is_written_at_once(troubled: Memory, value: int, seconds: float) -> None:
    troubled.facts.put("k", 1, DAY)
    await troubled.facts.flush()
    troubled.facts.put("k", value, seconds)
    await troubled.facts.flush()

    assert store(troubled).done["note"] == 2


async def test_a_renewal_counts_anew(facts: Facts, clock: Clock) -> None:
    facts.put("k", True, DAY)
    clock.time += DAY / 2
    facts.put("k", True, DAY)
    clock.time += DAY - 1

    assert await facts.get("k") is True


async def test_what_is_known_to_be_gone_is_not_dropped_again(troubled: Memory) -> None:
    for _ in range(3):
        troubled.facts.drop("k")
        await troubled.facts.flush()

    assert store(troubled).done["note"] == 1


# -- for how long


#: Seconds since a fact was put for 100 seconds; is it known?
AGES = {0: 1, 99.9: 1, 100: None, 1e9: None, -299: 1, -301: None, -1e9: None}


async def test_a_fact_counts_for_its_time_by_a_clock_that_is_hardly_set_back(memory: Memory) -> None:
    began = memory.clock.time
    memory.facts.put("k", 1, 100.0)
    for facts in (memory.facts, await memory.restart()):
        known = {}
        for age in AGES:
            memory.clock.time = began + age
            known[age] = await facts.get("k")
        assert known == AGES


async def test_who_asks_may_want_it_fresher(facts: Facts, clock: Clock) -> None:
    facts.put("k", 1, 100.0)
    assert await facts.get("k", 0.0) is None
    clock.time += 49
    assert await facts.get("k", 50.0) == 1
    clock.time += 1
    assert await facts.get("k", 50.0) is None
    assert await facts.get("k", 51.0) == 1
    clock.time += 50
    assert await facts.get("k", 500.0) is None
    clock.time -= 101
    assert await facts.get("k", 0.0) is None


@pytest.mark.parametrize("jump", [-1e6, 1e6])
async def test_after_the_clock_was_set_facts_can_be_put_anew(memory: Memory, jump: float) -> None:
    memory.facts.put("k", 1, 100.0)
    await memory.facts.flush()
    memory.clock.time += jump
    memory.facts.put("k", 1, 100.0)

    assert await memory.facts.get("k") == 1
    assert await (await memory.restart()).get("k") == 1


# -- a disk that does not take them


async def test_what_cannot_be_written_is_known_and_written_later(memory: Memory) -> None:
    facts = memory.facts
    facts.put("old", 1, DAY)
    await facts.flush()
    with memory.rows().locked():
        facts.put("new", 2, DAY)
        facts.drop("old")
        await facts.flush()
        assert (await facts.get("new"), await facts.get("old")) == (2, None)
        assert memory.rows().keys() == ["old"]
    facts.put("other", 3, DAY)
    await facts.flush()

    assert memory.rows().keys() == ["new", "other"]


async def test_what_cannot_be_written_is_tried_once_more_at_the_end(memory: Memory) -> None:
    await memory.facts.get("k")
    with memory.rows().locked():
        memory.facts.put("k", 1, DAY)
        await memory.facts.flush()

    assert await (await memory.restart()).get("k") == 1


async def test_a_disk_that_fails_is_left_alone_until_there_is_something_new(troubled: Memory) -> None:
    store(troubled).failing["note"] = 1
    troubled.facts.put("a", 1, DAY)
    await until(lambda: store(troubled).calls["note"])
    await spin()
    assert store(troubled).calls["note"] == 1
    troubled.facts.put("a", 1, DAY)
    await spin()
    assert store(troubled).calls["note"] == 1
    troubled.facts.put("b", 1, DAY)
    await spin()
    assert store(troubled).calls["note"] == 2


async def test_a_disk_that_fails_is_mentioned_without_what_was_to_be_written(
    troubled: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "pullthrough.facts")
    store(troubled).failing["note"] = 1
    troubled.facts.put("the key", "the value", DAY)
    await troubled.facts.flush()

    assert "1 facts are not written down: No space left on device" in caplog.messages
    assert "the key" not in caplog.text
    assert "the value" not in caplog.text


async def test_what_cannot_be_read_is_unknown(troubled: Memory) -> None:
    troubled.facts.put("k", 1, DAY)
    facts = await troubled.restart()
    store(troubled).failing["recall"] = 1
    assert await facts.get("k") is None
    facts.put("k", 2, DAY)
    assert await facts.get("k") == 2
    store(troubled).failing.clear()

    assert await (await troubled.restart()).get("k") == 2


async def test_a_store_that_is_closed_is_a_disk_that_fails(memory: Memory) -> None:
    await memory.store.aclose()
    memory.facts.put("k", 1, DAY)
    await memory.facts.flush()

    assert await memory.facts.get("k") == 1
    with pytest.raises(StoreError):
        await memory.store.recall("k")


# -- bounds


async def test_only_so_much_is_remembered_and_the_rest_is_on_disk(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX", 3)
    facts = memory.facts
    for number in range(10):
        facts.put(f"k{number}", number, DAY)
        await facts.flush()

    assert len(facts._written) == 3
    assert [await facts.get(f"k{number}") for number in range(10)] == list(range(10))


async def test_only_so_much_waits_and_the_oldest_is_given_up(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX", 3)
    facts = memory.facts
    await facts.get("k")
    with memory.rows().locked():
        for number in (0, 1, 2, 0, 3, 4):
            facts.put(f"k{number}", number + DAY, DAY + number)
            facts.put(f"k{number}", number, DAY)
        assert [await facts.get(f"k{number}") for number in range(5)] == [0, None, None, 3, 4]
    await facts.flush()

    assert memory.rows().keys() == ["k0", "k3", "k4"]


async def test_what_was_dropped_does_not_come_back_when_too_much_waits(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = memory.facts
    facts.put("k", 1, DAY)
    facts.put("other", 1, DAY)
    facts = await memory.restart()
    assert await facts.get("other") == 1
    monkeypatch.setattr(module, "_MAX", 2)
    memory.clock.time += 1
    with memory.rows().locked():
        facts.drop("k")
        facts.put("a", 1, DAY)
        facts.put("b", 1, DAY)
    await facts.flush()
    assert "k" in memory.rows().keys()  # noqa: SIM118  # no mapping

    assert await facts.get("k") is None
    memory.clock.time += 1
    facts.put("k", 2, DAY)
    await facts.flush()
    for key in ("c", "d"):
        facts.put(key, 1, DAY)
        await facts.flush()
    assert await facts.get("k") == 2


# -- rows of others


#: JSON that is no fact.
STRANGE = [
    *("text", 5, True, [], {}, [0], [0, 1e12], [0, 1e12, 1, 1], {"0": 0, "1": 1e12, "2": 1}),
    *(["0", 1e12, 1], [0, "1e12", 1], [None, 1e12, 1], [[0], 1e12, 1]),
    *([math.nan, 1e12, 1], [1, math.nan, 1], [math.inf, 1e12, 1], [-math.inf, math.inf, 1]),
    *([10**400, 1e12, 1], [0, 10**400, 1]),
]
#: What is no JSON, or not what JSON is kept as.
FOREIGN = ["", "no JSON", "[" * 100_000, "1" * 5000, b"[0,1e12,1]", b"\x80\x04K\x01.", None, 7, 1.5]


async def test_a_row_that_is_no_fact_is_none(memory: Memory) -> None:
    await memory.store.note({str(row): (row, DAY) for row in [*STRANGE, [0, 1e12, 1]]})

    assert [row for row in STRANGE if await memory.facts.get(str(row)) is not None] == []
    assert await memory.facts.get(str([0, 1e12, 1])) == 1


async def test_a_row_that_is_not_even_json_is_no_fact(memory: Memory) -> None:
    keys = {f"k{number}": value for number, value in enumerate(FOREIGN)}
    for key in keys:
        memory.facts.put(key, 1, DAY)
    facts = await memory.restart()
    for key, value in keys.items():
        memory.rows().change(key, value)

    assert [value for key, value in keys.items() if await facts.get(key) is not None] == []
    facts.put("k0", 2, DAY)
    assert await (await memory.restart()).get("k0") == 2


async def test_a_row_says_since_when_for_how_long_and_what(memory: Memory) -> None:
    memory.facts.put("k", ["v"], DAY)
    await memory.facts.flush()

    assert await memory.store.recall("k") == [memory.clock.time, DAY, ["v"]]
    memory.rows().change("k", json.dumps([int(memory.clock.time), 10, "theirs"]))
    facts = await memory.restart()
    assert await facts.get("k") == "theirs"
    memory.clock.time += 10
    assert await facts.get("k") is None


# -- any history


_STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("drop"), st.sampled_from("ab"), st.just(0)),
    st.tuples(st.sampled_from(["spin", "flush", "restart", "fail", "mend", "later"]), st.just(""), st.just(0)),
)


@settings(max_examples=25)  # every one with a store of its own
@given(steps=st.lists(_STEPS, max_size=14))
def test_what_is_known_is_what_was_said_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    asyncio.run(_history(tmp_path_factory.mktemp("history"), steps))


async def _history(folder: Path, steps: list[tuple[str, str, int]]) -> None:
    model: dict[str, tuple[int, float]] = {}
    async with remembering(folder / "store", TroubledStore) as memory:
        for step, key, value in steps:
            await _step(memory, step, key, value)
            if step == "put":
                model[key] = value, memory.clock.time + 100
            elif step == "drop":
                model.pop(key, None)
            for name in "ab":
                said, until_then = model.get(name, (None, 0.0))
                assert await memory.facts.get(name) == (said if memory.clock.time < until_then else None)


async def _step(memory: Memory, step: str, key: str, value: int) -> None:
    match step:
        case "put":
            memory.facts.put(key, value, 100.0)
        case "drop":
            memory.facts.drop(key)
        case "spin":
            await spin()
        case "flush":
            await memory.facts.flush()
        case "restart":
            store(memory).failing.clear()
            await memory.restart()
        case "fail":
            store(memory).failing["note"] = 1
        case "mend":
            store(memory).failing.clear()
        case "later":
            memory.clock.time += 30


# -- what commands write beside us


async def test_what_a_command_wrote_after_we_dropped_it_is_seen_and_dropped_again(memory: Memory) -> None:
    memory.facts.drop("k", shared=True)
    await memory.facts.flush()

    await memory.store.note({"k": row_of(memory.clock(), DAY, "brought")})
    assert await memory.facts.get("k", shared=True) == "brought"

    memory.facts.drop("k", shared=True)
    assert await memory.facts.get("k", shared=True) is None
    assert await (await memory.restart()).get("k", shared=True) is None
