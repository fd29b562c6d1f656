"""Grants: for how long an answer counts, what one that comes late is worth, and what is left in an outage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.memory import Clock, Memory, remembering
from pullthrough import access as module
from pullthrough.access import Access
from pullthrough.core.digest import Digest
from pullthrough.facts import LASTING
from pullthrough.messages import Registry, Repository

APP = Repository(Registry("https", "registry.test", 443), "team/app")
OTHER = Repository(Registry("https", "registry.test", 443), "team/other")
PLAIN = Repository(Registry("http", "registry.test", 443), "team/app")
DIGEST = Digest.of(b"layer")
TTL = 60.0
GRACE = 3600.0


@pytest.fixture
def access(memory: Memory, clock: Clock) -> Access:
    return Access(memory.facts, clock, ttl=TTL, grace=GRACE)


async def restarted(memory: Memory, *, grace: float = GRACE) -> Access:
    """The next process, whose clock has nothing to do with the last one's."""
    return Access(await memory.restart(), Clock(5.0), ttl=TTL, grace=grace)


# -- grants


async def test_nothing_is_granted_at_first(access: Access) -> None:
    assert not access.granted(b"p", APP)
    assert not await access.remembered(b"p", APP)


async def test_a_grant_counts_from_when_the_upstream_was_asked(access: Access, clock: Clock) -> None:
    asked = access.now()
    clock.time += 30
    access.grant(b"p", APP, asked)

    clock.time = asked + TTL - 0.001
    assert access.granted(b"p", APP)
    clock.time = asked + TTL
    assert not access.granted(b"p", APP)


async def test_an_answer_that_took_too_long_grants_nothing(access: Access, clock: Clock) -> None:
    asked = access.now()
    clock.time += TTL
    access.grant(b"p", APP, asked)

    assert not access.granted(b"p", APP)


async def test_the_time_is_a_setting(memory: Memory, clock: Clock) -> None:
    access = Access(memory.facts, clock, ttl=600.0, grace=GRACE)
    access.grant(b"p", APP, access.now())
    clock.time += 599

    assert access.granted(b"p", APP)


async def test_older_evidence_does_not_shorten_a_grant(access: Access, clock: Clock) -> None:
    early = access.now()
    clock.time += 30
    access.grant(b"p", APP, access.now())
    access.grant(b"p", APP, early)

    clock.time += TTL - 1
    assert access.granted(b"p", APP)


async def test_a_grant_is_for_one_principal_in_one_repository_of_one_registry(access: Access) -> None:
    access.grant(b"p", APP, access.now())

    for principal, repository in ((b"q", APP), (b"p", OTHER), (b"p", PLAIN)):
        assert not access.granted(principal, repository)
        assert not await access.remembered(principal, repository)


async def test_a_refusal_ends_a_grant_and_no_other(access: Access) -> None:
    for principal, repository in ((b"p", APP), (b"p", OTHER), (b"q", APP)):
        access.grant(principal, repository, access.now())
    access.revoke(b"p", APP)

    assert not access.granted(b"p", APP)
    assert access.granted(b"p", OTHER)
    assert access.granted(b"q", APP)


async def test_an_answer_to_an_earlier_question_does_not_undo_a_refusal(access: Access, clock: Clock) -> None:
    asked = access.now()
    clock.time += 1
    access.revoke(b"p", APP)
    access.grant(b"p", APP, asked)
    assert not access.granted(b"p", APP)
    assert not await access.remembered(b"p", APP)

    clock.time += 1
    access.grant(b"p", APP, access.now())
    assert access.granted(b"p", APP)
    assert await access.remembered(b"p", APP)


async def test_a_question_of_the_very_moment_of_a_refusal_grants_nothing(access: Access) -> None:
    access.revoke(b"p", APP)
    access.grant(b"p", APP, access.now())

    assert not access.granted(b"p", APP)
    assert not await access.remembered(b"p", APP)


async def test_only_so_many_grants_are_remembered_and_the_oldest_goes(
    access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 2)
    for principal in (b"a", b"b", b"a", b"c"):
        clock.time += 1
        access.grant(principal, APP, access.now())

    assert [principal for principal in (b"a", b"b", b"c") if access.granted(principal, APP)] == [b"a", b"c"]


