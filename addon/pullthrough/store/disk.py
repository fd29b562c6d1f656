"""How the index puts its rows on disk: JSON values, and blob files that it adopts.

Responsible for what diskcache stores and for keeping pickle out of it: a value that somebody could plant in
the data directory must never run as code (CVE-2025-69872), nor name a file that is no blob. Must not know what the
values mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import DBNAME, MODE_BINARY, MODE_RAW, UNKNOWN

from pullthrough.store import names

#: What this program writes; it goes up when rows change their meaning (`PRAGMA user_version`, 0 before there was one).
VERSION: Final = 1
#: Rows that a scan reads at a time.
_BATCH: Final = 1000
_SCAN: Final = (
    "SELECT key, mode, filename, value, tag FROM Cache WHERE key {} ? AND key < ? AND raw = 1"
    " AND (expire_time IS NULL OR expire_time > ?) ORDER BY key LIMIT ?"
)
_LAST_CHARACTER: Final = "\U0010ffff"
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
#: Rows that are read together.
_PAGE: Final = 64
#: The same where their keys are enough.
_MANY: Final = 512


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that already lies where it belongs; the index takes it over instead of copying it.

    `name` is relative to the index's directory. The index deletes the file with its row.
    """

    name: str
    size: int
    #: Is it known that the file is what its name says? Else whoever opens it has to see.
    verified: bool = True


class ForeignKeyError(Exception):
    """The index holds a key that pullthrough did not write."""


class JsonDisk(diskcache.Disk):  # type: ignore[misc]
    """Text keys; JSON values or adopted files; nothing else, in neither direction."""

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError(f"index keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise ForeignKeyError("a key is there that pullthrough did not write")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, str | None]:
        if isinstance(value, Adopted):
            return value.size, MODE_BINARY, value.name, None
        return 0, MODE_RAW, None, json.dumps(value, separators=(",", ":"))

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> Any:
        """The value; None for one that we did not write, as if it were not there."""
        if mode == MODE_BINARY and isinstance(filename, str):
            return Adopted(filename, -1)  # diskcache does not tell the size here: the row's tag has it
        if mode == MODE_RAW and isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(value)
        return None

    def remove(self, file_path: str) -> None:
        """Delete an adopted file. Unlike diskcache's own, leaves the folders: a commit may be using them."""
        if names.digest_of(file_path) is not None:
            with contextlib.suppress(OSError):
                Path(self._directory, file_path).unlink()


#: Settings of every index. The policy is `none` because others write on each read; culling is off because
#: diskcache culls ten rows at a time whatever they weigh: the store evicts by bytes itself.
_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_mmap_size": 0,
}


_OLDEST: Final = "SELECT key FROM Cache WHERE raw = 1 AND access_time < ? ORDER BY access_time LIMIT 1"
_BEYOND: Final = "SELECT key FROM Cache WHERE raw = 1 AND access_time > ? LIMIT 1"


