"""The one table that decides whether something leaves the cache."""

import itertools

import pytest

from pullthrough.core.policy import Facts, Step, plan


@pytest.mark.parametrize(
    ("granted", "linked", "held", "step"),
    [
        (True, True, True, Step.SERVE),
        (False, True, True, Step.CHECK),
        (True, False, True, Step.CHECK),
        (False, False, True, Step.CHECK),
        (True, True, False, Step.FETCH),
        (False, True, False, Step.FETCH),
        (True, False, False, Step.FETCH),
        (False, False, False, Step.FETCH),
    ],
)
def test_the_next_step(granted: bool, linked: bool, held: bool, step: Step) -> None:
    assert plan(Facts(granted=granted, linked=linked, held=held)).step is step


def test_only_a_grant_and_a_link_open_the_cache() -> None:
    served = [
        facts
        for facts in itertools.starmap(
            lambda granted, linked, held: Facts(granted=granted, linked=linked, held=held),
            itertools.product((True, False), repeat=3),
        )
        if plan(facts).step is Step.SERVE
    ]

    assert served == [Facts(granted=True, linked=True, held=True)]


def test_every_plan_has_a_reason() -> None:
    assert all(
        plan(Facts(granted=a, linked=b, held=c)).reason for a, b, c in itertools.product((True, False), repeat=3)
    )
