"""Image layouts on disk, as a folder or as a tar archive of one: read by name, written at once or not at all.

Responsible for files. An archive may come from anywhere: nothing is extracted, no path out of it is used, links and
sparse files are refused, and headers are bounded. Must not know the store, nor what an image is. Blocks; everything
that goes wrong is an `ArchiveError`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

_CHUNK: Final = 1 << 20
#: Members that are looked at; bytes of one header (extended ones have a length of their own), and of one member's all.
_MAX_MEMBERS: Final = 1 << 18
_MAX_HEADER: Final = 1 << 20
_MAX_HEADERS: Final = 4 << 20
_TAR: Final = ".tar"
_PACKED: Final = (".gz", ".tgz", ".zst", ".xz", ".bz2")
#: In an archive; what is written to a folder goes by the umask.
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


class ArchiveError(Exception):
    """It cannot be read or written; the text says what to do."""


class Damaged(ArchiveError):
    """Content is not what it should be."""


@dataclass(frozen=True, slots=True)
class Extent:
    """`size` bytes of an open file, from `start`."""

    fd: int
    start: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """All bytes, piece by piece. Damaged if the file ends before."""
        done = 0
        while done < self.size:
            try:
                chunk = os.pread(self.fd, min(_CHUNK, self.size - done), self.start + done)
            except OSError as error:
                raise Damaged(f"the disk cannot read it ({error.strerror})") from error
            if not chunk:
                raise Damaged("it ends too early")
            done += len(chunk)
            yield chunk


class Reader(Protocol):
    """A layout's files by their names in it."""

    path: Path

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        ...

    def opened(self, name: str) -> contextlib.AbstractContextManager[Extent]:
        """A file that there is."""
        ...


class Content(Protocol):
    """What is written: gives `count` bytes, less only at its end."""

    def read(self, count: int = -1, /) -> bytes: ...


class Writer(Protocol):
    """A layout that is being written."""

    def add(self, name: str, size: int, content: Content) -> None:
        """One more file, in the order of names."""
        ...


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """The folder or archive at `path`. ArchiveError if it is neither, or fails."""
    if path.is_dir():
        yield _Folder(path)
        return
    with contextlib.closing(_Archive(path)) as archive:
        yield archive


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A new archive at `path` if it ends in .tar, else a new folder. Whatever goes wrong, nothing of it stays.

    ArchiveError if there is something at `path` already, other than an empty folder.
    """
    path = path.absolute()
    _refuse(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with _written_archive(beside) if path.suffix == _TAR else _written_folder(beside) as writer:
                yield writer
            beside.rename(path)
            _sync(path.parent)
        except BaseException:
            _remove(beside)
            raise
    except OSError as error:
        raise ArchiveError(f"{path} cannot be written: {error.strerror}; nothing of it was kept") from error


# -- reading


class _Folder:
    """A layout as a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self, name: str) -> int | None:
        with _readable(self.path / name):
            try:
                status = (self.path / name).stat(follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError(f"{self.path}: {name} is no plain file; copy the layout with what its links lead to")
        return status.st_size

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Extent]:
        with _readable(self.path / name):
            fd = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield Extent(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)


class _Archive:
    """A layout in a tar archive, not compressed. Only headers are read before somebody asks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise ArchiveError(f"{path} is no file: the archive is read twice, so it cannot come through a pipe")
            with _readable(path):
                self._extents = self._found()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def size(self, name: str) -> int | None:
        extent = self._extents.get(name)
        return None if extent is None else extent.size

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Extent]:
        yield self._extents[name]

    def _found(self) -> dict[str, Extent]:
        found = {}
        for member in self._members():
            name = member.name.removeprefix("./")
            if member.isdir() or not _of_a_layout(name):
                continue
            if not member.isreg() or member.issparse():
                raise ArchiveError(
                    f"{self.path}: {name} is no plain file; pack the layout without links and without --sparse"
                )
            found[name] = Extent(self._fd, member.offset_data, member.size)
        return found

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """Every member, without keeping them. tarfile trusts lengths in headers: `_Bounded` does not."""
        with open(self._fd, "rb", closefd=False) as file:
            headers: Any = _Bounded(file)  # tarfile asks for no more than that
            try:
                with tarfile.TarFile(fileobj=headers) as tar:
                    for _ in range(_MAX_MEMBERS):
                        member = tar.next()
                        if member is None:
                            return
                        tar.members.clear()  # type: ignore[attr-defined]  # which it would keep
                        yield member
                        headers.left = _MAX_HEADERS
            except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
                raise ArchiveError(
                    f"{self.path} is no tar archive that can be read; if it is packed, unpack it"
                ) from error
        raise ArchiveError(f"{self.path} has more than {_MAX_MEMBERS} members: that is no image layout")


def _of_a_layout(name: str) -> bool:
    """Is it a file that a layout's reader looks at? Engines put others beside (manifest.json, repositories)."""
    return name in ("oci-layout", "index.json") or name.startswith("blobs/")


class _Bounded:
    """What `tarfile` reads headers from, of which `left` bytes more are read for this member."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _MAX_HEADERS

    def read(self, count: int = -1, /) -> bytes:
        self.left -= count
        if not 0 <= count <= _MAX_HEADER or self.left < 0:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(count)

    def seek(self, position: int, /) -> int:
        if position < self._file.tell() - 1:  # it looks at the last byte of what it passes over
            raise tarfile.ReadError("a header leads back")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


# -- writing


def _refuse(path: Path) -> None:
    if path.suffix in _PACKED:
        raise ArchiveError(f"{path}: layers are packed already; name a folder, or an archive that ends in {_TAR}")
    if path.is_dir() and not any(path.iterdir()) and path.suffix != _TAR:
        return
    if os.path.lexists(path):
        raise ArchiveError(f"{path} is there already: remove it, or name another with -o")
    if not path.parent.is_dir():
        raise ArchiveError(f"there is no folder {path.parent}: make it first")


@contextlib.contextmanager
def _written_archive(path: Path) -> Iterator[Writer]:
    with path.open("xb") as file:
        with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as tar:
            yield _Packer(tar)
        file.flush()
        os.fsync(file.fileno())


class _Packer:
    """Packs files so that the same files give the same archive."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._folders: set[str] = set()

    def add(self, name: str, size: int, content: Content) -> None:
        for folder in reversed(Path(name).parents[:-1]):
            if str(folder) not in self._folders:
                self._folders.add(str(folder))
                self._tar.addfile(_member(str(folder), tarfile.DIRTYPE, _FOLDER_MODE, 0))
        source: Any = content  # tarfile asks for no more than `read`
        self._tar.addfile(_member(name, tarfile.REGTYPE, _FILE_MODE, size), source)


def _member(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size = kind, mode, size
    return member


@contextlib.contextmanager
def _written_folder(path: Path) -> Iterator[Writer]:
    path.mkdir()
    writer = _FolderWriter(path)
    yield writer
    writer.sync()


class _FolderWriter:
    """Writes a layout's files into a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = {path}

    def add(self, name: str, size: int, content: Content) -> None:
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._folders.update(parent for parent in target.parents if parent.is_relative_to(self._path))
        with target.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())

    def sync(self) -> None:
        """Have all names on disk."""
        for folder in self._folders:
            _sync(folder)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """What is half written."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
