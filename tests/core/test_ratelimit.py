"""What is left of a rate limit, and how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.headers import Headers
from pullthrough.core.ratelimit import MAX_FIELD, Budget, budget, retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def fields(*lines: str) -> Headers:
    return Headers([(name, value) for name, _, value in (line.partition(": ") for line in lines)])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Docker Hub
        (["ratelimit-limit: 100;w=21600", "ratelimit-remaining: 76;w=21600"], Budget(100, 76)),
        (["RateLimit-Remaining: 0;w=21600"], Budget(None, 0)),
        (["ratelimit-remaining: 76", "ratelimit-limit: many"], Budget(None, 76)),
        (["ratelimit-remaining:  7 ; w=60"], Budget(None, 7)),
        (["ratelimit-limit: 10, 10;w=1, 50;w=60", "ratelimit-remaining: 9"], Budget(10, 9)),
        (["ratelimit-remaining: 76", "ratelimit-remaining: 5"], Budget(None, 5)),
        (["ratelimit-remaining: x", "ratelimit-remaining: 5"], Budget(None, 5)),
        # the pulls come before the requests
        (["x-ratelimit-remaining: 179", "x-ratelimit-limit: 180", "ratelimit-remaining: 76"], Budget(None, 76)),
        (["x-ratelimit-remaining: 179", "x-ratelimit-limit: 180"], Budget(180, 179)),
        (["x-ratelimit-remaining: 179"], Budget(None, 179)),
        # structured
        (['RateLimit: "default";r=50;t=30'], Budget(None, 50)),
        (['RateLimit: "burst";r=50;t=30, "daily";r=3;t=3000'], Budget(None, 3)),
        (['RateLimit: "a";r=8', 'RateLimit: "b";r=9'], Budget(None, 8)),
        (['RateLimit: "x;r=1,";t=30;r=50'], Budget(None, 50)),
        (["RateLimit: limit=100, remaining=50, reset=5"], Budget(None, 50)),
        (["RateLimit: r=4"], Budget(None, 4)),
        (['RateLimit: "default";r=50', "X-RateLimit-Remaining: 3"], Budget(None, 50)),
        (['RateLimit: "default";t=50', "X-RateLimit-Remaining: 3"], Budget(None, 3)),
    ],
)
def test_what_is_left(lines: list[str], expected: Budget) -> None:
    assert budget(fields(*lines)) == expected


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["ratelimit-limit: 100"],
        ["ratelimit-remaining: "],
        ["ratelimit-remaining: -1"],
        ["ratelimit-remaining: 7.5"],
        ["ratelimit-remaining: 7x"],
        ["ratelimit-remaining: ٣"],
        ["ratelimit-remaining: 7\n"],
        [f"ratelimit-remaining: {'9' * 13}"],
        ["ratelimit-remaining: 7;" + "x" * MAX_FIELD],
        ["RateLimit: default"],
        ['RateLimit: "default;r=5"'],
        ['RateLimit: "default";r=x'],
        ['RateLimit: "default";r=5x'],
        ['RateLimit: "default";pr=5'],
        [f'RateLimit: "default";r={"9" * 13}'],
        ['RateLimit: "default";r=5' + " " * MAX_FIELD],
        ["x-ratelimit-remaining: none"],
    ],
)
def test_nothing_usable_is_no_budget(lines: list[str]) -> None:
    assert budget(fields(*lines)) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        ("999999999", 999999999.0),
        # the three forms of a date, of which senders use the first
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Wed Nov 16 08:49:37 1994", 864000.0),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 22.0),
        ("Thursday, 06-Nov-69 08:49:37 GMT", 2366841600.0),
        # the past
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Friday, 01-Jan-71 00:00:00 GMT", 0.0),
    ],
)
def test_how_long_to_wait(value: str, seconds: float) -> None:
    assert retry_after(fields(f"Retry-After: {value}"), NOW) == seconds


def test_a_time_in_epoch_seconds_is_no_delay() -> None:
    """Docker Hub's mistake of 2025 would close its registry for half a century."""
    assert retry_after(fields("retry-after: 1746136938"), 1746136930.5) == 7.5
    assert retry_after(fields("retry-after: 1746136938"), 1746136940.0) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "1.5",
        "+5",
        "٣",
        "12 s",
        "9" * 13,
        "Sun, 06 Nov 1994 08:50:37",
        "Sun, 06 Nov 1994 08:50:37 CET",
        "Sun, 06 Nov 1994 08:50:37 GMT ago",
        "Sun, 6 Nov 1994 08:50:37 GMT",
        "Sun, 06 Mai 1994 08:50:37 GMT",
        "Sun, 31 Feb 1994 08:50:37 GMT",
        "Sun, 06 Nov 0000 08:50:37 GMT",
        "Sun, 06 Nov 1994 24:50:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:50:61 GMT",
        "Sun, ٠٦ Nov 1994 08:50:37 GMT",
        "Sun Nov  0 08:50:37 1994",
    ],
)
def test_what_says_nothing_usable(value: str) -> None:
    assert retry_after(fields(f"Retry-After: {value}"), NOW) is None


def test_no_field_is_no_delay() -> None:
    assert retry_after(Headers(), NOW) is None


names = st.sampled_from(["ratelimit-limit", "ratelimit-remaining", "RateLimit", "X-RateLimit-Remaining", "Retry-After"])
values = st.one_of(st.text(), st.text('0123456789;,="rw \t\\', max_size=30))


@given(st.lists(st.tuples(names, values), max_size=5), st.floats())
def test_anything_gives_sound_values(lines: list[tuple[str, str]], now: float) -> None:
    left = budget(Headers(lines))
    delay = retry_after(Headers(lines), now)

    assert left is None or (left.remaining >= 0 and (left.limit is None or left.limit >= 0))
    assert delay is None or delay >= 0


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1), st.sampled_from(["", ";w=60", " ; w=60, 5"]))
def test_numbers_are_read_as_written(limit: int, left: int, rest: str) -> None:
    lines = fields(f"ratelimit-limit: {limit}{rest}", f"ratelimit-remaining: {left}{rest}")

    assert budget(lines) == Budget(limit, left)


@given(st.integers(0, 999_999_999), st.floats(0, 1e12))
def test_a_delay_does_not_depend_on_the_time(seconds: int, now: float) -> None:
    assert retry_after(fields(f"Retry-After: {seconds}"), now) == seconds
