"""What the files of an OCI image layout are called, and what its index says.

Follows the OCI image specification 1.1, "Image Layout", with the name by which containerd and docker know an image
beside the specification's own. Total: whatever a stranger's file says gives entries or ValueError. Opens nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.core.children import Descriptor, described
from pullthrough.core.digest import Digest
from pullthrough.core.media import OCI_INDEX

#: Marks a layout, and says of what version.
MARKER: Final = "oci-layout"
MARKED: Final = b'{"imageLayoutVersion":"1.0.0"}'
INDEX: Final = "index.json"
#: Bytes; what is longer is no marker.
MAX_MARKER: Final = 4096
#: Annotations that name an image, the one that has the full name first (containerd's, then "Annotations" there).
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MOST: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that a layout's index names; `names` as its annotations have them, the best first."""

    what: Descriptor
    names: tuple[str, ...] = ()


def blob_file(digest: Digest) -> str:
    """Where a layout has a blob."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def is_marker(content: bytes) -> bool:
    """Is it the marker of a layout that can be read here?"""
    version = _object(content).get("imageLayoutVersion")
    return isinstance(version, str) and version.startswith("1.")


def entries(index: bytes) -> tuple[Entry, ...]:
    """The images of a layout, by its index; ValueError for none, or more than any layout has."""
    listed = _object(index).get("manifests")
    if not isinstance(listed, list) or len(listed) > _MOST:
        raise ValueError("its index.json is not one")
    return tuple(_entry(one) for one in listed)


def index(listed: Iterable[Entry]) -> bytes:
    """The index of a layout that has these; the same bytes for the same images."""
    manifests = [_written(entry) for entry in listed]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}, indent=2).encode()


def _entry(value: object) -> Entry:
    what = described(value, is_manifest=True)
    if what is None or not isinstance(value, dict):
        raise ValueError("its index.json names what is no image")
    annotations = value.get("annotations")
    said = [annotations.get(name) for name in _NAMES] if isinstance(annotations, dict) else []
    return Entry(what, tuple(dict.fromkeys(name for name in said if isinstance(name, str) and name)))


def _written(entry: Entry) -> dict[str, Any]:
    what = entry.what
    written: dict[str, Any] = {"mediaType": what.media_type, "digest": str(what.digest), "size": what.size}
    if what.platform:
        keys = ("os", "architecture", "variant")
        written["platform"] = dict(zip(keys, what.platform.split("/"), strict=False))
    if entry.names:
        written["annotations"] = dict.fromkeys(_NAMES, entry.names[0])
    return written


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
