"""Blob files: partial ones that grow, and whole ones that never change.

Responsible for the commit protocol on the file system (DESIGN section 5): write beside, verify, fsync, rename,
fsync the folder. Must not know the index, and knows nothing of who reads.
Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from pullthrough.core.digest import Digest

_BLOBS: Final = "blobs"
_PARTIAL: Final = "partial"
_REHASH_CHUNK: Final = 1 << 20
#: Permissions of everything below the data directory: cached images may be private.
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


class Partial:
    """A blob that is being written. Bytes are hashed as they come; nothing is believed until `commit`.

    The file is locked for as long as this object lives, so that two processes never write into one.
    One writer at a time; readers use `fd` with pread.
    """

    def __init__(self, path: Path, digest: Digest, fd: int) -> None:
        self.path = path
        self.digest = digest
        self.fd = fd
        self.written = 0
        self._hasher = digest.hasher()

    def rehash(self) -> int:
        """Take over the bytes that an earlier fill left, and return how many there are."""
        while chunk := os.pread(self.fd, _REHASH_CHUNK, self.written):
            self._hasher.update(chunk)
            self.written += len(chunk)
        return self.written

    def write(self, data: bytes) -> None:
        """Append. OSError (disk full, I/O error) leaves what was written before in place."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, self.written)
            self._hasher.update(view[:count])
            self.written += count
            view = view[count:]

    @property
    def verified(self) -> bool:
        """Are the bytes so far exactly the blob?"""
        return self._hasher.hexdigest() == self.digest.hex

    def discard(self) -> None:
        """Delete the file: what is in it is not the blob. Readers that hold it keep reading what they have."""
        self.path.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Nobody writes any more: another fill may resume the file while late readers still read it."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which stays. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class BlobFiles:
    """The folders `blobs/` and `partial/` below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (root, root / _BLOBS, root / _PARTIAL):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)

    def partial(self, digest: Digest) -> Partial:
        """Open the partial file of `digest`, an earlier one if there is one.

        If another process is filling the same digest, a fresh file that is thrown away unless it gets whole.
        """
        folder = self.root / _PARTIAL / digest.algorithm
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        path = folder / digest.hex
        fd = _locked(path)
        if fd is None:
            path = folder / f"{digest.hex}-{secrets.token_hex(8)}"
            fd = _locked(path)
        if fd is None:
            raise OSError(f"cannot lock {path}")
        return Partial(path, digest, fd)

    def commit(self, partial: Partial) -> str:
        """Move a verified partial to its place for good; returns the name relative to the root.

        The random part of the name makes replacement, eviction and late readers safe: a name is never used twice.
        """
        if not partial.verified:
            raise ValueError(f"{partial.path} does not hold {partial.digest}")
        os.fsync(partial.fd)
        digest = partial.digest
        folder = self.root / _BLOBS / digest.algorithm / digest.hex[:2]
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        target = folder / f"{digest.hex}-{secrets.token_hex(8)}"
        partial.path.rename(target)
        _fsync_folder(folder)
        return str(target.relative_to(self.root))

    def open(self, name: str) -> int:
        """Open a committed blob for reading. FileNotFoundError if it is gone."""
        return os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def remove(self, name: str) -> None:
        """Delete a committed blob that no index row owns."""
        (self.root / name).unlink(missing_ok=True)

    def partials(self) -> list[tuple[float, int, Path]]:
        """Every partial as (last modified, bytes, path), oldest first."""
        found = []
        for path in (self.root / _PARTIAL).glob("*/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)

    def drop_partial(self, path: Path) -> bool:
        """Delete a partial unless somebody is filling it. Was it deleted?"""
        fd = _locked(path, create=False)
        if fd is None:
            return False
        path.unlink(missing_ok=True)
        os.close(fd)
        return True

    def free(self) -> int:
        """Bytes that the file system has left for us."""
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize


def _locked(path: Path, *, create: bool = True) -> int | None:
    """Open and lock `path` for writing; None if another holder has it (or, without `create`, if it is gone)."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            fd = os.open(path, flags, _FILE_MODE)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        if _same_file(fd, path):
            return fd
        os.close(fd)  # it was committed or deleted between open and lock: what we hold is somebody's blob


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
