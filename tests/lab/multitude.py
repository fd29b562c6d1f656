"""A store with very many entries, made quickly: whatever is proportional to their number shows there.

Blob number n is n+1 zero bytes: its digest is right, and its file has no blocks, so that a million of them, half a
terabyte to the store, take nothing of the disk but inodes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from diskcache.core import DBNAME

from pullthrough.core.digest import Digest
from pullthrough.store import Link, names
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index, folders

REPOSITORY: Final = "https://registry.test/team/app"
#: Entries that become durable together.
_BATCH: Final = 10_000


def entries(count: int) -> Iterator[tuple[Digest, int]]:
    """The digest and the size of each of the first `count` blobs, in their order of use."""
    hasher = hashlib.sha256()
    for size in range(1, count + 1):
        hasher.update(b"\0")
        yield Digest("sha256", hasher.hexdigest()), size


def total(count: int) -> int:
    """The bytes of the first `count` blobs."""
    return count * (count + 1) // 2


def populate(root: Path, count: int) -> None:
    """Fill the new folder `root` as a store would that was given these blobs, each with a link to `REPOSITORY`.

    The store's own code writes the first entry; the rows of the others are that one's with other names in them.
    """
    files = BlobFiles(root)
    every = entries(count)
    first, _ = next(every)
    _write_first(root, files, first)
    blobs, recency, links, _ = folders(root)
    with _Table(blobs) as blob_rows, _Table(recency) as use_rows, _Table(links) as link_rows:
        for some in itertools.batched(every, _BATCH):
            named = [(digest, names.fresh(digest), size) for digest, size in some]
            for _, name, size in named:
                _write_file(f"{root}/{name}", size)
            use_rows.add({"key": str(digest)} for digest, _, _ in named)
            link_rows.add({"key": f"{REPOSITORY} {digest}"} for digest, _, _ in named)
            blob_rows.add(
                {"key": str(digest), "size": size, "tag": str(size), "filename": name} for digest, name, size in named
            )


def _write_first(root: Path, files: BlobFiles, digest: Digest) -> None:
    partial = files.partial(digest)
    partial.write(b"\0")
    with contextlib.closing(Index(root, 1.0)) as index:
        index.adopt(digest, files.commit(partial), 1)
        index.link(REPOSITORY, digest, Link())
    partial.close()


def _write_file(path: str, size: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o700)
        fd = os.open(path, flags, 0o600)
    os.ftruncate(fd, size)
    os.close(fd)


class _Table:
    """The rows of one database that has one row, to which others are added."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / DBNAME)

    def __enter__(self) -> _Table:
        self._connection.execute("PRAGMA synchronous = OFF")
        found = self._connection.execute("SELECT * FROM Cache")
        self._columns = [name for name, *_ in found.description if name != "rowid"]
        self._first = dict(zip((name for name, *_ in found.description), found.fetchone(), strict=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, rows: Iterator[Mapping[str, object]]) -> None:
        """Add rows that are as the first one, but for these columns."""
        marks = ", ".join("?" * len(self._columns))
        with self._connection:
            self._connection.executemany(
                f"INSERT INTO Cache ({', '.join(self._columns)}) VALUES ({marks})",  # noqa: S608  # diskcache's names
                (tuple({**self._first, **row}[column] for column in self._columns) for row in rows),
            )
