"""What explains what, what the store looks like from outside, and what the table says of it."""

import time
from pathlib import Path

import pytest

from lab.stores import Stores, blob, fill
from pullthrough.core.digest import Digest
from soak.census import Census, digest_of_file
from soak.score import Score
from soak.servers import Vitals
from soak.table import judge_growth, show
from soak.troubles import DAMAGED, ENDED, ROTTEN, Asked, Calendar, Error

ONE, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def asked(server: int = 0, digest: str = ONE, *, begin: float | None = None, end: float | None = None) -> Asked:
    now = time.monotonic()
    return Asked("a pull", server, begin or now, end or now, frozenset((digest,)))


def test_a_trouble_explains_what_it_can_cause_while_it_is_on_and_a_little_longer() -> None:
    calendar = Calendar()
    before = asked()
    with calendar.during("kill -9", ENDED, lingers=100, server=0):
        during = asked()
    after, much_later = asked(), asked(begin=time.monotonic() + 200, end=time.monotonic() + 200)

    assert calendar.explanation(Error.CUT, before) is None
    assert calendar.explanation(Error.CUT, during)
    assert calendar.explanation(Error.CUT, after)
    assert calendar.explanation(Error.CUT, much_later) is None
    assert calendar.explanation(Error.WRONG, during) is None


def test_a_server_is_no_excuse_for_another_nor_a_digest_for_another() -> None:
    calendar = Calendar()
    calendar.begin("kill -9", ENDED, server=0)
    calendar.begin("bit flip", ROTTEN, digests={ONE})

    assert calendar.explanation(Error.CONNECTION, asked(server=1)) is None
    assert calendar.explanation(Error.WRONG, asked(digest=OTHER)) is None
    assert calendar.explanation(Error.WRONG, asked(server=1, digest=ONE))


def test_troubles_of_the_disk_explain_nothing() -> None:
    calendar = Calendar()
    calendar.begin("disk full", frozenset())

    assert all(calendar.explanation(error, asked()) is None for error in Error)
    assert Error.WRONG not in DAMAGED


async def test_the_census_sees_what_the_store_has(tmp_path: Path) -> None:
    store = Stores(tmp_path)()
    digests = [str(await fill(store, blob(number))) for number in range(3)]
    census = Census(tmp_path)
    rows = census.rows()

    assert set(rows) == set(digests)
    assert {row.name for row in rows.values()} == set(census.files())
    assert {digest_of_file(name) for name in census.files()} == set(digests)
    assert [census.unsound(digest, row) for digest, row in rows.items()] == [None] * 3
    assert census.strangers() == []
    await store.aclose()


async def test_the_census_sees_what_is_wrong_with_it(tmp_path: Path) -> None:
    store = Stores(tmp_path)()
    short, rotten, gone = [str(await fill(store, blob(number))) for number in range(3)]
    await store.aclose()
    census = Census(tmp_path)
    rows = census.rows()
    (tmp_path / rows[short].name).write_bytes(b"short")
    (tmp_path / rows[rotten].name).write_bytes(blob("other"))
    (tmp_path / rows[gone].name).unlink()
    (tmp_path / "core.123").touch()

    assert census.unsound(short, rows[short]) == "5 bytes instead of 1000"
    assert census.unsound(rotten, rows[rotten]) == "other bytes"
    assert census.unsound(gone, rows[gone]) == "missing"
    assert census.strangers() == ["core.123"]
    assert Digest.parse(gone) is not None


def test_a_folder_without_an_index_has_no_rows(tmp_path: Path) -> None:
    assert Census(tmp_path).rows() == {}
    (tmp_path / "cache.db").write_bytes(b"no database" * 1000)
    assert Census(tmp_path).rows() == {}


def test_growth_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    flat, grown, first = Score(Calendar()), Score(Calendar()), Vitals(1, 100 << 20, 40, 16)
    judge_growth(flat, {"the elder": [first, Vitals(1, 110 << 20, 144, 26)]})
    judge_growth(grown, {"the elder": [first, Vitals(1, 100 << 20, 400, 16)]})
    show(grown, {"the elder": [first, Vitals(1, 100 << 20, 400, 16)]}, "soak --seed 1")

    told = capsys.readouterr().out
    assert flat.clean
    assert not grown.clean
    assert "files from 40 to 400" in told
    assert "FINDINGS" in told


def test_every_zero_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    show(Score(Calendar()), {}, "soak --seed 1")

    told = capsys.readouterr().out
    assert "every zero is a zero" in told
    for line in ("wrong bytes", "entries lost", "content without a right", "more bytes than --size"):
        assert line in told


def test_what_clients_see_after_the_end_counts_no_more() -> None:
    score = Score(Calendar(), over=True)
    score.wrong(Error.CUT, asked(), "the servers were told to stop")

    assert score.clean
    assert not score.errors


def test_rot_is_explained_until_somebody_had_time_to_find_it() -> None:
    calendar, now = Calendar(), time.monotonic()
    calendar.begin("bit flip", ROTTEN, digests={ONE}, heals=10)
    first, next_one, too_late = (asked(begin=now + after, end=now + after) for after in (1000, 1009, 1011))

    assert calendar.explanation(Error.CUT, asked(begin=now + 500, end=now + 500))
    assert calendar.explanation(Error.WRONG, first)
    assert calendar.explanation(Error.WRONG, next_one)
    assert calendar.explanation(Error.WRONG, too_late) is None
