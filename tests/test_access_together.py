"""Grants of several processes: what one of them learned counts for all, and what may have been missed for nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.inside import until
from lab.memory import Clock, Memory
from lab.siblings import joined
from pullthrough import siblings
from pullthrough.access import Access
from pullthrough.core.digest import Digest
from pullthrough.messages import Registry, Repository
from pullthrough.siblings import Siblings

APP = Repository(Registry("https", "registry.test", 443), "team/app")
DIGEST = Digest.of(b"layer")
TTL = 60.0


@dataclass
class Side:
    access: Access
    siblings: Siblings


@pytest.fixture
async def sides(memory: Memory, clock: Clock, short_folder: Path) -> AsyncIterator[list[Side]]:
    async with joined(short_folder, "0", "1") as both:
        yield [Side(Access(memory.facts, clock, ttl=TTL, grace=0, siblings=one), one) for one in both]


async def test_a_grant_counts_on_both_sides_for_the_same_time(sides: list[Side], clock: Clock) -> None:
    one, other = (side.access for side in sides)
    one.grant(b"p", APP, one.now())
    await one.agreed()

    for now, granted in ((clock.time + TTL - 0.001, True), (clock.time + TTL, False)):
        clock.time = now
        assert one.granted(b"p", APP) == other.granted(b"p", APP) == granted


async def test_a_grant_that_hardly_grew_is_not_told_again(sides: list[Side], clock: Clock) -> None:
    one, other = (side.access for side in sides)
    told: list[object] = []
    sides[1].siblings.hear("granted", lambda *words: told.append(words))
    for _ in range(16):
        one.grant(b"p", APP, one.now())
        clock.time += TTL / 16
    await one.agreed()

    assert len(told) == 6, "at first, and whenever it has grown by more than an eighth of its time"
    assert not other.granted(b"p", APP)


async def test_an_older_grant_of_the_other_side_shortens_nothing(sides: list[Side], clock: Clock) -> None:
    one, other = (side.access for side in sides)
    asked = one.now()
    clock.time += 10
    other.grant(b"p", APP, other.now())
    one.grant(b"p", APP, asked)
    await one.agreed()

    clock.time += TTL - 1
    assert other.granted(b"p", APP)


async def test_a_refusal_here_stands_against_a_grant_there_that_was_asked_before(
    sides: list[Side], clock: Clock
) -> None:
    one, other = (side.access for side in sides)
    asked = one.now()
    clock.time += 1
    other.revoke(b"p", APP)  # which the one has not taken in yet
    one.grant(b"p", APP, asked)
    await one.agreed()
    await other.agreed()

    assert not other.granted(b"p", APP)
    assert not one.granted(b"p", APP)
    one.grant(b"p", APP, asked)
    assert not one.granted(b"p", APP), "it knows of the refusal now"


async def test_a_change_counts_on_both_sides_until_the_store_knows(sides: list[Side], clock: Clock) -> None:
    one, other = (side.access for side in sides)
    asked = other.now()
    clock.time += 1
    one.changed(APP, DIGEST)
    await one.agreed()
    assert other.severed(APP, DIGEST)
    assert other.overtaken(APP, DIGEST, asked)

    one.settled(APP, DIGEST)
    one.settled(APP, DIGEST)
    await one.agreed()
    assert not other.severed(APP, DIGEST)
    assert other.overtaken(APP, DIGEST, asked)


async def test_who_missed_something_believes_nothing_from_before(
    sides: list[Side], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (side.access for side in sides)
    asked = other.now()
    other.grant(b"p", APP, asked)
    other.changed(APP, DIGEST)
    clock.time += 1
    with monkeypatch.context() as patched:
        patched.setattr(siblings, "_PATIENCE", 0.0)
        sides[0].siblings.tell("anything")
        await one.agreed()
    await until(lambda: not other.granted(b"p", APP))

    other.grant(b"p", APP, asked)
    assert not other.granted(b"p", APP)
    assert other.overtaken(APP, Digest.of(b"another"), asked)
    assert other.severed(APP, DIGEST)
    clock.time += 1
    other.grant(b"p", APP, other.now())
    assert other.granted(b"p", APP)


async def test_words_that_name_nothing_change_nothing(sides: list[Side]) -> None:
    one, other = sides
    one.access.grant(b"p", APP, one.access.now())
    one.siblings.tell("granted", "70", "nowhere", 1e9)
    one.siblings.tell("refused", "70", "nowhere")
    for topic in ("changed", "settled"):
        one.siblings.tell(topic, "nowhere", str(DIGEST))
        one.siblings.tell(topic, str(APP), "nothing")
    await one.access.agreed()

    assert other.access.granted(b"p", APP)
    assert not other.access.severed(APP, DIGEST)
