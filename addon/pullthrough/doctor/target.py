"""What is asked about: the cache's address, a registry and perhaps an image in it, read from what a person typed.

Responsible for refusing what is neither, so that both may stand in a command that somebody will paste. Must not
know whether they exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pullthrough.core import hub
from pullthrough.core.registries import DEFAULT_PORT, parse_entry
from pullthrough.core.routes import Kind, classify
from pullthrough.guard import literal
from pullthrough.options import OPTIONS, Address, shown

#: The port of a cache whose address names none.
CACHE_PORT: Final[int] = OPTIONS["listen"].initial().port
#: There since 2014, and a HEAD of it does not count as a pull.
_HUB_IMAGE: Final = (f"{hub.OFFICIAL}/hello-world", "latest")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")


@dataclass(frozen=True, slots=True)
class Place:
    """A host and port; an IPv6 address has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"


_HUB: Final = Place(hub.REGISTRY.host, hub.REGISTRY.port)


@dataclass(frozen=True, slots=True)
class Target:
    """A registry, and an image in it where `repository` is not empty."""

    place: Place
    repository: str = ""
    reference: str = ""

    @property
    def is_hub(self) -> bool:
        return self.place == _HUB

    @property
    def name(self) -> str:
        """As it stands in the name of an image: without the usual port, and docker.io for Docker Hub."""
        if self.is_hub:
            return hub.NAMES[0]
        bare = f"[{self.place.host}]" if ":" in self.place.host else self.place.host
        return bare if self.place.port == DEFAULT_PORT else str(self.place)

    @property
    def folders(self) -> tuple[str, ...]:
        """What clients call this registry's folder below certs.d."""
        return tuple(dict.fromkeys((self.name, str(self.place))))


def parse_cache(text: str) -> Place:
    """`http://HOST:PORT`, `HOST:PORT` or `HOST`; the port of `pullthrough run` unless given. ValueError for others."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port or CACHE_PORT
    except ValueError:
        raise ValueError(f"{shown(text)} is not an address such as http://CACHE:{CACHE_PORT}") from None
    if parts.username is not None:  # not shown: what follows may be a password
        raise ValueError("the cache's address has no user and no password")
    plain = parts.scheme == "http" and parts.path in ("", "/") and not parts.query and not parts.fragment
    if not plain or not (_HOST.fullmatch(host) or literal(host)):
        raise ValueError(f"{shown(text)} is not an address such as http://CACHE:{CACHE_PORT}")
    return Place(host, port)


def own_place(listen: Address) -> Place:
    """Where a cache with this setting is reached on its own machine."""
    address = literal(listen.host)
    if address is not None and address.is_unspecified:
        return Place("127.0.0.1" if address.version == 4 else "::1", listen.port)
    return Place(listen.host, listen.port)


def parse_target(registry: str | None, image: str | None) -> Target:
    """The registry `HOST[:PORT]` and the image that is tried there; Docker Hub if neither is given.

    An image without a host is one of `registry`'s, or of Docker Hub's. ValueError if they do not fit together.
    """
    asked = _place(registry) if registry else None
    host, path = _split(image or "")
    named = _place(host) if host else None
    if asked and named and asked != named:
        raise ValueError(f"the image {shown(image or '')} is not one of {asked}")
    place = asked or named or _HUB
    if path:
        return Target(place, *_image(path, place))
    return Target(place, *_HUB_IMAGE) if place == _HUB else Target(place)


def _place(text: str) -> Place:
    entry = parse_entry(text)
    if "*" in entry.host:
        raise ValueError(f"registry {shown(text)}: one registry is checked, not a pattern of them")
    return _HUB if hub.is_hub(entry) else Place(entry.host, entry.port)


def _split(image: str) -> tuple[str, str]:
    """Host and path of an image's name: a first part is a host if it looks like one, as docker has it."""
    first, slash, rest = image.partition("/")
    return (first, rest) if slash and (set(first) & {".", ":"} or first == "localhost") else ("", image)


def _image(path: str, place: Place) -> tuple[str, str]:
    """Repository and tag or digest."""
    name, at, reference = path.partition("@")
    if not at:
        head, colon, tag = path.rpartition(":")
        name, reference = (head, tag) if colon else (path, "latest")
    repository = name if "/" in name or place != _HUB else f"{hub.OFFICIAL}/{name}"
    if classify("HEAD", f"/v2/{repository}/manifests/{reference}").kind is not Kind.MANIFEST:
        raise ValueError(f"{shown(path)} is not REPOSITORY:TAG or REPOSITORY@DIGEST")
    return repository, reference
