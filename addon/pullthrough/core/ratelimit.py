"""What a registry says of its rate limit: how much is left, and how long to wait.

Reads the fields of Docker Hub and of others like it. Decides nothing, and keeps nothing: a budget is that of one
answer, for whoever got it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pullthrough.core.headers import Headers

#: Characters of a field that is read at all.
MAX_FIELD: Final = 1024

# Twelve digits exceed any limit and any time; more are not worth a big integer.
_NUMBER: Final = re.compile(r"[ \t]*+([0-9]{1,12})[ \t]*+(?:[;,].*+)?", re.DOTALL)
_STRING: Final = re.compile(r'"[^"\\]*+"')
_LEFT: Final = re.compile(r"(?:^|[;, \t])(?:r|remaining)=([0-9]{1,12})(?=[;, \t]|\Z)")
_DELTA: Final = re.compile(r"[0-9]{1,12}")
#: A delay of thirty years is none: Docker Hub has sent the time itself, in epoch seconds (docker/hub-feedback#2459).
_EPOCH: Final = 1_000_000_000

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-5][0-9]|60)"
# RFC 9110 section 5.6.7: the form of today and the two that a recipient must still accept.
_DATES: Final = tuple(
    map(
        re.compile,
        (
            rf"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT",
            rf"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT",
            rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many requests are left, and of how many, where that was said."""

    limit: int | None
    remaining: int


def budget(headers: Headers) -> Budget | None:
    """What an answer says is left; None if it says nothing usable. The least counts where it says several things.

    `RateLimit-Remaining: 76;w=21600` (Docker Hub's pulls) comes before the structured `RateLimit: "x";r=50;t=30`
    (draft-ietf-httpapi-ratelimit-headers), and that before `X-RateLimit-Remaining`.
    """
    left = _least(headers, "ratelimit-remaining")
    if left is not None:
        return Budget(_least(headers, "ratelimit-limit"), left)
    left = min(_structured(headers.all("ratelimit")), default=None)
    if left is not None:
        return Budget(None, left)
    left = _least(headers, "x-ratelimit-remaining")
    return None if left is None else Budget(_least(headers, "x-ratelimit-limit"), left)


def _least(headers: Headers, name: str) -> int | None:
    found = (_NUMBER.fullmatch(value) for value in headers.all(name) if len(value) <= MAX_FIELD)
    return min((int(number[1]) for number in found if number), default=None)


def _structured(values: Iterable[str]) -> Iterator[int]:
    for value in values:
        if len(value) <= MAX_FIELD:
            # A quoted name of a policy may hold anything, also what looks like a parameter.
            yield from map(int, _LEFT.findall(_STRING.sub("-", value)))


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds from `now` (epoch seconds) that Retry-After asks to wait (RFC 9110 section 10.2.3).

    None if it is absent or unusable, 0 for a time in the past. Without an upper bound: that is the caller's patience.
    """
    value = (headers.get("retry-after") or "").strip(" \t")
    if not _DELTA.fullmatch(value):
        at = _date(value)
        return None if at is None else max(0.0, at - now)
    seconds = float(value)
    return seconds if seconds < _EPOCH else max(0.0, seconds - now)


def _date(value: str) -> float | None:
    """The epoch seconds of an HTTP-date; None for anything else."""
    found = next((match for match in (form.fullmatch(value) for form in _DATES) if match), None)
    if found is None:
        return None
    month = _MONTHS.index(found["month"]) + 1
    day, hour, minute, second = (int(found[part]) for part in ("day", "hour", "minute", "second"))
    try:
        # a leap second is no time of its own here
        at = datetime(_year(found["year"]), month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return at.timestamp()


def _year(digits: str) -> int:
    """A year of four digits, or of two that mean 1970 to 2069: no server that answers is from before."""
    year = int(digits)
    return year if len(digits) == 4 else year + (2000 if year < 70 else 1900)
