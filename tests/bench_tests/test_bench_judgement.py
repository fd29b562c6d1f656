"""What figures come to: ratios round by round, targets, the table of a page."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.document import document
from bench.figures import quantile, ratio, summary
from bench.run import WORKS, Findings, Terms
from bench.sizes import QUICK
from bench.targets import TARGETS, judged
from bench.wan import Wan
from bench.works import Work

TERMS = Terms(QUICK, 3, "a", ("pullthrough", "squid", "nginx"), None, quick=False)


def findings(ours: list[float | None], squids: list[float | None]) -> Findings:
    work: dict[str, object] = {"title": "hit", "what": "a client pulls", "metrics": ["speed", "process", "cpu"]}
    return Findings(
        table={
            "a": {
                "pullthrough": {"speed": ours, "process": [100.0] * len(ours), "cpu": [1.0] * len(ours)},
                "squid": {"speed": squids, "process": [50.0] * len(squids), "cpu": [2.0] * len(squids)},
            }
        },
        works={"a": work},
        missing={"nginx": "nginx is not installed"},
    )


def verdicts(found: Findings) -> dict[str, bool | None]:
    return {verdict["target"]: verdict["reached"] for verdict in judged(found.table)}


def test_a_ratio_is_that_of_each_round_so_a_slow_round_slows_nobody() -> None:
    assert ratio([100.0, 10.0, 300.0], [50.0, 5.0, 100.0]) == 2.0


def test_a_round_that_failed_is_compared_with_nothing() -> None:
    assert ratio([100.0, None, 300.0], [None, 5.0, 100.0]) == 3.0
    assert ratio([None], [5.0]) is None


def test_the_median_is_of_the_rounds_that_went_well() -> None:
    assert summary([3.0, None, 1.0]) == {"median": 2.0, "least": 1.0, "most": 3.0, "values": [3.0, None, 1.0]}
    assert summary([None])["median"] is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)])
def test_a_quantile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value


def test_targets_are_reached_missed_or_not_compared() -> None:
    found = verdicts(findings([100.0, 100.0, 100.0], [50.0, 50.0, 51.0]))

    assert found == {
        "speed ≥ 2 x squid": True,
        "speed ≥ 1 x nginx": None,
        "its largest process ≤ 120 MB": True,
    }
    assert verdicts(findings([90.0], [50.0]))["speed ≥ 2 x squid"] is False


def test_every_target_is_of_a_metric_that_its_work_has() -> None:
    kinds: tuple[type[Work], ...] = (*WORKS, Wan)
    works = {work.letter: work for work in kinds}

    shown = [(letter, metric) for letter, metrics in report.SHOWN.items() for metric in metrics]
    meant = [(target.work, target.metric) for target in TARGETS]

    assert [(letter, metric) for letter, metric in (*shown, *meant) if metric not in works[letter].metrics] == []


def test_a_page_gets_the_table_between_its_marks_and_stays_as_it_is_around_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
    found = document(TERMS, findings([100.0, 110.0, 120.0], [50.0, 50.0, None]), "scripts/bench")

    report.render(found, page)
    once = page.read_text()
    report.render(found, page)

    assert once.startswith(f"before\n\n{report.BEGIN}\n")
    assert once.endswith(f"{report.END}\n\nafter\n")
    assert "| (a) hit: speed, MB/s | 110 | 50 |" in once
    assert "| (a) speed ≥ 2 x squid | 2.10 | reached |" in once
    assert "Missing: nginx: nginx is not installed." in once
    assert "old" not in once
    assert page.read_text() == once


def test_a_page_without_a_place_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")

    with pytest.raises(report.NoPlace):
        report.render(document(TERMS, Findings(), "scripts/bench"), page)
    assert page.read_text() == "nothing here\n"


def test_room_is_that_of_the_work_that_leaves_most(tmp_path: Path) -> None:
    assert replace(QUICK, large=10, medium=1, image=1, rounds=3).room(caches=2) == 80
    assert replace(QUICK, large=10, medium=1, image=100, rounds=3).room(caches=2) == 400
