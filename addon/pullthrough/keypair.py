"""The CA's certificate and private key as two files: made once, whole or not at all, and never replaced.

Responsible for names, permissions, the lock between processes and what a crash leaves behind. Must not know
what is inside a certificate: bytes go in and come out, `ca` judges them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CERT_NAME: Final = "ca-cert.pem"
KEY_NAME: Final = "ca-key.pem"

_LOCK_NAME: Final = ".lock"
_OTHERS: Final = stat.S_IRWXO
_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class CAError(Exception):
    """The CA cannot be used. The text is one sentence that names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a CA's two files are. `forbidden` are the mode bits that the key must not have."""

    cert: Path
    key: Path
    forbidden: int
    remedy: str

    @classmethod
    def in_directory(cls, directory: Path) -> PairFiles:
        """Our own pair in a folder of ours: nobody else may read the key."""
        remedy = (
            f"restore it from a backup, or move {CERT_NAME} and {KEY_NAME} away and have every client trust "
            "the new CA that the next start makes"
        )
        return cls(directory / CERT_NAME, directory / KEY_NAME, _GROUP_AND_OTHERS, remedy)

    @classmethod
    def brought(cls, cert: Path, key: Path) -> PairFiles:
        """The operator's own pair. A group may read the key: `ssl-cert` on Debian, fsGroup in Kubernetes."""
        return cls(cert, key, _OTHERS, "check --ca-cert and --ca-key")

    def error(self, file: Path, fault: str) -> CAError:
        return CAError(f"{file} {fault}; {self.remedy}")

    def absent(self) -> bool:
        """Neither file is there, for certain: a folder that we may not look into does not count as empty."""
        for file in (self.cert, self.key):
            try:
                file.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return False
            return False
        return True

    def read(self) -> tuple[bytes, bytes]:
        """The contents of certificate and key file. CAError if one is missing, unreadable or too open."""
        return self._read(self.cert, forbidden=0), self._read(self.key, self.forbidden)

    def _read(self, file: Path, forbidden: int) -> bytes:
        try:
            with file.open("rb") as opened:
                # Asked of the open file, so that what was checked is what is read.
                mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
                content = opened.read()
        except FileNotFoundError as error:
            raise self.error(file, "is missing") from error
        except PermissionError as error:
            raise CAError(f"{file} cannot be read ({error.strerror}); run as the user who owns it") from error
        except OSError as error:
            raise self.error(file, f"cannot be read ({error.strerror})") from error
        if mode & forbidden:
            raise CAError(
                f"{file} is a private key that other users can reach (mode {mode:04o}); "
                f"run: chmod {mode & ~forbidden & 0o777:03o} {shlex.quote(str(file))}"
            )
        return content


def make_once(directory: Path, make: Callable[[], tuple[bytes, bytes]]) -> None:
    """Put what `make` returns (certificate, key) into `directory`, unless it holds a pair or half of one.

    Safe among processes: exactly one of them makes the pair. Safe against a crash at any point: the next
    call finishes or starts over, and a key is never in place without its certificate being on disk.
    """
    files = PairFiles.in_directory(directory)
    if os.path.lexists(files.cert) and os.path.lexists(files.key):
        return  # without the lock, so that a read-only folder will do
    try:
        with _private_umask():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_shared(directory)
            with _locked(directory):
                _make_or_finish(files, make)
    except OSError as error:
        raise CAError(
            f"no CA can be made in {directory} ({error.strerror}); "
            "make that folder writable or name another with --data-dir"
        ) from error


def refuse_shared(directory: Path) -> None:
    """CAError if others may write to the folder: they could put their own CA in the place of ours."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        fault = f"{directory} cannot be looked into ({error.strerror})"
        raise CAError(f"{fault}; name another with --data-dir") from error
    if mode & _WRITABLE_BY_OTHERS:
        raise CAError(
            f"{directory} holds the CA and other users can write to it (mode {mode:04o}); "
            f"run: chmod 700 {shlex.quote(str(directory))}"
        )


def _make_or_finish(files: PairFiles, make: Callable[[], tuple[bytes, bytes]]) -> None:
    has_cert, has_key = os.path.lexists(files.cert), os.path.lexists(files.key)
    if not has_cert and not has_key:
        cert, key = make()
        _write(_beside(files.key), key)
        _write(_beside(files.cert), cert)
        _sync(files.cert.parent)
        _beside(files.key).replace(files.key)
        has_key = True
    # Also the way on after a crash between the two renames: the key is in place, its certificate beside.
    if has_key and not has_cert and os.path.lexists(_beside(files.cert)):
        _beside(files.cert).replace(files.cert)
        _sync(files.cert.parent)


def _beside(file: Path) -> Path:
    """A fixed name, not a random one: after a crash the next start must find it."""
    return file.with_name(f".{file.name}.new")


def _write(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)  # half a file of a start that crashed; we hold the lock
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory / _LOCK_NAME, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # lets the lock go


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
