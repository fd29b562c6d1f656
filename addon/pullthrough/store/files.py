"""Blob files: partial ones that grow, and whole ones that never change.

Responsible for the commit protocol on the file system (DESIGN section 5): write beside, verify, fsync, rename,
fsync the folder. Must not know the index, and knows nothing of who reads.
Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store import names
from pullthrough.store.faults import Taken

_PARTIAL: Final = "partial"
#: Says in which run of the machine the partials were written.
_BOOT: Final = "boot"
_REHASH_CHUNK: Final = 1 << 20
#: Bytes of somebody else's fill that are taken over in one step: readers see them after it.
_STEP: Final = 16 << 20
#: Where a fill says to other processes how long its blob is, beside the bytes: a name that goes when the file goes.
_SIZE: Final = "user.pullthrough.size"
#: Permissions of everything below the data directory: cached images may be private.
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
#: Another text each time the machine is started. Where the system has no such file, partials outlive a start.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: The permission of blobs that were found damaged. The sticky bit means nothing on a file, and whoever has it open
#: sees it, in every process.
DAMAGED: Final = stat.S_ISVTX
#: A blob that is no file of its own (a link, a folder) is as good as gone.
_NO_FILE: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO))


@dataclass(frozen=True, slots=True)
class Filling:
    """What somebody who fills a blob says to other processes."""

    #: Does the upstream send? And how many bytes, if it said so.
    sends: bool
    size: int | None = None


class Fate(enum.Enum):
    """What became of a partial that somebody else filled."""

    #: He still fills it.
    GROWS = enum.auto()
    #: He left it as it is, or died: it is ours now.
    OURS = enum.auto()
    #: He committed it, or deleted it.
    GONE = enum.auto()


class DamagedError(Exception):
    """The file was found damaged since it was opened."""


def read(fd: int, limit: int, offset: int) -> bytes:
    """Up to `limit` bytes of an open blob. DamagedError once it was found damaged, by whomever."""
    data = os.pread(fd, limit, offset)
    if os.fstat(fd).st_mode & DAMAGED:  # afterwards: what is given out was not known to be wrong by then
        raise DamagedError
    return data


class Partial:
    """A blob that is being written. Bytes are hashed as they come; nothing is believed until `commit`.

    The file is locked for as long as somebody writes, so that two processes never write into one: by us (`locked`), or
    by somebody else, whom we follow with `catch_up`. One writer at a time; readers use `fd` with pread.
    """

    def __init__(self, path: Path, digest: Digest, fd: int, *, locked: bool) -> None:
        self.path = path
        self.digest = digest
        self.fd = fd
        self.locked = locked
        #: The last word of somebody else who fills it.
        self.filling = Filling(sends=False)
        self.written = 0
        #: Held while a thread works on the file. A caller that was cancelled leaves its work behind, and what it does
        #: next must not overtake that.
        self.busy = threading.Lock()
        self._hasher = digest.hasher()

    @property
    def resumable(self) -> bool:
        """Will the next fill find this file? Not if another process had the real one."""
        return self.path.name == self.digest.hex

    def rehash(self, most: int | None = None) -> int:
        """Take over what another fill wrote, or about `most` bytes more of it; how many that were."""
        before = self.written
        while (most is None or self.written - before < most) and (
            chunk := os.pread(self.fd, _REHASH_CHUNK, self.written)
        ):
            self._hasher.update(chunk)
            self.written += len(chunk)
        return self.written - before

    def announce(self, size: int | None) -> None:
        """Tell those who follow that the upstream sends, and how many bytes, if it said so."""
        with contextlib.suppress(OSError):  # no such attributes here: see `_said`
            os.setxattr(self.fd, _SIZE, b"" if size is None else b"%d" % size)

    def retract(self) -> None:
        """What an earlier fill announced holds no more."""
        with contextlib.suppress(OSError):
            os.removexattr(self.fd, _SIZE)

    def catch_up(self) -> Fate:
        """Take over what somebody else has written by now, and see what became of it.

        What he still writes may be more than one step; once he has ended, `written` is all that he wrote.
        """
        with self.busy:
            if not self.filling.sends:
                self.filling = _said(self.fd)
            if self.rehash(_STEP) >= _STEP or not _lock(self.fd, fcntl.LOCK_EX):
                return Fate.GROWS
            self.locked = True
            self.rehash()
            if _same_file(self.fd, self.path):
                return Fate.OURS
            self.unlock()
            return Fate.GONE

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
        """Delete the file, if it is ours: what is in it is not the blob. Readers that hold it go on reading."""
        if self.locked and _same_file(self.fd, self.path):  # once committed, that path is another fill's
            self.path.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Nobody writes any more: another fill may resume the file while late readers still read it."""
        self.locked = False
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which stays. Safe to call twice."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class BlobFiles:
    """The folders `blobs/` and `partial/` below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        #: Folders of which is known that a power failure leaves them where they are.
        self._durable: set[Path] = set()
        for folder in (names.BLOBS, _PARTIAL):
            self._make_folder(root / folder)

    # -- partials

    def partial(self, digest: Digest) -> Partial:
        """Open the partial file of `digest`, an earlier one if there is one. `Taken` while somebody else fills it."""
        path = self._partial(digest)
        self._make_folder(path.parent)
        fd = _locked(path)
        if fd is None:
            raise Taken
        return Partial(path, digest, fd, locked=True)

    def aside(self, digest: Digest) -> Partial:
        """A fresh file beside the one that somebody else may fill; it is thrown away unless it gets whole."""
        path = self._partial(digest)
        self._make_folder(path.parent)
        path = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
        fd = _locked(path)
        if fd is None:
            raise OSError(errno.EAGAIN, "cannot lock a file that was just made")
        return Partial(path, digest, fd, locked=True)

    def followed(self, digest: Digest) -> Partial | None:
        """Open what somebody else is filling, to read and hash it while it grows; None if nobody is."""
        path = self._partial(digest)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        partial = Partial(path, digest, fd, locked=False)
        partial.filling = _said(fd)
        try:
            if not _lock(fd, fcntl.LOCK_SH):  # shared: two who look are nobody who fills
                return partial
        except BaseException:
            partial.close()
            raise
        partial.close()
        return None

    def committed(self, digest: Digest, owned: Callable[[str], bool]) -> Partial | None:
        """Open what has just become the blob, or is on its way from the name of a partial to its row in the index.

        To be followed as a partial is; None if there is nothing. Whoever asks the index in between finds no blob, and
        nobody who fills it. `owned` asks whether a row names this file.
        """
        folder = names.folder_for(digest)
        for name in sorted(self.blobs(folder)):
            if names.digest_of(name) != digest:
                continue
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(self.root / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                status = os.fstat(fd)
                if not status.st_mode & DAMAGED and (owned(name) or not _lock(fd, fcntl.LOCK_SH)):
                    partial = Partial(self._partial(digest), digest, fd, locked=False)
                    partial.filling = Filling(sends=True, size=status.st_size)
                    return partial
                os.close(fd)
        return None

    def _partial(self, digest: Digest) -> Path:
        return self.root / _PARTIAL / digest.algorithm / digest.hex

    def partials(self) -> dict[Path, int]:
        """The bytes of every partial, the one that rested longest first."""
        found = []
        for folder in _entries(self.root / _PARTIAL):
            for entry in _entries(Path(folder.path)):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, entry.path, status.st_size))
        return {Path(path): size for _, path, size in sorted(found)}

    def drop_partial(self, path: Path) -> bool:
        """Delete a partial, or a damaged blob, unless somebody is filling it. Was it deleted?"""
        fd = _locked(path, create=False)
        if fd is None:
            return False
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
        return True

    def drop_unsynced(self) -> None:
        """Delete what earlier fills left, if the machine was started anew since.

        Nothing of a partial was synced. After a power failure it may be as long as it was and hold zeros: the fill
        that goes on with it would come to the wrong digest at the end, and its clients would have to pull again.
        """
        marker, boot = self.root / _BOOT, _text(_BOOT_ID)
        if boot is None or _text(marker) == boot:
            return
        for path in self.partials():
            self.drop_partial(path)
        fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
        try:
            os.write(fd, boot.encode())
        finally:
            os.close(fd)

    # -- blobs

    def commit(self, partial: Partial) -> str:
        """Move a verified partial to its place for good; returns the name relative to the root."""
        if not partial.verified:
            raise ValueError(f"{partial.path} does not hold {partial.digest}")
        os.fsync(partial.fd)
        name = names.fresh(partial.digest)
        target = self.root / name
        self._make_folder(target.parent)
        partial.path.rename(target)
        try:
            _fsync_folder(target.parent)
        except BaseException:
            self.remove(name)
            raise
        return name

    def open(self, name: str, size: int) -> int | None:
        """Open a committed blob for reading; None if it is gone, or was found damaged, or is not of `size` bytes."""
        try:
            fd = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size == size and not status.st_mode & DAMAGED:
            return fd
        os.close(fd)
        return None

    def holds(self, fd: int, digest: Digest, *, paid: Callable[[int], object] = int, from_disk: bool = False) -> bool:
        """Is the whole file this blob? `paid` hears of every piece's length, and may take its time.

        `from_disk` asks the disk and not memory, and leaves nothing in memory that pulls had no use for.
        """
        hasher, offset = digest.hasher(), 0
        if from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := os.pread(fd, _REHASH_CHUNK, offset):
            hasher.update(chunk)
            if from_disk:
                os.posix_fadvise(fd, offset, len(chunk), os.POSIX_FADV_DONTNEED)
            offset += len(chunk)
            paid(len(chunk))
        return hasher.hexdigest() == digest.hex

    def remove(self, name: str) -> None:
        """Delete a committed blob that no index row owns."""
        (self.root / name).unlink(missing_ok=True)

    def folders(self) -> set[str]:
        """Every folder that blob files can lie in, relative to the root."""
        algorithms = [entry.name for entry in _entries(self.root / names.BLOBS)]
        return {
            f"{names.BLOBS}/{algorithm}/{entry.name}"
            for algorithm in algorithms
            for entry in _entries(self.root / names.BLOBS / algorithm)
        }

    def blobs(self, folder: str) -> set[str]:
        """The names of all files in one of `folders`; some may be no blobs of ours."""
        entries = _entries(self.root / folder)
        return {f"{folder}/{entry.name}" for entry in entries if entry.is_file(follow_symlinks=False)}

    def settle(
        self,
        some: Iterable[str],
        owned: Callable[[str], bool],
        adopt: Callable[[Mapping[str, int]], Container[str]],
    ) -> None:
        """See that these committed blobs have rows, unless their commit is still under way.

        Those that are not `owned` are offered for adoption, by name and size; what is not adopted is deleted.
        """
        with contextlib.ExitStack() as locked:
            found = {}
            for name in some:
                fd = _locked(self.root / name, create=False)
                if fd is None:
                    continue
                locked.callback(os.close, fd)
                if not owned(name):  # asked again: nobody who held the lock before can make a row for it any more
                    found[name] = os.fstat(fd).st_size
            adopted = adopt(found) if found else ()
            for name in found:
                if name not in adopted:
                    self.remove(name)

    def free(self) -> int:
        """Bytes that the file system has left for us."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def _make_folder(self, folder: Path) -> None:
        """Make what is missing of `folder`, so that it is still there after a power failure.

        Also of one that is there: whoever made it may have died, or not be done yet. What is above `root` is the
        operator's.
        """
        if folder in self._durable and folder.is_dir():
            return
        if folder == self.root:
            _make_private_folder(folder)
            return
        self._make_folder(folder.parent)
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        _fsync_folder(folder.parent)
        self._durable.add(folder)


