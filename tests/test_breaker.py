"""When an origin is left alone, and what is said about it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lab.pages import EPOCH, Time
from pullthrough.breaker import FAILURES, SLOW, Breaker

BAD = "https://registry.test:443"
GOOD = "https://registry2.test:5000"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> Breaker:
    return Breaker(time, time.now)


def fail(breaker: Breaker, times: int, seconds: float = SLOW, origin: str = BAD) -> None:
    for _ in range(times):
        breaker.failed(origin, f"{origin} did not answer in time", seconds)


def test_an_origin_that_nothing_is_known_of_is_asked(breaker: Breaker) -> None:
    assert (breaker.refusal(BAD), breaker.since(BAD), breaker.opened(BAD), breaker.count()) == (None, None, False, 0)


def test_it_opens_with_the_third_slow_failure(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    assert (breaker.opened(BAD), breaker.refusal(BAD)) == (False, None)
    fail(breaker, 1)
    assert (breaker.opened(BAD), breaker.count()) == (True, 1)


def test_it_is_about_one_origin(breaker: Breaker) -> None:
    fail(breaker, FAILURES)
    assert (breaker.opened(GOOD), breaker.refusal(GOOD), breaker.since(GOOD)) == (False, None, None)


def test_quick_failures_never_open_it(breaker: Breaker) -> None:
    fail(breaker, 100, SLOW - 0.01)
    assert not breaker.opened(BAD)
    assert breaker.since(BAD) == EPOCH, "they are failures all the same"


def test_a_quick_failure_neither_counts_nor_resets(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    fail(breaker, 1, 0.0)
    assert not breaker.opened(BAD)
    fail(breaker, 1)
    assert breaker.opened(BAD)
    fail(breaker, 1, 0.0)
    assert breaker.opened(BAD), "nor does it close"


def test_an_answer_ends_the_count(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.worked(BAD)
    assert breaker.since(BAD) is None
    fail(breaker, FAILURES - 1)
    assert not breaker.opened(BAD)


def test_an_answer_closes_it(breaker: Breaker) -> None:
    fail(breaker, FAILURES)
    breaker.worked(BAD)
    assert (breaker.opened(BAD), breaker.refusal(BAD), breaker.since(BAD), breaker.count()) == (False, None, None, 0)


def test_it_can_be_closed_while_the_origin_goes_on_failing(breaker: Breaker, time: Time) -> None:
    fail(breaker, FAILURES)
    time.passes(5)
    breaker.close(BAD)
    assert (breaker.opened(BAD), breaker.since(BAD)) == (False, EPOCH)
    fail(breaker, FAILURES - 1)
    assert not breaker.opened(BAD), "three more"
    breaker.close(GOOD)
    assert breaker.since(GOOD) is None


def test_it_says_what_is_wrong_and_since_when(breaker: Breaker, time: Time) -> None:
    breaker.failed(BAD, "first", 0.0)
    for word in ("second", "third", "last"):
        time.passes(10)
        breaker.failed(BAD, word, SLOW)
    assert breaker.since(BAD) == EPOCH
    assert breaker.refusal(BAD) == (
        "last; it has been failing since 2030-01-01 00:00:00 UTC and is tried again in the background"
    )


def test_failures_far_apart_are_no_streak(breaker: Breaker, time: Time) -> None:
    fail(breaker, FAILURES - 1)
    time.passes(3601)
    assert breaker.since(BAD) is None, "nobody knows what was in between"
    fail(breaker, 1)
    assert not breaker.opened(BAD)
    assert breaker.since(BAD) == EPOCH + timedelta(seconds=3601)


def test_an_open_one_does_not_close_by_itself(breaker: Breaker, time: Time) -> None:
    fail(breaker, FAILURES)
    time.passes(100_000)
    assert breaker.opened(BAD)
    assert breaker.since(BAD) == EPOCH


def test_what_is_remembered_is_bounded_and_the_oldest_go(breaker: Breaker) -> None:
    fail(breaker, 1, origin=BAD)
    for number in range(1023):
        fail(breaker, 1, origin=f"https://{number}.test:443")
    fail(breaker, 1, origin=BAD)  # the latest now
    fail(breaker, 1, origin=GOOD)
    assert breaker.since(BAD) is not None
    assert breaker.since("https://0.test:443") is None
    assert breaker.since("https://1.test:443") is not None
