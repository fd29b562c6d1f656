"""Image layouts on disk: hostile ones, half ones, and those that are written."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pullthrough import archives
from pullthrough.archives import ArchiveError, Damaged, Reader, reading, writing

INDEX = b'{"manifests": []}'


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    for attribute, value in more.items():
        setattr(made, attribute, value)
    return made


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in members:
            entry.size = entry.size or len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def read(reader: Reader, name: str) -> bytes:
    with reader.opened(name) as extent:
        return b"".join(extent.chunks())


@pytest.fixture(params=["folder", "layout.tar"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a layout is to be written, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / str(request.param)


def write(target: Path, content: bytes = b"layer" * 500_000) -> None:
    with writing(target) as writer:
        for name in ("blobs/sha256/ab", "index.json", "oci-layout"):
            writer.add(name, len(content), io.BytesIO(content))


# -- writing


def test_what_is_written_is_read_again(target: Path) -> None:
    write(target)

    with reading(target) as reader:
        assert read(reader, "blobs/sha256/ab") == read(reader, "index.json") == b"layer" * 500_000
        assert reader.size("index.json") == 2_500_000
        assert reader.size("blobs/sha256/cd") is reader.size("index.json/x") is None
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name)

    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["blobs", "blobs/sha256", "blobs/sha256/ab", "index.json", "oci-layout"]
        assert {(each.mtime, each.uid, each.gid, each.uname) for each in tar} == {(0, 0, 0, "")}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ArchiveError("no"), RuntimeError("no")])
def test_what_fails_half_way_leaves_nothing(target: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)), writing(target) as writer:
        writer.add("blobs/sha256/ab", 5, io.BytesIO(b"layer"))
        raise failure

    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_is_told_and_leaves_nothing(target: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "rename", fail)))
    with pytest.raises(ArchiveError, match="No space left on device"):
        write(target)

    assert list(target.parent.iterdir()) == []


def test_a_content_that_ends_early_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError), writing(tmp_path / "a.tar") as writer:
        writer.add("index.json", 100, io.BytesIO(b"short"))

    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_nothing_else_is_touched(tmp_path: Path) -> None:
    for name in ("empty", "full", "empty.tar"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "letter").touch()
    (tmp_path / "file.tar").touch()
    (tmp_path / "dangling.tar").symlink_to(tmp_path / "nothing")

    write(tmp_path / "empty")
    for name in ("full", "empty.tar", "file.tar", "dangling.tar"):
        with pytest.raises(ArchiveError, match="is there already: remove it"):
            write(tmp_path / name)

    assert (tmp_path / "empty" / "index.json").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter"]


@pytest.mark.parametrize("name", ["missing/a.tar", "missing/folder"])
def test_folders_above_are_not_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="make it first"):
        write(tmp_path / name)


def test_what_would_be_packed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"ends in \.tar"):
        write(tmp_path / "layout.tar.gz")


# -- reading what others made


def test_names_may_begin_with_a_dot_and_what_is_no_layout_s_is_passed_over(tmp_path: Path) -> None:
    file = packed(
        tmp_path / "a.tar",
        (member("./blobs", tarfile.DIRTYPE), b""),
        (member("../../etc/passwd"), b"root"),
        (member("/etc/passwd"), b"root"),
        (member("layer.tar", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
        (member("./index.json"), INDEX),
    )
    with reading(file) as reader:
        assert read(reader, "index.json") == INDEX
        assert reader.size("layer.tar") is reader.size("../../etc/passwd") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
@pytest.mark.parametrize("name", ["index.json", "./blobs/sha256/ab"])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes, name: str) -> None:
    with (
        pytest.raises(ArchiveError, match="no plain file"),
        reading(packed(tmp_path / "a.tar", (member(name, kind, linkname="/etc/passwd"), b""))),
    ):
        pass


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)}
    sparse = member("index.json", pax_headers=headers), b"1\n0\n1\n".ljust(1024, b"\0")
    with pytest.raises(ArchiveError, match="no plain file"), reading(packed(tmp_path / "a.tar", sparse)):
        pass


def huge_header(path: Path) -> None:
    """An extended header of 1 GiB, in a file that has no bytes of it."""
    path.write_bytes(member("x", tarfile.XHDTYPE, 1 << 30).tobuf(tarfile.USTAR_FORMAT))
    os.truncate(path, 2 << 30)


def many_headers(path: Path) -> None:
    """Extended headers that each have another before them."""
    path.write_bytes(member("x", tarfile.XHDTYPE, 0).tobuf(tarfile.USTAR_FORMAT) * 5000)


def back(path: Path) -> None:
    """A member of a negative size: the next one would begin before it."""
    entry = bytearray(member("index.json").tobuf(tarfile.GNU_FORMAT))
    entry[124:136] = b"\xff" * 4 + (-1024).to_bytes(8, signed=True)
    entry[148:156] = b" " * 8
    entry[148:156] = f"{sum(entry):06o}\0 ".encode()
    path.write_bytes(bytes(entry) * 3)


def endless_map(path: Path) -> None:
    """A sparse map that goes on and on."""
    body = b"9" * 20 + b"\n" + b"1\n" * (8 << 20)
    packed(path, (member("a", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), body))


def gzipped(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("index.json"))


@pytest.mark.parametrize("make", [huge_header, many_headers, back, endless_map, gzipped, lambda path: path.touch()])
def test_an_archive_that_is_none_is_told_without_being_read_to_its_end(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.tar")
    with pytest.raises(ArchiveError, match="no tar archive that can be read"), reading(tmp_path / "a.tar"):
        pass


def test_members_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 3)
    with (
        pytest.raises(ArchiveError, match="more than 3 members"),
        reading(packed(tmp_path / "a.tar", *((member(str(number)), b"") for number in range(4)))),
    ):
        pass


def test_an_archive_that_was_cut_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    os.truncate(tmp_path / "a.tar", 100_000)
    with pytest.raises(ArchiveError), reading(tmp_path / "a.tar") as reader:
        read(reader, "blobs/sha256/ab")


def test_a_file_that_shrinks_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "folder")
    with reading(tmp_path / "folder") as reader, reader.opened("index.json") as extent:
        os.truncate(tmp_path / "folder" / "index.json", 5)
        with pytest.raises(Damaged, match="ends too early"):
            list(extent.chunks())


def test_a_folder_s_links_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "oci-layout")
    with reading(tmp_path) as reader:
        for name in ("index.json", "oci-layout"):
            with pytest.raises(ArchiveError, match="no plain file"):
                reader.size(name)


def test_a_link_that_comes_after_the_look_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "index.json").symlink_to("/etc/passwd")
    with reading(tmp_path) as reader, pytest.raises(ArchiveError, match="cannot be read"), reader.opened("index.json"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: None])
def test_what_cannot_be_read_is_told(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.tar")
    with pytest.raises(ArchiveError), reading(tmp_path / "a.tar"):
        pass
