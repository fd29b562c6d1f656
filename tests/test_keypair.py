"""The CA's two files: made once however many start, whole after a crash at any point, closed to others."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pullthrough.keypair import (
    CERT_NAME,
    KEY_NAME,
    SUCCESSOR_NAME,
    CAError,
    PairFiles,
    add_successor,
    make_once,
    promote,
    refuse_shared,
    successor,
    unchanging,
)

NOBODY = 65534
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NEW = (b"new certificate", b"new key")
SOURCES = Path(__file__).parent.parent / "addon"


def pair() -> tuple[bytes, bytes]:
    return b"certificate", b"key"


def must_not_be_made() -> tuple[bytes, bytes]:
    raise AssertionError("a pair was made although there was one")


def run(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environ = os.environ | {"PYTHONPATH": str(SOURCES)}
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_new_pair_is_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ca"
    before = os.umask(0o000)
    try:
        make_once(folder, pair)
        assert os.umask(0o000) == 0o000, "the umask of the process was not given back"
    finally:
        os.umask(before)
    assert PairFiles.in_directory(folder).read() == pair()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    assert modes == {CERT_NAME: 0o600, KEY_NAME: 0o600, ".lock": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_pair_is_never_made_twice(tmp_path: Path) -> None:
    make_once(tmp_path / "ca", pair)
    make_once(tmp_path / "ca", must_not_be_made)


@pytest.mark.parametrize("name", [CERT_NAME, KEY_NAME])
def test_half_a_pair_is_an_error_that_names_what_is_missing_and_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    (tmp_path / name).chmod(0o600)
    make_once(tmp_path, must_not_be_made)
    files = PairFiles.in_directory(tmp_path)
    missing = files.key if name == CERT_NAME else files.cert
    with pytest.raises(CAError, match=f"{missing} is missing; restore it from a backup"):
        files.read()
    assert not files.absent()
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_dangling_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).symlink_to(tmp_path / "elsewhere")
    (tmp_path / CERT_NAME).symlink_to(tmp_path / "elsewhere")
    make_once(tmp_path, must_not_be_made)


def test_a_link_planted_where_a_file_is_written_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    folder = tmp_path / "ca"
    folder.mkdir(mode=0o700)
    (folder / f".{KEY_NAME}.new").symlink_to(victim)
    make_once(folder, pair)
    assert victim.read_bytes() == b"untouched"
    assert PairFiles.in_directory(folder).read() == pair()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_of_ours_that_others_can_reach_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    make_once(tmp_path / "ca", pair)
    files = PairFiles.in_directory(tmp_path / "ca")
    files.key.chmod(mode)
    with pytest.raises(CAError, match=f"{files.key} .*mode 0{mode:o}.*; run: chmod 600 {files.key}"):
        files.read()


def test_a_key_brought_along_may_be_readable_by_a_group_but_not_by_all(tmp_path: Path) -> None:
    cert, key = tmp_path / "corp.pem", tmp_path / "corp key.pem"
    cert.write_bytes(b"certificate")
    key.write_bytes(b"key")
    key.chmod(0o640)
    assert PairFiles.brought(cert, key).read() == pair()
    key.chmod(0o644)
    with pytest.raises(CAError, match=f"run: chmod 640 '{key}'"):
        PairFiles.brought(cert, key).read()


def test_a_folder_that_others_can_write_to_is_refused_before_a_key_is_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CAError, match=f"mode 0777.*chmod 700 {folder}"):
        make_once(folder, must_not_be_made)
    assert list(folder.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_bytes(b"")
    with pytest.raises(CAError, match=f"no CA can be made in {tmp_path / 'ca'} .*--data-dir"):
        make_once(tmp_path / "ca", must_not_be_made)
    assert PairFiles.in_directory(tmp_path / "ca").absent()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / CERT_NAME).mkdir()
    with pytest.raises(CAError, match=f"{tmp_path / CERT_NAME} cannot be read .Is a directory"):
        PairFiles.in_directory(tmp_path).read()


def test_another_users_ca_is_neither_taken_for_missing_nor_for_damaged() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ca"
        make_once(folder, pair)
        files = PairFiles.in_directory(folder)
        Path(name).chmod(0o711)
        folder.chmod(0o000)
        with powerless():
            assert not files.absent()
            with pytest.raises(CAError, match=r"Permission denied.*; run as the user who owns it"):
                files.read()
            with pytest.raises(CAError, match=r"no CA can be made .*Permission denied"):
                make_once(folder, must_not_be_made)
            with pytest.raises(CAError, match="cannot be looked into"):
                refuse_shared(folder / "below")
        folder.chmod(0o700)


MAKER = """
import os, pathlib, sys
from pullthrough.keypair import PairFiles, make_once