async def test_a_refusal_that_was_forgotten_still_counts(
    access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 1)
    asked = access.now()
    clock.time += 1
    access.revoke(b"p", APP)
    access.revoke(b"q", APP)
    access.grant(b"p", APP, asked)

    assert not access.granted(b"p", APP)


# -- in an outage


async def test_a_grant_is_remembered_for_the_grace_and_outlives_a_restart(
    access: Access, memory: Memory, clock: Clock
) -> None:
    access.grant(b"p", APP, access.now())
    clock.time += TTL
    assert not access.granted(b"p", APP)
    assert await access.remembered(b"p", APP)

    after = await restarted(memory)
    assert not after.granted(b"p", APP)
    memory.clock.time += GRACE - 1
    assert await after.remembered(b"p", APP)
    memory.clock.time += 1
    assert not await after.remembered(b"p", APP)


async def test_a_refusal_is_remembered_and_outlives_a_restart(access: Access, memory: Memory) -> None:
    for principal in (b"p", b"q"):
        access.grant(principal, APP, access.now())
    access.revoke(b"p", APP)
    assert not await access.remembered(b"p", APP)
    assert await access.remembered(b"q", APP)

    after = await restarted(memory)
    assert not await after.remembered(b"p", APP)
    assert await after.remembered(b"q", APP)


async def test_a_refusal_counts_against_what_an_earlier_process_heard(access: Access, memory: Memory) -> None:
    access.grant(b"p", APP, access.now())
    after = await restarted(memory)
    after.revoke(b"p", APP)

    assert not await after.remembered(b"p", APP)
    assert not await (await restarted(memory)).remembered(b"p", APP)


async def test_without_grace_nothing_is_remembered_nor_written(memory: Memory, clock: Clock) -> None:
    access = Access(memory.facts, clock, ttl=TTL, grace=0)
    access.grant(b"p", APP, access.now())
    assert access.granted(b"p", APP)
    assert not await access.remembered(b"p", APP)

    await memory.facts.flush()
    assert memory.rows().keys() == []


async def test_a_shorter_grace_counts_for_what_was_remembered_before(access: Access, memory: Memory) -> None:
    access.grant(b"p", APP, access.now())

    memory.clock.time += GRACE / 2
    assert not await (await restarted(memory, grace=0)).remembered(b"p", APP)
    assert not await (await restarted(memory, grace=GRACE / 4)).remembered(b"p", APP)
    assert await (await restarted(memory)).remembered(b"p", APP)


async def test_a_row_of_somebody_else_is_no_grant(access: Access, memory: Memory) -> None:
    access.grant(b"p", APP, access.now())
    await memory.facts.flush()
    (key,) = memory.rows().keys()
    access = await restarted(memory)
    for row in ("true", "1", f"[{memory.clock.time}, 3600.0, 1]", f'[{memory.clock.time}, 3600.0, "true"]', "x"):
        memory.rows().change(key, row)
        assert not await access.remembered(b"p", APP)
    memory.rows().change(key, f"[{memory.clock.time}, 3600.0, true]")
    assert await access.remembered(b"p", APP)


async def test_what_is_on_disk_names_nobody(access: Access, memory: Memory) -> None:
    principal = b"the principal as it is"
    access.grant(principal, APP, access.now())
    await memory.facts.flush()

    for name in (principal, principal.hex().encode(), b"registry.test", b"team/app"):
        assert name not in memory.content()
    assert b"grant " in memory.content()


# -- changes


async def test_what_was_said_before_a_change_is_overtaken(access: Access, clock: Clock) -> None:
    before = access.now()
    assert not access.overtaken(APP, DIGEST, before)
    clock.time += 1
    access.changed(APP, DIGEST)
    assert access.overtaken(APP, DIGEST, access.now())
    clock.time += 1

    assert access.overtaken(APP, DIGEST, before)
    assert not access.overtaken(APP, DIGEST, access.now())
    assert not access.overtaken(OTHER, DIGEST, before)
    assert not access.overtaken(APP, Digest.of(b"other"), before)


