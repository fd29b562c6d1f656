"""The index: links, the order of use, and rows that somebody else wrote."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest
from diskcache.core import MODE_BINARY, MODE_PICKLE, MODE_RAW, MODE_TEXT
from hypothesis import given
from hypothesis import strategies as st

from lab.deadline import eventually
from lab.stores import Stores, blob, content, files, fill
from pullthrough.core.digest import Digest
from pullthrough.store import Link, Store, StoreError, names
from pullthrough.store.disk import Adopted, JsonDisk
from pullthrough.store.index import Index

ONE = blob("one")
DIGEST = Digest.of(ONE)


# -- links


async def test_a_link_is_remembered_until_it_is_taken_back(stores: Stores) -> None:
    store = stores()
    assert await store.linked("https://a.test/repo", DIGEST) is None
    await store.link("https://a.test/repo", DIGEST, "application/json")
    assert await store.linked("https://a.test/repo", DIGEST) == Link("application/json")
    assert await store.linked("https://a.test/rep", DIGEST) is None
    assert await store.linked("https://a.test/repo", Digest.of(b"")) is None
    await store.link("https://a.test/repo", DIGEST)
    assert await store.linked("https://a.test/repo", DIGEST) == Link("")
    await store.unlink("https://a.test/repo", DIGEST)
    await store.unlink("https://a.test/repo", DIGEST)
    assert await store.linked("https://a.test/repo", DIGEST) is None


async def test_a_link_is_a_fact_of_its_own(stores: Stores) -> None:
    store = stores()
    await fill(store, ONE)
    await store.link("repo", DIGEST)
    await store.drop(DIGEST)
    assert await store.linked("repo", DIGEST) == Link("")
    assert files(stores.root) == []
    await store.drop(DIGEST)


async def test_links_outlive_a_restart_but_not_ninety_days(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    store = stores()
    await store.link("old", DIGEST)
    monkeypatch.setattr(time, "time", lambda: now + 60 * 24 * 3600)
    await store.link("new", DIGEST)
    await store.aclose()
    monkeypatch.setattr(time, "time", lambda: now + 91 * 24 * 3600)
    store = stores()
    assert await store.linked("old", DIGEST) is None
    assert await store.linked("new", DIGEST) == Link("")
    await store.aclose()
    with rows(stores.root / "links") as table:
        assert [key for (key,) in table.execute("SELECT key FROM Cache")] == [f"new {DIGEST}"]


# -- rows that we did not write


@contextlib.contextmanager
def rows(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as table:
        yield table


def plant(folder: Path, key: Any, *, raw: int = 1, tag: Any = None, **columns: Any) -> None:
    """Write one row as anybody could who may write to the folder."""
    row = {"key": key, "raw": raw, "tag": tag, "store_time": 0.0, "access_time": 0.0, "size": 0, **columns}
    with rows(folder) as table:
        table.execute("DELETE FROM Cache WHERE key = ?", (key,))
        marks = ", ".join("?" * len(row))
        table.execute(f"INSERT INTO Cache ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._proof),)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[bytes]:
    proof = tmp_path / "it went off"
    yield pickle.dumps(Bomb(proof))
    assert not proof.exists()


async def closed(stores: Stores) -> None:
    """A store with one blob and one link, closed again."""
    store = stores()
    await fill(store, ONE)
    await store.link("repo", DIGEST, "type")
    await store.aclose()


def known(stores: Stores) -> tuple[Adopted | None, Link | None]:
    """What the index says of the one blob: its row, and its link."""
    with contextlib.closing(Index(stores.root, 1.0)) as index:
        return index.find(DIGEST), index.linked("repo", DIGEST)


@pytest.mark.parametrize("in_file", [False, True])
async def test_a_pickled_value_is_no_value(stores: Stores, bomb: bytes, in_file: bool) -> None:
    await closed(stores)
    (stores.root / "bomb").write_bytes(bomb)
    value = {"filename": "bomb"} if in_file else {"value": bomb}
    plant(stores.root, str(DIGEST), mode=MODE_PICKLE, **value)
    plant(stores.root / "links", f"repo {DIGEST}", mode=MODE_PICKLE, **value)
    plant(stores.root / "recency", str(DIGEST), mode=MODE_PICKLE, **value)
    assert known(stores) == (None, None)
    store = stores(size=3000)
    await store.usage()
    assert await asyncio.to_thread(store.tidied.wait, 20)
    assert await content(store, DIGEST) == ONE, "its file was found again"
    for number in range(4):
        await fill(store, blob(number), announced=1000)
    await fill(store, ONE, announced=1000)
    assert await content(store, DIGEST) == ONE
    assert stores.health.status == "ok"


@pytest.mark.parametrize("where", ["", "recency"])
async def test_a_pickled_key_is_never_unpickled(stores: Stores, bomb: bytes, where: str) -> None:
    await closed(stores)
    with rows(stores.root / "recency") as table:
        table.execute("DELETE FROM Cache")
    plant(stores.root / where, bomb, raw=0, mode=MODE_RAW, value="0")
    store = stores(size=3000)
    assert await content(store, DIGEST) == ONE
    failures = []
    for number in range(4):
        try:
            await fill(store, blob(number), announced=1000)
        except StoreError as error:
            failures.append(str(error))
    if where == "recency":
        assert any("did not write" in failure for failure in failures)
        assert (stores.root / "damaged" / "recency").exists()
    await store.link("repo", DIGEST)
    assert stores.health.status == "ok"


@pytest.mark.parametrize(
    "columns",
    [
        {"mode": MODE_RAW, "value": "{"},
        {"mode": MODE_RAW, "value": b"\xff"},
        {"mode": MODE_RAW, "value": "[1, 2]"},
        {"mode": MODE_RAW, "value": '{"a": 1}'},
        {"mode": MODE_RAW, "value": 7},
        {"mode": MODE_RAW, "value": None},
        {"mode": MODE_TEXT, "filename": "cache.db"},
        {"mode": MODE_BINARY, "value": b"x"},
        {"mode": 99, "value": "x"},
    ],
)
async def test_any_other_value_is_none_either(stores: Stores, columns: dict[str, Any]) -> None:
    await closed(stores)
    plant(stores.root, str(DIGEST), tag="1000", **columns)
    plant(stores.root / "links", f"repo {DIGEST}", **columns)
    assert known(stores) == (None, None)
    store = stores()
    await fill(store, ONE)
    assert await content(store, DIGEST) == ONE


HOSTILE = [
    "../outside",
    "/etc/passwd",
    "cache.db",
    f"blobs/sha256/../../../outside/{DIGEST.hex}-0123456789abcdef",
    f"blobs/sha256/{DIGEST.hex[:2]}/{DIGEST.hex}-0123456789abcdef/../../../../../outside",
    f"blobs/sha256/zz/{DIGEST.hex}-0123456789abcdef",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_planted_name_leads_nowhere(stores: Stores, name: str) -> None:
    await closed(stores)
    outside = stores.root.parent / "outside"
    outside.write_bytes(ONE)
    plant(stores.root, str(DIGEST), mode=MODE_BINARY, filename=name, tag=str(len(ONE)), size=len(ONE))
    store = stores()
    await store.usage()
    assert await asyncio.to_thread(store.tidied.wait, 20)
    assert await content(store, DIGEST) == ONE, "its own file was found again"
    await fill(store, ONE)  # the row is replaced, and what it named would be deleted
    await store.drop(DIGEST)
    assert outside.read_bytes() == ONE
    assert (stores.root / "cache.db").exists()
    assert Path("/etc/passwd").exists()


async def test_a_row_cannot_pass_one_blob_off_as_another(stores: Stores) -> None:
    store, other = stores(), blob("other")
    await fill(store, ONE)
    (name,) = (str(file.relative_to(stores.root)) for file in files(stores.root))
    plant(stores.root, str(Digest.of(other)), mode=MODE_BINARY, filename=name, tag=str(len(ONE)), size=len(ONE))
    assert await store.open(Digest.of(other)) is None
    assert await content(store, DIGEST) == ONE


@pytest.mark.parametrize("tag", [None, "-1", "x", 7.5, b"1000", "9" * 30])
async def test_a_row_with_a_strange_size_is_none(stores: Stores, tag: Any) -> None:
    store = stores()
    await fill(store, ONE)
    (name,) = (str(file.relative_to(stores.root)) for file in files(stores.root))
    plant(stores.root, str(DIGEST), mode=MODE_BINARY, filename=name, tag=tag, size=1)
    assert await store.open(DIGEST) is None
    await fill(store, ONE)
    assert await content(store, DIGEST) == ONE


def test_the_disk_takes_text_keys_only(tmp_path: Path) -> None:
    disk = JsonDisk(str(tmp_path))
    for key in (1, b"x", None, ("a",)):
        with pytest.raises(TypeError):
            disk.put(key)


def test_the_disk_never_pickles(tmp_path: Path) -> None:
    disk = JsonDisk(str(tmp_path))
    with pytest.raises(TypeError):
        disk.store({1, 2}, read=False)
    assert not issubclass(JsonDisk, diskcache.JSONDisk)


# -- names


@given(st.binary(max_size=50), st.sampled_from(["sha256", "sha512"]))
def test_a_name_tells_its_digest(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    first, second = names.fresh(digest), names.fresh(digest)
    assert first != second
    assert names.digest_of(first) == names.digest_of(second) == digest


@given(st.one_of(st.text(), st.sampled_from(HOSTILE)))
def test_no_other_text_is_a_name(text: str) -> None:
    assert names.digest_of(text) is None


def test_near_misses_are_no_names() -> None:
    name = names.fresh(DIGEST)
    for wrong in (f"{name}\n", f"/{name}", f"./{name}", name.upper(), name.replace("sha256", "sha512"), name[:-1]):
        assert names.digest_of(wrong) is None


# -- the order of use


async def order(store: Store, count: int) -> list[int]:
    """Which of the blobs 0..count are still there."""
    return [number for number in range(count) if await store.has(Digest.of(blob(number)))]


async def test_blobs_that_lost_their_place_are_not_immortal(stores: Stores) -> None:
    store = stores(10_000)
    for number in range(9):
        await fill(store, blob(number))
    await store.aclose()
    for file in (stores.root / "recency").iterdir():
        file.unlink()
    store = stores(10_000)
    await store.usage()
    with rows(stores.root / "recency") as table:
        eventually(lambda: table.execute("SELECT COUNT(*) FROM Cache").fetchone() == (9,), "each has a place again")
    for number in range(9, 14):
        await fill(store, blob(number), announced=1000)
    assert await order(store, 14) == list(range(4, 14))


async def test_a_place_in_the_order_without_a_blob_is_skipped(stores: Stores) -> None:
    store = stores(3000)
    await fill(store, ONE)
    for key in ("no digest", str(Digest.of(b"gone"))):
        plant(stores.root / "recency", key, mode=MODE_RAW, value="0", rowid=-len(key))
    await fill(store, blob(1), announced=2500)
    assert not await store.has(DIGEST)
    with rows(stores.root / "recency") as table:
        assert [key for (key,) in table.execute("SELECT key FROM Cache")] == [str(Digest.of(blob(1)))]


async def test_a_row_that_is_no_blob_does_not_take_room_for_ever(stores: Stores) -> None:
    await closed(stores)
    plant(stores.root, "no digest", mode=MODE_BINARY, filename="x", size=10**15)
    store = stores()
    await store.has(DIGEST)
    with rows(stores.root) as table:
        eventually(lambda: table.execute("SELECT COUNT(*) FROM Cache").fetchone() == (1,), "it is gone")
    assert await store.usage() == (len(ONE), 1)


# -- permissions


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
async def test_nobody_else_can_read_the_store(stores: Stores, umask: int) -> None:
    previous = os.umask(umask)
    try:
        store = stores(root=stores.root / "below" / "store")
        await fill(store, ONE)
        await store.link("repo", DIGEST)
        partial = await store.begin(Digest.of(b"partial"))
        await store.write(partial, b"part")
        await store.end(partial, keep=True)
        partial.close()
    finally:
        os.umask(previous)
    everything = [stores.root, *stores.root.rglob("*")]
    assert len(everything) > 15
    for path in everything:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


async def test_an_index_that_others_could_read_is_closed_to_them(stores: Stores) -> None:
    await closed(stores)
    databases = [stores.root / name / "cache.db" for name in ("", "links", "recency")]
    for file in databases:
        file.chmod(0o644)
    await stores().has(DIGEST)
    assert [stat.S_IMODE(file.stat().st_mode) for file in databases] == [0o600] * 3
