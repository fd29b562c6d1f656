"""What a program and its children take: processor time and the most memory, as Linux counts them."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")
PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Peak:
    """Bytes of resident memory at the most: all processes together, and the largest. Shared pages count in each."""

    together: int
    largest: int


def tree(pid: int) -> list[int]:
    """The process and all that come of it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in (PROC / str(parent) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def processor_seconds(pids: list[int]) -> float:
    """Of these, and of their children that are gone."""
    return sum(map(_ticks, pids)) / _TICK


def reset_peaks(pids: list[int]) -> None:
    """Let the most be counted from here on. Where that is not permitted it goes on from the start of the process."""
    for pid in pids:
        with suppress(OSError):
            (PROC / str(pid) / "clear_refs").write_text("5")


def peak(pids: list[int]) -> Peak:
    """The most since the last reset; the sum is an upper bound, as not all need it at the same time."""
    peaks = [*(_memory(pid, "VmHWM:") for pid in pids), 0]
    return Peak(sum(peaks), max(peaks))


def resident(pids: list[int]) -> int:
    """Bytes of memory that they have now, shared pages counted in each."""
    return sum(_memory(pid, "VmRSS:") for pid in pids)


def _ticks(pid: int) -> int:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def _memory(pid: int, which: str) -> int:
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    _, found, rest = status.partition(which)
    return int(rest.split()[0]) * 1024 if found else 0


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
