"""What becomes of a stored blob that is not what it was.

Responsible for the one way out of the store for those: out of the index, so that it is fetched again, and out of the
way, so that an operator can see what the disk did to it. Must not know how it was found out. Blocks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store.disk import Adopted
from pullthrough.store.files import DAMAGED
from pullthrough.store.opened import Shelf

#: Where damaged blobs are kept, below the store's root.
_PLACE: Final = "damaged/blobs"
#: The last ones are: enough to see what the disk did, too little to miss the room.
_MAX_KEPT: Final = 16
_MAX_KEPT_BYTES: Final = 1 << 30

log = logging.getLogger(__name__)


class Quarantine:
    """Puts damaged blobs aside. `told` is called for each, from any thread."""

    def __init__(self, shelf: Shelf, told: Callable[[], object]) -> None:
        self._root = shelf.files.root
        self._index = shelf.index
        self._told = told

    def condemn(self, digest: Digest, row: Adopted, reason: str) -> bool:
        """The file of `row` is no `digest`: nobody is given it any more. False if it had been replaced already.

        The file goes first: if we die before the row does, the next look finds no file. Nobody else can have got the
        name meanwhile. A disk that does not let us move it may still let us forget it.
        """
        try:
            place = self._put_aside(row.name)
        except OSError as error:
            fate = f"could not be moved ({error.strerror}) and is deleted"
        else:
            fate = f"is now {place}" if place is not None else "is gone"
        if not self._index.drop(digest, row):
            return False
        log.warning(
            "stored blob %s is damaged (%s): the file %s; it is fetched anew when it is asked for", digest, reason, fate
        )
        self._told()
        return True

    def _put_aside(self, name: str) -> Path | None:
        """Move a file away; to where. None if there is none, or if it is too large to be kept.

        Whoever reads it at this moment learns of it (`files.read`).
        """
        path, place = self._root / name, self._root / _PLACE / Path(name).name
        try:
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                return None
            path.chmod(stat.S_IMODE(mode) | DAMAGED)
            for folder in (place.parent.parent, place.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            path.rename(place)
        except FileNotFoundError:
            return None
        self._keep_few()
        return place if place.exists() else None

    def _keep_few(self) -> None:
        room = _MAX_KEPT_BYTES
        for number, (path, size) in enumerate(reversed(kept(self._root).items())):
            room -= size
            if number >= _MAX_KEPT or room < 0:
                path.unlink(missing_ok=True)


def kept(root: Path) -> dict[Path, int]:
    """The bytes of every damaged blob that is kept, the first that was found first."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / _PLACE) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_ctime_ns, entry.path, status.st_size))
    return {Path(path): size for _, path, size in sorted(found)}
