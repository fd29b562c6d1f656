"""The clients of the lab as one kind: each pulls an image by its name and tells whether it has it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lab.clients import Clients, Podman, Result, Skopeo
from lab.engines import Engines
from lab.images import Image


class Puller(Protocol):
    """What all of them can do. Names are as podman's: `host/repository:tag` or `host/repository@digest`."""

    def pull(self, name: str, *, creds: str | None = None) -> Result:
        """Pull as this account (USER:PASSWORD), or as nobody."""
        ...

    def holds(self, name: str, image: Image) -> bool:
        """Whether `name` is this image, every byte of it."""
        ...

    def clean(self) -> None:
        """Remove everything, so that the next pull fetches again."""
        ...


class SkopeoPuller:
    """skopeo, which has no storage: what it holds is what it pulled last by that name."""

    def __init__(self, skopeo: Skopeo) -> None:
        self._skopeo = skopeo
        self._pulled: dict[str, Callable[[Image], bool]] = {}

    def pull(self, name: str, *, creds: str | None = None) -> Result:
        """`skopeo copy` into a folder."""
        pulled = self._skopeo.pull(f"docker://{name}", creds=creds)
        self._pulled[name] = pulled.holds
        return pulled.result

    def holds(self, name: str, image: Image) -> bool:
        """Whether the folder has it."""
        return name in self._pulled and self._pulled[name](image)

    def clean(self) -> None:
        """Forget the folders."""
        self._pulled.clear()


class PodmanPuller:
    """podman, which compares every byte with the digests before it stores an image."""

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._names: set[str] = set()

    def pull(self, name: str, *, creds: str | None = None) -> Result:
        """`podman pull`."""
        self._names.add(name)
        return self._podman.pull(name, creds=creds)

    def holds(self, name: str, image: Image) -> bool:
        """Whether its storage has it."""
        return self._podman.digest(name) == image.digest

    def clean(self) -> None:
        """Remove the images that were pulled."""
        if self._names:
            self._podman.remove(*self._names)
        self._names.clear()


#: By name. containerd has two clients; each gets a daemon of its own.
KINDS = ("skopeo", "podman", "docker", "ctr", "cri")


def puller(kind: str, clients: Clients, engines: Engines, proxy_url: str | None, *ca_files: Path) -> Puller:
    """A client of this kind behind this proxy that trusts these CAs and no other."""
    match kind:
        case "skopeo":
            return SkopeoPuller(clients.skopeo(proxy_url, *ca_files))
        case "podman":
            return PodmanPuller(clients.podman(proxy_url, *ca_files))
        case "docker":
            return engines.docker(proxy_url, *ca_files)
        case "ctr":
            return engines.containerd(proxy_url, *ca_files).ctr
        case "cri":
            return engines.containerd(proxy_url, *ca_files).cri
    raise ValueError(kind)
