"""What is stored: ls, show, du.

Responsible for what a person types and reads about it, and for the same as JSON. Must not know how it is stored.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pullthrough.catalog import CONFIGS, Catalog, Image, Node, shown
from pullthrough.commands.flags import Config, DataDir, settings
from pullthrough.commands.tables import print_columns
from pullthrough.config import ConfigError
from pullthrough.core.amounts import byte_size, counted
from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection, parse_selection
from pullthrough.pins import Pins
from pullthrough.store.index import Use
from pullthrough.store.opened import Shelf, opened

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON instead of a table.")]
_Which = Annotated[
    str | None,
    typer.Argument(metavar="IMAGE|REPOSITORY|REGISTRY|GLOB", help="All that is stored, if nothing is named."),
]
_RegistryOnly = Annotated[
    str | None, typer.Option("--registry", metavar="HOST[:PORT]", help="Only of this registry.", show_default=False)
]
_RepositoryOnly = Annotated[
    str | None, typer.Option("--repo", metavar="HOST/NAME", help="Only of this repository.", show_default=False)
]


class Sort(StrEnum):
    """By what images are listed."""

    NAME = "name"
    SIZE = "size"
    USED = "used"
    HITS = "hits"


@dataclass(frozen=True, slots=True)
class _Listed:
    """An image, and when it was pulled: its layers are other images' as well."""

    image: Image
    use: Use

    @property
    def state(self) -> str:
        """Whole, or which part of it is stored: an index counts platforms, an image its blobs."""
        platforms = [part for part in self.image.root.parts if part.what.is_manifest]
        parts = platforms or [*self.image.root.walk()]
        there = sum(part.whole if platforms else part.stored is not None for part in parts)
        return "whole" if there == len(parts) else f"{there} of {len(parts)} {'platforms' if platforms else 'blobs'}"

    def as_json(self) -> dict[str, Any]:
        image = self.image
        return {
            "image": image.name,
            "repository": shown(image.repository),
            "tags": list(image.tags),
            "digest": str(image.root.digest),
            "bytes": image.bytes,
            "whole": image.root.whole,
            "stored": self.state,
            "used": self.use.last or None,
            "hits": self.use.hits,
        }


def ls(
    image: _Which = None,
    config: Config = None,
    data_dir: DataDir = None,
    registry: _RegistryOnly = None,
    repo: _RepositoryOnly = None,
    sort: Annotated[Sort, typer.Option("--sort", help="By what to list; hits are reads of its manifest.")] = Sort.NAME,
    as_json: Json = False,
) -> None:
    """List the images that are stored, at least in part."""
    asked = [selected(text) for text in (image, registry, repo) if text is not None]
    with opened(store_folder(config, data_dir)) as shelf:
        found = Catalog(shelf).images(*asked)
        listed = sorted((_listed(shelf, one) for one in found), key=_ORDER[sort])
        if as_json:
            typer.echo(json.dumps([one.as_json() for one in listed], indent=2))
            return
        print_columns(("IMAGE", "DIGEST", "SIZE", "STORED", "USED", "HITS"), map(_row, listed))
        total = {node.digest: node.stored or 0 for one in listed for node in one.image.nodes.values()}
        typer.echo(
            f"{counted(len(listed), 'image')}, {byte_size(sum(total.values()))}; blobs that they share are counted once"
        )


def show(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="NAME:TAG, NAME@DIGEST, or NAME for all of its images.")
    ],
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show an image: its tags, platforms and layers, what of them is stored, and when that was used."""
    selection, chosen = selected(image), settings({"config": config, "data_dir": data_dir})
    with opened(chosen.store_dir) as shelf:
        catalog = Catalog(shelf)
        found = list(catalog.images(selection))
        if not found:
            raise ConfigError(f"nothing of {image} is stored here; see what is: pullthrough ls")
        about = _About(shelf, _links(shelf, catalog, found), Pins(chosen.data_dir).follow(catalog))
        if as_json:
            typer.echo(json.dumps([about.image_json(one) for one in found], indent=2))
        else:
            for one in found:
                about.print(one)


def du(
    which: _Which = None,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show how much each registry and repository takes; what several share is counted once in each sum."""
    selection = () if which is None else (selected(which),)
    with opened(store_folder(config, data_dir)) as shelf:
        sizes = {digest: row.size for digest, row in shelf.index.blobs()}
        members = {
            repository: {digest for digest, _ in shelf.index.members(repository) if digest in sizes}
            for repository in Catalog(shelf).repositories()
        }
        usage = _Usage(sizes, members)
        asked = list(Catalog(shelf).repositories(*selection))
    if as_json:
        typer.echo(json.dumps(usage.as_json(asked), indent=2))
        return
    print_columns(("REGISTRY/REPOSITORY", "BLOBS", "SIZE", "ITS OWN"), usage.rows(asked))


# -- for these commands and their neighbours


