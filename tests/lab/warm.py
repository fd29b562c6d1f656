"""The real pullthrough in a process of its own that need not import it first.

A server, one for each test process, imports it once and forks (`multiprocessing`'s forkserver): a start takes a tenth
of a second instead of two. What the command line does before that (`python -m`, the installed script) is tested
where it is the point: tests/test_cli.py, tests/test_readme.py and tests/e2e/test_mitmdump.py execute it.
"""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import named
from lab.programs import Program, Running

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["lab.named", "pullthrough.cli", "pullthrough.wiring"])


class WarmProgram(Program):
    """`python -m lab.named ARGUMENTS...`, but warm."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        super().__init__(["lab.named", *arguments], env, log)

    def _begin(self, env: Mapping[str, str]) -> Running:
        arguments = self.command[1:], dict(env), str(self.log)
        process = _FORKSERVER.Process(target=_be, args=arguments, daemon=True)
        process.start()
        return _Forked(process)


class _Forked:
    """A forked process with what `Program` needs of a `subprocess.Popen`."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("pullthrough", timeout or 0.0)
        return code


def _be(arguments: Sequence[str], env: Mapping[str, str], log: str) -> None:
    """In the forked process: become that program."""
    os.environ.clear()
    os.environ.update(env)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    named.main(arguments)
