"""`pullthrough doctor`: checks of one machine, one cache and one registry, each with one line and one remedy.

Responsible for the order of the checks, and for a finding from each of them, whatever happens: a check that hangs,
lacks rights or fails itself must not hide the others. Must not know how findings are shown.

A check is a function from a `Case` to a `Finding`. To add one: write it beside its kin and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pullthrough.doctor import condition, names, pulling, stores, variables
from pullthrough.doctor.asking import in_time
from pullthrough.doctor.case import Case, gather
from pullthrough.doctor.finding import Finding, Verdict, failed, skipped
from pullthrough.doctor.machine import Machine
from pullthrough.doctor.target import Place, Target, own_place, parse_cache, parse_target
from pullthrough.doctor.ways import proxied_by

__all__ = [
    "Finding",
    "Machine",
    "Place",
    "Target",
    "Verdict",
    "examine",
    "own_place",
    "parse_cache",
    "parse_target",
    "proxied_by",
]

type Check = Callable[[Case], Finding]


def examine(machine: Machine, cache: Place, target: Target, data_dir: Path) -> Iterator[Finding]:
    """A finding of each check, as it is made. Never raises; each has twelve seconds."""
    case = gather(machine, cache, target)
    for title, check in _checks(data_dir):
        yield _made(title, check, case)


def _checks(data_dir: Path) -> tuple[tuple[str, Check], ...]:
    """By the road of a pull: the cache, the way to it, trust, and then a pull itself."""
    return (
        ("cache", condition.reachable),
        ("health", condition.healthy),
        ("clock", condition.clock),
        ("proxy of this shell", variables.shell),
        ("proxy of podman", variables.podman),
        ("proxy of dockerd", variables.dockerd),
        ("proxy of containerd", variables.containerd),
        ("NO_PROXY", variables.no_proxy),
        ("DNS", names.resolved),
        ("CA in the system", stores.system),
        ("CA in this shell", stores.shell),
        ("CA in docker", stores.docker),
        ("CA in containerd", stores.containerd),
        ("CA in podman", stores.podman),
        ("pull", pulling.pulled),
        ("disk", lambda case: condition.disk(case, data_dir)),
    )


def _made(title: str, check: Check, case: Case) -> Finding:
    try:
        return in_time(lambda: check(case))
    except TimeoutError:
        return failed(title, "the check did not end in time", "look for a lost network drive or a stuck name server")
    except PermissionError as error:
        return skipped(title, f"only root may read {error.filename}", "run it as root: sudo pullthrough doctor")
    except Exception as error:  # noqa: BLE001 - a fault of one check must not hide the others
        return failed(title, f"the check itself failed: {type(error).__name__}", "please report it as a bug")
