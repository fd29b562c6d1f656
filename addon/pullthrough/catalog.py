"""What is stored, as people name it: repositories, images in them, and what those consist of.

Responsible for putting together what the store knows apart: links, the last digests of tags, manifests and blobs. Must
not know who asks, and changes nothing. Blocks; reads a store that may be changed meanwhile, so what it says may be a
moment old.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pullthrough.core import hub, media
from pullthrough.core.children import MAX_MANIFEST, Descriptor, descriptors, platform
from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection
from pullthrough.messages import Repository
from pullthrough.store.opened import Shelf
from pullthrough.tags import tags_of

#: Indexes in indexes; further down nothing is looked at.
_MAX_DEPTH: Final = 4
#: Parts of one image that are looked at, counted as often as they are named: few manifests can name each other so that
#: there is no end to it, and anybody can have them pulled.
_MAX_NODES: Final = 1 << 14
#: Manifests of which what they name is remembered: it never changes.
_MEMORY: Final = 65536


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest, config or layer in an image. `parts` are what it names, as far as it is stored itself."""

    what: Descriptor
    #: Bytes, if it is stored.
    stored: int | None
    parts: tuple[Node, ...] = ()

    @property
    def digest(self) -> Digest:
        return self.what.digest

    @property
    def size(self) -> int:
        """Bytes, as stored or else as its manifest says."""
        return self.stored if self.stored is not None else self.what.size or 0

    def walk(self) -> Iterator[Node]:
        """This and all below."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def whole(self) -> bool:
        """Is all of it stored?"""
        return all(node.stored is not None for node in self.walk())

    def of_platform(self, wanted: str) -> Node | None:
        """The same with nothing but the manifests for `wanted` (os/architecture[/variant]); None if it has none."""
        if any(part.what.is_manifest for part in self.parts):
            parts = tuple(kept for part in self.parts if (kept := part.of_platform(wanted)) is not None)
            return Node(self.what, self.stored, parts) if parts else None
        return self if f"{self.what.platform}/".startswith(f"{wanted}/") else None


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index of one repository, under the tags that named it last."""

    repository: str
    tags: tuple[str, ...]
    root: Node

    @property
    def name(self) -> str:
        """As people write it, by its first tag or by its digest."""
        return f"{shown(self.repository)}:{self.tags[0]}" if self.tags else self.by_digest

    @property
    def by_digest(self) -> str:
        """As people write it, by its digest."""
        return f"{shown(self.repository)}@{self.root.digest}"

    @property
    def nodes(self) -> dict[Digest, Node]:
        """All that it consists of, each once."""
        return {node.digest: node for node in self.root.walk()}

    @property
    def bytes(self) -> int:
        """Bytes of it that are stored."""
        return sum(node.stored or 0 for node in self.nodes.values())


