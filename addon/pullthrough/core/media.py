"""Media types of manifests, the Accept header that chooses among them, and what a manifest refers to.

Reads documents that anybody may have pushed: everything here is total and bounded, and what is not well
formed is left out rather than reported. Verifying digests and trusting references is for others to do.
"""

import enum
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pullthrough.core.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = INDEX_TYPES | {
    OCI_MANIFEST,
    OCI_ARTIFACT,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
}

MAX_SIZE = 2**63 - 1  # descriptor.md: "size" is an int64
_WEIGHT_ZERO = re.compile(r"q\s*=\s*0(?:\.0{0,3})?", re.IGNORECASE)
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,255}")


def media_type(content_type: str) -> str:
    """The type of a Content-Type value, lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def accept_key(values: Sequence[str]) -> tuple[str, ...]:
    """What Accept header lines accept, as a value to key tags by: sorted, unique, white space normalised.

    Docker sends its types in random order; that must not make different keys. Parameters (q) are kept as
    written. A comma inside a quoted parameter splits it, which costs a second key and nothing else.
    """
    items = (_normal(item) for value in values for item in value.split(","))
    return tuple(sorted({item for item in items if item}))


def _normal(item: str) -> str:
    kind, *parameters = (" ".join(part.split()) for part in item.split(";"))
    return ";".join([kind.lower(), *filter(None, parameters)]) if kind else ""


def lists(values: Sequence[str], media_type: str) -> bool:
    """Whether Accept header lines name `media_type` itself, with a weight above zero.

    Wildcards do not count: distribution 2.8 ignores them, so a client that sent only `*/*` was not
    necessarily given this type upstream.
    """
    wanted = media_type.lower()
    for item in accept_key(values):
        kind, *parameters = item.split(";")
        if kind == wanted and not any(_WEIGHT_ZERO.fullmatch(part) for part in parameters):
            return True
    return False


class Role(enum.StrEnum):
    """What a reference is to its manifest.

    A registry holds, in the same repository, the CONFIG and LAYERs of a manifest that it accepted. It may
    accept a SUBJECT that does not exist, a FOREIGN layer (one with `urls`) whose bytes are elsewhere, and
    in a sparse index a missing MANIFEST (OCI distribution spec 1.1, "Pushing Manifests"): naming those
    proves nothing about what the repository contains.
    """

    CONFIG = "config"
    LAYER = "layer"
    FOREIGN = "foreign"
    MANIFEST = "manifest"
    SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class Reference:
    """One descriptor in a manifest; `size` in bytes, None where it is not stated credibly."""

    digest: Digest
    size: int | None
    media_type: str
    role: Role = Role.LAYER


_FIELDS = (
    ("config", Role.CONFIG),
    ("manifests", Role.MANIFEST),
    ("layers", Role.LAYER),
    ("blobs", Role.LAYER),
    ("fsLayers", Role.LAYER),
    ("subject", Role.SUBJECT),
)


def references(body: bytes, max_references: int = 4096) -> tuple[Reference, ...]:
    """What a manifest of any known type refers to, without repetition.

    Only the first `max_references` are looked at. Never raises: a document that is not a manifest gives ()
    or its well-formed part.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(document, dict):
        return ()
    return tuple(dict.fromkeys(islice(_references(document), max_references)))


def _references(document: dict[str, Any]) -> Iterator[Reference]:
    for field, role in _FIELDS:
        value = document.get(field)
        for descriptor in value if isinstance(value, list) else [value]:
            reference = _reference(descriptor, role)
            if reference:
                yield reference


def _reference(descriptor: object, role: Role) -> Reference | None:
    if not isinstance(descriptor, dict):
        return None
    text = descriptor.get("digest", descriptor.get("blobSum"))
    digest = Digest.parse(text) if isinstance(text, str) else None
    if digest is None:
        return None
    if role is Role.LAYER and descriptor.get("urls"):
        role = Role.FOREIGN
    return Reference(digest, _size(descriptor.get("size")), _type(descriptor.get("mediaType")), role)


def _size(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_SIZE else None


def _type(value: object) -> str:
    """A media type fit for a header and a database, or "" (JSON can spell lone surrogates)."""
    return media_type(value) if isinstance(value, str) and _PRINTABLE.fullmatch(value) else ""
