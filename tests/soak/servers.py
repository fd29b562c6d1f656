"""The servers of the soak: several `pullthrough run` on one data folder, and what they take of the machine."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.deadline import eventually
from lab.names import NameMap
from lab.proxy import ExitedEarly, Proxy

RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
THREADS = re.compile(r"^Threads:\s+(\d+)$", re.MULTILINE)
COUNT = 2
GRACE = 6.0
#: Upstreams that are silent must be given up before a client's patience ends (`soak.clients`).
FLAGS = ("--first-byte-timeout", "8s", "--connect-timeout", "8s", "--stall-timeout", "8s", "--shutdown-grace", "6s")


@dataclass(frozen=True)
class Vitals:
    """What one process takes: resident bytes, open files, threads."""

    pid: int
    resident: int
    files: int
    threads: int


class Server:
    """One of them. Whoever ends and starts it holds its lock meanwhile."""

    def __init__(self, number: int, proxy: Proxy) -> None:
        self.number = number
        self.proxy = proxy
        self.lock = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Was it started, and not ended?"""
        try:
            return self.proxy.exit_code is None
        except RuntimeError:
            return False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.proxy.address

    @property
    def ca_file(self) -> Path:
        """The CA that its clients trust."""
        return self.proxy.ca_file

    async def start(self) -> str | None:
        """Start it and wait until it is ready; a sentence if it does not come up."""
        try:
            await asyncio.to_thread(self.proxy.start)
        except (ExitedEarly, TimeoutError) as error:
            return f"server {self.number} does not start: {str(error)[-1500:]}"
        return None

    async def kill(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(self.proxy.kill)

    async def stop(self) -> str | None:
        """SIGTERM; a sentence if it does not end well. One that was ended already is left alone."""
        if not self.running:
            return None
        self._thaw()
        try:
            code = await asyncio.to_thread(self.proxy.stop, GRACE * 5)
        except subprocess.TimeoutExpired:
            return f"server {self.number} did not end"
        return f"server {self.number} ended with {code}" if code else None

    def end_if_running(self) -> None:
        """For the end, whatever state it is in."""
        if self.running:
            self._thaw()
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it was killed
            self.proxy.end_if_running()

    def _thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.proxy.pid, signal.SIGCONT)

    def freeze(self) -> None:
        """SIGSTOP: it stands still, wherever it is."""
        os.kill(self.proxy.pid, signal.SIGSTOP)

    async def landed(self) -> None:
        """Wait until no fill is under way."""

        def idle() -> bool:
            return b"pullthrough_flights 0.0" in self.proxy.get("/metrics")[1]

        await asyncio.to_thread(eventually, idle, f"server {self.number} has no fill under way", 30.0)

    def vitals(self) -> Vitals:
        """Now."""
        process = Path(f"/proc/{self.proxy.pid}")
        status = (process / "status").read_text()
        return Vitals(
            self.proxy.pid,
            _number(RESIDENT, status) * 1024,
            len(list((process / "fd").iterdir())),
            _number(THREADS, status),
        )


def make_servers(
    folder: Path, data_dir: Path, names: NameMap, upstream_ca: Path, registries: Sequence[str], flags: Sequence[str]
) -> list[Server]:
    """`COUNT` servers on one data folder, not started; the first is the elder."""
    made = []
    for number in range(COUNT):
        proxy = Proxy(
            folder / f"server-{number}", names, upstream_ca=upstream_ca, registries=registries, flags=(*FLAGS, *flags)
        )
        proxy.data_dir = data_dir
        made.append(Server(number, proxy))
    return made


def _number(pattern: re.Pattern[str], status: str) -> int:
    found = pattern.search(status)
    if found is None:
        raise RuntimeError("the process has ended")
    return int(found[1])