sys.stdin.readline()
name = str(os.getpid()).encode()
folder = pathlib.Path(sys.argv[1])
make_once(folder, lambda: (name, name))
print(*(half.decode() for half in PairFiles.in_directory(folder).read()))
"""


def test_processes_that_start_together_agree_on_one_pair(tmp_path: Path) -> None:
    makers = [run(MAKER, tmp_path / "ca") for _ in range(4)]
    for maker in makers:  # all have been started: let them go at once
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    seen = {maker.communicate(timeout=60)[0] for maker in makers}
    assert len(seen) == 1
    certificate, key = seen.pop().split()
    assert certificate == key


CRASHING = """
import datetime, os, pathlib, sys
from pullthrough.keypair import add_successor, make_once, promote

folder, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def count(event, arguments):
    global steps
    if event in ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir") and str(folder) in str(arguments[0]):
        steps -= 1
        if steps == 0:
            os._exit(9)  # as a kill -9 or a loss of power would: nothing is cleaned up

begins = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
sys.addaudithook(count)
"""
MAKING = 'make_once(folder, lambda: (b"first certificate", b"first key"))'
ADDING = 'add_successor(folder, (b"new certificate", b"new key"), begins)'
PROMOTING = "promote(folder, begins)"


def crashed(folder: Path, step: int, doing: str = MAKING) -> bool:
    """Start in `folder`, and die before the step-th change to it; False if that many were not needed."""
    process = run(CRASHING + doing, folder, str(step))
    process.communicate(timeout=60)
    assert process.returncode in (0, 9)
    return process.returncode == 9


def test_a_crash_at_any_point_leaves_something_that_the_next_start_makes_whole(tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 50):
        folder = tmp_path / str(step)
        if not crashed(folder, step):
            break
        make_once(folder, pair)
        outcomes.append(PairFiles.in_directory(folder).read())
        assert {each.name for each in folder.iterdir()} == {CERT_NAME, KEY_NAME, ".lock"}
    first = (b"first certificate", b"first key")
    assert set(outcomes) == {pair(), first}, "either pair, never a half of each"
    assert outcomes == sorted(outcomes), "once the first key is in place it stays"


# The successor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_once(tmp_path / "ca", pair)
    return tmp_path / "ca"


def signing(folder: Path, moment: datetime) -> tuple[bytes, bytes]:
    """The pair that counts, as readers find it."""
    with unchanging(folder):
        found = successor(folder)
        files = found.files if found is not None and found.begins <= moment else PairFiles.in_directory(folder)
        return files.read()


def test_a_successor_waits_beside_the_pair_and_is_private(folder: Path) -> None:
    assert successor(folder) is None
    before = os.umask(0o000)
    try:
        add_successor(folder, NEW, NOW)
    finally:
        os.umask(before)
    found = successor(folder)
    assert found is not None
    assert found.begins == NOW
    assert found.files.read() == NEW
    assert PairFiles.in_directory(folder).read() == pair()
    assert stat.S_IMODE((folder / SUCCESSOR_NAME).stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder / SUCCESSOR_NAME).iterdir()} == {0o600}
    assert {each.name for each in folder.iterdir()} == {CERT_NAME, KEY_NAME, ".lock", SUCCESSOR_NAME}


def test_there_is_one_successor_at_a_time(folder: Path) -> None:
    add_successor(folder, NEW, NOW)
    with pytest.raises(CAError, match=f"there is a new CA in {folder / SUCCESSOR_NAME} already"):
        add_successor(folder, (b"other", b"other"), NOW)
    found = successor(folder)
    assert found is not None
    assert found.files.read() == NEW


def test_a_successor_is_promoted_in_its_time_and_nothing_is_left_of_the_old_pair(folder: Path) -> None:
    promote(folder, NOW)
    add_successor(folder, NEW, NOW)
    promote(folder, NOW - SECOND)
    assert PairFiles.in_directory(folder).read() == pair()
    promote(folder, NOW)
    assert PairFiles.in_directory(folder).read() == NEW
    assert successor(folder) is None
    assert {each.name for each in folder.iterdir()} == {CERT_NAME, KEY_NAME, ".lock"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


def test_a_crash_while_a_successor_is_added_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 60):
        folder = tmp_path / str(step)
        make_once(folder, pair)
        if not crashed(folder, step, ADDING):
            break
        assert signing(folder, NOW - SECOND) == pair()
        found = successor(folder)
        outcomes.append(found is not None)
        if found is None:
            add_successor(folder, NEW, NOW)
        assert signing(folder, NOW) == NEW
        assert {each.name for each in folder.iterdir()} == {CERT_NAME, KEY_NAME, ".lock", SUCCESSOR_NAME}
    assert set(outcomes) == {False, True}
    assert outcomes == sorted(outcomes)


def test_a_crash_at_any_point_of_a_promotion_changes_nothing_for_readers(tmp_path: Path) -> None:
    outcomes = set()
    for step in range(1, 60):
        folder = tmp_path / str(step)
        make_once(folder, pair)
        add_successor(folder, NEW, NOW)
        if not crashed(folder, step, PROMOTING):
            break
        assert signing(folder, NOW) == NEW
        outcomes.add(successor(folder) is None)
        promote(folder, NOW)
        assert PairFiles.in_directory(folder).read() == NEW
        add_successor(folder, NEW, NOW)
        promote(folder, NOW)
        assert {each.name for each in folder.iterdir()} == {CERT_NAME, KEY_NAME, ".lock"}
    assert outcomes == {False, True}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "does not hold a time"),
        (b"tomorrow", "does not hold a time"),
        (b"2026-11-22T12:00:00", "without its zone"),
    ],
)
def test_a_successor_whose_time_cannot_be_read_is_an_error_with_a_remedy(
    folder: Path, content: bytes, sentence: str
) -> None:
    add_successor(folder, NEW, NOW)
    (folder / SUCCESSOR_NAME / "signs-from").write_bytes(content)
    with pytest.raises(CAError, match=f"signs-from .*{sentence}; restore it from a backup, or remove {folder}/next "):
        successor(folder)


def test_a_successor_in_a_folder_of_others_is_refused(folder: Path) -> None:
    add_successor(folder, NEW, NOW)
    (folder / SUCCESSOR_NAME).chmod(0o770)
    with pytest.raises(CAError, match=f"chmod 700 {folder}/next"):
        successor(folder)
    (folder / SUCCESSOR_NAME).chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(CAError, match=f"chmod 700 {folder}"):
        promote(folder, NOW)
    assert PairFiles.in_directory(folder).read() == pair()


def test_a_link_planted_where_a_successor_is_put_together_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (folder / ".next").symlink_to(victim)
    with pytest.raises(CAError, match=f"{folder} cannot be written to"):
        add_successor(folder, NEW, NOW)
    assert [each.name for each in victim.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ca"
        make_once(folder, pair)
        Path(name).chmod(0o711)
        folder.chmod(0o555)  # for its owner too: an ordinary user runs this as itself
        with powerless(), pytest.raises(CAError, match=r"cannot be written to .*; run as the user who owns it"):
            add_successor(folder, NEW, NOW)
        folder.chmod(0o700)


def test_readers_wait_for_a_change_under_way_and_do_without_the_lock_where_there_is_none(tmp_path: Path) -> None:
    with unchanging(tmp_path / "nowhere"):
        pass
    folder = tmp_path / "ca"
    make_once(folder, pair)
    with unchanging(folder), unchanging(folder):  # readers do not wait for each other
        script = f"import sys, pathlib; from pullthrough.keypair import *\nprint(flush=True)\n{WAITING}"
        writer = run(script, folder)
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        assert successor(folder) is None
    writer.communicate(timeout=60)
    assert successor(folder) is not None


WAITING = """
import datetime
add_successor(pathlib.Path(sys.argv[1]), (b"new certificate", b"new key"), datetime.datetime.now(datetime.UTC))
"""
