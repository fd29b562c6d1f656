"""Images out of the store, as an OCI image layout.

Responsible for what is exported: images as they are stored, byte for byte, under their full names. Every blob is
verified while it is copied. Must not know whether a layout is a folder or an archive. Blocks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pullthrough.archives import ArchiveError, Damaged, Writer, writing
from pullthrough.catalog import Catalog, Image, Node, shown
from pullthrough.core import layouts
from pullthrough.core.children import Descriptor
from pullthrough.core.digest import Digest
from pullthrough.core.layouts import Entry
from pullthrough.core.selections import Selection
from pullthrough.store.opened import Shelf


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written: the images, and all that they consist of."""

    entries: tuple[Entry, ...]
    nodes: dict[Digest, Node]
    #: For each image of which platforms are missing: its name and those.
    missing: dict[str, tuple[str, ...]]

    @property
    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(node.size for node in self.nodes.values())

    def write(self, shelf: Shelf, path: Path) -> None:
        """Write the layout to `path`. Damaged if a blob is not what it should be; ArchiveError."""
        with writing(path) as writer:
            for digest in sorted(self.nodes, key=layouts.blob_file):
                _copy(shelf, digest, writer)
            for name, content in ((layouts.INDEX, layouts.index(self.entries)), (layouts.MARKER, layouts.MARKED)):
                writer.add(name, len(content), io.BytesIO(content))


def chosen(catalog: Catalog, selections: Iterable[Selection], platform: str | None) -> Export:
    """What of the store is meant; with `platform` (os/architecture[/variant]) that manifest alone, as an image.

    ArchiveError, with the remedy, if something that is meant is not there.
    """
    entries: dict[str, Entry] = {}
    nodes: dict[Digest, Node] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for selection in selections:
        images = list(catalog.images(selection))
        if not images:
            raise ArchiveError(f"nothing of {selection} is stored here: pull it through the proxy first")
        for image in images:
            whole, without = there(_root(image, platform))
            names = list(_names(image, selection, whole))
            if whole is None:
                raise ArchiveError(f"{names[0]} is stored in part only: pull all of it through the proxy first")
            what = _described(whole, platform)
            entries.update((name, Entry(what, (name,))) for name in names)
            nodes.update((node.digest, node) for node in whole.walk())
            if without:
                missing[names[0]] = without
    return Export(tuple(entries[name] for name in sorted(entries)), nodes, missing)


def there(node: Node) -> tuple[Node | None, tuple[str, ...]]:
    """What of an image is whole, None if nothing is; and the platforms that an index lacks then."""
    manifests = [part for part in node.parts if part.what.is_manifest]
    if node.stored is None or not manifests:
        return node if node.whole else None, ()
    kept = tuple(part for part in node.parts if part.whole)
    lost = tuple(part.what.platform or str(part.digest) for part in node.parts if not part.whole)
    return (Node(node.what, node.stored, kept) if any(part.what.is_manifest for part in kept) else None), lost


def _root(image: Image, platform: str | None) -> Node:
    if platform is None:
        return image.root
    found = image.root.of_platform(platform)
    leaves = [] if found is None else [node for node in found.walk() if _is_image(node)]
    if not leaves:
        raise ArchiveError(
            f"{image.name} has nothing for {platform} here; see what it has: pullthrough show {image.name}"
        )
    if len(leaves) > 1:
        several = ", ".join(f"{leaf.what.platform} ({leaf.digest})" for leaf in leaves)
        raise ArchiveError(f"{image.name} has several for {platform}: name one, by its variant or digest: {several}")
    return leaves[0]


def _is_image(node: Node) -> bool:
    return node.what.is_manifest and not any(part.what.is_manifest for part in node.parts)


def _names(image: Image, selection: Selection, whole: Node | None) -> Iterator[str]:
    """The full names under which it is exported: tags that are meant, else its digest."""
    repository = shown(image.repository)
    tags: Sequence[str] = () if selection.digest is not None else image.tags
    meant = [tag for tag in tags if selection.names(tag)]
    digest = image.root.digest if whole is None else whole.digest
    yield from (f"{repository}:{tag}" for tag in meant) if meant else (f"{repository}@{digest}",)


def _described(node: Node, platform: str | None) -> Descriptor:
    """As it stands in the index. Only who asked for one platform is told which that is."""
    what = node.what
    return Descriptor(what.digest, what.media_type, node.size, what.platform if platform else "", is_manifest=True)


class _Checked:
    """A blob that is hashed while it is read."""

    def __init__(self, fd: int, digest: Digest) -> None:
        self._fd = fd
        self._at = 0
        self._digest = digest
        self._hasher = digest.hasher()

    def read(self, count: int = -1, /) -> bytes:
        try:
            chunk = os.pread(self._fd, count, self._at)
        except OSError as error:
            raise _rotten(self._digest) from error
        self._at += len(chunk)
        self._hasher.update(chunk)
        return chunk

    def check(self) -> None:
        if self._hasher.hexdigest() != self._digest.hex:
            raise _rotten(self._digest)


def _copy(shelf: Shelf, digest: Digest, writer: Writer) -> None:
    row = shelf.index.find(digest)
    fd = shelf.files.open(row.name, row.size) if row is not None else None
    if row is None or fd is None:
        raise ArchiveError(f"{digest} was evicted meanwhile: pull the image again, then export it")
    try:
        content = _Checked(fd, digest)
        writer.add(layouts.blob_file(digest), row.size, content)
        content.check()
    finally:
        os.close(fd)


def _rotten(digest: Digest) -> Damaged:
    return Damaged(f"{digest} is damaged in the store: run pullthrough verify --repair, then pull the image again")
