"""What a request asks of a registry: method and target in, one frozen `Route` out.

Follows the end-points of the OCI distribution spec 1.1. The only place that looks at a path: whatever is
not exactly one of the known shapes is `Kind.OTHER`, which passes through uncached, so every doubt is
settled towards OTHER. Knows nothing of hosts, headers, caches or what will be answered.
"""

import enum
import re
from dataclasses import dataclass
from urllib.parse import unquote

from pullthrough.core.digest import Digest

MAX_TARGET = 8192
MAX_REPOSITORY = 255
#: Paths of ours on the registry's own host. No repository can have this name, because a component starts with a letter
#: or a digit.
OWN_PATH = "/v2/_pullthrough/"
#: Where clients are sent for tokens; the id of the real realm follows.
REALM_PATH = f"{OWN_PATH}token/"

# OCI distribution spec 1.1, "Pulling manifests". A component's separators never touch its letters, so
# neither pattern can backtrack more than linearly.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# Upload sessions are named by the registry, which may use any character of an RFC 3986 path segment.
_SESSION = re.compile(r"(?!\.{1,2}\Z)[!$&'()*+,;=:@a-zA-Z0-9._~-]+")
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_NOT_IN_A_TARGET = re.compile(r"[^\x21-\x7e]")


class Kind(enum.StrEnum):
    """The end-points of a registry, by what they handle; TOKEN is our own, in front of every registry."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOAD = "upload"
    REFERRERS = "referrers"
    TAGS = "tags"
    CATALOG = "catalog"
    TOKEN = "token"  # noqa: S105 -- no secret
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """One classified request.

    `reference` is the tag, the digest as text, the upload session or the id of a realm, as the end-point has it.
    `digest` is set exactly when the end-point names content by digest. The method is as sent, known or not: callers
    dispatch on (kind, method).
    """

    kind: Kind
    method: str
    repository: str = ""
    reference: str = ""
    digest: Digest | None = None

    @property
    def by_tag(self) -> bool:
        """Whether this names a manifest by a tag, which may move, rather than by a digest."""
        return self.kind is Kind.MANIFEST and self.digest is None


def classify(method: str, target: str | bytes) -> Route:
    """The route of a request target in origin form ("/v2/...?query").

    Total: any string and any bytes give a route. Escapes are decoded once where that is harmless
    ("sha256%3A..."); an escaped slash, dot segments, empty segments, control characters, bytes that are
    not ASCII, and targets over `MAX_TARGET` give `Kind.OTHER`.
    """
    other = Route(Kind.OTHER, method)
    path, query = _split(target)
    if path in ("/v2", "/v2/"):
        return Route(Kind.PING, method)
    if path == "/v2/_catalog":
        return Route(Kind.CATALOG, method)
    if path.startswith(REALM_PATH):
        realm = path.removeprefix(REALM_PATH)
        return Route(Kind.TOKEN, method, reference=realm) if _TOKEN_ID.fullmatch(realm) else other
    if not path.startswith("/v2/"):
        return other
    route = _named(method, path.removeprefix("/v2/").split("/"))
    if route is None or not _query_is_plain(route, query):
        return other
    return route


def is_repository(name: str) -> bool:
    """Whether `name` is one that a repository can have."""
    return len(name) <= MAX_REPOSITORY and _REPOSITORY.fullmatch(name) is not None


def _split(target: str | bytes) -> tuple[str, str]:
    """Path, its escapes decoded, and raw query; ("", "") where the target is not to be trusted."""
    if len(target) > MAX_TARGET:
        return "", ""
    # Latin-1 maps every byte to one character, so that foreign bytes survive to be refused below.
    text = target.decode("latin-1") if isinstance(target, bytes) else target
    path, _, query = text.partition("?")
    # The patterns above admit plain ASCII names only, so of all escapes a slash alone could slip through
    # them decoded: it would turn one segment into two.
    if _NOT_IN_A_TARGET.search(text) or "%2f" in path.lower():
        return "", ""
    return unquote(path), query


def _named(method: str, segments: list[str]) -> Route | None:
    """The route below a repository; None for no known shape.

    Only the last segments are markers: a repository's own components may be called "blobs" as well.
    """
    match segments:
        case [*name, "manifests", reference]:
            return _manifest(method, "/".join(name), reference)
        case [*name, "tags", "list"]:
            return _route(Kind.TAGS, method, "/".join(name))
        case [*name, "referrers", reference]:
            return _by_digest(Kind.REFERRERS, method, "/".join(name), reference)
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""]:
            return _route(Kind.UPLOAD, method, "/".join(name))
        case [*name, "blobs", reference]:
            return _by_digest(Kind.BLOB, method, "/".join(name), reference)
        case [*name, "blobs", "uploads", session] if _SESSION.fullmatch(session):
            return _route(Kind.UPLOAD, method, "/".join(name), session)
    return None


def _manifest(method: str, repository: str, reference: str) -> Route | None:
    digest = Digest.parse(reference)
    if digest is None and not _TAG.fullmatch(reference):
        return None
    return _route(Kind.MANIFEST, method, repository, reference, digest)


def _by_digest(kind: Kind, method: str, repository: str, reference: str) -> Route | None:
    digest = Digest.parse(reference)
    return _route(kind, method, repository, reference, digest) if digest else None


def _route(kind: Kind, method: str, repository: str, reference: str = "", digest: Digest | None = None) -> Route | None:
    return Route(kind, method, repository, reference, digest) if is_repository(repository) else None


def _query_is_plain(route: Route, query: str) -> bool:
    """Whether the query leaves the meaning of the path alone.

    A read of a manifest or blob may carry containerd's `ns` (which registry a mirror is asked for) and
    nothing else, because an unknown parameter may change the answer. A write is never answered from a
    cache, and must keep its kind for the cache to notice it.
    """
    if route.kind not in (Kind.MANIFEST, Kind.BLOB) or route.method not in ("GET", "HEAD"):
        return True
    return not query or (query.startswith("ns=") and "&" not in query and ";" not in query)
