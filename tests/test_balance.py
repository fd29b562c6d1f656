"""Whose turn it is to take a connection."""

import copy

import pytest

from lab.deadline import eventually
from pullthrough.balance import Balance


def processes(*connections: int) -> list[Balance]:
    """Each sees the same memory, as forked processes do."""
    first = Balance()
    made = [copy.copy(first) for _ in connections]
    for slot, (balance, count) in enumerate(zip(made, connections, strict=True)):
        balance.join(slot)
        balance.took(count)
    return made


@pytest.mark.parametrize(
    ("mine", "others", "mine_to_take"),
    [
        (0, [], True),
        (900, [], True),
        (0, [0], True),
        (1, [0], False),
        (1, [1, 1], True),
        (2, [9, 1], False),
        (8, [7], False),
        (9, [8], True),
        (10, [8], False),
        (112, [100], True),
        (113, [100], False),
    ],
)
def test_whoever_has_the_fewest_takes_it_and_slight_differences_do_not_matter(
    mine: int, others: list[int], mine_to_take: bool
) -> None:
    assert processes(mine, *others)[0].may_take() is mine_to_take


def test_a_connection_is_left_to_another_for_a_moment_and_no_longer() -> None:
    mine, _ = processes(1, 0)

    assert not mine.may_take()
    eventually(mine.may_take, "nobody else took it")
    assert not mine.may_take(), "the next one is left to others as well"


@pytest.mark.parametrize("end", ["by itself", "by force"])
def test_nothing_is_left_to_a_process_that_is_gone(end: str) -> None:
    mine, other = processes(1, 0)

    if end == "by itself":
        other.leave()
        other.leave()
    else:
        mine.gone(1)
    assert mine.may_take()


def test_connections_that_ended_do_not_count() -> None:
    mine, _ = processes(2, 1)
    mine.lost()
    assert mine.may_take()


def test_a_process_that_is_alone_takes_all() -> None:
    balance = Balance()
    balance.took()
    balance.lost()
    balance.leave()
    assert balance.may_take()


def test_more_processes_than_can_be_seen_take_what_they_get() -> None:
    mine, _ = processes(0, 0)
    far = copy.copy(mine)
    far.leave()
    far.join(1 << 20)
    far.took()
    far.gone(1 << 20)
    assert far.may_take()
