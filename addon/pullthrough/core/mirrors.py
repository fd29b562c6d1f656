"""Mirrors of registries, as the operator names them: `docker.io=https://mirror.test/hub`.

Responsible for the grammar alone. A mirror's address is written as BuildKit, podman and CRI-O write it: what follows
the host stands before the repository's name, as in the image references of a Harbor project or of another pullthrough
(`http://parent:3128/ghcr.io`). Knows nothing of whether anybody answers there.
"""

import re
from dataclasses import dataclass
from typing import Final

from pullthrough.core import hub
from pullthrough.core.registries import DEFAULT_PORT, Entry, parse_entry

_URL: Final = re.compile(r"(?:(?P<scheme>https?)://)?(?P<host>[A-Za-z0-9._:\[\]-]+)(?P<path>(?:/[A-Za-z0-9._-]+)*)/?")
_USER: Final = re.compile(r"//.*@", re.DOTALL)
_PORTS: Final = {"https": DEFAULT_PORT, "http": 80}


@dataclass(frozen=True, slots=True)
class MirrorOf:
    """A mirror of `registry`. `prefix` stands before each repository's name: empty, or with a slash at its end."""

    registry: Entry
    scheme: str
    host: str
    port: int
    prefix: str


def parse_mirror(text: str) -> MirrorOf:
    """`HOST[:PORT]=URL`; without a scheme https. ValueError with half a sentence that begins with the bad text."""
    name, _, url = text.partition("=")
    found = _URL.fullmatch(url)
    if not name or found is None or {".", ".."} & set(found["path"].split("/")):
        shown = _USER.sub("//...@", text)  # whoever wrote a password there does not want it in a log
        raise ValueError(f"{shown!r} is not HOST=URL, an http or https URL without user, query and fragment")
    registry, mirror = _single(name), _single(found["host"])
    scheme = found["scheme"] or "https"
    port = mirror.port if found["host"].endswith(f":{mirror.port}") else _PORTS[scheme]
    prefix = found["path"].removeprefix("/")
    registry = hub.REGISTRY if hub.is_hub(registry) else registry
    return MirrorOf(registry, scheme, mirror.host, port, f"{prefix}/" if prefix else "")


def _single(text: str) -> Entry:
    entry = parse_entry(text)
    if "*" in entry.host:
        raise ValueError(f"{text!r} is not a single host")
    return entry
