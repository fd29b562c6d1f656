"""What the upstream has: blobs that nobody has seen, and images of them, written as docker-registry stores them.

A blob is a hole with an end of its own: it costs a disk nothing, hashing it costs its end, and the bytes are as hard to
encrypt as any others. No subject compresses or shares what it keeps.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from bench.load import Ask, Script

REPOSITORY: Final = "bench/app"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_PIECE: Final = 1 << 20
_END: Final = 32


@dataclass(frozen=True)
class Blob:
    """Content by its digest."""

    hex: str
    size: int
    media_type: str

    @property
    def digest(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def get(self) -> Ask:
        """Ask for it as a blob."""
        return Ask("GET", f"/v2/{REPOSITORY}/blobs/{self.digest}", self.size)

    def descriptor(self) -> dict[str, Any]:
        """How a manifest names it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    """A tag and what it names."""

    tag: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def check(self) -> Ask:
        """What does the tag name now?"""
        return Ask("HEAD", f"/v2/{REPOSITORY}/manifests/{self.tag}")

    @property
    def opening(self) -> list[Ask]:
        """How every pull begins."""
        path = f"/v2/{REPOSITORY}/manifests/{self.manifest.digest}"
        return [self.check, Ask("GET", path, self.manifest.size)]

    @property
    def pull(self) -> Script:
        """All of it, as dockerd asks, one after the other."""
        return [Ask("GET", "/v2/"), *self.opening, *(blob.get for blob in (self.config, *self.layers))]


class Stock:
    """The storage of a docker-registry."""

    def __init__(self, storage: Path) -> None:
        self._root = storage / "docker/registry/v2"
        self._repository = self._root / "repositories" / REPOSITORY

    def image(self, *sizes: int) -> Image:
        """A new image with layers of about these sizes."""
        layers = tuple(map(self._layer, sizes))
        config = self._json({"architecture": "amd64", "os": "linux", "id": os.urandom(8).hex()}, CONFIG)
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        }
        manifest = self._json(body, MANIFEST)
        tag = f"v{manifest.hex[:12]}"
        revision = self._repository / "_manifests/revisions/sha256" / manifest.hex
        current = self._repository / "_manifests/tags" / tag / "current"
        entry = current.with_name("index") / "sha256" / manifest.hex
        for folder in (revision, current, entry):
            _write(folder / "link", manifest.digest.encode())
        return Image(tag, manifest, config, layers)

    def drop(self, image: Image) -> None:
        """Free what its layers take; whoever asks for them gets 404 or worse."""
        for layer in image.layers:
            self._data(layer.hex).unlink(missing_ok=True)

    def _layer(self, size: int) -> Blob:
        """Its bytes are in the page cache when this returns."""
        hashed, end = _zeros(size).copy(), os.urandom(_END)
        hashed.update(end)
        blob = Blob(hashed.hexdigest(), size + _END, LAYER)
        file = self._data(blob.hex)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as written:
            written.seek(size)
            written.write(end)
        with file.open("rb", buffering=0) as read:
            while read.read(_PIECE):
                pass
        self._link(blob)
        return blob

    def _json(self, body: dict[str, Any], media_type: str) -> Blob:
        data = json.dumps(body).encode()
        blob = Blob(hashlib.sha256(data).hexdigest(), len(data), media_type)
        _write(self._data(blob.hex), data)
        self._link(blob)
        return blob

    def _link(self, blob: Blob) -> None:
        _write(self._repository / "_layers/sha256" / blob.hex / "link", blob.digest.encode())

    def _data(self, hexadecimal: str) -> Path:
        return self._root / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


@cache
def _zeros(size: int) -> "hashlib._Hash":
    hashed, piece = hashlib.sha256(), bytes(_PIECE)
    for start in range(0, size, _PIECE):
        hashed.update(memoryview(piece)[: size - start])
    return hashed


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
