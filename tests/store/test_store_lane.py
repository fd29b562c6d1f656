"""The threads of the store: each does its last act, and the end waits for none that never was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pullthrough.store.lane import Lane, Rest

BEGIN = ThreadPoolExecutor._adjust_thread_count


@pytest.mark.timeout(20)
@pytest.mark.parametrize("begun", [1, 2, 3, 4])
def test_each_thread_that_worked_has_its_turn_at_the_end(begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the pool begins: when threads are quick it counts some as idle that are not."""

    def begin(pool: ThreadPoolExecutor) -> None:
        if len(pool._threads) < begun:
            BEGIN(pool)

    monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", begin)
    lane = Lane("test", 4, Rest(0))
    together = threading.Barrier(begun)
    worked: set[int] = set()
    left: set[int] = set()

    def work() -> None:
        worked.add(threading.get_ident())
        together.wait()

    for _ in range(begun):
        lane.spawn(work)
    lane.close(lambda: left.add(threading.get_ident()))
    assert len(worked) == begun
    assert left == worked


@pytest.mark.timeout(20)
def test_a_lane_that_never_worked_ends_as_well() -> None:
    Lane("test", 4, Rest(0)).close(lambda: None)
