"""Rate limits: who was told to wait, for how long, and what is left."""

from __future__ import annotations

import pytest

from lab.memory import Clock
from pullthrough import limits as module
from pullthrough.core.headers import Headers
from pullthrough.core.ratelimit import Budget
from pullthrough.limits import Limits
from pullthrough.messages import Registry

HUB = Registry("https", "hub.test", 443)
OTHER = Registry("https", "other.test", 5000)


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(clock, Clock(784111777.0))  # 1994-11-06 08:49:37


def heard(limits: Limits, status: int, principal: bytes = b"p", registry: Registry = HUB, **fields: str) -> None:
    headers = Headers((name.replace("_", "-"), value) for name, value in fields.items())
    limits.heard(registry, principal, status, headers)


def test_nobody_waits_at_first(limits: Limits) -> None:
    assert limits.pause(HUB, b"p") == 0


def test_who_was_told_to_wait_waits_and_nobody_else(limits: Limits, clock: Clock) -> None:
    heard(limits, 429, retry_after="30")

    assert limits.pause(HUB, b"p") == 30
    assert limits.pause(HUB, b"q") == 0
    assert limits.pause(OTHER, b"p") == 0
    clock.time += 29
    assert limits.pause(HUB, b"p") == 1
    clock.time += 2
    assert limits.pause(HUB, b"p") == 0


def test_a_time_of_day_is_a_time_to_wait(limits: Limits) -> None:
    heard(limits, 429, retry_after="Sun, 06 Nov 1994 08:51:17 GMT")

    assert limits.pause(HUB, b"p") == 100


@pytest.mark.parametrize("after", ["0", "soon", "-5", "Sun, 06 Nov 1994 08:00:00 GMT", ""])
def test_a_time_that_is_none_is_not_waited_for(limits: Limits, after: str) -> None:
    heard(limits, 429, retry_after=after)

    assert limits.pause(HUB, b"p") == 0


def test_without_a_time_nobody_waits(limits: Limits) -> None:
    heard(limits, 429)

    assert limits.pause(HUB, b"p") == 0


@pytest.mark.parametrize("status", [200, 404, 503])
def test_only_too_many_requests_are_a_reason_to_wait(limits: Limits, status: int) -> None:
    heard(limits, status, retry_after="30")

    assert limits.pause(HUB, b"p") == 0


@pytest.mark.parametrize("after", ["3601", "999999999", "Sun, 06 Nov 2094 08:49:37 GMT"])
def test_nobody_waits_longer_than_an_hour(limits: Limits, after: str) -> None:
    heard(limits, 429, retry_after=after)

    assert limits.pause(HUB, b"p") == 3600


def test_the_last_word_counts(limits: Limits) -> None:
    heard(limits, 429, retry_after="1000")
    heard(limits, 429, retry_after="10")

    assert limits.pause(HUB, b"p") == 10


def test_only_so_many_wait_and_the_oldest_may_ask_again(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX", 2)
    for principal in (b"a", b"b", b"a", b"c"):
        heard(limits, 429, principal, retry_after="30")

    assert {name: limits.pause(HUB, name) for name in (b"a", b"b", b"c")} == {b"a": 30, b"b": 0, b"c": 30}


# -- what is left


def test_nothing_is_known_of_budgets_at_first(limits: Limits) -> None:
    assert limits.budgets == {}


def test_what_is_left_is_what_was_heard_last_by_anybody(limits: Limits) -> None:
    heard(limits, 200, b"p", ratelimit_remaining="76;w=21600", ratelimit_limit="100;w=21600")
    heard(limits, 404, b"p", OTHER, ratelimit_remaining="5")
    heard(limits, 200, b"q", ratelimit_remaining="75;w=21600", ratelimit_limit="100;w=21600")
    heard(limits, 200, b"q")
    heard(limits, 200, b"q", ratelimit_remaining="many")

    assert limits.budgets == {"hub.test": Budget(100, 75), "other.test:5000": Budget(None, 5)}


def test_too_many_requests_say_what_is_left_too(limits: Limits) -> None:
    heard(limits, 429, ratelimit_remaining="0;w=21600", retry_after="30")

    assert limits.budgets == {"hub.test": Budget(None, 0)}
    assert limits.pause(HUB, b"p") == 30


def test_only_so_many_budgets_are_remembered_and_the_oldest_goes(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX", 2)
    for host in ("a", "b", "a", "c"):
        heard(limits, 200, registry=Registry("https", host, 443), ratelimit_remaining="1")

    assert list(limits.budgets) == ["a", "c"]
