"""containerd's configuration as far as it concerns a registry: config.toml and hosts.toml.

Responsible for where containerd looks and what it finds there. Must not judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pullthrough.doctor.machine import Machine
from pullthrough.doctor.target import Target

CONFIG: Final = "/etc/containerd/config.toml"
#: Where documentation puts hosts.toml, and newer versions look by themselves.
CERTS: Final = "/etc/containerd/certs.d"


def is_off(machine: Machine) -> bool:
    """Does this containerd pull for nobody, as docker's own?"""
    disabled = machine.toml(CONFIG).get("disabled_plugins")
    return any("cri" in str(plugin) for plugin in disabled) if isinstance(disabled, list) else False


def config_paths(machine: Machine) -> list[str]:
    """What `registry.config_path` of the CRI plug-in names, in version 2 and 3 of the file; often nothing."""
    plugins = machine.toml(CONFIG).get("plugins")
    registries = [_table(_table(plugin).get("registry")) for plugin in _table(plugins).values()]
    return [path for registry in registries for path in str(registry.get("config_path") or "").split(":") if path]


def mirrors(machine: Machine, target: Target) -> list[str]:
    """The URLs that hosts.toml names for this registry."""
    return list(_table(_hosts(machine, target)[1].get("host")))


def ca_files(machine: Machine, target: Target) -> list[str]:
    """The files that hosts.toml names as CAs for this registry."""
    folder, hosts = _hosts(machine, target)
    return [path if path.startswith("/") else f"{folder}/{path}" for path in _named_in(hosts)]


def _hosts(machine: Machine, target: Target) -> tuple[str, Mapping[str, Any]]:
    """This registry's hosts.toml and its folder; `_default` counts if the registry has none of its own."""
    for root in config_paths(machine) or [CERTS]:
        for folder in (*(f"{root}/{name}" for name in target.folders), f"{root}/_default"):
            hosts = machine.toml(f"{folder}/hosts.toml")
            if hosts:
                return folder, hosts
    return "", {}


def _named_in(hosts: Mapping[str, Any]) -> Iterator[str]:
    """The value of each `ca`: a file or a list of files, of the server or of one of its hosts."""
    for table in (hosts, *map(_table, _table(hosts.get("host")).values())):
        value = table.get("ca")
        yield from (str(path) for path in (value if isinstance(value, list) else [value]) if path)


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
