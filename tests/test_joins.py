"""Identical questions are asked once, and an answer does not depend on who waits for it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pullthrough.joins import Joins


@pytest.fixture(params=[False, True], ids=["default", "eager"], autouse=True)
async def factory(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Ours runs its loop with eager tasks."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory if request.param else None)
    yield
    loop.set_task_factory(None)


class Question:
    """Work that waits until it may answer, and counts how often it is done."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.go = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        await self.go.wait()
        self.answered += 1
        if self.failure is not None:
            raise self.failure
        return self.answered


async def spin() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_askers_one_question() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    askers = [asyncio.ensure_future(joins.do("k", question)) for _ in range(20)]
    await spin()
    question.go.set()
    answers = await asyncio.gather(*askers)

    assert question.asked == 1
    assert [joined for _, joined in answers] == [False] + [True] * 19
    assert {value for value, _ in answers} == {1}


async def test_other_keys_are_other_questions() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    question.go.set()

    assert list(await asyncio.gather(joins.do("a", question), joins.do("b", question))) == [(1, False), (2, False)]


async def test_an_answer_is_not_kept() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    question.go.set()

    assert await joins.do("k", question) == (1, False)
    await spin()
    assert await joins.do("k", question) == (2, False)
    await spin()
    assert len(joins) == 0


async def test_work_that_is_over_at_once() -> None:
    joins: Joins[str, int] = Joins()

    async def work() -> int:
        return 7

    assert await joins.do("k", work) == (7, False)
    await spin()
    assert len(joins) == 0


async def test_a_failure_reaches_everybody_who_waits() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    question.failure = ValueError("no")
    askers = [asyncio.ensure_future(joins.do("k", question)) for _ in range(3)]
    await spin()
    question.go.set()

    assert [type(failure) for failure in await asyncio.gather(*askers, return_exceptions=True)] == [ValueError] * 3
    assert len(joins) == 0


async def test_a_failure_at_once() -> None:
    joins: Joins[str, int] = Joins()

    async def work() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await joins.do("k", work)


async def test_whoever_asked_first_may_leave() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    first = asyncio.ensure_future(joins.do("k", question))
    second = asyncio.ensure_future(joins.do("k", question))
    await spin()
    first.cancel()
    await spin()
    question.go.set()

    assert await second == (1, True)
    assert first.cancelled()


async def test_the_work_goes_on_when_all_have_left_and_its_failure_is_nobodys() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    question.failure = ValueError("no")
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    only = asyncio.ensure_future(joins.do("k", question))
    await spin()
    only.cancel()
    await spin()
    assert len(joins) == 1
    question.go.set()
    await spin()

    assert question.answered == 1
    assert len(joins) == 0
    assert unseen == []


async def test_nobody_joins_what_was_forgotten() -> None:
    joins: Joins[str, int] = Joins()
    before, after = Question(), Question()
    early = asyncio.ensure_future(joins.do("k", before))
    kept = asyncio.ensure_future(joins.do("other", before))
    await spin()
    joins.forget(lambda key: key == "k")
    late = asyncio.ensure_future(joins.do("k", after))
    await spin()
    assert (before.asked, after.asked) == (2, 1)

    before.go.set()
    assert await early == (1, False)
    later = asyncio.ensure_future(joins.do("k", after))
    await spin()
    after.go.set()
    assert (await late)[1] is False
    assert (await later)[1] is True  # the end of the forgotten work did not make this one forgotten too
    await kept


async def test_work_that_is_cancelled_cancels_those_who_wait() -> None:
    joins: Joins[str, int] = Joins()
    question = Question()
    asker = asyncio.ensure_future(joins.do("k", question))
    await spin()
    for task in asyncio.all_tasks() - {asyncio.current_task(), asker}:
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asker
    assert len(joins) == 0
