"""How many processors this process may use.

Responsible for reading what the system says: the processors that it may run on, and the share of their time that its
control groups leave it (containers, systemd's CPUQuota). Must not know what they are used for.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
_OURS: Final = Path("/proc/self/cgroup")


def usable(ours: Path = _OURS, groups: Path = _GROUPS) -> int:
    """At least 1. A quota of 1.5 processors counts as two."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(ours, groups))]))


def _quotas(ours: Path, groups: Path) -> Iterator[float]:
    """Processors by the quotas of our control group and all above it (cgroup v2; v1 is not looked at)."""
    try:
        lines = ours.read_text().splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return
    folder = groups / own
    for each in (folder, *folder.parents):
        # Gone, not permitted, "max", or what a later kernel says.
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (each / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        if each == groups:
            return
