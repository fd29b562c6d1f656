"""What can go wrong in the store, and what is to be said of it.

Responsible for turning the failures of disk and index into `StoreError`, with the words that an operator needs.
Must not know what was being done.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Final, Literal

import diskcache

from pullthrough.store.disk import ForeignKeyError

#: The two parts that can fail apart from each other, as health names them.
type Part = Literal["store", "index"]

#: Failures of the index. ValueError and the like are none: those are faults in the program.
INDEX_ERRORS: Final = (sqlite3.Error, diskcache.Timeout, ForeignKeyError)

#: The disk or the file system says that what it has is no good (EBADMSG, EUCLEAN: its own checksums). All other
#: errors, such as too many open files, say nothing about a file.
_BAD_MEDIUM: Final = frozenset((errno.EIO, errno.EBADMSG, errno.EUCLEAN))
_LOCKED: Final = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
#: No database, a damaged one, or one without our tables (SQLITE_ERROR).
_DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR))


class StoreError(Exception):
    """The store cannot do it now. The text may go to a client.

    `full` tells whether only for lack of room. `part` is what is out of order, None if it is nothing that an
    operator should hear of.
    """

    def __init__(self, reason: str, *, full: bool = False, part: Part | None = None) -> None:
        super().__init__(reason)
        self.full = full
        self.part = part


class Taken(StoreError):
    """Somebody else is filling this blob."""

    def __init__(self) -> None:
        super().__init__("it is being downloaded already")


def from_disk(error: OSError) -> StoreError:
    """The same as a StoreError. Without the path: the text may reach a client."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(error.strerror or type(error).__name__, full=full, part="store")


def from_index(error: Exception) -> StoreError:
    """The same as a StoreError. `error` is one of `INDEX_ERRORS`."""
    if isinstance(error, ForeignKeyError):
        return StoreError(str(error), part="index")
    # diskcache hides the cause of a Timeout, which need not be a lock: a read-only disk is one too.
    cause = error.__context__ if isinstance(error, diskcache.Timeout) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the bits above tell finer kinds apart
    reason = "the index is locked by another process" if code in _LOCKED else f"the index fails: {cause}"
    return StoreError(reason, full=code == sqlite3.SQLITE_FULL, part="index")


def is_bad_medium(error: BaseException | None) -> bool:
    """Can the disk not give what it was given? Then it does not mend itself."""
    return isinstance(error, OSError) and error.errno in _BAD_MEDIUM


def is_damage(error: BaseException | None) -> bool:
    """Is a database at fault, and not a lock or the disk? Then it does not mend itself."""
    if isinstance(error, diskcache.Timeout):  # hides its cause
        error = error.__context__
    return isinstance(error, ForeignKeyError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
