"""What is measured, in one shape: started at a site before an upstream, reached by clients, emptied, stopped.

Responsible for that shape, for pullthrough, and for the upstream without anything before it. The peers are in `peers`.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from bench import interrupts, processes
from bench.load import Access
from bench.site import Site
from bench.upstream import Upstream, await_port
from lab.deadline import eventually
from lab.ports import free_port
from lab.programs import Program, environment

ADDON: Final = Path(__file__).resolve().parents[2] / "addon"
#: Bytes of data that a process may have. Whoever keeps bodies in memory meets this before the machine meets its end.
MEMORY: Final = 6 << 30
#: What each cache may keep, in MiB; more than any work needs.
KEPT_MIB: Final = 16 << 10


@dataclass(frozen=True)
class Place:
    """Where a subject runs, and in front of what."""

    folder: Path
    site: Site
    upstream: Upstream
    workers: str | None


class Subject(ABC):
    """One program, or none."""

    name: ClassVar[str]
    explained: ClassVar[str]
    caches: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        self.place = place
        self.folder = place.folder / self.name
        self.folder.mkdir()

    @classmethod
    @abstractmethod
    def lacks(cls) -> str:
        """Why it cannot be measured on this machine; nothing if it can."""

    @property
    @abstractmethod
    def access(self) -> Access:
        """How clients reach it."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def empty(self) -> None:
        """Start anew, with nothing kept."""

    def restart(self) -> None:
        """As it was, but for its memory."""
        self.stop()
        self.start()

    @abstractmethod
    def start_if_ended(self) -> None:
        """It may have died of the last work."""

    def size(self) -> int:
        """Bytes that it keeps."""
        return 0

    def pids(self) -> list[int]:
        """Its processes."""
        return []


class Direct(Subject):
    """Clients ask the upstream themselves."""

    name = "direct"
    explained = "no proxy: clients ask the registry and its CDN themselves"
    caches = False

    @classmethod
    def lacks(cls) -> str:
        return ""

    @property
    def access(self) -> Access:
        return Access(self.place.upstream.origin, self.place.upstream.ca_file)

    def start(self) -> None:
        """It is running."""

    def start_if_ended(self) -> None:
        """It is running."""

    def stop(self) -> None:
        """The upstream stays."""

    def empty(self) -> None:
        """It keeps nothing."""


class Server(Subject):
    """A program that listens on a port, with what it keeps below `kept`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.port = free_port()
        self.kept = self.folder / "kept"
        self.kept.mkdir()
        self._program: Program | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """After writing what it is configured by."""

    def prepare(self) -> None:
        """What has to be there before it can start, each time."""

    def variables(self) -> dict[str, str]:
        """Of its environment."""
        return {}

    @property
    def address(self) -> str:
        return f"{self.place.site.address}:{self.port}"

    def start(self) -> None:
        self.prepare()
        command = [*self.place.site.prefix, *self.command()]
        given = environment(self.folder, TMPDIR=str(self.folder), **self.variables())
        with interrupts.held():
            self._program = Program(command, given, self.folder / "log")
            self._program.start()
        resource.prlimit(self._program.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
        await_port(self._program, f"//{self.address}", self.place.site)

    def start_if_ended(self) -> None:
        if self._program is None or self._program.exit_code is not None:
            self.start()

    def stop(self) -> None:
        if self._program is None:
            return
        children = processes.tree(self._program.pid)[1:]
        with suppress(subprocess.TimeoutExpired):  # then it was killed
            self._program.end_if_running()
        try:
            eventually(lambda: not any(map(processes.alive, children)), f"the children of {self.name} end")
        except TimeoutError:
            for child in filter(processes.alive, children):
                os.kill(child, signal.SIGKILL)

    def empty(self) -> None:
        self.stop()
        shutil.rmtree(self.kept)
        self.kept.mkdir()
        self.start()

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.kept.rglob("*") if file.is_file())

    def pids(self) -> list[int]:
        return [] if self._program is None else processes.tree(self._program.pid)


class Pullthrough(Server):
    """As `scripts/serve` runs it."""

    name = "pullthrough"
    explained = "this project"

    @classmethod
    def lacks(cls) -> str:
        return ""

    @property
    def access(self) -> Access:
        (ca_file,) = (self.kept / "ca").glob("ca-cert.pem")
        return Access(self.place.upstream.origin, ca_file, self.address)

    def command(self) -> Sequence[str]:
        upstream = self.place.upstream
        flags = {
            "--listen": self.address,
            "--data-dir": str(self.kept),
            "--size": f"{KEPT_MIB}MiB",
            "--registry": upstream.origin.removeprefix("https://"),
            "--upstream-ca": str(upstream.ca_file),
        }
        if self.place.workers is not None:
            flags["--workers"] = self.place.workers
        return [sys.executable, "-m", "pullthrough", "run", *(word for flag in flags.items() for word in flag)]

    def variables(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ADDON)}
