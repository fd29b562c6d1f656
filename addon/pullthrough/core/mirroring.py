"""What is meant by a request that was made to the proxy itself, as to a mirror: which registry, and what to ask there.

Clients say so in three ways; the first that applies counts:

- `?ns=HOST[:PORT]`: containerd, and BuildKit, which is built on its resolver (core/remotes/docker/resolver.go,
  `addNamespace`). BuildKit with a mirror that has a path, `mirrors = ["cache:3128/ghcr.io"]`, sends the host in both
  places; where the two agree, the one in the path is no part of the repository.
- the host as first component of the path, `/v2/ghcr.io/team/app/manifests/1.0`: `docker pull cache:3128/ghcr.io/...`
  and the mirrors of podman, CRI-O and skopeo with a path. As in image references, a component is a host if it has a
  `.` or a `:`, or is `localhost`.
- neither: Docker Hub, for docker's `registry-mirrors`.

A port in the path is written HOST_PORT, `/v2/registry.corp.test_5050/...`: docker and skopeo refuse HOST:PORT there
before anything is sent ("invalid reference format", seen with docker 28.2 and skopeo 1.9), and accept this. No host
name of an image reference has a `_`, so nothing else can be meant. HOST:PORT is read as well: BuildKit would send it.

Responsible for reading this, with every doubt settled towards "nothing that we know". Must not know which registries
there are, who may ask, or how anything is answered.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, unquote_plus

from pullthrough.core import hub
from pullthrough.core.registries import Entry, parse_entry
from pullthrough.core.routes import MAX_TARGET, Kind, Route, classify

_PREFIX: Final = "/v2/"
_MIRRORED: Final = frozenset({Kind.MANIFEST, Kind.BLOB, Kind.TAGS, Kind.REFERRERS})
# What may be in an authority at all: `parse_entry` reads patterns and surrounding space as well.
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_WITH_PORT: Final = re.compile(r"(.+)_([0-9]{1,5})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What to ask where. `host` is canonical as in `registries.Entry`, `target` in origin form and without `ns`."""

    host: str
    port: int
    target: str


def mirrored(target: str) -> Mirrored | None:
    """What a read with this target means; None for anything else than a manifest, blob, tag list or referrers.

    Total: any text gives an answer. But for what named the registry, the target stays byte for byte; Docker Hub's
    `alpine` becomes `library/alpine`.
    """
    if len(target) > MAX_TARGET or not target.startswith(_PREFIX):
        return None
    path, _, query = target.removeprefix(_PREFIX).partition("?")
    namespaces, query = _taken_out(query)
    first, _, below = path.partition("/")
    spelled = _spelled(first)
    inside = None if spelled is None else _registry(spelled)
    if namespaces:
        registry = _registry(namespaces[0]) if len(namespaces) == 1 else None
        path = below if inside == registry else path
    elif spelled is not None:
        registry, path = inside, below
    else:
        registry = hub.REGISTRY
    return None if registry is None else _asked(registry, path, f"?{query}" if query else "")


def _taken_out(query: str) -> tuple[list[str], str]:
    """The values of `ns`, however that is escaped, and the query without them."""
    namespaces: list[str] = []
    others: list[str] = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if unquote_plus(key) == "ns":
            namespaces.append(unquote_plus(value))
        else:
            others.append(part)
    return namespaces, "&".join(others)


def _spelled(component: str) -> str | None:
    """The HOST[:PORT] that the first component of a path spells; None for a part of a repository's name."""
    text = unquote(component)
    found = _WITH_PORT.fullmatch(text)
    host = found[1] if found else text
    if not ("." in host or ":" in host or host == "localhost"):
        return None
    return f"{host}:{found[2]}" if found else text


def _registry(authority: str) -> Entry | None:
    """The registry of this name, None if that is no name; Docker Hub by any of its names is the host that serves it."""
    if not _AUTHORITY.fullmatch(authority):
        return None
    try:
        entry = parse_entry(authority)
    except ValueError:
        return None
    return hub.REGISTRY if hub.is_hub(entry) else entry


def _asked(registry: Entry, path: str, query: str) -> Mirrored | None:
    target = f"{_PREFIX}{path}{query}"
    route = _known(target)
    if route is not None and registry == hub.REGISTRY and "/" not in route.repository:
        target = f"{_PREFIX}{hub.OFFICIAL}/{path}{query}"
        route = _known(target)  # it is longer now
    return None if route is None else Mirrored(registry.host, registry.port, target)


def _known(target: str) -> Route | None:
    route = classify("GET", target)
    return route if route.kind in _MIRRORED else None
