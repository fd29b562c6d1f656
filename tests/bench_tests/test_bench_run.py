"""The benchmark as a whole, in small: it runs to its end, names what lacks, and leaves nothing behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.deadline import eventually
from lab.programs import environment, need
from lab.proxy import SOURCES

SUBJECTS = ("pullthrough", "direct", "squid", "docker-registry", "mitmdump-naive")


def started(folder: Path, *arguments: str, path: str = "") -> "subprocess.Popen[str]":
    for program in ("docker-registry", "nginx"):
        need(program)
    env = environment(folder, PYTHONPATH=":".join(map(str, SOURCES)))
    temporary = folder / "tmp"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "--output", str(folder / "results"), *arguments],
        env=env | {"TMPDIR": str(temporary)} | ({"PATH": path} if path else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(300)
def test_a_quick_run_measures_every_work_and_names_who_lacks(tmp_path: Path) -> None:
    arguments = ("--quick", "--only", "a,d,e,j,k", "--workers", "2", "--subjects", ",".join(SUBJECTS))
    running = started(tmp_path, *arguments)
    told, said = running.communicate(timeout=280)
    found = json.loads((tmp_path / "results" / "bench.json").read_text())

    assert running.returncode == 0, said
    assert set(found["works"]) == set("adejk")
    assert set(found["subjects"]) == set(SUBJECTS)
    assert set(found["missing"]) <= {"squid"}  # not installed; or root's, whose user may not enter our folders
    for work in found["works"].values():
        assert_measured(work, [name for name in SUBJECTS if name not in found["missing"]], said)
    assert found["works"]["d"]["figures"]["pullthrough"]["copies"]["median"] == 1.0
    assert found["works"]["a"]["figures"]["pullthrough"]["upstream"]["median"] == 0.0
    assert {verdict["work"] for verdict in found["targets"]} == set("adejk")
    assert set(found["latencies"]) == set(found["herd"]) == set(SUBJECTS) - set(found["missing"])
    assert "speed ≥ 2 x squid" in told
    assert list((tmp_path / "tmp").iterdir()) == []


def assert_measured(work: dict[str, Any], subjects: list[str], said: str) -> None:
    """The first metric stands for the work: every subject has it, and nothing failed."""
    assert list(work["figures"]) == subjects, said
    for figures in work["figures"].values():
        assert figures[work["metrics"][0]]["median"] is not None, said
        assert figures["failed"]["median"] == 0


@pytest.mark.timeout(120)
def test_ctrl_c_ends_it_with_what_was_found_and_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = started(tmp_path, "--quick", "--only", "f", "--rounds", "1000", "--subjects", "pullthrough,direct")
    assert running.stderr is not None
    with log.open("w") as copied:
        for line in running.stderr:
            copied.write(line)
            if "round 2" in line:
                break
    running.send_signal(signal.SIGINT)
    told, said = running.communicate(timeout=60)

    assert running.returncode == 130, log.read_text() + said
    assert "interrupted" in told
    assert json.loads((tmp_path / "results" / "bench.json").read_text())["interrupted"] is True
    assert list((tmp_path / "tmp").iterdir()) == []
    eventually(lambda: not processes_below(tmp_path), "nothing of it runs any more")


def processes_below(folder: Path) -> list[str]:
    """Command lines that name something in there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(folder).encode() in word for word in words):
            found.append(b" ".join(words).decode())
    return found


def test_without_its_upstream_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = (
        "import sys; from lab import programs; programs.SYSTEM_PATH = ''; "
        "from bench.__main__ import main; sys.exit(main())"
    )
    env = environment(tmp_path, PYTHONPATH=":".join(map(str, SOURCES))) | {"PATH": str(tmp_path / "empty")}
    done = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "the upstream needs docker-registry: apt-get install docker-registry" in done.stderr
