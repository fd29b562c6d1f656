"""Facts on a store of their own, across restarts and while the disk does not take them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

from lab.stores import Stores
from pullthrough.facts import Facts
from pullthrough.store import Store


class Clock:
    """Stands still until a test moves it."""

    def __init__(self, time: float = 1_700_000_000.0) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


class Memory:
    """What one process after another remembers below `root`."""

    def __init__(self, root: Path, make: Callable[[Path], Store]) -> None:
        self.root = root
        self.clock = Clock()
        self._make = make
        self._begin()

    def _begin(self) -> None:
        self.store = self._make(self.root)
        self.facts = Facts(self.store, self.clock)

    async def restart(self) -> Facts:
        """End in good order, and begin anew."""
        await self.aclose()
        self._begin()
        return self.facts

    async def aclose(self) -> None:
        await self.facts.flush()
        await self.store.aclose()

    def rows(self) -> Rows:
        """The table of facts, behind the back of the store."""
        return Rows(self.root / "facts" / "cache.db")

    def content(self) -> bytes:
        """Every byte of every file, and their names."""
        found = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        return b"".join(path.name.encode() + path.read_bytes() for path in found)


class Rows:
    """The rows of one database, as somebody else with access to the file has them."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keys(self) -> list[str]:
        with closing(sqlite3.connect(self._file)) as connection:
            return [str(key) for (key,) in connection.execute("SELECT key FROM Cache ORDER BY key")]

    def change(self, key: str, value: object) -> None:
        """Have `value` in the row of `key`, whatever that is."""
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, key))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can write; reading goes on."""
        with closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


@asynccontextmanager
async def remembering(root: Path, make: Callable[[Path], Store] | None = None) -> AsyncIterator[Memory]:
    """A memory below `root`, on a store that is not patient, or on one that `make` makes."""
    memory = Memory(root, make or (lambda folder: Stores(folder)()))
    try:
        yield memory
    finally:
        await memory.aclose()
