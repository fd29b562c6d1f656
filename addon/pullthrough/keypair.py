"""The CA's certificate and private key as two files, made once, whole or not at all; and the pair that succeeds them.

Responsible for names, permissions, the lock between processes and what a crash leaves behind. Must not know
what is inside a certificate: bytes go in and come out, `ca` judges them.

A successor waits in a folder of its own, which appears whole by one rename. From its time on it alone counts, whatever
lies in the old pair's place; `promote` may therefore be cut short anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pullthrough import durable

CERT_NAME: Final = "ca-cert.pem"
KEY_NAME: Final = "ca-key.pem"
SUCCESSOR_NAME: Final = "next"

_BEGIN_NAME: Final = "signs-from"
#: Where a successor is put together, and taken apart.
_STAGING_NAME: Final = ".next"
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
            with durable.locked(directory / _LOCK_NAME):
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


@dataclass(frozen=True, slots=True)
class Successor:
    """The pair that takes over at a time, which may be past."""

    files: PairFiles
    begins: datetime


def successor(directory: Path) -> Successor | None:
    """Who waits in `directory`, or has taken over without having been promoted. CAError if that cannot be read."""
    folder = directory / SUCCESSOR_NAME
    if not os.path.lexists(folder):
        return None
    remedy = f"restore it from a backup, or remove {folder} to give the new CA up"
    files = PairFiles(folder / CERT_NAME, folder / KEY_NAME, _GROUP_AND_OTHERS, remedy)
    refuse_shared(folder)
    file = folder / _BEGIN_NAME
    try:
        begins = datetime.fromisoformat(file.read_text("ascii").strip())
    except OSError as error:
        raise files.error(file, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise files.error(file, "does not hold a time") from error
    if begins.tzinfo is None:
        raise files.error(file, "holds a time without its zone")
    return Successor(files, begins)


def add_successor(directory: Path, pair: tuple[bytes, bytes], begins: datetime) -> None:
    """Have `pair` (certificate, key) wait in `directory` for its time. CAError if there is a successor already."""
    folder, staging = directory / SUCCESSOR_NAME, directory / _STAGING_NAME
    with _changing(directory):
        if os.path.lexists(folder):
            raise CAError(f"there is a new CA in {folder} already")
        _discard(staging)
        staging.mkdir(mode=0o700)
        cert, key = pair
        durable.write(staging / KEY_NAME, key)
        durable.write(staging / CERT_NAME, cert)
        durable.write(staging / _BEGIN_NAME, f"{begins.isoformat()}\n".encode("ascii"))
        durable.sync(staging)
        staging.rename(folder)
        durable.sync(directory)


def promote(directory: Path, moment: datetime) -> None:
    """Put a successor whose time has come in the old pair's place; the old key is gone then.

    CAError if the folder cannot be written to. Nothing depends on it: readers go by the time.
    """
    if not os.path.lexists(directory / SUCCESSOR_NAME):
        return  # without the lock, so that a read-only folder will do
    with _changing(directory):
        found = successor(directory)
        if found is None or moment < found.begins:
            return
        cert, key = found.files.read()
        files = PairFiles.in_directory(directory)
        for file, content in ((files.key, key), (files.cert, cert)):
            durable.write(_beside(file), content)
            _beside(file).replace(file)
        durable.sync(directory)
        # The end of the successor is one rename too: half a folder would be no successor and no old pair.
        _discard(directory / _STAGING_NAME)
        (directory / SUCCESSOR_NAME).rename(directory / _STAGING_NAME)
        durable.sync(directory)
        _discard(directory / _STAGING_NAME)


@contextlib.contextmanager
def unchanging(directory: Path) -> Iterator[None]:
    """While nobody changes the files. Does without where there is no lock to be had: in folders that we only read."""
    try:
        descriptor = os.open(directory / _LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _changing(directory: Path) -> Iterator[None]:
    refuse_shared(directory)
    try:
        with _private_umask(), durable.locked(directory / _LOCK_NAME):
            yield
    except OSError as error:
        raise CAError(f"{directory} cannot be written to ({error.strerror}); run as the user who owns it") from error


def _discard(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)


def _make_or_finish(files: PairFiles, make: Callable[[], tuple[bytes, bytes]]) -> None:
    has_cert, has_key = os.path.lexists(files.cert), os.path.lexists(files.key)
    if not has_cert and not has_key:
        cert, key = make()
        durable.write(_beside(files.key), key)
        durable.write(_beside(files.cert), cert)
        durable.sync(files.cert.parent)
        _beside(files.key).replace(files.key)
        has_key = True
    # Also the way on after a crash between the two renames: the key is in place, its certificate beside.
    if has_key and not has_cert and os.path.lexists(_beside(files.cert)):
        _beside(files.cert).replace(files.cert)
        durable.sync(files.cert.parent)


def _beside(file: Path) -> Path:
    """A fixed name, not a random one: after a crash the next start must find it."""
    return file.with_name(f".{file.name}.new")


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
