"""Databases that are damaged, or of another version: they are put aside, and the store goes on with new ones.

Responsible for telling such a database from one that is merely locked or on a disk that fails, and for moving it where
an operator finds it. Must not know what is in it. Nothing is lost that cannot be had again: blobs are found by their
files (`files.blobs`), links and facts by asking upstreams.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from diskcache.core import DBNAME

from pullthrough import durable
from pullthrough.store.disk import VERSION
from pullthrough.store.faults import is_damage

#: Databases that were put aside, below the store's root: of each the last one. Damaged blobs lie beside them.
_ASIDE: Final = "damaged"
_LOCK: Final = "lock"
#: What diskcache makes, and a look at its columns.
_PROBES: Final = ("SELECT key, value FROM Settings LIMIT 1", "SELECT key, raw, tag, filename FROM Cache LIMIT 1")
_FOREIGN: Final = "SELECT 1 FROM Cache WHERE raw = 0 OR typeof(key) <> 'text' LIMIT 1"

#: The file that is locked, and how often databases were put aside: it is longer by one byte each time.
type Generation = tuple[int, int, int] | None

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """No other process opens or puts aside databases below `root` meanwhile."""
    with durable.locked(root / _LOCK):
        yield


def generation(root: Path) -> Generation:
    """Which databases those below `root` are. A process that opened others has what nobody else reads.

    They change when some are put aside, and when the folder is deleted, unmounted, or mounted again.
    """
    with contextlib.suppress(FileNotFoundError):
        status = (root / _LOCK).stat()
        return status.st_dev, status.st_ino, status.st_size
    return None


def put_aside_unusable(root: Path, folders: Sequence[Path], *, thorough: bool) -> bool:
    """Put those of the databases in `folders` aside that cannot be used. Was there one?

    `thorough` reads all of them, for when one is known to be damaged somewhere. Only while `alone`.
    """
    damage = unusable(folders, thorough=thorough)
    for folder, reason in damage.items():
        place = _put_aside(root, folder)
        # Longer by a hole: that takes no room on a disk that is full.
        os.truncate(root / _LOCK, (root / _LOCK).stat().st_size + 1)
        log.warning("the index in %s %s; it was moved to %s, and a new one is made", folder, reason, place)
    return bool(damage)


def unusable(folders: Sequence[Path], *, thorough: bool) -> dict[Path, str]:
    """Those of the databases in `folders` that nobody can use, and why."""
    return {folder: reason for folder in folders if (reason := _damage(folder / DBNAME, thorough=thorough))}


def _damage(file: Path, *, thorough: bool) -> str | None:
    """Why nobody can use this database; None if it can be used, is not there, or cannot be judged now."""
    if not file.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as connection:
            return _objection(connection, thorough=thorough)
    except sqlite3.Error as error:
        return f"is damaged ({error})" if is_damage(error) else None


def _objection(connection: sqlite3.Connection, *, thorough: bool) -> str | None:
    [(version,)] = connection.execute("PRAGMA user_version")
    if version > VERSION:
        return f"is of version {version}, which this program does not know"
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        return None  # somebody is about to make it
    for probe in _PROBES:
        connection.execute(probe).fetchall()
    if thorough:
        [(verdict,)] = connection.execute("PRAGMA quick_check(1)")
        if verdict != "ok":
            return f"is damaged ({verdict})"
        if connection.execute(_FOREIGN).fetchone():
            return "holds keys that pullthrough did not write"
    return None


def _put_aside(root: Path, folder: Path) -> Path:
    """Move the database with what SQLite keeps beside it; to where."""
    place = root / _ASIDE / (folder.name if folder != root else "index")
    shutil.rmtree(place, ignore_errors=True)
    for made in (place.parent, place):
        made.mkdir(mode=0o700, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{DBNAME}{suffix}").rename(place / f"{DBNAME}{suffix}")
    return place