class Catalog:
    """The images of a store."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._known: dict[Digest, tuple[Descriptor, ...]] = {}
        #: Parts of the present image that may still be looked at.
        self._left = _MAX_NODES

    def repositories(self, *selections: Selection) -> Iterator[str]:
        """Those that something is linked to, and that are meant by each selection."""
        for text in self._shelf.index.repositories():
            repository = Repository.parse(text)
            if repository is not None and all(_covers(selection, repository) for selection in selections):
                yield text

    def images(self, *selections: Selection) -> Iterator[Image]:
        """All that are stored, at least their manifest, and that are meant by each selection."""
        for repository in self.repositories(*selections):
            yield from self.images_of(repository, *selections)

    def images_of(self, repository: str, *selections: Selection) -> Iterator[Image]:
        """Those of one repository: what a tag names, and what no index of the same repository names.

        A selection by digest means any manifest.
        """
        digests = [selection.digest for selection in selections if selection.digest is not None]
        for image in self._by_digest(repository, digests[0]) if digests else self._roots(repository):
            if all(_means(selection, image) for selection in selections):
                yield image

    def _by_digest(self, repository: str, digest: Digest) -> Iterator[Image]:
        link = self._shelf.index.linked(repository, digest)
        if link is not None and link.media_type:
            root = self.tree(Descriptor(digest, link.media_type, is_manifest=True))
            if root.stored is not None:
                yield Image(repository, tuple(self._tags(repository).get(digest, ())), root)

    def _roots(self, repository: str) -> Iterator[Image]:
        manifests = {
            digest: Descriptor(digest, link.media_type, is_manifest=True)
            for digest, link in self._shelf.index.members(repository)
            if link.media_type
        }
        roots = {digest: root for digest in manifests if (root := self.tree(manifests[digest])).stored is not None}
        parts = {node.digest for root in roots.values() for part in root.parts for node in part.walk()}
        tags = self._tags(repository)
        for digest, root in roots.items():
            if digest in tags or digest not in parts:
                yield Image(repository, tuple(tags.get(digest, ())), root)

    def _tags(self, repository: str) -> dict[Digest, list[str]]:
        tags: dict[Digest, list[str]] = {}
        for tag, digest in tags_of(repository, self._shelf.index.facts).items():
            tags.setdefault(digest, []).append(tag)
        return tags

    def tree(self, what: Descriptor, depth: int = 0) -> Node:
        """All that is below one descriptor."""
        self._left = self._left - 1 if depth else _MAX_NODES
        row = self._shelf.index.find(what.digest)
        if row is None or depth >= _MAX_DEPTH or not what.is_manifest:
            return Node(what, None if row is None else row.size)
        named = itertools.takewhile(lambda _: self._left > 0, self._named(what.digest))
        parts = tuple(self.tree(part, depth + 1) for part in named)
        if not what.platform and what.media_type not in _INDEXES:
            what = Descriptor(what.digest, what.media_type, what.size, self._platform(parts), is_manifest=True)
        return Node(what, row.size, parts)

    def stored(self, digest: Digest) -> bool:
        """Is there a blob?"""
        return self._shelf.index.find(digest) is not None

    def read(self, digest: Digest) -> bytes | None:
        """A stored manifest or config, if it is what it should be."""
        row = self._shelf.index.find(digest)
        fd = self._shelf.files.open(row.name, row.size) if row is not None and row.size <= MAX_MANIFEST else None
        if row is None or fd is None:
            return None
        try:
            body = os.pread(fd, row.size, 0)
        finally:
            os.close(fd)
        return body if digest.matches(body) else None

    def _named(self, manifest: Digest) -> tuple[Descriptor, ...]:
        """What it names; nothing if it cannot be read now."""
        if manifest not in self._known and (body := self.read(manifest)) is not None:
            if len(self._known) >= _MEMORY:
                self._known.clear()
            self._known[manifest] = descriptors(body)
        return self._known.get(manifest, ())

    def _platform(self, parts: tuple[Node, ...]) -> str:
        """What an image's config says it is for."""
        for part in parts:
            if part.what.media_type in CONFIGS and part.stored is not None:
                with contextlib.suppress(OSError):
                    return platform(self.read(part.digest) or b"")
        return ""


_INDEXES: Final = (media.OCI_INDEX, media.DOCKER_LIST)
#: Media types of image configs.
CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)


def shown(repository: str) -> str:
    """A repository as people write it: without the scheme, and docker.io for Docker Hub."""
    authority, _, name = repository.partition("://")[2].partition("/")
    return f"{hub.NAMES[0] if authority == hub.REGISTRY.host else authority}/{name}"


def _covers(selection: Selection, repository: Repository) -> bool:
    return selection.covers(repository.registry.host, repository.registry.port, repository.name)


def _means(selection: Selection, image: Image) -> bool:
    """Is it meant, in a repository that is covered?"""
    if selection.digest is not None:
        return image.root.digest == selection.digest
    return selection.tag is None or any(map(selection.names, image.tags))
