"""What is wrong, said once when it begins and once when it ends."""

from __future__ import annotations

import pytest

from pullthrough.health import Health


def test_nothing_is_wrong_at_first() -> None:
    health = Health()
    assert (health.status, health.reasons) == ("ok", {})


def test_troubles_come_and_go_apart(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    health.degraded("store", "the disk is full")
    health.degraded("index", "locked")
    assert (health.status, health.reasons) == ("degraded", {"store": "the disk is full", "index": "locked"})
    health.recovered("store")
    assert (health.status, health.reasons) == ("degraded", {"index": "locked"})
    health.recovered("index")
    assert (health.status, health.reasons) == ("ok", {})
    assert [record.getMessage() for record in caplog.records] == [
        "degraded: store: the disk is full",
        "degraded: index: locked",
        "recovered: store",
        "recovered: index",
    ]


def test_what_goes_on_is_not_repeated_in_the_log_but_kept_up_to_date(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    for number in range(5):
        health.degraded("store", f"no room for {number} bytes")
    assert health.reasons == {"store": "no room for 4 bytes"}
    assert len(caplog.records) == 1


def test_what_was_never_wrong_does_not_recover(caplog: pytest.LogCaptureFixture) -> None:
    Health().recovered("store")
    assert caplog.records == []


def test_the_reasons_are_a_copy() -> None:
    health = Health()
    health.reasons["store"] = "forged"
    assert health.status == "ok"
