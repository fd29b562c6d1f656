"""The soak as a whole, for a moment, ended by Ctrl-C."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.programs import environment
from lab.proxy import SOURCES


@pytest.mark.timeout(240)
def test_an_interrupted_soak_prints_its_table_and_leaves_nothing(tmp_path: Path, short_folder: Path) -> None:
    said, told = tmp_path / "stderr", tmp_path / "stdout"
    folder = short_folder / "tmp"  # servers are forked by way of a socket in there
    folder.mkdir()
    env = environment(tmp_path, PYTHONPATH=":".join(map(str, SOURCES))) | {"TMPDIR": str(folder)}
    with said.open("w") as errors, told.open("w") as output:
        command = [sys.executable, "-m", "soak", "--minutes", "5", "--seed", "5"]
        process = subprocess.Popen(command, env=env, stdout=output, stderr=errors)
    try:
        eventually(lambda: "servers with" in said.read_text(), "there is something to interrupt", 100.0)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(100)

    assert code == 130, told.read_text()
    assert "every zero is a zero" in told.read_text()
    assert "faults injected" in told.read_text()
    assert "a full disk" in said.read_text()
    assert list(folder.glob("soak-*")) == []
