"""podman's configuration as far as it concerns a registry: containers.conf and registries.conf.

Responsible for where podman looks and what it finds there. Must not judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pullthrough.doctor.machine import Machine
from pullthrough.doctor.target import Target


def is_here(machine: Machine) -> bool:
    """The folder comes with podman, buildah, skopeo and CRI-O."""
    return machine.exists("/etc/containers")


def environment(machine: Machine) -> dict[str, str]:
    """The variables that count in a podman of this shell: `env` of containers.conf sets those that the shell does not.

    A later file's list replaces an earlier one's; containers.conf(5).
    """
    lists = [_table(machine.toml(file).get("engine")).get("env") for file in _files(machine, "containers.conf")]
    last = next((each for each in reversed(lists) if isinstance(each, list)), [])
    pairs = (str(item).partition("=") for item in last)
    return {name: value for name, _, value in pairs} | dict(machine.environ)


def mirrors(machine: Machine, target: Target) -> list[str]:
    """The URLs of this registry's mirrors: a location has no scheme, `insecure` says which; registries.conf(5)."""
    files = _files(machine, "registries.conf")
    registries = [table for file in files for table in _tables(machine.toml(file).get("registry"))]
    return [
        f"{'http' if mirror.get('insecure') is True else 'https'}://{mirror.get('location')}"
        for registry in registries
        if str(registry.get("prefix") or registry.get("location")).partition("/")[0] == target.name
        for mirror in _tables(registry.get("mirror"))
    ]


def _files(machine: Machine, name: str) -> list[str]:
    """A configuration file and its drop-ins, from weak to strong."""
    bases = ["/usr/share/containers", "/etc/containers", *machine.home(".config/containers")]
    paths = [f"{base}/{name}" for base in bases]
    return [file for path in paths for file in (path, *machine.files(f"{path}.d", ".conf"))]


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tables(value: object) -> Iterator[Mapping[str, Any]]:
    yield from (each for each in value if isinstance(each, Mapping)) if isinstance(value, list) else ()
