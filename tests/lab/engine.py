"""A container engine's daemon with nothing of this machine's: what dockerd and containerd have in common.

It runs in a mount namespace of its own, where /etc and /run are folders of ours: it reads no
configuration, certificate or credential of this machine, asks no name server, and every mount that
it makes ends with it. The proxy and the CAs are in its environment, as the daemon wants them. It is
ended by its process id, and so is whatever it started and left behind.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import pytest

from lab.clients import Home, Result
from lab.deadline import eventually
from lab.programs import SYSTEM_PATH, Program, need, need_root

START_SECONDS = 60.0
MARK = "LAB_ENGINE"
ETC = {
    "group": "root:x:0:\n",
    "passwd": "root:x:0:0:root:/:/bin/sh\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "hosts: files dns\n",
    "resolv.conf": "",  # the proxy looks names up; whoever tries on its own is refused at once, on loopback
}
WITH_OUR_FOLDERS = 'mount --bind "$1" /etc && mount --bind "$2" /run && shift 2 && exec "$@"'


class Engine(ABC):
    """One daemon. Its storage is new and goes with it; its log stays in `folder`."""

    def __init__(self, name: str, folder: Path, proxy_url: str | None, *ca_files: Path) -> None:
        """Skips where the program is missing, for ordinary users, and where nobody may mount."""
        daemon = need(name)
        need_root(name)
        _need_mounts(name)
        self.home = Home(folder, proxy_url, *ca_files)
        self.place = Path(tempfile.mkdtemp(prefix="lab-"))  # a test's own folder is too long for sockets
        self.socket = self.place / "socket"
        command = [*self._apart(), daemon, *self._flags()]
        path = f"{self.home.env['PATH']}:{SYSTEM_PATH}"
        env = {**self.home.env, "PATH": path, MARK: str(self.place)}
        self._program = Program(command, env, folder / f"{name}.log")

    @property
    def pid(self) -> int:
        """The process id of the daemon."""
        return self._program.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._program.start()
        try:
            eventually(self._ready, f"an answer at {self.socket}", START_SECONDS)
        except TimeoutError:
            self._program.end_if_running()
            raise

    def end(self) -> None:
        """End it with all of its processes, remove its storage. For the end of a fixture, whatever state it is in."""
        self._program.end_if_running()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.processes(), "the end of what the daemon started")
        shutil.rmtree(self.place, ignore_errors=True)

    def processes(self) -> list[int]:
        """The ids of the daemon and of all that it started, known by what they have inherited."""
        inherited = f"{MARK}={self.place}".encode()
        return [pid for pid in _all_processes() if inherited in _environment_of(pid)]

    @abstractmethod
    def probe(self) -> Result:
        """Ask the daemon for a sign of life."""

    @abstractmethod
    def _flags(self) -> list[str]:
        """Of the daemon, which listens at `socket` and keeps everything below `place`."""

    def _apart(self) -> list[str]:
        folders = self.place / "etc", self.place / "run"
        for folder in folders:
            folder.mkdir()
        for name, text in ETC.items():
            (self.place / "etc" / name).write_text(text)
        return [need("unshare"), "--mount", need("sh"), "-c", WITH_OUR_FOLDERS, "sh", *map(str, folders)]

    def _ready(self) -> bool:
        if (code := self._program.exit_code) is not None:
            log = self._program.log.read_text(errors="replace")
            raise RuntimeError(f"{self._program.log.stem} ended with {code}: {log[-2000:]}")
        return self.socket.exists() and self.probe().ok


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _environment_of(pid: int) -> list[bytes]:
    with suppress(OSError):  # it has ended meanwhile
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _need_mounts(name: str) -> None:
    command = [need("unshare"), "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"{name} cannot run here: {tried.stderr.strip()[-300:]}")