def _make_private_folder(folder: Path) -> None:
    """Make what is missing of `folder`; `parents` of mkdir would make those between with the umask's mode."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_private_folder(folder.parent)
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)


def _text(file: Path) -> str | None:
    try:
        return file.read_text("ascii", errors="replace").strip()
    except OSError:
        return None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in `folder`; nothing if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locked(path: Path, *, create: bool = True) -> int | None:
    """Open and lock `path` for writing; None if another holder has it (or, without `create`, if it is gone)."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            fd = os.open(path, flags, _FILE_MODE)
        except FileNotFoundError:
            if create:  # its folder was deleted meanwhile
                raise
            return None
        try:
            locked = _lock(fd, fcntl.LOCK_EX)
            if locked and _same_file(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # if it is locked, it was committed or deleted between open and lock: it may be somebody's blob
        if not locked:
            return None


def _lock(fd: int, kind: int) -> bool:
    """Lock an open file, unless another holder has it. Was it locked?"""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _said(fd: int) -> Filling:
    """What the one who fills this file announced."""
    try:
        size = os.getxattr(fd, _SIZE)
    except OSError as error:
        # Where files have no such attributes nobody can say anything, and nobody waits for it.
        return Filling(sends=error.errno != errno.ENODATA)
    return Filling(sends=True, size=int(size) if size else None)


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
