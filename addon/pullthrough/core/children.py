"""What a manifest names: the digests that whoever pulls it asks for next.

Knows image manifests and indexes of OCI and docker (OCI image specification 1.1, "Image Manifest", "Image Index",
"Descriptor"; Docker image manifest schema 2 and signed schema 1). Claims only: a digest that a manifest names proves
nothing, nor does a size.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.core.digest import Digest
from pullthrough.core.media import media_type

#: Bytes. What is longer is no manifest here (OCI distribution specification 1.1 asks registries for at least 4 MiB).
MAX_MANIFEST: Final = 8 << 20
#: More than any image has.
_MOST: Final = 4096
#: What a platform is written with: it goes to terminals.
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One thing that a manifest names, as it describes it. `size` in bytes, None if it does not say."""

    digest: Digest
    media_type: str = ""
    size: int | None = None
    #: os/architecture[/variant], of a manifest in an index that says so; else "".
    platform: str = ""
    #: Is it a manifest, and no config or layer?
    is_manifest: bool = False


def children(body: bytes) -> tuple[Digest, ...]:
    """The digests of config, layers, manifests and artifact blobs, in their order; none for what is no manifest."""
    return tuple(descriptor.digest for descriptor in descriptors(body))


def descriptors(body: bytes) -> tuple[Descriptor, ...]:
    """The same with what is said of each; what is named twice counts once."""
    manifest = _object(body)
    found: dict[Digest, Descriptor] = {}
    for entry, is_manifest in _named(manifest):
        descriptor = described(entry, is_manifest)
        if descriptor is not None and len(found) < _MOST:
            found.setdefault(descriptor.digest, descriptor)
    return tuple(found.values())


def platform(config: bytes) -> str:
    """os/architecture[/variant] of an image, by its config (OCI image specification 1.1, "Image Configuration")."""
    return _platform(_object(config))


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _named(manifest: dict[str, Any]) -> Iterator[tuple[object, bool]]:
    yield manifest.get("config"), False
    for key in ("layers", "blobs"):
        for layer in _list(manifest, key):
            yield layer, False
    for other in _list(manifest, "manifests"):
        yield other, True
    for layer in _list(manifest, "fsLayers"):
        yield {"digest": layer.get("blobSum")} if isinstance(layer, dict) else None, False


def described(entry: object, is_manifest: bool) -> Descriptor | None:
    """What one descriptor says; None for what is none."""
    if not isinstance(entry, dict) or not isinstance(text := entry.get("digest"), str):
        return None
    digest, kind, size = Digest.parse(text), entry.get("mediaType"), entry.get("size")
    if digest is None:
        return None
    return Descriptor(
        digest,
        media_type(kind) if isinstance(kind, str) else "",
        size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63 else None,
        _platform(entry.get("platform")),
        is_manifest,
    )


def _platform(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    parts = [value.get(key) for key in ("os", "architecture", "variant")]
    words = [part for part in parts if isinstance(part, str) and part and len(part) <= 64 and _PLAIN.issuperset(part)]
    return "/".join(words)


def _list(manifest: dict[str, Any], key: str) -> list[Any]:
    found = manifest.get(key)
    return found if isinstance(found, list) else []
