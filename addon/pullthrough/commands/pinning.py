"""What stays and what goes by name: pin, unpin, pins, purge.

Responsible for what a person types and reads. Must not know what a pin keeps, nor what a purge chooses.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pullthrough import installation
from pullthrough.catalog import Catalog, Node
from pullthrough.commands.flags import Config, DataDir, Size, settings
from pullthrough.commands.stored import Json, ago, selected
from pullthrough.commands.tables import print_columns
from pullthrough.config import ConfigError
from pullthrough.core.amounts import byte_size, counted
from pullthrough.core.digest import Digest
from pullthrough.imports import take_back
from pullthrough.messages import Repository
from pullthrough.pins import Pin, Pins, kept
from pullthrough.purging import Purge, carry_out, plan
from pullthrough.store.opened import Shelf, check_owner, opened

_What = Annotated[
    str,
    typer.Argument(metavar="IMAGE|DIGEST|GLOB", help="As ghcr.io/team/app:1.2, sha256:..., or ghcr.io/team/*."),
]
_Platform = Annotated[
    str, typer.Option("--platform", metavar="OS/ARCH[/VARIANT]", help="Only this platform.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A pin with all that it keeps."""

    pin: Pin
    nodes: Mapping[Digest, Node]

    @property
    def images(self) -> int:
        return len(set(self.pin.roots.values()))

    @property
    def size(self) -> int:
        return sum(node.size for node in self.nodes.values())

    @property
    def stored(self) -> int:
        return sum(node.stored or 0 for node in self.nodes.values())

    def row(self) -> tuple[str, ...]:
        since = ago(self.pin.since, time.time())
        return str(self.images), str(len(self.nodes)), byte_size(self.size), byte_size(self.stored), since

    def as_json(self) -> dict[str, Any]:
        return {
            "pin": self.pin.what,
            "platform": self.pin.platform or None,
            "since": self.pin.since,
            "images": self.images,
            "blobs": len(self.nodes),
            "bytes": self.size,
            "stored": self.stored,
        }

    def __str__(self) -> str:
        missing = sum(node.stored is None for node in self.nodes.values())
        rest = f"; {missing} of the blobs are not stored yet, and stay when they are" if missing else ""
        return (
            f"{self.pin}: {counted(self.images, 'image')}, {counted(len(self.nodes), 'blob')}, "
            f"{byte_size(self.size)}{rest}"
        )


def pin(
    what: _What, config: Config = None, data_dir: DataDir = None, size: Size = None, platform: _Platform = ""
) -> None:
    """Keep an image with all that it consists of, however long it is not used and whatever else needs room.

    A pin on a tag or a glob follows what those tags name when they are pulled anew. Without a tag all tags of a
    repository are pinned.
    """
    chosen = settings(locals())
    selected(what)
    with opened(chosen.store_dir) as shelf:
        most = chosen.size.of(shutil.disk_usage(chosen.data_dir).total)
        catalog = Catalog(shelf)
        made = Pins(chosen.data_dir).add(catalog, what, platform, most)
        typer.echo(f"pinned {_Pinned(made, kept(catalog, made))}")


def unpin(what: _What, config: Config = None, data_dir: DataDir = None, platform: _Platform = "") -> None:
    """Treat it as everything else again, without --platform for every platform that is pinned. Nothing is deleted."""
    chosen = settings(locals())
    check_owner(chosen.store_dir)
    selected(what)
    for gone in Pins(chosen.data_dir).remove(what, platform):
        typer.echo(f"no longer pinned: {gone}")


def pins(config: Config = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List what is pinned, and what that takes."""
    chosen = settings({"config": config, "data_dir": data_dir})
    listed, found = Pins(chosen.data_dir), {}
    if listed.all():
        with opened(chosen.store_dir) as shelf:
            catalog = Catalog(shelf)
            listed.follow(catalog)
            found = {str(each): _Pinned(each, kept(catalog, each)) for each in listed.all()}
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found.values()], indent=2))
    elif found:
        header = ("PIN", "IMAGES", "BLOBS", "SIZE", "STORED", "SINCE")
        print_columns(header, ((name, *one.row()) for name, one in found.items()))
        nodes = {digest: node for one in found.values() for digest, node in one.nodes.items()}
        typer.echo(f"{byte_size(sum(node.size for node in nodes.values()))} in all; shared blobs are counted once")
    else:
        typer.echo("nothing is pinned")


def purge(
    what: Annotated[
        str | None,
        typer.Argument(metavar="IMAGE|REPOSITORY|REGISTRY|DIGEST|GLOB", help="What to forget.", show_default=False),
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="Forget all that is stored.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would go.")] = False,
) -> None:
    """Delete what is stored of an image, a repository, a registry or a digest. It is fetched anew when it is pulled.

    What another image needs stays, and so does what is pinned. A repository that goes as a whole is no longer for
    everybody (import --public). Works while the proxy runs.
    """
    if (what is None) == (not everything):
        raise ConfigError("say what to purge, or --all: pullthrough purge ghcr.io/team/app:1.2")
    chosen = settings({"config": config, "data_dir": data_dir})
    with opened(chosen.store_dir) as shelf:
        pinned = Pins(chosen.data_dir).follow(Catalog(shelf))
        found = plan(shelf, None if what is None else selected(what), pinned)
        if not dry_run:
            carry_out(shelf, found)
            _take_back(shelf, found.whole, chosen.data_dir)
    _tell(found, what, dry_run=dry_run)


def _take_back(shelf: Shelf, repositories: Iterable[str], data_dir: Path) -> None:
    """What was imported for everybody is for those again whom the registry knows."""
    secret = installation.secret(data_dir / "secret")
    for repository in filter(None, map(Repository.parse, repositories)):
        take_back(shelf, repository, secret)


def _tell(found: Purge, what: str | None, *, dry_run: bool) -> None:
    if what is not None and not (found.blobs or found.links or found.pinned or found.shared):
        raise ConfigError(f"nothing of {what} is stored here; see what is: pullthrough ls")
    verb = "would go" if dry_run else "gone"
    rests = f", {counted(len(found.rests), 'unfinished or damaged file')}" if found.rests else ""
    typer.echo(f"{verb}: {counted(len(found.blobs), 'blob')}{rests}, {byte_size(found.bytes)}")
    if found.shared:
        typer.echo(f"kept, as other images or repositories have it as well: {counted(len(found.shared), 'blob')}")
    if found.pinned:
        typer.echo(f"kept, as it is pinned (see pullthrough pins): {counted(len(found.pinned), 'blob')}")
