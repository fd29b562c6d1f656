"""The supervisor over workers that die, hang, or cannot begin."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.programs import Program, environment
from lab.workers import children, is_gone

TESTS = Path(__file__).parent


class Supervised:
    """`lab.supervised`, running."""

    def __init__(self, folder: Path, *manners: str) -> None:
        variables = {"PYTHONPATH": os.pathsep.join((str(TESTS.parent / "addon"), str(TESTS)))}
        env = environment(folder, **variables, **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")})
        self.folder = folder
        self.program = Program(
            [sys.executable, "-m", "lab.supervised", str(folder), *manners], env, folder / "supervisor.log"
        )
        self.program.start()

    def lines(self) -> list[str]:
        return self.program.log.read_text().splitlines()

    def says(self, text: str, times: int = 1) -> None:
        eventually(lambda: sum(text in line for line in self.lines()) >= times, f"{text}: {self.lines()}")

    def starts(self) -> list[list[str]]:
        """Process, number, slot, and whether it takes the place of another, of each worker that there was."""
        return [line.split() for line in (self.folder / "starts").read_text().splitlines()]

    def workers(self) -> list[int]:
        return children(self.program.pid)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.program.pid}/fd").iterdir()))

    def ends(self) -> int:
        eventually(lambda: self.program.exit_code is not None, "its end")
        return self.program.exit_code or 0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[list[Supervised]]:
    made: list[Supervised] = []
    yield made
    for each in made:
        each.program.end_if_running()


def begun(make: list[Supervised], tmp_path: Path, *manners: str) -> Supervised:
    make.append(Supervised(tmp_path, *manners))
    make[-1].says("begun")
    return make[-1]


def test_all_of_them_stop_when_it_is_told_to(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "serves")
    workers = supervised.workers()

    assert len(workers) == 2
    assert supervised.program.end() == 0
    assert [line for line in supervised.lines() if line in ("begun", "closed")] == ["begun", "closed"]
    assert all(map(is_gone, workers))


def test_what_cannot_begin_is_not_tried_again(make: list[Supervised], tmp_path: Path) -> None:
    make.append(Supervised(tmp_path, "fails"))

    assert make[0].ends() == 3
    assert len(make[0].starts()) == 2
    assert any("ended with exit code 3 before it served" in line for line in make[0].lines())
    assert "begun" not in make[0].lines()


def test_a_fault_of_ours_is_told_in_full(make: list[Supervised], tmp_path: Path) -> None:
    make.append(Supervised(tmp_path, "breaks"))

    assert make[0].ends() == 1
    assert "RuntimeError: worker 0 is broken" in make[0].lines()


def test_a_dead_one_is_replaced_in_its_place(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "serves")
    dead, other = supervised.workers()
    descriptors = supervised.descriptors()

    os.kill(dead, signal.SIGKILL)
    supervised.says("was killed by SIGKILL; another one starts now")
    eventually(lambda: len(supervised.starts()) == 3, "another one")

    slots = [start[1:] for start in supervised.starts() if start[0] == str(dead)]
    assert slots == [[slots[0][0], slots[0][1], "False"]]
    assert supervised.starts()[-1][1:] == [slots[0][0], slots[0][1], "True"]
    assert other in supervised.workers()
    assert dead not in supervised.workers(), "a zombie"
    assert supervised.descriptors() == descriptors


def test_one_that_dies_again_and_again_is_waited_for_longer_each_time(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "dies")

    supervised.says("another one starts in 1 s")
    pauses = [line.rpartition("starts ")[2] for line in supervised.lines() if "another one starts" in line]

    assert pauses == ["now", "in 0.5 s", "in 1 s"]
    assert len(supervised.workers()) == 1
    assert supervised.program.end() == 0


def test_one_that_hangs_is_killed_in_the_end(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "hangs")

    assert supervised.program.end() == 0
    assert sum("does not end: it is killed" in line for line in supervised.lines()) == 2


def test_a_reload_changes_all_of_them_once_the_new_ones_serve(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "serves", "serves")
    old = supervised.workers()

    supervised.program.send(signal.SIGHUP)
    supervised.says("begun", times=2)
    supervised.says("slot 0 is free")
    supervised.says("slot 1 is free")

    assert sorted(start[1:] for start in supervised.starts()[2:]) == [["0", "2", "False"], ["1", "3", "False"]]
    assert len(supervised.workers()) == 2
    assert not set(supervised.workers()) & set(old)


@pytest.mark.parametrize(
    ("following", "why"),
    [((), "the old settings stay"), (("fails",), "the old workers stay"), (("breaks",), "the old workers stay")],
)
def test_a_reload_that_is_no_good_leaves_everything_as_it_is(
    make: list[Supervised], tmp_path: Path, following: tuple[str, ...], why: str
) -> None:
    supervised = begun(make, tmp_path, "serves", *following)
    old = supervised.workers()

    supervised.program.send(signal.SIGHUP)
    supervised.says(f"nothing is reloaded, {why}")
    eventually(lambda: supervised.workers() == old, "only they are left")

    os.kill(old[0], signal.SIGKILL)
    supervised.says("another one starts now")
    assert supervised.program.end() == 0


def test_workers_whose_supervisor_is_killed_end_by_themselves(make: list[Supervised], tmp_path: Path) -> None:
    supervised = begun(make, tmp_path, "serves")
    workers = supervised.workers()

    supervised.program.end(signal.SIGKILL)

    eventually(lambda: all(map(is_gone, workers)), "their end")
    supervised.says("the supervisor is gone", times=2)
