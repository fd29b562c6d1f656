"""The files and the index of a data directory, opened: by the server, and by commands beside it.

Responsible for the bare parts, without threads, and without the tidying that a server does; and for databases that
cannot be used. Must not know what anybody wants of them. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pullthrough.store import repair
from pullthrough.store.faults import INDEX_ERRORS, StoreError, from_disk, from_index, is_damage
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index, folders

#: Seconds to wait for a server that writes.
_BUSY: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """The blobs of a store, and what is known of them. Safe beside others on the same folder."""

    files: BlobFiles
    index: Index


def open_index(root: Path, busy: float) -> tuple[Index, repair.Generation]:
    """The index, and the generation of its databases. Those that cannot be used are put aside, and made anew.

    Raises INDEX_ERRORS and OSError.
    """
    with repair.alone(root):
        repair.put_aside_unusable(root, folders(root), thorough=False)
        try:
            return _index(root, busy)
        except INDEX_ERRORS as error:
            if is_damage(error) and repair.put_aside_unusable(root, folders(root), thorough=True):
                return _index(root, busy)
            raise


def _index(root: Path, busy: float) -> tuple[Index, repair.Generation]:
    generation = repair.generation(root)  # first: if it fails, nothing is open
    return Index(root, busy), generation


@contextlib.contextmanager
def opened(root: Path, *, make: bool = False, mend: bool = False) -> Iterator[Shelf]:
    """The store in `root`, with `make` a new one if need be. Only with `mend` unusable databases are put aside.

    StoreError, with the remedy, if there is none or it cannot be used.
    """
    try:
        if make and not root.exists():
            check_owner(_above(root))
            BlobFiles(root)
        check_owner(root)
        if not mend:
            _check_databases(root)
        with contextlib.closing(open_index(root, _BUSY)[0] if mend else Index(root, _BUSY)) as index:
            yield Shelf(BlobFiles(root), index)
    except BrokenPipeError:  # whoever reads what a command prints has enough of it
        raise
    except OSError as error:
        raise from_disk(error) from error
    except INDEX_ERRORS as error:
        raise from_index(error) from error


def _above(root: Path) -> Path:
    """The folder that is there, in or below which it would be made."""
    return next(folder for folder in root.parents if folder.exists())


def check_owner(root: Path) -> None:
    """What another user makes there, the server could not open any more."""
    try:
        owner = root.stat().st_uid
    except FileNotFoundError:
        raise StoreError(f"nothing is stored in {root.parent}: name the data directory with --data-dir") from None
    except PermissionError:
        raise StoreError(f"{root.parent} is not yours to look into: do this as the user whom it belongs to") from None
    except OSError as error:
        raise from_disk(error) from error
    if owner != os.geteuid():
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(owner).pw_name
            raise StoreError(f"{root.parent} belongs to {name}: do this as that user, for example with sudo -u {name}")
        raise StoreError(f"{root.parent} belongs to user {owner}: do this as that user")


def _check_databases(root: Path) -> None:
    """One of a later version would be taken for ours, and a damaged one is not for everybody to put aside."""
    for folder, reason in repair.unusable(folders(root), thorough=False).items():
        raise StoreError(f"the index in {folder} {reason}: pullthrough verify --repair makes a new one")
