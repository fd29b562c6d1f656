"""What a manifest names: the digests that whoever pulls it asks for next.

Knows image manifests and indexes of OCI and docker (OCI image specification 1.1, "Image Manifest", "Image Index";
Docker image manifest schema 2 and signed schema 1). Claims only: a digest that a manifest names proves nothing.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from pullthrough.core.digest import Digest

#: More than any image has.
_MOST: Final = 4096


def children(body: bytes) -> tuple[Digest, ...]:
    """The digests of config, layers, manifests and artifact blobs, in their order; none for what is no manifest."""
    try:
        manifest = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    parsed = (Digest.parse(text) for text in _named(manifest) if isinstance(text, str))
    found = dict.fromkeys(digest for digest in parsed if digest is not None)
    return tuple(found)[:_MOST]


def _named(manifest: Any) -> Iterator[object]:
    if not isinstance(manifest, dict):
        return
    for descriptor in (manifest.get("config"), *_list(manifest, "layers"), *_list(manifest, "manifests")):
        yield descriptor.get("digest") if isinstance(descriptor, dict) else None
    for layer in _list(manifest, "fsLayers"):
        yield layer.get("blobSum") if isinstance(layer, dict) else None


def _list(manifest: dict[str, Any], key: str) -> list[Any]:
    found = manifest.get(key)
    return found if isinstance(found, list) else []
