"""The machine that is examined: its files, its processes, its environment and its clock.

Responsible for reading them within bounds. What needs rights that we lack is a PermissionError, which the
examination turns into a finding; what is not there is None. Must not know what any of it means.
"""

from __future__ import annotations

import os
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MOST_BYTES: Final = 4 * 1024 * 1024  # of one file; bundles of all CAs have a quarter of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A running process. `started` is in seconds since the epoch."""

    pid: int
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`environ` is that of the shell that the person types in. `root` and `proc` are where its files are seen."""

    environ: Mapping[str, str]
    root: Path = Path("/")
    proc: Path = Path("/proc")
    now: Callable[[], float] = time.time

    def path(self, absolute: str) -> Path:
        """Where the file is that the machine calls `absolute`."""
        return self.root / absolute.lstrip("/")

    def home(self, below: str) -> tuple[str, ...]:
        """The path of something below the home folder, if there is one."""
        home = self.environ.get("HOME", "")
        return (f"{home}/{below}",) if home.startswith("/") else ()

    def exists(self, absolute: str) -> bool:
        return self.path(absolute).exists()

    def read(self, absolute: str) -> str | None:
        """The text of a file; None if there is no such file. PermissionError."""
        content = _content(self.path(absolute))
        return None if content is None else content.decode("utf-8", "replace")

    def toml(self, absolute: str) -> Mapping[str, Any]:
        """A TOML file; empty if there is none, or none that can be read as such. PermissionError."""
        try:
            return tomllib.loads(self.read(absolute) or "")
        except tomllib.TOMLDecodeError:
            return {}

    def files(self, folder: str, *suffixes: str) -> list[str]:
        """The files in a folder, sorted, with one of these endings; none if there is no folder. PermissionError."""
        try:
            names = sorted(os.listdir(self.path(folder)))  # noqa: PTH208  # pathlib's glob hides what it may not see
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" for name in names if name.endswith(suffixes or ("",))]

    def changed(self, absolute: str) -> float:
        """When a file was written last, in seconds since the epoch; 0 if there is none. PermissionError."""
        try:
            return self.path(absolute).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return 0.0

    def processes(self, name: str) -> list[Process]:
        """Those that run the program `name` (proc(5), comm), by age."""
        return sorted(self._running(name), key=lambda process: process.started)

    def environment_of(self, process: Process) -> dict[str, str]:
        """What it was started with; empty if it ended. PermissionError for those of other users."""
        content = _content(self.proc / str(process.pid) / "environ") or b""
        pairs = (item.partition(b"=") for item in content.split(b"\0") if b"=" in item)
        return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}

    def _running(self, name: str) -> Iterator[Process]:
        for folder in self.proc.iterdir() if self.proc.is_dir() else ():
            if folder.name.isdecimal() and _content(folder / "comm") == f"{name}\n".encode():
                yield Process(pid=int(folder.name), started=self._started(folder))

    def _started(self, folder: Path) -> float:
        """proc(5): field 22 of `stat` counts clock ticks since the boot, whose time is `btime`."""
        fields = (_content(folder / "stat") or b"").rpartition(b")")[2].split()
        lines = (_content(self.proc / "stat") or b"").splitlines()
        boot = next((int(text.split()[1]) for text in lines if text.startswith(b"btime ")), 0)
        return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK") if len(fields) > 19 else 0.0


def _content(path: Path) -> bytes | None:
    """None for what is no file; a folder, a pipe or a device, which a variable may name, is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError:  # not there, or below a file
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read(_MOST_BYTES)
        except ProcessLookupError:  # it has just ended
            return None
