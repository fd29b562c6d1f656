"""The numbers for Prometheus, read as Prometheus reads them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pullthrough.core.cachestatus import FORWARDED, CacheStatus
from pullthrough.core.routes import Kind
from pullthrough.metrics import CONTENT_TYPE, Metrics, forget

type Sample = tuple[str, tuple[tuple[str, str], ...]]


def read(metrics: Metrics) -> dict[Sample, float]:
    return samples(metrics.render().decode())


def samples(text: str) -> dict[Sample, float]:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_requests_and_bytes_are_counted() -> None:
    metrics = Metrics()
    metrics.answered(Kind.BLOB, "miss", 100)
    metrics.answered(Kind.BLOB, "hit", 100)
    metrics.answered(Kind.BLOB, "hit", 20)
    metrics.answered(Kind.MANIFEST, "hit", 3)
    metrics.tunnelled(500)
    metrics.tunnelled(5)
    found = read(metrics)
    assert found["pullthrough_requests_total", (("outcome", "hit"), ("route", "blob"))] == 2
    assert found["pullthrough_requests_total", (("outcome", "miss"), ("route", "blob"))] == 1
    assert found["pullthrough_sent_bytes_total", (("outcome", "hit"),)] == 123
    assert found["pullthrough_tunnelled_bytes_total", ()] == 505


def test_the_present_state_is_read_when_it_is_asked_for() -> None:
    metrics, state = Metrics(), {"degraded": 0.0, "flights": 0.0, "breakers": 0.0}
    metrics.watch(
        degraded=lambda: state["degraded"],
        flights=lambda: state["flights"],
        size=1 << 40,
        breakers=lambda: state["breakers"],
    )
    metrics.stored(5 << 30, 12)
    before = read(metrics)
    state.update(degraded=1.0, flights=7.0, breakers=2.0)
    found = read(metrics)
    assert (before["pullthrough_degraded", ()], found["pullthrough_degraded", ()]) == (0, 1)
    assert (before["pullthrough_flights", ()], found["pullthrough_flights", ()]) == (0, 7)
    assert (before["pullthrough_breakers_open", ()], found["pullthrough_breakers_open", ()]) == (0, 2)
    assert found["pullthrough_store_bytes", ()] == 5 << 30
    assert found["pullthrough_store_blobs", ()] == 12
    assert found["pullthrough_store_size_bytes", ()] == 1 << 40


def test_damaged_blobs_are_counted() -> None:
    metrics = Metrics()
    metrics.damaged()
    metrics.damaged()
    assert read(metrics)["pullthrough_store_damaged_blobs_total", ()] == 2


def test_token_requests_are_counted_by_their_answer() -> None:
    metrics = Metrics()
    for answer in ("relayed", "relayed", "cached", "local", "refused", "failed", "stolen", ""):
        metrics.token(answer)
    counted = {labels: value for (name, labels), value in read(metrics).items() if "token" in name}
    assert counted == {
        (("answer", "relayed"),): 2,
        (("answer", "cached"),): 1,
        (("answer", "local"),): 1,
        (("answer", "refused"),): 1,
        (("answer", "failed"),): 1,
        (("answer", "other"),): 2,
    }


def test_what_is_left_of_a_rate_limit_is_what_was_said_last() -> None:
    metrics = Metrics()
    metrics.ratelimit("a.test:443", 76)
    metrics.ratelimit("b.test:443", 5)
    metrics.ratelimit("a.test:443", 0)
    found = read(metrics)
    assert found["pullthrough_ratelimit_remaining", (("registry", "a.test:443"),)] == 0
    assert found["pullthrough_ratelimit_remaining", (("registry", "b.test:443"),)] == 5


def test_only_so_many_registries_have_a_rate_limit() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.ratelimit(f"r{number}.test:443", number)
    metrics.ratelimit("r0.test:443", 1000)
    shown = [dict(labels)["registry"] for name, labels in read(metrics) if name == "pullthrough_ratelimit_remaining"]
    assert sorted(shown) == sorted(f"r{number}.test:443" for number in range(64))
    assert read(metrics)["pullthrough_ratelimit_remaining", (("registry", "r0.test:443"),)] == 1000


def test_every_word_of_cache_status_is_an_outcome() -> None:
    metrics = Metrics()
    words = {CacheStatus(fwd=word).outcome for word in FORWARDED}
    words |= {CacheStatus().outcome, CacheStatus(hit=True).outcome, CacheStatus(fwd="miss", collapsed=True).outcome}
    for word in words:
        metrics.answered(Kind.OTHER, word, 0)
    assert {dict(labels).get("outcome") for _, labels in read(metrics)} >= words


@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0, 2**60)), max_size=30))
def test_strangers_make_no_labels(answers: list[tuple[str, str, int]]) -> None:
    metrics = Metrics()
    for route, outcome, sent in answers:
        metrics.answered(f"/{route}", f"/{outcome}", sent)
    labels = {labels for _, labels in read(metrics) if labels}
    assert labels <= {(("outcome", "other"), ("route", "other")), (("outcome", "other"),)}


def test_the_content_type_is_that_of_the_text_format() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
    assert b"# TYPE pullthrough_requests_total counter\n" in Metrics().render()


# -- several processes: each in one of its own, because prometheus_client counts for a process


def counting(folder: Path, slot: int, replaces: bool, flights: float, blobs: int) -> str:
    """What a process that counts a little sees in the end."""
    metrics = Metrics(folder, slot)
    metrics.watch(degraded=lambda: float(slot), flights=lambda: flights, size=100, expiry=lambda: 1000.0)
    metrics.serves(replaces=replaces)
    metrics.answered(Kind.BLOB, "hit", 10)
    metrics.ratelimit("a.test:443", blobs)
    metrics.stored(blobs * 10, blobs)
    return metrics.render().decode()


def in_processes(*calls: tuple[Path, int, bool, float, int]) -> list[dict[Sample, float]]:
    """One after the other; each has gone when the next one comes."""
    with multiprocessing.get_context("forkserver").Pool(1, maxtasksperchild=1) as pool:
        return [samples(pool.apply(counting, call)) for call in calls]


def test_processes_count_together_and_the_present_is_that_of_those_who_live(tmp_path: Path) -> None:
    _, both = in_processes((tmp_path, 0, False, 3.0, 7), (tmp_path, 1, False, 2.0, 8))
    forget(tmp_path, 1)
    (after,) = in_processes((tmp_path, 1, True, 0.0, 9))

    requests = ("pullthrough_requests_total", (("outcome", "hit"), ("route", "blob")))
    limit = ("pullthrough_ratelimit_remaining", (("registry", "a.test:443"),))
    assert (both[requests], after[requests]) == (2, 3)
    assert (both[limit], after[limit]) == (8, 9)
    assert (both["pullthrough_flights", ()], after["pullthrough_flights", ()]) == (5, 3)
    assert (both["pullthrough_workers", ()], after["pullthrough_workers", ()]) == (2, 2)
    assert (both["pullthrough_worker_restarts_total", ()], after["pullthrough_worker_restarts_total", ()]) == (0, 1)
    assert (both["pullthrough_degraded", ()], both["pullthrough_ca_expiry_seconds", ()]) == (1, 1000)
    assert (both["pullthrough_store_blobs", ()], both["pullthrough_store_size_bytes", ()]) == (8, 100)


def test_what_a_dead_process_was_doing_is_forgotten_and_what_it_counted_is_not(tmp_path: Path) -> None:
    in_processes((tmp_path, 0, False, 3.0, 7))
    forget(tmp_path, 0)
    (after,) = in_processes((tmp_path, 1, False, 2.0, 8))

    assert after["pullthrough_requests_total", (("outcome", "hit"), ("route", "blob"))] == 2
    assert (after["pullthrough_flights", ()], after["pullthrough_workers", ()]) == (2, 1)


def test_files_have_their_room_on_the_disk(tmp_path: Path) -> None:
    in_processes((tmp_path, 0, False, 3.0, 7))
    files = list(tmp_path.iterdir())

    assert files
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)
