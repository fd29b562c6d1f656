"""What is an outage, and how it is told to those for whom the cache has nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from pullthrough.core.headers import Headers
from pullthrough.messages import Answer
from pullthrough.trouble import Trouble
from pullthrough.upstream import UpstreamError

SINCE = datetime(2026, 3, 1, 9, 5, 7, tzinfo=UTC)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507, 520, 599])
def test_an_answer_that_says_to_come_later_is_an_outage(status: int) -> None:
    assert Trouble.status(status)


@pytest.mark.parametrize("status", [200, 206, 301, 307, 400, 401, 403, 404, 405, 416, 428, 430, 499, 501, 505])
def test_the_upstreams_word_is_none(status: int) -> None:
    assert not Trouble.status(status)


@pytest.mark.parametrize("status", [502, 504])
def test_a_silence_of_now_keeps_its_status(status: int) -> None:
    assert Trouble.silence(UpstreamError("no answer", status)) == Trouble("no answer", None, status)


@pytest.mark.parametrize("status", [502, 504])
def test_a_silence_that_lasts_is_an_outage(status: int) -> None:
    assert Trouble.silence(UpstreamError("no answer", status, SINCE)) == Trouble("no answer", SINCE, 503)


def test_an_answer_that_is_none_is_told_without_what_was_asked() -> None:
    trouble = Trouble.answer("https://registry.test:5000/v2/team/app/manifests/v1?sig=secret", 502)

    assert trouble == Trouble("https://registry.test:5000 answers 502", None, 503)


def error(answer: Answer) -> dict[str, str]:
    """The one error that clients print."""
    assert isinstance(answer.body, bytes)
    (found,) = json.loads(answer.body)["errors"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, {"code": "TOOMANYREQUESTS", "message": "pullthrough: the registry's rate limit is used up"}),
        (500, {"code": "UNAVAILABLE", "message": "pullthrough: the registry answers 500"}),
        (503, {"code": "UNAVAILABLE", "message": "pullthrough: the registry answers 503"}),
    ],
)
def test_an_answer_is_passed_on_in_words_of_ours(status: int, said: dict[str, str]) -> None:
    answer = Trouble.relayed(status, Headers())

    assert (answer.status, error(answer)) == (status, said)
    assert answer.cache.header() == f"pullthrough; fwd=miss; fwd-status={status}"


def test_what_an_answer_says_of_its_body_and_its_connection_is_left_out() -> None:
    kept = (("Retry-After", "30"), ("RateLimit-Remaining", "0;w=21600"))
    of_body = (("Content-Type", "text/html"), ("content-length", "7"), ("Content-Encoding", "gzip"))
    of_connection = (("Connection", "x-hop"), ("X-Hop", "1"), ("Transfer-Encoding", "chunked"), ("Set-Cookie", "s"))
    answer = Trouble.relayed(429, Headers((*of_body, *kept, *of_connection)))

    assert list(answer.headers) == [*kept, ("Content-Type", "application/json")]


def test_a_refusal_can_be_read_by_clients() -> None:
    answer = Trouble("registry.test does not answer", SINCE, 503).refusal()

    assert error(answer) == {
        "code": "UNAVAILABLE",
        "message": "pullthrough: registry.test does not answer (unreachable since 2026-03-01T09:05:07Z)",
    }
    assert answer.status == 503
    assert answer.headers.get("content-type") == "application/json"
    assert answer.headers.get("cache-control") == "no-store"
    assert answer.cache.header() == 'pullthrough; fwd=miss; detail="registry.test does not answer"'


def test_a_refusal_of_now_says_no_time() -> None:
    answer = Trouble("no answer", code=504).refusal()

    assert answer.status == 504
    assert error(answer)["message"] == "pullthrough: no answer"
