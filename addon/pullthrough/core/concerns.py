"""Which repositories a request to a registry could concern, however it is spelled.

`routes.classify` settles every doubt towards "nothing for the cache". That is right for caching and wrong for refusing:
a registry may well understand what we do not. Here every doubt is settled towards more. A target is read as the most
lenient of registries might, and what even so names no repository for certain is `unknown`. Dot segments always are,
because what they lead to depends on who resolves them, and when.

Responsible for the reading. Must not know which repositories are refused, nor hosts and their names.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, unquote_plus

from pullthrough.core.headers import Headers
from pullthrough.core.routes import MAX_TARGET, OWN_PATH, classify, is_repository

_API: Final = "v2"
#: All that comes before these, in any end-point of a repository, is its name.
_MARKERS: Final = frozenset({"manifests", "blobs", "tags", "referrers"})
#: What is below the API and concerns no repository: the catalog, and where some registries have their token server.
_NO_REPOSITORY: Final = (["_catalog"], ["auth"], ["token"])
# One segment of a path, RFC 3986, once nothing is escaped in it any more.
_SEGMENT: Final = re.compile(r"[!$&'()*+,;=:@a-zA-Z0-9._~-]+")
#: More layers of escapes than servers behind each other would take off.
_MAX_ESCAPED: Final = 8
#: Bodies in which servers look for parameters of the query as well (Go: `Request.FormValue`).
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/")


@dataclass(frozen=True, slots=True)
class Concerns:
    """Names of repositories, and whether there may be others."""

    repositories: frozenset[str] = frozenset()
    unknown: bool = False


_NOTHING: Final = Concerns()
_ANYTHING: Final = Concerns(unknown=True)


def concerns(method: str, target: str, headers: Headers) -> Concerns:
    """What a request could concern; `target` in origin form. Total: any text gives an answer."""
    if target.startswith(OWN_PATH):
        return _NOTHING
    path, _, query = target.partition("?")
    segments = _segments(path)
    if segments is None:
        return _ANYTHING
    # Some servers take what follows a ; for parameters of a segment, and off before they look at it.
    plain = [segment.partition(";")[0].lower() for segment in segments]
    if _API not in plain:
        return _NOTHING
    if not {"", ".", ".."}.isdisjoint(plain):
        return _ANYTHING
    at = plain.index(_API)
    return _elsewhere(segments[at + 1 :]) if at else _below(segments[1:], _sources(method, query, headers))


def _segments(path: str) -> list[str] | None:
    """Those of a path without any escape, empty ones left out; None if it has more escapes than anybody means."""
    if len(path) > MAX_TARGET:
        return None
    for _ in range(_MAX_ESCAPED):
        decoded = unquote(path)
        if decoded == path:
            return [segment for segment in path.replace("\\", "/").split("/") if segment]
        path = decoded
    return None


def _below(segments: Sequence[str], sources: Concerns) -> Concerns:
    """What a path below `/v2/` concerns, whose content may come from `sources` as well."""
    if not segments or segments in _NO_REPOSITORY:
        return _NOTHING
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return _ANYTHING
    named = classify("GET", f"/{_API}/{'/'.join(segments)}").repository
    found = _named({named} if named else _before_markers(segments))
    unknown = found.unknown or sources.unknown or not found.repositories
    return Concerns(found.repositories | sources.repositories, unknown)


def _before_markers(segments: Sequence[str]) -> set[str]:
    """The repositories of an end-point that only this registry knows (GHCR: `blobs/upload/ID`)."""
    return {"/".join(segments[:at]) for at, segment in enumerate(segments) if at and segment in _MARKERS}


def _named(names: Set[str]) -> Concerns:
    repositories = frozenset(name for name in names if is_repository(name))
    return Concerns(repositories, unknown=repositories != names)


def _elsewhere(segments: Sequence[str]) -> Concerns:
    """An API at another place (Artifactory, Nexus) has other names for the same repositories."""
    return _ANYTHING if _before_markers(segments) else _NOTHING


def _sources(method: str, query: str, headers: Headers) -> Concerns:
    """The repositories that an upload takes its blob from (end-11, `from`)."""
    pairs = (part.partition("=") for part in re.split("[&;]", query))
    named = _named({unquote_plus(value) for key, _, value in pairs if unquote_plus(key).lower() == "from"} - {""})
    return Concerns(named.repositories, named.unknown or (method == "POST" and _has_form(headers)))


def _has_form(headers: Headers) -> bool:
    if headers.all("content-length") == ("0",) and not headers.all("transfer-encoding"):
        return False
    return any(form in value.lower() for value in headers.all("content-type") for form in _FORMS)
