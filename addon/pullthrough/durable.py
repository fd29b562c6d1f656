"""Small files that are there whole or not at all, whenever the machine stops, and one writer at a time.

Responsible for the order of writing, syncing and renaming. Must not know what is in a file. Everything here blocks and
raises OSError. Files are for their owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Have `content` in a new file, on disk when this returns. What stands there is removed: half a file of a crash."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def sync(directory: Path) -> None:
    """Have the names in `directory` on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(file: Path, content: bytes) -> None:
    """Have `content` in `file` instead of what was there. One writer at a time: see `locked`."""
    beside = file.with_name(f".{file.name}.new")
    write(beside, content)
    beside.replace(file)
    sync(file.parent)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """No other process is in here with the same lock file meanwhile. The file stays."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # lets the lock go
