"""Figures: what is measured in which unit, and what several rounds of it come to."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

#: A round's value; None: it failed in this round.
type Values = list[float | None]
#: Work, subject, metric.
type Table = dict[str, dict[str, dict[str, Values]]]


@dataclass(frozen=True)
class Metric:
    """How one kind of figure is called and written."""

    title: str
    unit: str
    digits: int = 0
    #: Is more of it better?
    more: bool = False
    #: Is it what comes on top of asking directly that counts?
    added: bool = False


METRICS: Final[dict[str, Metric]] = {
    "speed": Metric("speed", "MB/s", more=True),
    "first_byte": Metric("first byte", "ms", 1, added=True),
    "wall": Metric("wall time", "s", 2),
    "slowest": Metric("slowest client", "s", 2),
    "copies": Metric("sent by upstream", "x the blob", 2),
    "pulls": Metric("pulls", "/s", 1, more=True),
    "kept_rate": Metric("checks, keep-alive", "/s", more=True),
    "kept_latency": Metric("latency, keep-alive", "ms", 1, added=True),
    "renewed_rate": Metric("checks, new connections", "/s", more=True),
    "renewed_latency": Metric("latency, new connections", "ms", 1, added=True),
    "p50": Metric("p50 of a request", "ms", 1),
    "p99": Metric("p99 of a request", "ms", 1),
    "kept_speed": Metric("speed that is left", "of its own", 2, more=True),
    "added_p99": Metric("added to the p99", "ms", 1),
    "cold": Metric("cold, wall time", "s", 1),
    "warm": Metric("warm, wall time", "s", 1),
    "cold_wan": Metric("cold, over the WAN", "MB"),
    "warm_wan": Metric("warm, over the WAN", "MB", 1),
    "failed": Metric("failed requests", ""),
    "upstream": Metric("sent by upstream", "MB"),
    "memory": Metric("peak memory", "MB"),
    "process": Metric("its largest process", "MB"),
    "cpu": Metric("CPU per GB", "s", 2),
    "clients": Metric("CPU of the clients", "s", 2),
}


def summary(values: Values) -> dict[str, Any]:
    """Median and spread of the rounds that went well; all None if there was none."""
    good = [value for value in values if value is not None]
    median, least, most = (statistics.median(good), min(good), max(good)) if good else (None, None, None)
    return {"median": median, "least": least, "most": most, "values": values}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below so great a share of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def by_round(first: Values, second: Values) -> list[tuple[float, float]]:
    """What both had in the same round; what only one had is left out."""
    pairs = zip(first, second, strict=False)
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def ratio(first: Values, second: Values) -> float | None:
    """The median of the rounds' ratios, so that what slowed the machine in one round slowed both."""
    ratios = [one / other for one, other in by_round(first, second) if other]
    return statistics.median(ratios) if ratios else None


def difference(first: Values, second: Values) -> float | None:
    """The median of the rounds' differences."""
    differences = [one - other for one, other in by_round(first, second)]
    return statistics.median(differences) if differences else None
