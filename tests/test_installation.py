"""The secret of an installation: one for all its processes, and nobody else's."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.stores import opened
from pullthrough import installation

ADDON = Path(__file__).resolve().parents[1] / "addon"
#: Waits for a line, then says what the secret is.
ASKING = """
import sys
from pathlib import Path
from pullthrough.installation import secret
print("ready", flush=True)
sys.stdin.readline()
print(secret(Path(sys.argv[1])).hex())
"""
#: With a disk that takes nothing.
FULL = """
import resource, sys
from pathlib import Path
from pullthrough.installation import secret
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
made = secret(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(len(made))
"""
#: As somebody who is not root, for whom no folder is read-only.
READ_ONLY = """
import os, sys
from pathlib import Path
from pullthrough.installation import secret
os.chdir(sys.argv[1])
root = os.geteuid() == 0
if root:
    os.seteuid(65534)
made = secret(Path("secret"))
if root:
    os.seteuid(0)
print(len(made))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "secret"


def start(program: str, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ADDON)},
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- made once


def test_a_secret_is_made_once_and_is_private(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = os.umask(0)
    try:
        made = installation.secret(file)
    finally:
        os.umask(old)

    assert len(made) == 32
    assert file.read_bytes() == made
    assert installation.secret(file) == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]
    assert warnings(caplog) == []


def test_two_installations_differ(tmp_path: Path) -> None:
    assert installation.secret(tmp_path / "a" / "secret") != installation.secret(tmp_path / "b" / "secret")


def test_threads_that_start_together_agree(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def ask(file: Path) -> bytes:
        together.wait(20)
        return installation.secret(file)

    with ThreadPoolExecutor(8) as threads:
        for number in range(10):
            file = tmp_path / str(number) / "secret"
            assert set(threads.map(ask, [file] * 8)) == {file.read_bytes()}
            assert list(file.parent.iterdir()) == [file]


def test_processes_that_start_together_agree(file: Path) -> None:
    processes = [start(ASKING, file) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=20)[0] for process in processes]

    assert said == [f"{file.read_bytes().hex()}\n"] * 4


def test_a_secret_that_another_process_made_first_is_taken_over(file: Path) -> None:
    installation.secret(file)
    known = file.read_bytes()
    installation._put(file, b"x" * 32)

    assert file.read_bytes() == known
    assert list(file.parent.iterdir()) == [file]


# -- what is no secret is replaced


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 100_000], ids=len)
def test_a_file_of_another_length_is_replaced(file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    file.chmod(0o600)
    made = installation.secret(file)

    assert file.read_bytes() == made != content
    assert installation.secret(file) == made
    assert warnings(caplog) == [
        f"{file} is damaged or was open to other users: a new one is made, and clients are forgotten"
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777], ids=oct)
def test_a_file_that_was_open_to_others_is_replaced(file: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    known = installation.secret(file)
    file.chmod(mode)
    made = installation.secret(file)

    assert made != known
    assert file.read_bytes() == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("mode", [0o600, 0o400], ids=oct)
def test_a_file_that_is_private_is_kept(file: Path, mode: int) -> None:
    known = installation.secret(file)
    file.chmod(mode)

    assert installation.secret(file) == known


def test_a_pipe_is_replaced_and_not_waited_for(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    os.mkfifo(file, 0o600)
    made = installation.secret(file)

    assert file.read_bytes() == made
    assert len(warnings(caplog)) == 1


# -- without a file


def assert_lasts_as_long_as_the_process(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = installation.secret(file), installation.secret(file)
    assert len(one) == len(other) == 32
    assert one != other
    said = warnings(caplog)
    assert len(said) == 2
    assert all(text.startswith(f"{file} cannot be used (") for text in said)
    assert all(text.endswith("): clients are forgotten at the next start") for text in said)
    assert one.hex() not in caplog.text


def test_a_link_to_elsewhere_is_neither_followed_nor_replaced(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"x" * 32)
    theirs.chmod(0o600)
    file.parent.mkdir()
    file.symlink_to(theirs)

    assert_lasts_as_long_as_the_process(file, caplog)
    assert theirs.read_bytes() == b"x" * 32
    assert file.is_symlink()


def test_a_link_to_nothing_is_not_followed(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir()
    file.symlink_to(tmp_path / "nothing")

    assert_lasts_as_long_as_the_process(file, caplog)
    assert not (tmp_path / "nothing").exists()


def test_a_folder_is_left_alone(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.mkdir(parents=True)
    (file / "theirs").touch()

    assert_lasts_as_long_as_the_process(file, caplog)
    assert (file / "theirs").exists()
    assert opened(tmp_path) == []


def test_a_file_where_the_folder_should_be_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_bytes(b"theirs")

    assert_lasts_as_long_as_the_process(tmp_path / "data" / "secret", caplog)
    assert (tmp_path / "data").read_bytes() == b"theirs"


def test_a_folder_in_which_nobody_can_make_files(caplog: pytest.LogCaptureFixture) -> None:
    assert_lasts_as_long_as_the_process(Path("/proc/self/secret"), caplog)


def test_a_folder_that_is_read_only(file: Path) -> None:
    file.parent.mkdir(mode=0o555)
    said, warned = start(READ_ONLY, file.parent).communicate(timeout=20)

    assert said == "32\n"
    assert "secret cannot be used (Permission denied): clients are forgotten at the next start\n" in warned
    assert list(file.parent.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(file: Path) -> None:
    said, warned = start(FULL, file).communicate(timeout=20)

    assert said == "32\n"
    assert "cannot be used (File too large)" in warned
    assert list(file.parent.iterdir()) == []
    assert len(installation.secret(file)) == 32
    assert file.exists()
