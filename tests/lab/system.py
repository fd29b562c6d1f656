"""The calls that a store makes on the operating system and on SQLite: counted, watched, and failed at will.

What SQLite itself does below a statement is not seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import pytest

#: Calls that leave something else behind than they found. SQLite's statements are judged by their first word.
_CHANGING: Final = frozenset(("open", "write", "pwrite", "ftruncate", "fsync", "rename", "unlink", "mkdir", "flock"))
_READING: Final = ("pread", "scandir", "stat", "statvfs")
_MADE: Final = os.O_CREAT
_ASKING: Final = ("SELECT", "PRAGMA")
_SQLITE_CODES: Final = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EMFILE: sqlite3.SQLITE_CANTOPEN,
}


class System:
    """Calls by threads of stores; `before` may fail one, `after` is told what came of those that were done."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.arguments: tuple[Any, ...] = ()
        self.before: Callable[[int, str], None] = lambda number, name: None
        self._here = threading.local()
        self.after: Callable[[str, tuple[Any, ...], Any], None] = lambda name, arguments, result: None

    @property
    def statement(self) -> str:
        """SQL that is about to be executed."""
        return str(self.arguments[0]) if self.calls[-1] == "sql" else ""

    @property
    def changes(self) -> bool:
        """May the call that is about to be made change what is on disk, or who has it locked?"""
        name = self.calls[-1]
        if name == "sql":
            return not self.statement.lstrip().upper().startswith(_ASKING)
        return name in _CHANGING and (name != "open" or bool(self.arguments[1] & _MADE))

    def fail_at(self, wanted: int, error: OSError) -> None:
        """Let the call of this number (from 1) fail, whichever it is: SQLite's in its own way."""

        def before(number: int, name: str) -> None:
            if number == wanted:
                self.refuse(error)

        self.before = before

    def refuse(self, error: OSError) -> NoReturn:
        """Let the call that is about to be made fail."""
        raise _as_sqlite_says(error) if self.calls[-1] == "sql" else error

    def fail_no_more(self) -> None:
        """All calls are made again."""
        self.before = lambda number, name: None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While this lasts, stores' calls come here first."""
        system, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                cursor: sqlite3.Cursor = system._make("sql", super().execute, arguments)
                return cursor

        with pytest.MonkeyPatch.context() as patch:
            for name in sorted((*_CHANGING, *_READING)):
                module = fcntl if name == "flock" else os
                patch.setattr(module, name, self._watched(name, getattr(module, name)))
            patch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options))
            yield

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: self._make(name, real, arguments, **options)

    def _make(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...], **options: Any) -> Any:
        if not threading.current_thread().name.startswith("store-") or getattr(self._here, "watching", False):
            return real(*arguments, **options)
        self.calls.append(name)
        self.arguments = arguments
        with self._watching():
            self.before(len(self.calls), name)
        result = real(*arguments, **options)
        with self._watching():
            self.after(name, arguments, result)
        return result

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """What this thread calls meanwhile is none of the store's."""
        self._here.watching = True
        try:
            yield
        finally:
            self._here.watching = False


def _as_sqlite_says(error: OSError) -> sqlite3.Error:
    failure = sqlite3.OperationalError(str(error))
    failure.sqlite_errorcode = _SQLITE_CODES.get(error.errno or 0, sqlite3.SQLITE_IOERR)
    return failure
