"""Clients that name the cache as a mirror of the registry: they need no proxy, and over plain HTTP no CA.

Responsible for finding them among each client's mirrors. Must not judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pullthrough.doctor import cri, podman
from pullthrough.doctor.daemons import docker_settings
from pullthrough.doctor.machine import Machine
from pullthrough.doctor.target import Place, Target
from pullthrough.doctor.ways import leads_to, place_of


def found(machine: Machine, cache: Place, target: Target) -> dict[str, str]:
    """By client (docker, containerd, podman) the URL by which it names the cache. What only root may read is none."""
    readers: Mapping[str, Callable[[Machine, Target], list[str]]] = {
        "docker": _of_docker,
        "containerd": cri.mirrors,
        "podman": podman.mirrors,
    }
    named = {client: _permitted(read, machine, target) for client, read in readers.items()}
    ours = {client: next((url for url in urls if leads_to(place_of(url), cache)), "") for client, urls in named.items()}
    return {client: url for client, url in ours.items() if url}


def _permitted(read: Callable[[Machine, Target], list[str]], machine: Machine, target: Target) -> list[str]:
    try:
        return read(machine, target)
    except PermissionError:
        return []


def _of_docker(machine: Machine, target: Target) -> list[str]:
    """Dockerd asks its mirrors for Docker Hub alone."""
    mirrors = docker_settings(machine).get("registry-mirrors") if target.is_hub else None
    return [str(url) for url in mirrors] if isinstance(mirrors, list) else []
