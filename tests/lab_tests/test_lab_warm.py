"""A warm process is one of its own: environment, log, exit codes and signals as with one that was executed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.names import NameMap
from lab.programs import environment
from lab.warm import WarmProgram


def pullthrough(folder: Path, *arguments: str, **env: str) -> WarmProgram:
    hosts = NameMap().write(folder / "hosts.json")
    return WarmProgram([str(hosts), "--", *arguments], environment(folder, **env), folder / "log")


def exit_code(program: WarmProgram) -> int:
    program.start()
    eventually(lambda: program.exit_code is not None, "the end")
    code = program.exit_code
    assert code is not None
    return code


def test_output_and_errors_go_into_the_log_of_every_run(tmp_path: Path) -> None:
    program = pullthrough(tmp_path, "version")

    assert [exit_code(program), exit_code(program)] == [0, 0]
    assert program.log.read_text().count("pullthrough ") == 2
    assert exit_code(pullthrough(tmp_path, "run", "--size", "none")) == 2
    assert "flag --size" in program.log.read_text()


def test_its_environment_is_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLTHROUGH_GRANT_TTL", "never")
    refused = pullthrough(tmp_path, "run", PULLTHROUGH_SIZE="none")

    assert exit_code(refused) == 2
    assert "environment PULLTHROUGH_SIZE" in refused.log.read_text()
    assert "PULLTHROUGH_GRANT_TTL" not in refused.log.read_text()
    assert os.environ["PULLTHROUGH_GRANT_TTL"] == "never"


def test_it_ends_by_a_signal(tmp_path: Path) -> None:
    program = pullthrough(tmp_path, "run", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"))
    program.start()
    eventually(lambda: "listening on" in program.log.read_text(), "it listens")
    os.kill(program.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        program.end(timeout=0.1)
    assert program.exit_code == -signal.SIGKILL

    program.start()
    eventually(lambda: program.log.read_text().count("listening on") == 2, "it listens again")
    assert program.end() == 0
    program.end_if_running()
