"""Media types of manifests, and the Accept header that chooses among them.

Total: whatever a client sends gives a key and an answer. Knows nothing of what is stored.
"""

import re
from collections.abc import Sequence

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFEST_TYPES = frozenset(
    {
        OCI_INDEX,
        OCI_MANIFEST,
        OCI_ARTIFACT,
        DOCKER_LIST,
        DOCKER_MANIFEST,
        DOCKER_SCHEMA1,
        DOCKER_SCHEMA1_SIGNED,
    }
)

# What clients send beside those: docker names JSON, curl and Go everything.
_PLAIN = MANIFEST_TYPES | {"*/*", "application/json", "application/*"}

_WEIGHT_ZERO = re.compile(r"q\s*=\s*0(?:\.0{0,3})?", re.IGNORECASE)


def media_type(content_type: str) -> str:
    """The type of a Content-Type value, lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def accept_key(values: Sequence[str]) -> tuple[str, ...]:
    """What Accept header lines accept, as a value to key tags by: sorted, unique, white space normalised.

    Docker sends its types in random order; that must not make different keys. Parameters (q) are kept as
    written, empty ones too: what a registry says to a malformed list says nothing of the well-formed one. A comma
    inside a quoted parameter splits it, which costs a second key and nothing else.
    """
    items = (_normal(item) for value in values for item in value.split(","))
    return tuple(sorted({item for item in items if item}))


def is_plain(values: Sequence[str]) -> bool:
    """Do Accept header lines name nothing but types of manifests, as registry clients do?"""
    return all(item.split(";")[0] in _PLAIN for item in accept_key(values))


def _normal(item: str) -> str:
    kind, *parameters = (" ".join(part.split()) for part in item.split(";"))
    return ";".join([kind.lower(), *parameters]) if kind else ""


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
