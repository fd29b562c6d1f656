"""The full name of one image: registry, repository, and a tag or digest or both.

Read as docker's reference grammar has it (distribution/reference), but nothing is filled in: a name without a registry
means another thing on every machine. Knows nothing of what exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import whitespace

from pullthrough.core import hub
from pullthrough.core.digest import Digest
from pullthrough.core.registries import DEFAULT_PORT, parse_entry
from pullthrough.core.routes import Kind, classify

_PLAIN_PORT = 80


@dataclass(frozen=True, slots=True)
class Reference:
    """`host` is canonical and Docker Hub's is that of its registry; `port` is None where the name has none."""

    host: str
    port: int | None
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def port_over(self, scheme: str) -> int:
        """Where it is asked for, over https or http."""
        return self.port or (DEFAULT_PORT if scheme == "https" else _PLAIN_PORT)


def parse_reference(text: str) -> Reference:
    """What HOST[:PORT]/REPOSITORY[:TAG][@DIGEST] names; ValueError, with half a sentence, for other texts."""
    if set(text).intersection(whitespace):
        raise ValueError(f"{text!r} has white space in it")
    authority, slash, path = text.partition("/")
    if not slash or not (set(authority) & {".", ":"} or authority == "localhost"):
        raise ValueError(f"{text!r} has no registry before its first slash, as docker.io/library/alpine:3 has")
    entry = parse_entry(authority)
    if "*" in entry.host:
        raise ValueError(f"{text!r} is a pattern, not the name of one image")
    name, at, written = path.partition("@")
    digest = Digest.parse(written)
    repository, colon, tag = name.partition(":")
    is_hub = hub.is_hub(entry)
    if is_hub and "/" not in repository:
        repository = f"{hub.OFFICIAL}/{repository}"
    named = classify("HEAD", f"/v2/{repository}/manifests/{tag if colon else 'latest'}")
    if (at and digest is None) or named.kind is not Kind.MANIFEST or not named.by_tag:
        raise ValueError(f"{text!r} is not REGISTRY/REPOSITORY, REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST")
    port = None if is_hub or str(entry.port) != authority.rpartition(":")[2] else entry.port
    return Reference(hub.REGISTRY.host if is_hub else entry.host, port, repository, tag, digest)
