"""What a disk may hold after a process died, or after the power failed, at any call of a store.

A model of the promises of a file system, which are few: bytes are there for good after fsync of their file, names
after fsync of their folder, and a rename comes as a whole. Everything else may have happened or not. SQLite's files
are taken as they are, but for the end of the log (WAL): with `synchronous=NORMAL` that is synced at checkpoints only,
and whoever cuts it takes the last transactions back.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from pullthrough.store.index import folders

#: A disk: the bytes of each file by its path below the root. Folders end with a slash and have none.
type Image = Mapping[str, bytes]

#: What the model knows; SQLite cares for the rest.
_KNOWN: Final = ("blobs/", "partial/")


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)

    def whole(self) -> bytes:
        return bytes(self.now)

    def without(self) -> bytes:
        """Nothing that was not synced."""
        return self.synced

    def zeroed(self) -> bytes:
        """As long as it was, but the bytes did not come."""
        return self.synced[: len(self.now)].ljust(len(self.now), b"\0")

    def torn(self) -> bytes:
        """Half of what was not synced."""
        kept = len(self.synced) + (len(self.now) - len(self.synced)) // 2
        return bytes(self.now[:kept]).ljust(len(self.now), b"\0")


_FOLDER: Final = _File()
#: Names and what they name from now on. What belongs together happens together.
type _Edit = dict[str, _File | None]
type _Names = dict[str, _File]


class Disk:
    """Watches the calls of a store below `root`, and tells what may be left of them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        #: What the store has open: files, and the names of folders.
        self._opened: dict[int, _File | str] = {}
        self._names: _Names = {}
        self._synced: _Names = {}
        self._pending: list[_Edit] = []

    # -- what happens

    def saw(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """A call was made, with this result (`System.after`)."""
        match name, arguments:
            case "open", (path, flags, *_):
                self._open(self._below(path), flags, result)
            case "pwrite", (fd, data, offset):
                self._file(fd).now[offset : offset + result] = bytes(data[:result])
            case "write", (fd, data):
                self._file(fd).now += data[:result]
            case "ftruncate", (fd, size):
                del self._file(fd).now[size:]
            case "fsync", (fd,):
                self._sync(self._opened[fd])
            case "mkdir", (path, *_):
                self._edit({f"{self._below(path)}/": _FOLDER})
            case "rename", (path, target):
                old, new = self._below(path), self._below(target)
                self._edit({old: None, new: self._names.get(old)})
            case "unlink", (path, *_):
                self._edit({self._below(path): None})

    def _open(self, path: str, flags: int, fd: int) -> None:
        if flags & os.O_CREAT and path not in self._names:
            self._edit({path: _File()})
        file = self._names.get(path)
        if file is not None and flags & os.O_TRUNC:
            file.now.clear()
        self._opened[fd] = path if file is None else file

    def _file(self, fd: int) -> _File:
        file = self._opened[fd]
        return file if isinstance(file, _File) else _File()

    def _sync(self, what: _File | str) -> None:
        if isinstance(what, _File):
            what.synced = what.whole()
            return
        moved = {name for edit in self._pending for name in edit if _folder(name) == what}
        with_them = {name for edit in self._pending if not moved.isdisjoint(edit) for name in edit}
        for edit in self._pending:
            if not with_them.isdisjoint(edit):
                _apply(edit, self._synced)
        self._pending = [edit for edit in self._pending if with_them.isdisjoint(edit)]

    def _edit(self, edit: _Edit) -> None:
        known = {name: file for name, file in edit.items() if name.startswith(_KNOWN)}
        if known:
            self._pending.append(known)
            _apply(known, self._names)

    def _below(self, path: Any) -> str:
        return os.path.relpath(path, self._root)

    # -- what may be left

    def after_death(self) -> Image:
        """What the process leaves that is killed now: all that it did."""
        return {**_tree(self._names, _File.whole), **_databases(self._root)}

    def after_power_loss(self, chance: random.Random) -> Iterator[Image]:
        """Disks that the machine may find which is started next."""
        databases = _databases(self._root)
        for names, left, log in (
            (self._synced, _File.without, 0.0),
            (self._synced, _File.without, 1.0),
            (self._names, _File.without, 1.0),
            (self._names, _File.zeroed, 1.0),
            (self._names, _File.torn, 0.5),
            (self._some(chance), chance.choice((_File.whole, _File.zeroed, _File.torn)), chance.random()),
        ):
            yield {**_tree(names, left), **_cut(databases, log)}

    def _some(self, chance: random.Random) -> _Names:
        """Some of the names that were not synced."""
        names = dict(self._synced)
        for edit in self._pending:
            if chance.random() < 0.5:
                _apply(edit, names)
        return names


def write(image: Image, root: Path) -> None:
    """Make a disk of it."""
    for name, data in sorted(image.items()):
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


def _apply(edit: _Edit, names: _Names) -> None:
    for name, file in edit.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _folder(name: str) -> str:
    """The folder that a name is in, as `os.path.relpath` has it."""
    return str(PurePath(name).parent)


def _tree(names: _Names, left: Callable[[_File], bytes]) -> Image:
    """What can be reached: in a folder that is not there nothing is."""
    return {name: b"" if file is _FOLDER else left(file) for name, file in names.items() if _reached(name, names)}


def _reached(name: str, names: _Names) -> bool:
    folder = _folder(name)
    return folder == "." or (f"{folder}/" in names and _reached(folder, names))


def _databases(root: Path) -> Image:
    """SQLite's files. What is in shared memory (-shm) is made anew."""
    return {
        (folder / name).relative_to(root).as_posix(): (folder / name).read_bytes()
        for folder in folders(root)
        for name in ("cache.db", "cache.db-wal")
        if (folder / name).exists()
    }


def _cut(databases: Image, share: float) -> Image:
    """With so much of each log."""
    return {name: data[: int(len(data) * share)] if name.endswith("-wal") else data for name, data in databases.items()}
