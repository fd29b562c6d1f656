"""The secret of this installation, under which clients are remembered by fingerprint.

Responsible for one file: made once, private, the same for every process on this data directory. Without it nothing is
lost but memory: who was known before has to prove itself again. Must not know what the secret is used for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_LENGTH: Final = 32
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def secret(file: Path) -> bytes:
    """The 32 bytes in `file`, made now if there are none. Never fails: then they last as long as this process."""
    fresh = secrets.token_bytes(_LENGTH)
    try:
        known = _read(file)
        if known is None:
            _put(file, fresh)
            known = _read(file)
    except OSError as error:
        log.warning("%s cannot be used (%s): clients are forgotten at the next start", file, error.strerror)
        return fresh
    return known or fresh


def _read(file: Path) -> bytes | None:
    """What the file holds; None if it is missing, or no secret: then it is removed."""
    try:
        with open(file, "rb", opener=_open) as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(_LENGTH + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        return None
    if len(content) == _LENGTH and not status.st_mode & _OTHERS:
        return content
    log.warning("%s is damaged or was open to other users: a new one is made, and clients are forgotten", file)
    file.unlink()
    return None


def _open(path: str, flags: int) -> int:
    """Follows no link, and waits for nobody at the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _put(file: Path, content: bytes) -> None:
    """Have `content` in `file` at once and whole, unless another process was faster."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, file)
    finally:
        beside.unlink()
