"""The engines that pull as daemons: their processes, and which settings of a proxy each has for itself.

Responsible for where dockerd and containerd take their variables from: the environment that they were started with,
systemd's unit files, and dockerd's own configuration. Must not judge.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.doctor.machine import Machine, Process

#: From weak to strong, as systemd.unit(5) has it.
_UNIT_FOLDERS: Final = ("/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system")
_DOCKER_CONFIG: Final = "/etc/docker/daemon.json"
#: dockerd's names for them, https://docs.docker.com/engine/daemon/proxy/
_DOCKER_KEYS: Final[Mapping[str, str]] = {"https-proxy": "HTTPS_PROXY", "no-proxy": "NO_PROXY"}


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon: its program, its systemd unit, and what `setup.sh` calls it."""

    program: str
    unit: str


DOCKERD: Final = Daemon("dockerd", "docker")
CONTAINERD: Final = Daemon("containerd", "containerd")


def environment(machine: Machine, daemon: Daemon, process: Process) -> dict[str, str]:
    """The variables that count in a running daemon. PermissionError if it is another user's."""
    return machine.environment_of(process) | configured(machine, daemon)


def configured(machine: Machine, daemon: Daemon) -> dict[str, str]:
    """What a daemon's own configuration says of proxies, which goes before its environment."""
    if daemon is not DOCKERD:
        return {}
    proxies = docker_settings(machine).get("proxies")
    given = proxies if isinstance(proxies, Mapping) else {}
    return {variable: str(given[key]) for key, variable in _DOCKER_KEYS.items() if given.get(key)}


def docker_settings(machine: Machine) -> Mapping[str, Any]:
    """daemon.json; empty if there is none, or none that dockerd could read."""
    try:
        settings = json.loads(machine.read(_DOCKER_CONFIG) or "{}")
    except ValueError:
        return {}
    return settings if isinstance(settings, Mapping) else {}


def of_units(machine: Machine, daemon: Daemon) -> dict[str, str]:
    """The variables that the daemon's unit and its drop-ins set: what the next start will have."""
    name, found = f"{daemon.unit}.service", dict[str, str]()
    units = [f"{folder}/{name}" for folder in _UNIT_FOLDERS if machine.read(f"{folder}/{name}") is not None]
    drop_ins = {
        path.rpartition("/")[2]: path for folder in _UNIT_FOLDERS for path in _conf(machine, f"{folder}/{name}")
    }
    for path in units[-1:] + [drop_ins[key] for key in sorted(drop_ins)]:
        for assignment in _assignments(machine.read(path) or ""):
            key, _, value = assignment.partition("=")
            found[key] = value
    return found


def _conf(machine: Machine, unit: str) -> list[str]:
    return machine.files(f"{unit}.d", ".conf")


def _assignments(unit: str) -> Iterator[str]:
    """The words of its Environment= lines, quotes taken off; systemd.exec(5)."""
    for line in unit.splitlines():
        key, _, value = line.strip().partition("=")
        if key.strip() == "Environment":
            try:
                yield from shlex.split(value)
            except ValueError:  # an open quote: systemd ignores the line too
                continue
