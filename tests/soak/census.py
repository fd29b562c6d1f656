"""The store seen from outside, without its code: rows of the index, files, and whether they agree."""

import contextlib
import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

#: What may lie in the store's folder beside databases.
FOLDERS = {"boot", "blobs", "partial", "recency", "links", "facts", "damaged", "lock"}
DATABASE = "cache.db"


@dataclass(frozen=True)
class Row:
    """One blob of the index: its file, relative to the store's folder, and its size."""

    name: str
    size: int


class Census:
    """Looks at the store in `root`; of use only while nothing changes it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def rows(self) -> dict[str, Row]:
        """Every blob of the index by its digest; none if there is no index that can be read."""
        try:
            with contextlib.closing(self._open()) as index:
                found = index.execute("SELECT key, filename, size FROM Cache WHERE filename IS NOT NULL").fetchall()
        except sqlite3.DatabaseError:
            return {}
        return {digest: Row(name, size) for digest, name, size in found}

    def files(self) -> dict[str, int]:
        """The size of every blob file by its name."""
        found = {}
        for path in (self._root / "blobs").glob("*/*/*"):
            with contextlib.suppress(FileNotFoundError):  # evicted just now
                found[str(path.relative_to(self._root))] = path.stat().st_size
        return found

    def strangers(self) -> list[str]:
        """What lies in the store's folder and has no place there."""
        return [
            path.name
            for path in self._root.iterdir()
            if not path.name.startswith(DATABASE) and path.name not in FOLDERS
        ]

    def unsound(self, digest: str, row: Row) -> str | None:
        """What is wrong with the file of this row."""
        path = self._root / row.name
        try:
            if path.stat().st_size != row.size:
                return f"{path.stat().st_size} bytes instead of {row.size}"
            with path.open("rb") as file:
                algorithm, _, expected = digest.partition(":")
                return None if hashlib.file_digest(file, algorithm).hexdigest() == expected else "other bytes"
        except FileNotFoundError:
            return "missing"

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{(self._root / DATABASE).as_uri()}?mode=ro", uri=True)


def digest_of_file(name: str) -> str:
    """The digest that a blob file is named after."""
    algorithm, _, file = name.removeprefix("blobs/").partition("/")
    return f"{algorithm}:{file.rpartition('/')[2].partition('-')[0]}"