async def test_a_change_counts_until_the_store_knows_of_it(access: Access) -> None:
    assert not access.severed(APP, DIGEST)
    access.changed(APP, DIGEST)
    assert access.severed(APP, DIGEST)
    assert not access.severed(OTHER, DIGEST)
    access.settled(APP, DIGEST)
    assert not access.severed(APP, DIGEST)
    access.settled(APP, DIGEST)
    assert access.overtaken(APP, DIGEST, access.now())


async def test_changes_of_which_the_store_knows_none_end_in_no_link_at_all(
    access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 1)
    access.changed(APP, DIGEST)
    access.changed(OTHER, DIGEST)

    assert access.severed(APP, DIGEST)
    assert access.severed(PLAIN, DIGEST)


async def test_a_change_that_was_forgotten_overtakes_everybody(
    access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 2)
    digests = [Digest.of(bytes([number])) for number in range(3)]
    before = access.now()
    for digest in digests:
        clock.time += 1
        access.changed(APP, digest)

    assert all(access.overtaken(APP, digest, before) for digest in digests)
    assert not access.overtaken(OTHER, DIGEST, access.now())


async def test_what_changes_often_is_remembered_like_what_changed_last(
    access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 2)
    access.changed(APP, DIGEST)
    clock.time += 1
    access.changed(OTHER, DIGEST)
    clock.time += 1
    access.changed(APP, DIGEST)
    clock.time += 1
    access.changed(PLAIN, DIGEST)

    assert access.overtaken(APP, DIGEST, 102.0)
    assert not access.overtaken(APP, Digest.of(b"other"), 102.0), "what was forgotten was OTHER's"


# -- any history


@settings(max_examples=30)  # every one with a store of its own
@given(steps=st.lists(st.sampled_from(["ask", "grant", "revoke", "later", "restart"]), max_size=12))
def test_a_grant_always_rests_on_a_question_after_the_last_refusal(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    asyncio.run(_history(tmp_path_factory.mktemp("history"), steps))


async def _history(folder: Path, steps: list[str]) -> None:
    async with remembering(folder / "store") as memory:
        clock = memory.clock
        access = Access(memory.facts, clock, ttl=TTL, grace=GRACE)
        asked: list[float] = []
        refused = best = heard = -1.0
        for step in steps:
            clock.time += 1
            match step:
                case "ask":
                    asked.append(access.now())
                case "grant" if asked:
                    question = asked.pop(0)
                    access.grant(b"p", APP, question)
                    if question > refused:
                        best, heard = max(best, question), clock.time
                case "revoke":
                    access.revoke(b"p", APP)
                    refused, best, heard = clock.time, -1.0, -1.0
                case "later":
                    clock.time += TTL / 2
                case "restart":
                    access = Access(await memory.restart(), clock, ttl=TTL, grace=GRACE)
                    asked, best = [], -1.0
            assert access.granted(b"p", APP) == (best >= 0 and best + TTL > clock.time)
            assert await access.remembered(b"p", APP) == (heard >= 0)


# -- the operator's word


async def vouch(memory: Memory, principal: bytes) -> None:
    await memory.store.note(dict(module.vouched(principal, APP, memory.clock())))


async def test_whom_the_operator_vouches_for_is_remembered_beyond_the_grace(access: Access, memory: Memory) -> None:
    await vouch(memory, b"p")
    memory.clock.time += 2 * GRACE

    assert await access.remembered(b"p", APP)
    assert not access.granted(b"p", APP), "the upstream is asked as ever"
    for principal, repository in ((b"q", APP), (b"p", OTHER), (b"p", PLAIN)):
        assert not await access.remembered(principal, repository)
    memory.clock.time += LASTING
    assert not await access.remembered(b"p", APP)


async def test_a_refusal_ends_the_operator_s_word(access: Access, memory: Memory) -> None:
    await vouch(memory, b"p")
    access.revoke(b"q", APP)
    assert await access.remembered(b"p", APP)
    access.revoke(b"p", APP)

    assert not await access.remembered(b"p", APP)
    assert not await (await restarted(memory)).remembered(b"p", APP)


async def test_without_grace_the_operator_s_word_counts_for_nothing(memory: Memory, clock: Clock) -> None:
    await vouch(memory, b"p")

    assert not await Access(memory.facts, clock, ttl=TTL, grace=0).remembered(b"p", APP)
