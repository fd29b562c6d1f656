"""Deleting by name: which blobs and links go when an image, a repository or a registry is to be forgotten.

Responsible for the choice, and for that what other images need stays. Must not know who asks. Blocks; works on a
store that serves meanwhile: what goes too much is fetched again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pullthrough.catalog import Catalog
from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection
from pullthrough.store import quarantine
from pullthrough.store.disk import Adopted
from pullthrough.store.opened import Shelf


@dataclass(slots=True)
class Purge:
    """What goes, and what stays although it was meant."""

    #: Repositories of which nothing is to stay.
    whole: list[str] = field(default_factory=list)
    links: list[tuple[str, Digest]] = field(default_factory=list)
    blobs: dict[Digest, Adopted] = field(default_factory=dict)
    #: Unfinished downloads and damaged blobs, with their bytes; only when everything goes.
    rests: dict[Path, int] = field(default_factory=dict)
    #: Blobs that another image or repository has a part in, and pinned ones.
    shared: set[Digest] = field(default_factory=set)
    pinned: set[Digest] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Bytes that go."""
        return sum(row.size for row in self.blobs.values()) + sum(self.rests.values())


def plan(shelf: Shelf, selection: Selection | None, pinned: Container[Digest]) -> Purge:
    """What goes if `selection`, or everything, is purged."""
    purge = Purge()
    catalog = Catalog(shelf)
    candidates: set[Digest] = set()
    for repository in catalog.repositories(*(() if selection is None else (selection,))):
        if selection is None or selection.whole:
            purge.whole.append(repository)
        meant, needed = _meant(shelf, catalog, repository, selection)
        purge.shared |= needed
        for digest in meant:
            candidates.add(digest)
            if digest in pinned:
                purge.pinned.add(digest)
            else:
                purge.links.append((repository, digest))
    if selection is None:
        purge.rests = shelf.files.partials() | quarantine.kept(shelf.files.root)
        candidates |= {digest for digest, _ in shelf.index.blobs()}
    elif selection.glob is None and selection.digest is not None:
        candidates.add(selection.digest)
    purge.pinned |= {digest for digest in candidates if digest in pinned}
    purge.shared |= _linked_elsewhere(shelf, candidates, purge.links) - purge.pinned
    for digest in candidates - purge.shared - purge.pinned:
        row = shelf.index.find(digest)
        if row is not None:
            purge.blobs[digest] = row
    return purge


def carry_out(shelf: Shelf, purge: Purge) -> None:
    """Delete it. Links first: a blob without a link is of no use, a link without a blob costs one question."""
    for repository, digest in purge.links:
        shelf.index.unlink(repository, digest)
    for digest, row in purge.blobs.items():
        shelf.index.drop(digest, row)
    for path in purge.rests:
        shelf.files.drop_partial(path)  # unless somebody is filling it


def _meant(
    shelf: Shelf, catalog: Catalog, repository: str, selection: Selection | None
) -> tuple[set[Digest], set[Digest]]:
    """What goes of one repository, and what of the same images others there need."""
    members = {digest for digest, _ in shelf.index.members(repository)}
    if selection is None or selection.whole:
        return members, set()
    gone = {image.root.digest: image for image in catalog.images_of(repository, selection)}
    meant = {digest for image in gone.values() for digest in image.nodes} & members
    others = (image for image in catalog.images_of(repository) if image.root.digest not in gone)
    needed = {digest for image in others for digest in image.nodes} & meant
    if selection.digest in members:  # itself in any case, whoever needs it
        return meant - needed | {selection.digest}, needed - {selection.digest}
    return meant - needed, needed


def _linked_elsewhere(shelf: Shelf, digests: set[Digest], going: Iterable[tuple[str, Digest]]) -> set[Digest]:
    """Those that some link still names when these links are gone."""
    gone = set(going)
    return {
        digest
        for repository in shelf.index.repositories()
        for digest, _ in shelf.index.members(repository)
        if digest in digests and (repository, digest) not in gone
    }
