"""Images from an OCI image layout into the store: for an air gap, or to have them before anybody asks.

Responsible for what an archive may say: which images it has, and of which repositories and tags they are. Nothing is
believed of their content: each blob is verified, and only what the archive itself has becomes part of a repository, so
that none can name its way to others' blobs. Must not know whether a layout is a folder or an archive. Blocks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pullthrough import access, accounts, tags
from pullthrough.archives import ArchiveError, Damaged, Reader
from pullthrough.catalog import Node
from pullthrough.core import layouts, media
from pullthrough.core.children import MAX_MANIFEST, Descriptor, descriptors
from pullthrough.core.digest import Digest
from pullthrough.core.layouts import Entry
from pullthrough.core.references import Reference, parse_reference
from pullthrough.exports import there
from pullthrough.facts import Row
from pullthrough.messages import Registry, Repository
from pullthrough.store.index import Link
from pullthrough.store.opened import Shelf
from pullthrough.store.room import Room
from pullthrough.store.seeding import seed

#: Indexes in indexes, and things that all images of a layout name together.
_MAX_DEPTH = 4
_MAX_NODES = 1 << 16


@dataclass(frozen=True, slots=True)
class Import:
    """One image of a layout, and whose it is to be."""

    name: str
    repository: Repository
    tag: str
    root: Node
    #: Platforms that the archive does not have.
    missing: tuple[str, ...]

    @property
    def sizes(self) -> dict[Digest, int]:
        """All that it consists of, what is named before what names it."""
        return {node.digest: node.size for node in reversed(list(self.root.walk()))}


def found(reader: Reader, name: str | None, scheme: str) -> list[Import]:
    """The images of a layout; `name` is that of its only one, if it is to have another or has none.

    ArchiveError if the layout is none or does not say whose its images are; Damaged if it is not whole.
    """
    if not layouts.is_marker(_small(reader, layouts.MARKER, layouts.MAX_MARKER)):
        raise ArchiveError(f"{reader.path} is no OCI image layout of a version that is known here")
    try:
        listed = layouts.entries(_small(reader, layouts.INDEX, MAX_MANIFEST))
    except ValueError as error:
        raise ArchiveError(f"{reader.path} is no OCI image layout: {error}") from error
    if not listed:
        raise ArchiveError(f"{reader.path} has no image")
    if name is not None and len({entry.what.digest for entry in listed}) > 1:
        raise ArchiveError(f"{reader.path} has {len(listed)} images: --as says the name of one")
    trees = _Trees(reader)
    return [_import(trees, entry, name, scheme) for entry in (listed[:1] if name is not None else listed)]


def take(reader: Reader, shelf: Shelf, room: Room, image: Import, done: set[Digest]) -> None:
    """Have all blobs of an image in the store, but for those that are `done`. Damaged if one is not what it says."""
    for digest, size in image.sizes.items():
        if digest in done:
            continue
        with reader.opened(layouts.blob_file(digest)) as extent:
            try:
                right = seed(shelf, room, digest, size, extent.chunks())
            except Damaged as error:
                raise _damaged(reader, digest) from error
        if not right:
            raise _damaged(reader, digest)
        done.add(digest)


def enter(shelf: Shelf, image: Import, now: float) -> None:
    """Make a stored image part of its repository, as if the upstream had given it out there."""
    repository = str(image.repository)
    for node in image.root.walk():
        known = shelf.index.linked(repository, node.digest)
        called = known.media_type if known is not None else ""
        shelf.index.link(
            repository, node.digest, Link(called or (node.what.media_type if node.what.is_manifest else ""))
        )
    if image.tag:
        shelf.index.note(tags.brought(image.repository, image.tag, image.root.digest, now))


def vouch(shelf: Shelf, repository: Repository, secret: bytes, now: float) -> None:
    """From now on anybody may have what is stored of a repository while its registry cannot be asked."""
    facts: dict[str, Row] = accounts.vouched(secret, repository.registry, now)
    shelf.index.note({**facts, **_vouched(repository, secret, now)})


def take_back(shelf: Shelf, repository: Repository, secret: bytes) -> None:
    """Nobody vouches for a repository any more. For others of its registry somebody may."""
    shelf.index.note(dict.fromkeys(_vouched(repository, secret, 0.0)))


def _vouched(repository: Repository, secret: bytes, now: float) -> dict[str, Row]:
    return access.vouched(accounts.anonymous(secret, repository.registry), repository, now)


# -- whose an image is


def _import(trees: _Trees, entry: Entry, name: str | None, scheme: str) -> Import:
    reference, text = _reference(trees.path, entry, name)
    if reference.digest not in (None, entry.what.digest):
        raise ArchiveError(f"{text} is another image: the one in {trees.path} is {entry.what.digest}")
    registry = Registry(scheme, reference.host, reference.port_over(scheme))
    root, missing = there(trees.tree(entry.what))
    if root is None:
        raise ArchiveError(f"{trees.path} does not have all of {text}: export it again")
    return Import(text, Repository(registry, reference.repository), reference.tag, root, missing)


def _reference(path: object, entry: Entry, name: str | None) -> tuple[Reference, str]:
    if name is not None:
        try:
            return parse_reference(name), name
        except ValueError as error:
            raise ArchiveError(f"flag --as: {error}") from error
    for text in entry.names:
        try:
            return parse_reference(text), text
        except ValueError:
            continue
    called = f"{entry.names[0]!r}" if entry.names else "nothing"
    raise ArchiveError(
        f"{path} calls {entry.what.digest} {called}, which is no full name: say it with --as "
        "REGISTRY/REPOSITORY:TAG, for an archive of this image alone"
    )


# -- what an image consists of


class _Trees:
    """What a layout has of each image."""

    def __init__(self, reader: Reader) -> None:
        self.path = reader.path
        self._reader = reader
        self._left = _MAX_NODES

    def tree(self, what: Descriptor, depth: int = 0) -> Node:
        """All that is below one descriptor."""
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            raise ArchiveError(f"{self.path} names more than any image has")
        size = self._reader.size(layouts.blob_file(what.digest))
        if size is None or not what.is_manifest:
            return Node(what, size)
        body = _small(self._reader, layouts.blob_file(what.digest), MAX_MANIFEST)
        if not what.digest.matches(body):
            raise _damaged(self._reader, what.digest)
        if what.media_type not in media.MANIFEST_TYPES or _says_otherwise(body, what.media_type):
            raise ArchiveError(f"{self.path}: {what.digest} is no image, or none of the type that is said")
        return Node(what, size, tuple(self.tree(part, depth + 1) for part in descriptors(body)))


def _says_otherwise(body: bytes, media_type: str) -> bool:
    """Is it a manifest of another type, by its own word (OCI image specification 1.1, "mediaType")?"""
    try:
        said = json.loads(body).get("mediaType", media_type)
    except (ValueError, RecursionError, AttributeError):
        return True
    return not isinstance(said, str) or media.media_type(said) != media_type


def _small(reader: Reader, name: str, limit: int) -> bytes:
    """A file that is read whole; b"" if there is none."""
    size = reader.size(name)
    if size is None:
        return b""
    if not 0 <= size <= limit:
        raise ArchiveError(f"{reader.path}: {name} is longer than {limit} bytes")
    with reader.opened(name) as extent:
        try:
            return b"".join(extent.chunks())
        except Damaged as error:
            raise Damaged(f"{reader.path}: {name}: {error}; copy it anew") from error


def _damaged(reader: Reader, digest: Digest) -> Damaged:
    return Damaged(f"{reader.path}: {digest} is not what its digest says; copy the archive anew, or export it again")
