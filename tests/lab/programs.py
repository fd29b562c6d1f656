"""Child processes of the lab: started with a clean environment, logged into a file, ended by their id."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

STOP_SECONDS = 20.0
SYSTEM_PATH = "/usr/sbin:/sbin"


def need(binary: str, first: str = "") -> str:
    """The path of a program, or the test is skipped and says which one is missing. `first` is looked into first."""
    found = shutil.which(binary, path=first or None) or shutil.which(binary) or shutil.which(binary, path=SYSTEM_PATH)
    if found is None:
        pytest.skip(f"{binary} is not installed")
    return found


def need_root(what: str) -> None:
    """The test is skipped unless it runs as root, which `what` has to."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} has to run as root")


def environment(home: Path, **more: str) -> dict[str, str]:
    """PATH, HOME and where temporary files go; no other setting of this machine (proxies, CA bundles, credentials)."""
    kept = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **kept, **more}


class Running(Protocol):
    """What a `subprocess.Popen` can do, as far as it is needed here."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Program:
    """One process at a time of one command line."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        self.log = log
        self._env = dict(env)
        self._process: Running | None = None
        log.touch()

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().poll()

    def start(self) -> None:
        """Start it; output and errors are appended to the log."""
        self._process = self._begin(self._env)

    def end(self, how: signal.Signals = signal.SIGTERM, timeout: float = STOP_SECONDS) -> int:
        """Send a signal and wait; killed after `timeout` seconds. The exit code, negative for a signal."""
        process = self._running()
        process.send_signal(how)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self._running().send_signal(number)

    def end_if_running(self) -> None:
        """For the end of a fixture: whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.end()

    def _begin(self, env: Mapping[str, str]) -> Running:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _running(self) -> Running:
        if self._process is None:
            raise RuntimeError(f"not started: {self.command[0]}")
        return self._process
