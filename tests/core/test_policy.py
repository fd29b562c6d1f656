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


EVERYTHING = [Facts(*known) for known in itertools.product((True, False), repeat=5)]


@pytest.mark.parametrize(("answered", "step"), [(False, Step.CHECK), (True, Step.FETCH)])
def test_a_mirror_is_asked_only_after_the_registry_was(answered: bool, step: Step) -> None:
    for granted, linked in itertools.product((True, False), repeat=2):
        facts = Facts(granted=granted, linked=linked, held=False, mirrored=True, answered=answered)
        assert plan(facts).step is step


def test_only_a_grant_and_a_link_open_the_cache() -> None:
    for facts in EVERYTHING:
        entitled = facts.granted and facts.linked and facts.held
        assert (plan(facts).step is Step.SERVE) is entitled


def test_every_plan_has_a_reason() -> None:
    assert all(plan(facts).reason for facts in EVERYTHING)
