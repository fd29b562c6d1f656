"""Images to and from OCI image layouts: export, import.

Responsible for what a person types and reads about it. Must not know what is in a layout.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pullthrough import exports, facts, imports, installation
from pullthrough.archives import Damaged, reading
from pullthrough.catalog import Catalog, shown
from pullthrough.commands.flags import Config, DataDir, Size, flag, settings
from pullthrough.commands.stored import selected, store_folder
from pullthrough.config import ConfigError, Settings
from pullthrough.core.amounts import byte_size, counted
from pullthrough.core.digest import Digest
from pullthrough.imports import Import
from pullthrough.pins import Keeper, Pins
from pullthrough.store import StoreError
from pullthrough.store.opened import Shelf, opened
from pullthrough.store.room import Room

_ASK_FIRST = """\
Clients get them when their registry has accepted them. Where it cannot be asked, as in an air gap, that is nobody yet:
import with --public what anybody may have."""


def export(
    image: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="NAME:TAG, NAME@DIGEST, NAME, or a glob.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER|FILE.tar", help="Where to write it.")],
    platform: Annotated[
        str | None,
        typer.Option(
            "--platform",
            metavar="OS/ARCH[/VARIANT]",
            help="Of images for several platforms, this one alone.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Write images to an OCI image layout: a folder, or a tar archive that skopeo, podman and containerd read."""
    if str(output) == "-":
        raise ConfigError("an export is a folder or a file, as usb.tar, and nothing for standard output")
    selections = [selected(text) for text in image]
    with _damage_told(), opened(store_folder(config, data_dir)) as shelf:
        chosen = exports.chosen(Catalog(shelf), selections, platform)
        for name, missing in chosen.missing.items():
            typer.echo(f"pullthrough: {name} goes without {', '.join(missing)}: not stored here", err=True)
        chosen.write(shelf, output)
    for entry in chosen.entries:
        typer.echo(entry.names[0])
    typer.echo(f"{output}: {counted(len(chosen.entries), 'image')}, {byte_size(chosen.bytes)}")


def import_(
    layout: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="An OCI image layout.", show_default=False)],
    called: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="REGISTRY/REPOSITORY[:TAG]",
            help="The name of the layout's only image, if it says none or another.",
            show_default=False,
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", metavar="", help="Anybody may pull them while the registry cannot be asked.")
    ] = False,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", metavar="", help="Clients ask the registry over http, not https.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    size: Size = None,
    min_free: Annotated[str | None, flag("min_free")] = None,
) -> None:
    """Take the images of an OCI image layout into the cache, each blob verified. Their names are the layout's word."""
    chosen = settings(locals())
    with _damage_told(), reading(layout) as reader:
        images = imports.found(reader, called, "http" if plain_http else "https")
        for image in images:
            if image.missing:
                typer.echo(f"pullthrough: {image.name} comes without {', '.join(image.missing)}", err=True)
        with opened(chosen.store_dir, make=True) as shelf:
            room, done = _room(chosen, shelf, images), set[Digest]()
            for image in images:
                with _room_wanted():
                    imports.take(reader, shelf, room, image, done)
                imports.enter(shelf, image, time.time())
                if public:
                    secret = installation.secret(chosen.data_dir / "secret")
                    imports.vouch(shelf, image.repository, secret, time.time())
                typer.echo(f"{image.name}  {image.root.digest}  {byte_size(sum(image.sizes.values()))}")
            shelf.index.flush()
    _tell_whose(images, public)


def _room(chosen: Settings, shelf: Shelf, images: Iterable[Import]) -> Room:
    """Room in which none of the images, nor what is pinned, goes for another. ConfigError if all are too much."""
    sizes = {digest: size for image in images for digest, size in image.sizes.items()}
    disk = shutil.disk_usage(chosen.data_dir).total
    most, needed = chosen.size.of(disk), sum(sizes.values())
    if needed > most:
        raise ConfigError(f"flag --size: the images take {byte_size(needed)}, and the store holds {byte_size(most)}")
    kept = Keeper(Pins(chosen.data_dir))
    free = chosen.min_free.of(disk)
    return Room(shelf.files, shelf.index, most, free, lambda digest: digest in sizes or digest in kept(shelf))


def _tell_whose(images: Iterable[Import], public: bool) -> None:
    """Who gets them now."""
    if not public:
        typer.echo(_ASK_FIRST)
        return
    until = datetime.fromtimestamp(time.time() + facts.LASTING, UTC)
    typer.echo(
        f"Until {until:%Y-%m-%d}, anybody may pull what is stored of these while their registry cannot be asked:"
    )
    for repository in sorted({shown(str(image.repository)) for image in images}):
        typer.echo(f"  {repository}")


@contextlib.contextmanager
def _room_wanted() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        if error.full:
            raise ConfigError(f"{error}: give the store more room with --size, or unpin something") from error
        raise


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """What is broken is no fault in what was typed: exit code 1."""
    try:
        yield
    except Damaged as error:
        typer.echo(f"pullthrough: {error}", err=True)
        raise typer.Exit(1) from error