def selected(text: str) -> Selection:
    """What an argument means. ConfigError for one that means nothing."""
    try:
        return parse_selection(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def store_folder(config: Path | None, data_dir: str | None) -> Path:
    """Where the store is, as the settings say."""
    return settings({"config": config, "data_dir": data_dir}).store_dir


def ago(moment: float, now: float) -> str:
    """How long ago that was, roughly; "-" for never."""
    if not moment:
        return "-"
    seconds = max(0.0, now - moment)
    for unit, length in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return "now"


# -- ls


def _listed(shelf: Shelf, image: Image) -> _Listed:
    return _Listed(image, shelf.index.use(image.root.digest))


_ORDER: Final = {
    Sort.NAME: lambda one: one.image.name,
    Sort.SIZE: lambda one: (-one.image.bytes, one.image.name),
    Sort.USED: lambda one: (-one.use.last, one.image.name),
    Sort.HITS: lambda one: (-one.use.hits, one.image.name),
}


def _row(one: _Listed) -> tuple[str, ...]:
    image = one.image
    name = image.name if len(image.tags) < 2 else f"{image.name} ({', '.join(image.tags[1:])})"
    short = image.root.digest.hex[:12]
    return name, short, byte_size(image.bytes), one.state, ago(one.use.last, time.time()), str(one.use.hits)


# -- show


def _links(shelf: Shelf, catalog: Catalog, images: Iterable[Image]) -> dict[Digest, list[str]]:
    """In which repositories each of their parts is known to be."""
    parts = {digest for image in images for digest in image.nodes}
    return {
        digest: [shown(one) for one in repositories if shelf.index.linked(one, digest) is not None]
        for repositories in [list(catalog.repositories())]
        for digest in parts
    }


@dataclass(frozen=True, slots=True)
class _About:
    """What is to be said of images and their parts."""

    shelf: Shelf
    links: Mapping[Digest, list[str]]
    pinned: Container[Digest]

    def print(self, image: Image) -> None:
        """The image as a table."""
        typer.echo(image.name)
        if len(image.tags) > 1:
            typer.echo(f"  tags  {', '.join(image.tags)}")
        rows = [self._row(node, depth) for node, depth in _outline(image.root, 1)]
        print_columns(("", "SIZE", "STORED", "PINNED", "USED", "HITS", "REPOSITORIES"), rows)
        typer.echo()

    def _row(self, node: Node, depth: int) -> tuple[str, ...]:
        use = self._use(node)
        return (
            f"{'  ' * depth}{_kind(node)} {node.what.platform}".rstrip() + f" {node.digest}",
            byte_size(node.size) if node.stored is not None or node.what.size is not None else "?",
            _state(node),
            "yes" if node.digest in self.pinned else "-",
            ago(use.last, time.time()),
            str(use.hits),
            str(len(self.links[node.digest])),
        )

    def image_json(self, image: Image) -> dict[str, Any]:
        """The same for programs."""
        pinned = image.root.digest in self.pinned
        return {**_listed(self.shelf, image).as_json(), "pinned": pinned, "root": self._node_json(image.root)}

    def _node_json(self, node: Node) -> dict[str, Any]:
        use = self._use(node)
        return {
            "kind": _kind(node),
            "digest": str(node.digest),
            "mediaType": node.what.media_type,
            "platform": node.what.platform or None,
            "bytes": node.size,
            "stored": _state(node),
            "pinned": node.digest in self.pinned,
            "used": use.last or None,
            "hits": use.hits,
            "repositories": self.links[node.digest],
            "parts": [self._node_json(part) for part in node.parts],
        }

    def _use(self, node: Node) -> Use:
        return self.shelf.index.use(node.digest) if node.stored is not None else Use()


def _outline(node: Node, depth: int) -> Iterator[tuple[Node, int]]:
    yield node, depth
    for part in node.parts:
        yield from _outline(part, depth + 1)


def _kind(node: Node) -> str:
    if any(part.what.is_manifest for part in node.parts):
        return "index"
    if node.what.is_manifest:
        return "manifest"
    return "config" if node.what.media_type in CONFIGS else "layer"


def _state(node: Node) -> str:
    if node.stored is None:
        return "no"
    return "yes" if node.whole else "partial"


# -- du


class _Usage:
    """What registries and repositories take, by the sizes of blobs and which of them each has."""

    def __init__(self, sizes: Mapping[Digest, int], members: Mapping[str, Collection[Digest]]) -> None:
        self._sizes = sizes
        self._members = members
        self._owners = Counter(digest for digests in members.values() for digest in digests)

    def rows(self, asked: Collection[str]) -> Iterator[tuple[str, ...]]:
        """A line for each registry, with its repositories below it, and their sum."""
        for registry, repositories in self._grouped(asked):
            yield self._row(registry, repositories)
            for repository in repositories:
                yield self._row(f"  {shown(repository).partition('/')[2]}", [repository])
        yield self._row("all of these", asked)
        if loose := [size for digest, size in self._sizes.items() if digest not in self._owners]:
            yield "of no known repository", str(len(loose)), byte_size(sum(loose)), byte_size(sum(loose))

    def as_json(self, asked: Collection[str]) -> list[dict[str, Any]]:
        """One object for each repository."""
        return [
            {
                "repository": shown(one),
                "blobs": len(self._members[one]),
                "bytes": self._sum([one]),
                "own": self._own([one]),
            }
            for one in asked
        ]

    def _grouped(self, asked: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
        for registry, group in itertools.groupby(sorted(asked, key=shown), lambda one: shown(one).partition("/")[0]):
            yield registry, list(group)

    def _row(self, name: str, repositories: Collection[str]) -> tuple[str, ...]:
        blobs = {digest for one in repositories for digest in self._members[one]}
        return name, str(len(blobs)), byte_size(self._sum(repositories)), byte_size(self._own(repositories))

    def _sum(self, repositories: Iterable[str]) -> int:
        return sum(self._sizes[digest] for digest in {d for one in repositories for d in self._members[one]})

    def _own(self, repositories: Iterable[str]) -> int:
        """Bytes that nobody else has a part in."""
        here = Counter(digest for one in repositories for digest in self._members[one])
        return sum(self._sizes[digest] for digest, times in here.items() if times == self._owners[digest])
