"""Names of the lab: which `.test` name and port is served at which loopback address and port.

A service may be published on port 443 although it listens on a port above 1024, so an ordinary user
can play `https://cdn.test/`. The map lives in one process only (see `lab.named`); the machine's
/etc/hosts is never touched. A child process reads it from a file, and reads it anew when the file has
changed, so names can go and come back while it runs. This module is standard library only: a child
process loads it first.
"""

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ADDRESSES: Mapping[str, str] = {
    "registry.test": "127.0.0.2",
    "registry2.test": "127.0.0.3",
    "auth.test": "127.0.0.4",
    "cdn.test": "127.0.0.5",
    "plain.test": "127.0.0.6",
    "fake.test": "127.0.0.7",
    "storage.test": "127.0.0.8",
    "parent.test": "127.0.0.9",
    "front.test": "127.0.0.10",
    "registry-1.docker.io": "127.0.0.11",  # clients have Docker Hub's name built in
}

type Resolver = Callable[..., list[Any]]


class Names(Protocol):
    """What a resolver asks."""

    def lookup(self, name: str, port: int) -> tuple[str, int] | None:
        """The real address, or None for a name that the lab does not know."""
        ...


class NameMap:
    """Published (name, port) pairs and where they are really served."""

    def __init__(self, entries: Mapping[str, str] | None = None) -> None:
        self._entries = dict(entries or {})

    def publish(self, name: str, public_port: int, address: str, port: int) -> None:
        """Serve `name:public_port` from `address:port`."""
        self._entries[f"{name}:{public_port}"] = f"{address}:{port}"

    def lookup(self, name: str, port: int) -> tuple[str, int] | None:
        """The real address, or None for a name that the lab does not know."""
        entry = self._entries.get(f"{name}:{port}") or self._entries.get(name)
        if entry is None:
            return None
        address, _, real_port = entry.partition(":")
        return address, int(real_port or port)

    def without(self, *names: str) -> "NameMap":
        """A map that does not know these names, whatever the port."""
        return NameMap({key: place for key, place in self._entries.items() if key.partition(":")[0] not in names})

    def write(self, path: Path) -> Path:
        """Write the map as the JSON file that `python -m lab.named` reads, in one step for whoever reads it."""
        draft = path.with_name(f"{path.name}.new")
        draft.write_text(json.dumps(self._entries, indent=1, sort_keys=True))
        return draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> "NameMap":
        """The map of a file that `write` made, or any JSON object of name[:port] to address[:port]."""
        return cls(json.loads(path.read_text()))


class NameFile:
    """The map of a file as it is now, for a process that lives longer than one state of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = (self._version(), NameMap.read(path))  # one value, because look-ups come from many threads

    def lookup(self, name: str, port: int) -> tuple[str, int] | None:
        """As of `NameMap`, after reading the file again if it was replaced."""
        version, names = self._read
        now = self._version()  # taken before reading: a change in between is seen next time
        if now != version:
            names = NameMap.read(self._path)
            self._read = (now, names)
        return names.lookup(name, port)

    def _version(self) -> tuple[int, int]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_mtime_ns


@dataclass
class Endpoint:
    """A service as its clients know it, and where it really listens."""

    name: str
    secure: bool = True
    fixed_port: int | None = None  # published on this port; None: on the one that it listens on
    port: int = 0  # listens here; 0 until the kernel chose one

    @property
    def address(self) -> str:
        """The loopback address of this name."""
        return ADDRESSES[self.name]

    @property
    def public_port(self) -> int:
        """The port that clients ask for."""
        return self.fixed_port or self.port

    @property
    def host(self) -> str:
        """`name`, or `name:port` where the port is not the scheme's own."""
        usual = 443 if self.secure else 80
        return self.name if self.public_port == usual else f"{self.name}:{self.public_port}"

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    def reference(self, repository: str, tag: str) -> str:
        """What skopeo calls an image here: tag, or digest where it has a colon."""
        return f"docker://{self.image_name(repository, tag)}"

    def image_name(self, repository: str, tag: str) -> str:
        """What podman calls an image here."""
        return f"{self.host}/{repository}{'@' if ':' in tag else ':'}{tag}"

    def publish(self, names: NameMap) -> None:
        """Put this service into the map of names."""
        names.publish(self.name, self.public_port, self.address, self.port)


def resolver(names: Names, real: Resolver = socket.getaddrinfo) -> Resolver:
    """A `getaddrinfo` that knows the lab's names; a name of the lab that is not published does not exist."""

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if not isinstance(name, str) or not (name.endswith(".test") or name in ADDRESSES):
            return real(host, port, *args, **kwargs)
        found = names.lookup(name, int(port or 0))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{name}:{port} is not in the lab")
        return real(*found, *args, **kwargs)

    return getaddrinfo
