"""What to do next with a request for content by digest: the one place where access and storage meet.

Pure: gets facts, gives a step and the reason for it. Whoever asks carries the step out and asks again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Step(enum.StrEnum):
    """What can be done."""

    #: Ask the upstream whether this client may have this content of this repository.
    CHECK = "check"
    #: Answer from what we hold: a stored blob, or a flight that is under way.
    SERVE = "serve"
    #: Get it from the upstream, in this client's name.
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one request by digest."""

    #: The upstream lately gave something of this repository to this principal.
    granted: bool
    #: The upstream once gave this very digest out in this repository.
    linked: bool
    #: We hold the bytes, or they are on their way to us, from wherever.
    held: bool
    #: Somebody other than the upstream may have the bytes, too.
    mirrored: bool = False
    #: The upstream answered this very question just now, and did not say no.
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A step and why, in the words of Cache-Status and the log."""

    step: Step
    reason: str


def plan(facts: Facts) -> Plan:
    """The next step.

    Bytes are shared between repositories, the right to see them is not: they are given out only with a grant for
    the repository *and* a link of the digest to it. A manifest that merely names a digest proves nothing (anybody can
    push one that names another's blob), so links come from what the upstream gave out, and nothing else.
    """
    if not facts.held:
        if facts.mirrored and not facts.answered:
            return Plan(Step.CHECK, "a mirror's bytes prove no right")
        # In this client's own name: the upstream's answer is the proof, a question before it would prove no more.
        return Plan(Step.FETCH, "not stored")
    if not facts.granted:
        return Plan(Step.CHECK, "no recent proof of access")
    if not facts.linked:
        return Plan(Step.CHECK, "stored, not yet seen in this repository")
    return Plan(Step.SERVE, "stored")
