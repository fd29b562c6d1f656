"""Child processes of the lab start clean and end by their own id."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.programs import Program, environment

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


def python(code: str, folder: Path) -> Program:
    return Program([sys.executable, "-c", code], environment(folder), folder / "log")


def test_output_and_errors_go_into_the_log_of_every_run(tmp_path: Path) -> None:
    program = python("import sys; print('out', flush=True); sys.exit('err')", tmp_path)

    for _ in range(2):
        program.start()
        eventually(lambda: program.exit_code is not None, "the end")

    assert program.exit_code == 1
    assert program.log.read_text() == "out\nerr\n" * 2


def test_the_exit_code_of_a_signal_is_negative(tmp_path: Path) -> None:
    program = python("import time; time.sleep(60)", tmp_path)
    program.start()

    assert program.exit_code is None
    assert program.end() == -signal.SIGTERM
    program.end_if_running()


def test_a_process_that_does_not_stop_is_killed_and_told(tmp_path: Path) -> None:
    program = python(STUBBORN, tmp_path)
    program.start()
    eventually(lambda: "up" in program.log.read_text(), "it is up")

    with pytest.raises(subprocess.TimeoutExpired):
        program.end(timeout=0.1)

    assert program.exit_code == -signal.SIGKILL


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")

    assert set(environment(tmp_path, MORE="1")) - {"TMPDIR"} == {"PATH", "HOME", "MORE"}
