"""Disks that fail under a proxy: mounted where nobody else sees them, and calls that fail on command.

A proxy that was started with `BadDisk.env` runs `BadDisk.mounts` first, a shell script, in a mount namespace of its
own, which goes with it; and each call of its store fails for which `BadDisk.calls` has a line.
"""

import importlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lab.programs import need
from lab.system import System

_MOUNTS: Final = "LAB_MOUNTS"
_CALLS: Final = "LAB_CALLS"
#: Until the process ends.
_INSTALLED: Final = ExitStack()


class BadDisk:
    """What is wrong with the disk of one proxy, said through files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._mounts = folder / "mounts.sh"
        self._calls = folder / "calls"
        self.env = {_MOUNTS: str(self._mounts), _CALLS: str(self._calls)}
        self._mounts.touch()
        self._calls.touch()

    def mounts(self, *commands: str) -> None:
        """The proxy's next start is preceded by these."""
        self._mounts.write_text("\n".join(("set -e", "mount --make-rprivate /", *commands)))

    @contextmanager
    def failing(self, what: str, code: int) -> Iterator[None]:
        """Calls of this name fail; all that change something, for `changes`; all, for `any`."""
        self._calls.write_text(f"{what} {code}")
        try:
            yield
        finally:
            self._calls.write_text("")


def inside(pid: int, path: Path) -> Path:
    """The path as that process sees it."""
    return Path(f"/proc/{pid}/root{path}")


def mount(pid: int, *arguments: str, program: str = "mount") -> None:
    """Call mount or umount where that process is."""
    entered = [need("nsenter"), f"--mount=/proc/{pid}/ns/mnt", need(program), *arguments]
    subprocess.run(entered, check=True, capture_output=True)


def install() -> None:
    """In the proxy's process, before it is the proxy."""
    mounts, calls = os.environ.pop(_MOUNTS, ""), os.environ.pop(_CALLS, "")
    if mounts and Path(mounts).read_text():
        os.unshare(os.CLONE_NEWNS)
        subprocess.run(["/bin/sh", mounts], check=True)
    if calls:
        _obey(Path(calls))
        store = importlib.import_module("pullthrough.store")
        store.Store.__init__.__kwdefaults__["rest"] = 0.1  # an index that failed is soon tried again


def _obey(calls: Path) -> None:
    system = System()

    def before(number: int, name: str) -> None:
        what, _, code = calls.read_text().partition(" ")
        if what in ("any", name) or (what == "changes" and system.changes):
            system.refuse(OSError(int(code), os.strerror(int(code))))

    system.before = before
    _INSTALLED.enter_context(system.installed())
