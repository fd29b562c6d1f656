"""`pullthrough verify`, as a person types it: with a server beside it or without, and what it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.stores import Stores, blob, content, files, fill
from pullthrough.cli import main
from pullthrough.core.digest import Digest
from pullthrough.store.files import BlobFiles
from pullthrough.store.opened import opened

ONE, TWO = blob("one", 3000), blob("two", 5000)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PULLTHROUGH_")]:
        monkeypatch.delenv(name)


class Ran:
    """One `pullthrough verify`: its exit code, what it printed, and the numbers of its table."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["verify", *(str(each) for each in arguments)])
        self.code = left.value.code
        self.out, self.err = capsys.readouterr()
        self.table = {label: int(number) for label, number in re.findall(r"^([a-z ]+?)  +(\d+)$", self.out, re.M)}

    @property
    def unusual(self) -> dict[str, int]:
        """What is not 0 of all that should be."""
        usual = ("checked", "bytes", "right")
        return {label: number for label, number in self.table.items() if number and label not in usual}


@pytest.fixture
def verify(stores: Stores, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return lambda *arguments: Ran(capsys, "--data-dir", stores.root.parent, *arguments)


@pytest.fixture
async def file(stores: Stores) -> Path:
    """That of ONE; both blobs are stored, and the server runs."""
    store = stores()
    for one in (TWO, ONE):
        await fill(store, one)
    (found,) = (each for each in files(stores.root) if each.name.startswith(Digest.of(ONE).hex))
    return found


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[7] ^= 0x10
    file.write_bytes(data)


def everything(root: Path) -> dict[str, bytes]:
    """All that is in a store's files, and in its rows."""
    found = {str(path.relative_to(root)): path.read_bytes() for path in files(root, ".") if "cache.db" not in path.name}
    for database in root.glob("**/cache.db"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            found[str(database)] = repr(connection.execute("SELECT * FROM Cache").fetchall()).encode()
    return found


@pytest.mark.parametrize("arguments", [(), ("--repair",), ("--rate", "1GiB")])
async def test_a_sound_store(
    stores: Stores, file: Path, verify: Callable[..., Ran], arguments: tuple[str, ...]
) -> None:
    ran = verify(*arguments)
    assert ran.code == 0
    assert ran.table == {
        "checked": 2, "bytes": 8000, "right": 2, "wrong": 0, "missing": 0, "unreadable": 0, "without row": 0,
        "repaired": 0,
    }  # fmt: skip
    assert ran.err == ""


def short(file: Path) -> None:
    os.truncate(file, 10)


@pytest.mark.parametrize(("damage", "verdict"), [(flip, "wrong"), (short, "wrong"), (Path.unlink, "missing")])
async def test_what_is_damaged_is_found_and_with_repair_fetched_anew(
    stores: Stores, file: Path, verify: Callable[..., Ran], damage: Callable[[Path], None], verdict: str
) -> None:
    damage(file)
    before = everything(stores.root)
    ran = verify()
    assert (ran.code, ran.unusual) == (1, {verdict: 1})
    assert f"{verdict}: blobs/sha256/{Digest.of(ONE).hex[:2]}/{file.name} (" in ran.out
    assert everything(stores.root) == before, "nothing is changed"

    ran = verify("--repair")
    assert (ran.code, ran.unusual) == (0, {verdict: 1, "repaired": 1})
    assert "), repaired\n" in ran.out
    assert ran.err == ""
    assert (verify().code, verify().table["checked"]) == (0, 1)

    (store,) = stores.made
    assert await content(store, Digest.of(ONE)) is None
    assert await content(store, Digest.of(TWO)) == TWO
    await fill(store, ONE)
    assert verify().table["right"] == 2


async def test_it_says_what_it_reads_and_how_far_it_is(file: Path, verify: Callable[..., Ran]) -> None:
    ran = verify()
    assert ran.out.startswith(f"Reading 2 blobs, 8.0 kB, in {file.parents[3]}\n3.0 kB of 8.0 kB\n8.0 kB of 8.0 kB\n")


@pytest.mark.parametrize(("code", "after"), [(errno.EIO, 0), (errno.EACCES, 1)])
async def test_a_file_that_cannot_be_read_does_not_end_it(
    stores: Stores, file: Path, verify: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    real = os.open

    def unreadable(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) == str(file):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", unreadable)
    ran = verify()
    assert (ran.code, ran.unusual, ran.table["right"]) == (1, {"unreadable": 1}, 1)
    assert os.strerror(code) in ran.out
    assert verify("--repair").code == after, "what is not the file's fault is nothing to repair"
    assert len(files(stores.root)) == 1 + after


async def test_a_file_without_a_row_is_taken_over_or_deleted(
    stores: Stores, file: Path, verify: Callable[..., Ran]
) -> None:
    for store in stores.made:
        await store.aclose()
    copy = file.with_name(f"{Digest.of(ONE).hex}-{'0' * 16}")
    copy.write_bytes(ONE)
    assert (verify().code, verify().unusual) == (1, {"without row": 1})
    assert verify("--repair").unusual == {"without row": 1, "repaired": 1}
    assert not copy.exists()

    copy.write_bytes(ONE)
    flip(file)
    ran = verify("--repair")
    assert (ran.code, ran.unusual) == (0, {"wrong": 1, "without row": 1, "repaired": 2})
    assert copy.exists(), "the sound one is not deleted for the other's row"
    assert verify().table["right"] == 2


async def test_a_rotten_file_without_a_row_is_not_taken_over(
    stores: Stores, file: Path, verify: Callable[..., Ran]
) -> None:
    for store in stores.made:
        await store.aclose()
    with opened(stores.root) as shelf:
        file.rename(aside := file.with_name("aside"))
        shelf.index.drop(Digest.of(ONE))
        aside.rename(file)
    flip(file)
    assert verify().unusual == {"without row": 1}
    ran = verify("--repair")
    assert (ran.code, ran.unusual) == (0, {"without row": 1, "wrong": 1, "repaired": 2})
    assert verify().unusual == {}


async def test_a_commit_that_is_under_way_is_not_disturbed(
    tmp_path: Path, stores: Stores, verify: Callable[..., Ran]
) -> None:
    await fill(stores(), TWO)
    blobs = BlobFiles(stores.root)
    partial = blobs.partial(Digest.of(ONE))
    partial.write(ONE)
    name = blobs.commit(partial)
    ran = verify("--repair")
    assert (ran.code, ran.unusual) == (0, {})
    assert (stores.root / name).exists()
    partial.close()


async def test_what_was_verified_is_not_due_for_the_scrub(
    stores: Stores, file: Path, verify: Callable[..., Ran]
) -> None:
    with contextlib.closing(sqlite3.connect(stores.root / "cache.db", isolation_level=None)) as table:
        table.execute("UPDATE Cache SET access_time = 0")
    verify("--repair")
    with opened(stores.root) as shelf:
        assert shelf.index.due(3600) is None


# -- a store that cannot be opened


@pytest.mark.parametrize("arguments", [(), ("--repair",)])
def test_where_there_is_no_store_none_is_made(
    verify: Callable[..., Ran], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ran = verify(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"pullthrough: nothing is stored in {tmp_path}: name the data directory with --data-dir\n"
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_index_is_made_anew_only_with_repair(
    stores: Stores, file: Path, verify: Callable[..., Ran]
) -> None:
    for store in stores.made:
        await store.aclose()
    database = stores.root / "cache.db"
    database.write_bytes(b"garbage " * 4096)
    ran = verify()
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is damaged (file is not a database): pullthrough verify --repair makes a new one" in ran.err
    assert database.read_bytes() == b"garbage " * 4096
    ran = verify("--repair")
    assert (ran.code, ran.unusual) == (0, {"without row": 2, "repaired": 2})
    assert (stores.root / "damaged" / "index" / "cache.db").exists()
    assert await content(stores(), Digest.of(ONE)) == ONE


@pytest.mark.parametrize("rate", ["10%", "fast", "0", ""])
def test_a_rate_is_bytes(verify: Callable[..., Ran], rate: str) -> None:
    ran = verify("--rate", rate)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("pullthrough: flag --rate: ")
    assert ran.err.endswith("; for example 50MiB\n")


# -- in a terminal


def command(data_dir: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "addon"), "TERM": "xterm"}
    return [sys.executable, "-m", "pullthrough", "verify", "--data-dir", str(data_dir), *arguments], environ


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """(ours, theirs)."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def shown(ours: int) -> str:
    """Everything until the program ends."""
    found = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
        while data := os.read(ours, 1 << 16):
            found += data
    return found.decode()


async def test_a_terminal_has_a_bar(stores: Stores, file: Path) -> None:
    flip(file)
    arguments, environ = command(stores.root.parent)
    with (
        terminal() as (ours, theirs),
        subprocess.Popen(arguments, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process,
    ):
        os.close(theirs)
        seen = shown(ours)
    assert process.returncode == 1
    assert "━" in seen
    assert "wrong: blobs/sha256/" in seen
    assert "of 8.0 kB\r\n" not in seen


async def test_ctrl_c_ends_it_with_what_was_found_until_then(stores: Stores, file: Path) -> None:
    arguments, environ = command(stores.root.parent, "--rate", "1")
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, env=environ, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("3.0 kB of"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130
    assert err == ""
    assert "bytes        3000\n" in rest
    assert rest.endswith("ended        by Ctrl-C, before all were read\n")
