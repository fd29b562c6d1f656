"""What pullthrough is meant to reach, as data, and whether it did. Nothing fails because of one.

Where a target names several peers, each of them is meant. A peer that failed in a round is not compared in that round.
"""

import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bench.figures import METRICS, Table, difference, ratio

US: Final = "pullthrough"
DIRECT: Final = "direct"
STOCK: Final = ("mitmdump", "mitmdump-naive")
_HOLDS: Final[Mapping[str, Callable[[float, float], bool]]] = {"≥": operator.ge, "≤": operator.le}


@dataclass(frozen=True)
class Target:
    """`metric` of a work is to be ≥ or ≤ `bound`: as it is, by ratio to a peer's, or by difference from it."""

    work: str
    metric: str
    sign: Literal["≥", "≤"]
    bound: float
    how: Literal["alone", "times", "plus"] = "times"
    peers: tuple[str, ...] = ()

    def sentence(self, peer: str) -> str:
        metric = METRICS[self.metric]
        what = {
            "alone": f"{self.bound:g} {metric.unit}",
            "times": f"{self.bound:g} x {peer}",
            "plus": f"{peer} + {self.bound:g} {metric.unit}",
        }
        return f"{metric.title} {self.sign} {what[self.how]}"


TARGETS: Final = (
    Target("a", "speed", "≥", 2.0, peers=("squid",)),
    Target("a", "speed", "≥", 1.0, peers=("nginx",)),
    Target("a", "process", "≤", 120, "alone"),
    Target("b", "speed", "≥", 2.0, peers=("squid",)),
    Target("b", "speed", "≥", 0.9, peers=("nginx",)),
    Target("c", "speed", "≥", 1.5, peers=("squid",)),
    Target("c", "speed", "≥", 1.0, peers=("docker-registry",)),
    Target("c", "speed", "≥", 0.8, peers=(DIRECT,)),
    Target("c", "first_byte", "≤", 10, "plus", (DIRECT,)),
    Target("d", "copies", "≤", 1.0, "alone"),
    Target("d", "wall", "≤", 1.2, peers=("nginx",)),
    Target("e", "pulls", "≥", 3.0, peers=STOCK),
    Target("f", "renewed_rate", "≥", 3.0, peers=STOCK),
    # A tenth for ten machines; what tags, manifests and packet headers cost is above the bytes of layers, once and ten
    # times alike, and the checks come on top.
    Target("g", "cold_wan", "≤", 0.11, peers=(DIRECT,)),
    # What the LAN limits and not the WAN takes a fraction of the time, and next to no bytes of it.
    Target("g", "warm", "≤", 0.1, peers=(DIRECT,)),
    Target("g", "warm_wan", "≤", 0.01, peers=(DIRECT,)),
    Target("j", "kept_speed", "≥", 0.8, "alone"),
    Target("k", "added_p99", "≤", 20, "alone"),
)


def judged(table: Table) -> list[dict[str, Any]]:
    """Each target of the works that were done; `reached` is None where there is nothing to compare with."""
    verdicts = []
    for target in TARGETS:
        for peer in target.peers or ("",):
            if target.work in table:
                found = _found(target, peer, table[target.work])
                reached = None if found is None else _HOLDS[target.sign](round(found, 2), target.bound)
                sentence = target.sentence(peer)
                verdicts.append({"work": target.work, "target": sentence, "found": found, "reached": reached})
    return verdicts


def _found(target: Target, peer: str, subjects: dict[str, Any]) -> float | None:
    ours = subjects.get(US, {}).get(target.metric, [])
    theirs = subjects.get(peer, {}).get(target.metric, [])
    if target.how == "times":
        return ratio(ours, theirs)
    if target.how == "plus":
        return difference(ours, theirs)
    good = [value for value in ours if value is not None]
    return statistics.median(good) if good else None
