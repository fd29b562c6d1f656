"""The store of a data directory, for one look or change from outside, beside a server that may be running.

Responsible for the bare parts: files and index, without threads, and without the tidying that a server does. Must not
know what anybody wants of them. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pullthrough.store.faults import INDEX_ERRORS, StoreError, from_disk, from_index
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index

#: Seconds to wait for a server that writes.
_BUSY: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """The blobs of a store, and what is known of them. Safe beside others on the same folder."""

    files: BlobFiles
    index: Index


@contextlib.contextmanager
def opened(root: Path, *, make: bool = False) -> Iterator[Shelf]:
    """The store in `root`, with `make` a new one if need be. StoreError, with the remedy, if there can be none."""
    try:
        if make and not root.exists():
            _check_owner(_above(root))
            BlobFiles(root)
        _check_owner(root)
        with contextlib.closing(Index(root, _BUSY)) as index:
            yield Shelf(BlobFiles(root), index)
    except OSError as error:
        raise from_disk(error) from error
    except INDEX_ERRORS as error:
        raise from_index(error) from error


def _above(root: Path) -> Path:
    """Where it would be made, if that is the data directory of somebody."""
    return root.parent if root.parent.exists() else root.parent.parent


def _check_owner(root: Path) -> None:
    """What another user makes there, the server could not open any more."""
    try:
        owner = root.stat().st_uid
    except FileNotFoundError:
        raise StoreError(f"nothing is stored in {root.parent}: name the data directory with --data-dir") from None
    except OSError as error:
        raise from_disk(error) from error
    if owner != os.geteuid():
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(owner).pw_name
            raise StoreError(f"{root.parent} belongs to {name}: do this as that user, for example with sudo -u {name}")
        raise StoreError(f"{root.parent} belongs to user {owner}: do this as that user")
