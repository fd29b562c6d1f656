"""How often an origin is tried, and how often it is asked whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lab.inside import until
from lab.pages import Time
from pullthrough.probes import REMEMBERED, Answers, Probes

ORIGIN = "https://registry.test:443"


class Origin:
    """Its breaker is open until it was tried often enough."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.tried = 0
        self.failure: Exception | None = None

    def opened(self, origin: str) -> bool:
        return self.tried < self.needed

    async def probe(self) -> None:
        self.tried += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture(params=[False, True], ids=["default", "eager"], autouse=True)
async def factory(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Ours runs its loop with eager tasks."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory if request.param else None)
    yield
    loop.set_task_factory(None)


@pytest.fixture
def time() -> Time:
    return Time()


async def after(time: Time, naps: int) -> None:
    """Let the time of the next nap pass, if it was begun, and wait until there were so many."""
    await until(lambda: len(time.naps) == naps)
    time.passes(time.naps[-1])
    time.wake()


async def test_the_pauses_grow_to_fifteen_seconds(time: Time) -> None:
    origin = Origin(needed=7)
    probes = Probes(origin.opened, time.sleep)
    probes.watch(ORIGIN, origin.probe)
    for nap in range(7):
        assert origin.tried == nap
        await after(time, nap + 1)
        await until(lambda nap=nap: origin.tried == nap + 1)  # type: ignore[misc]
    assert time.naps == [1, 2, 4, 8, 15, 15, 15], "and no more once it is closed"


async def test_one_task_for_an_origin(time: Time) -> None:
    origin, other = Origin(needed=1), Origin(needed=1)
    probes = Probes(lambda name: origin.opened(name) if name == ORIGIN else other.opened(name), time.sleep)
    for _ in range(3):
        probes.watch(ORIGIN, origin.probe)
    probes.watch("https://registry2.test:443", other.probe)
    await after(time, 2)
    await until(lambda: (origin.tried, other.tried) == (1, 1))
    assert time.naps == [1, 1]
    await probes.aclose()


async def test_what_was_closed_meanwhile_is_not_tried(time: Time) -> None:
    origin = Origin(needed=1)
    probes = Probes(origin.opened, time.sleep)
    probes.watch(ORIGIN, origin.probe)
    await until(lambda: time.naps)
    origin.needed = 0
    await after(time, 1)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert origin.tried == 0


async def test_it_is_watched_again_after_it_was_closed_or_a_probe_went_wrong(
    time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin(needed=2)
    origin.failure = RuntimeError("a fault of ours")
    probes = Probes(origin.opened, time.sleep)
    probes.watch(ORIGIN, origin.probe)
    await after(time, 1)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert "a fault of ours" in caplog.text
    origin.failure = None
    probes.watch(ORIGIN, origin.probe)
    await after(time, 2)
    await until(lambda: origin.tried == 2)
    assert time.naps == [1, 1]
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_at_the_end_nothing_goes_on(time: Time) -> None:
    origin = Origin(needed=1)
    probes = Probes(origin.opened, time.sleep)
    probes.watch(ORIGIN, origin.probe)
    await until(lambda: time.naps)
    await probes.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert origin.tried == 0


# -- answers


class Question:
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> bool:
        self.asked += 1
        await self.go.wait()
        return self.answers.pop(0)


async def test_an_answer_is_good_for_some_seconds(time: Time) -> None:
    answers, question = Answers(time), Question(True, False)
    assert await answers.ask("a", question)
    time.passes(REMEMBERED - 0.01)
    assert await answers.ask("a", question)
    assert question.asked == 1
    time.passes(0.01)
    assert not await answers.ask("a", question)
    assert question.asked == 2


async def test_who_asks_meanwhile_waits_for_the_same_answer(time: Time) -> None:
    answers, question = Answers(time), Question(False)
    question.go.clear()
    askers = [asyncio.ensure_future(answers.ask("a", question)) for _ in range(5)]
    await until(lambda: question.asked)
    question.go.set()
    assert await asyncio.gather(*askers) == [False] * 5
    assert question.asked == 1


async def test_other_keys_are_other_questions(time: Time) -> None:
    answers, question = Answers(time), Question(True, False)
    assert (await answers.ask("a", question), await answers.ask("b", question)) == (True, False)


async def test_answers_are_bounded_and_the_oldest_go(time: Time) -> None:
    answers, question = Answers(time), Question(*[True] * 1026)
    for number in range(1025):
        await answers.ask(number, question)
    await answers.ask(1, question)
    assert question.asked == 1025
    await answers.ask(0, question)
    assert question.asked == 1026
