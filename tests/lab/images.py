"""OCI images made offline, in pure Python, as an image layout folder (OCI image spec 1.1).

The content follows from seeds, so the same call gives the same digests anywhere. Layers are
written in pieces; a sparse layer of some GiB costs its hashing and next to no disk.
"""

import gzip
import hashlib
import json
import random
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = f"{LAYER_TAR}+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
TAG = "org.opencontainers.image.ref.name"
MARKER_EVERY = MIB


@dataclass(frozen=True)
class Blob:
    """One content-addressed file of a layout."""

    digest: str
    size: int
    media_type: str
    path: Path

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """How a manifest names it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


@dataclass(frozen=True)
class Image:
    """A manifest with all that it names."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.manifest.digest

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Config and layers: what is fetched as blobs."""
        return self.config, *self.layers


@dataclass(frozen=True)
class Index:
    """A multi-platform image."""

    manifest: Blob
    images: tuple[Image, ...]

    @property
    def digest(self) -> str:
        """The index's digest."""
        return self.manifest.digest


@dataclass(frozen=True)
class Layer:
    """A layer to be made: `size` bytes in one file. Sparse: an uncompressed tar, zeros with marks in them."""

    size: int
    sparse: bool = False


class Layout:
    """An image layout folder, usable as `oci:FOLDER:TAG`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self._tags: dict[str, dict[str, Any]] = {}
        self._write_index()

    def reference(self, tag: str) -> str:
        """What skopeo calls the image."""
        return f"oci:{self.folder}:{tag}"

    def image(
        self, tag: str | None, layers: Sequence[Layer | int], *, seed: int | str = 0, arch: str = "amd64"
    ) -> Image:
        """An image of random layers; a bare number is the size of a gzip layer."""
        specs = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
        made = [self._layer(spec, f"{seed}-{arch}-{number}") for number, spec in enumerate(specs)]
        config = {
            "architecture": arch,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Labels": {"test.lab.seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
        }
        return self._finish(tag, self._json(config, CONFIG), tuple(blob for blob, _ in made), {})

    def index(self, tag: str, images: Sequence[tuple[str, Image]]) -> Index:
        """A multi-platform image of (architecture, image)."""
        entries = [image.manifest.descriptor(platform={"os": "linux", "architecture": arch}) for arch, image in images]
        manifest = self._json({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
        self._name(tag, manifest)
        return Index(manifest, tuple(image for _, image in images))

    def artifact(self, tag: str | None, subject: Image, content: Any, kind: str = "test/lab") -> Image:
        """An artifact that refers to `subject`; its one layer is `content` as JSON."""
        config = self._json({}, EMPTY)
        more = {"artifactType": kind, "subject": subject.manifest.descriptor()}
        return self._finish(tag, config, (self._json(content, "application/json"),), more)

    def _finish(self, tag: str | None, config: Blob, layers: tuple[Blob, ...], more: dict[str, Any]) -> Image:
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
            **more,
        }
        manifest = self._json(body, MANIFEST)
        if tag is not None:
            self._name(tag, manifest)
        return Image(manifest, config, layers)

    def _name(self, tag: str, manifest: Blob) -> None:
        self._tags[tag] = manifest.descriptor(annotations={TAG: tag})
        self._write_index()

    def _write_index(self) -> None:
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(self._tags.values())}
        (self.folder / "index.json").write_text(json.dumps(body))

    def _json(self, body: Any, media_type: str) -> Blob:
        return self._blob(media_type, lambda file: file.write(json.dumps(body, sort_keys=True).encode()))

    def _layer(self, spec: Layer, seed: str) -> tuple[Blob, str]:
        if spec.sparse:
            blob = self._blob(LAYER_TAR, lambda file: _write_sparse(file, spec.size, seed))
            return blob, blob.digest
        diff_id = hashlib.sha256()
        blob = self._blob(LAYER_GZIP, lambda file: _write_gzip(file, _tar(spec.size, seed), diff_id.update))
        return blob, f"sha256:{diff_id.hexdigest()}"

    def _blob(self, media_type: str, write: Callable[[IO[bytes]], object]) -> Blob:
        """Write a file of unknown digest, then give it the name of its digest."""
        folder = self.folder / "blobs" / "sha256"
        draft = folder / f".draft-{uuid.uuid4().hex}"
        with draft.open("wb") as file:
            write(file)
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = draft.rename(folder / digest)
        return Blob(f"sha256:{digest}", path.stat().st_size, media_type, path)


def _write_gzip(file: IO[bytes], pieces: Iterable[bytes], seen: Callable[[bytes], object]) -> None:
    # level 0: random bytes do not compress, and the time goes into the test instead
    with gzip.GzipFile("", "wb", compresslevel=0, fileobj=file, mtime=0) as packed:
        for piece in pieces:
            seen(piece)
            packed.write(piece)


def _tar(size: int, seed: str) -> Iterator[bytes]:
    yield _small_file(seed)
    yield _header(f"data/{seed}.bin", size)
    source = random.Random(seed)
    for start in range(0, size, MIB):
        yield source.randbytes(min(MIB, size - start))
    yield bytes(-size % 512 + 1024)


def _write_sparse(file: IO[bytes], size: int, seed: str) -> None:
    """Marks at every MiB tell a misplaced part from the right one; the rest are holes."""
    file.write(_small_file(seed) + _header(f"data/{seed}.bin", size))
    start, source = file.tell(), random.Random(seed)
    for offset in range(0, size, MARKER_EVERY):
        file.seek(start + offset)
        file.write(source.randbytes(min(32, size - offset)))
    file.truncate(start + size + -size % 512 + 1024)


def _small_file(seed: str) -> bytes:
    body = json.dumps({"seed": seed}).encode()
    return _header(f"etc/{seed}.json", len(body)) + body + bytes(-len(body) % 512)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)
