"""The results as one JSON object: what was measured, on what, and what it means.

Tables and pictures are made from that object alone.
"""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.figures import METRICS, difference, quantile, ratio, summary
from bench.peers import SUBJECTS, versions
from bench.run import Findings, Terms
from bench.targets import DIRECT, US, judged
from pullthrough import __version__

FORMAT: Final = 1
#: Points of a distribution that are kept.
POINTS: Final = 200

type Document = dict[str, Any]


def document(terms: Terms, findings: Findings, command: str) -> Document:
    """All of it; `json.dumps` takes it."""
    return {
        "format": FORMAT,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": _machine(),
        "versions": {US: __version__, **versions()},
        "quick": terms.quick,
        "rounds": terms.rounds,
        "workers": terms.workers,
        "interrupted": findings.interrupted,
        "subjects": {kind.name: kind.explained for kind in SUBJECTS if kind.name in terms.subjects},
        "missing": findings.missing,
        "left_out": findings.left_out,
        "metrics": {
            name: {"title": metric.title, "unit": metric.unit, "digits": metric.digits, "more": metric.more}
            for name, metric in METRICS.items()
        },
        "works": {letter: {**work, "figures": _figures(letter, findings)} for letter, work in findings.works.items()},
        "peaks": _peaks(findings),
        "targets": judged(findings.table),
        "latencies": {name: _distribution(seconds) for name, seconds in findings.latencies.items()},
        "herd": {name: sorted(spans) for name, spans in findings.spans.items()},
        "notes": findings.notes,
    }


def _figures(letter: str, findings: Findings) -> dict[str, Any]:
    """Of each subject and metric: its own rounds, how many times that ours is, and what it adds to asking directly."""
    subjects = findings.table.get(letter, {})
    ours, direct = subjects.get(US, {}), subjects.get(DIRECT, {})
    figures: dict[str, Any] = {}
    for name, metrics in subjects.items():
        figures[name] = {}
        for metric, values in metrics.items():
            added = difference(values, direct.get(metric, [])) if METRICS[metric].added and name != DIRECT else None
            figures[name][metric] = summary(values) | {"ratio": ratio(ours.get(metric, []), values), "added": added}
    return figures


def _peaks(findings: Findings) -> dict[str, float]:
    """(h): the most memory of each subject in any work, in MB."""
    peaks: dict[str, float] = {}
    for subjects in findings.table.values():
        for name, metrics in subjects.items():
            seen = [value for value in metrics.get("memory", []) if value is not None]
            if seen:
                peaks[name] = max(peaks.get(name, 0.0), *seen)
    return peaks


def _distribution(seconds: list[float]) -> list[float]:
    """Milliseconds at so many equal shares of the requests."""
    return [1000 * quantile(seconds, number / POINTS) for number in range(1, POINTS + 1)]


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    _, _, model = cpuinfo.partition("model name")
    return {
        "processor": model.partition(":")[2].partition("\n")[0].strip() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