class Rows(diskcache.Cache):  # type: ignore[misc]
    """One index in `directory`. `busy` is for how many seconds another process that writes is waited for."""

    def __init__(self, directory: Path, busy: float) -> None:
        directory.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        file = directory / DBNAME
        _make_private(file)
        _try_lock(file, busy)
        try:
            super().__init__(str(directory), timeout=busy, disk=JsonDisk, **_SETTINGS)
            if self._sql("PRAGMA user_version").fetchone() != (VERSION,):
                self._sql(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            self.close()
            raise

    def scan(self, prefix: str = "") -> Iterator[tuple[str, Any, str | None]]:
        """Key, value and tag of every row whose key begins so, by key; what is being written meanwhile may be missed.

        Batch by batch: a long read would keep SQLite from emptying its write-ahead log.
        """
        last, end = prefix, f"{prefix}{_LAST_CHARACTER}"
        first = ">="
        while True:
            batch = self._sql(_SCAN.format(first), (last, end, time.time(), _BATCH)).fetchall()
            for key, mode, name, value, tag in batch:
                yield key, self._disk.fetch(mode, name, value, False), tag if isinstance(tag, str) else None
            if len(batch) < _BATCH:
                return
            last, first = batch[-1][0], ">"

    def following(self, key: str) -> str | None:
        """The first key of all that come after `key`; None at the end."""
        row = self._sql("SELECT key FROM Cache WHERE key > ? AND raw = 1 ORDER BY key LIMIT 1", (key,)).fetchone()
        return row[0] if row is not None and isinstance(row[0], str) else None

    @property
    def version(self) -> int:
        """Another number whenever another connection has changed something."""
        [(version,)] = self._sql("PRAGMA data_version").fetchall()
        return int(version)

    # Each row has a date, which diskcache calls `access_time`. It writes the date with the row and, with our eviction
    # policy, never again. So rows that were there before anybody asked for dates have the right one.

    def retag(self, key: str, name: str, tag: str, moment: float) -> None:
        """Give the row of an adopted file another tag and date. To set the row anew would delete the file."""
        query = "UPDATE Cache SET tag = ?, access_time = ? WHERE key = ? AND raw = 1 AND filename = ?"
        self._sql(query, (tag, moment, key, name))

    def order_by_date(self) -> None:
        """From now on `dated_outside` costs the same, however many rows there are. The first time reads all of them."""
        self._sql("CREATE INDEX IF NOT EXISTS Cache_date ON Cache (access_time)")

    def date(self, key: str, moment: float) -> None:
        """Date a row (epoch seconds)."""
        self._sql("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (moment, key))

    def dated_outside(self, begin: float, end: float) -> str | None:
        """The key of a row that is dated before `begin`, the oldest first, or else after `end`; None if there is none.

        Both are ranges of an index, and nothing is left open.
        """
        found = self._sql(_OLDEST, (begin,)).fetchall() or self._sql(_BEYOND, (end,)).fetchall()
        return str(self._disk.get(found[0][0], True)) if found else None

    def put_last(self, key: str, value: Any) -> None:
        """Set a row that adopts no file, and make it the last in the order. Belongs into a transaction."""
        _, mode, _, stored = self._disk.store(value, False)
        moved = self._sql(
            "UPDATE Cache SET rowid = (SELECT max(rowid) + 1 FROM Cache), mode = ?, value = ?"
            " WHERE key = ? AND raw = 1",
            (mode, stored, key),
        )
        if not moved.rowcount:
            self.set(key, value)

    def in_order(self) -> Iterator[tuple[int, str, Any]]:
        """The number, key and value of every row, in the order of insertion.

        Others may write meanwhile; what they put last is not met.
        """
        number, [(last,)] = -(2**63), self._sql("SELECT coalesce(max(rowid), 0) FROM Cache")
        page = (
            "SELECT rowid, key, raw, mode, filename, value FROM Cache WHERE rowid > ? AND rowid <= ?"
            " ORDER BY rowid LIMIT ?"
        )
        while rows := self._sql(page, (number, last, _PAGE)).fetchall():
            for row, key, raw, mode, filename, value in rows:
                yield row, self._disk.get(key, raw), self._disk.fetch(mode, filename, value, False)
            number = rows[-1][0]

    def pages(self) -> Iterator[list[str]]:
        """All keys, some at a time."""
        number, page = -(2**63), "SELECT rowid, key, raw FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._sql(page, (number, _MANY)).fetchall():
            number = rows[-1][0]
            yield [self._disk.get(key, raw) for _, key, raw in rows]

    def lacking(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have no row."""
        found = self._sql(
            "SELECT value FROM json_each(?)"
            " WHERE NOT EXISTS (SELECT 1 FROM Cache WHERE Cache.key = json_each.value AND raw = 1)",
            (json.dumps(list(keys)),),
        )
        return [key for (key,) in found]

    def beginnings(self) -> list[str]:
        """Two characters behind the colon and all before: every such beginning that a key has."""
        found = self._sql("SELECT DISTINCT substr(key, 1, instr(key, ':') + 2) FROM Cache WHERE raw = 1")
        return [beginning for (beginning,) in found]

    def adopted(self, prefix: str) -> set[str]:
        """The names of the adopted files of all keys that begin with `prefix`."""
        found = self._sql(
            "SELECT filename FROM Cache WHERE key BETWEEN ? AND ? AND raw = 1 AND typeof(filename) = 'text'",
            (prefix, f"{prefix}\U0010ffff"),
        )
        return {name for (name,) in found}

    def discard(self, rows: Iterable[tuple[str, str]]) -> int:
        """Delete the rows of these keys and adopted files, where the row still has that file; how many did.

        The files go after the commit: a crash between leaves files without rows, which are found again.
        """
        gone = []
        with self.transact():
            for key, name in rows:
                if self._sql("DELETE FROM Cache WHERE key = ? AND raw = 1 AND filename = ?", (key, name)).rowcount:
                    gone.append(name)
        for name in gone:
            self._disk.remove(name)
        return len(gone)

    def forget(self, places: Iterable[tuple[int, str]]) -> None:
        """Delete rows that adopt no file, by number and key: one that was put last since stays."""
        with self.transact():
            for place in places:
                self._sql("DELETE FROM Cache WHERE rowid = ? AND key = ? AND raw = 1", place)


def _make_private(file: Path) -> None:
    """SQLite goes by the umask, and gives the permissions of this file to those beside it.

    An existing file is not opened for that: to close it would take away the locks that SQLite holds on it.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    except FileExistsError:
        file.chmod(_FILE_MODE)


def _try_lock(file: Path, busy: float) -> None:
    """Fail now if the database is locked: diskcache would go on trying for a minute. sqlite3.OperationalError."""
    with contextlib.closing(sqlite3.connect(file, timeout=busy, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
