"""Clients' connections: counted until their sockets are closed, and cut when it is the client who keeps us waiting."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from pullthrough.visits import Allowance, Full, Visit, Visits

#: Nothing ends in a test's time, but for what it is about.
AGES = Allowance(step=1000.0, idle=1000.0, silence=1000.0)
SHORT = 0.02
MUCH = b"x" * (8 << 20)


@dataclass
class Guest:
    """A visit with a real connection: `theirs` is the client's end."""

    visit: Visit
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    theirs: socket.socket
    left: asyncio.Event

    async def cut(self) -> bool:
        """Wait for the end of the connection."""
        async with asyncio.timeout(10.0):
            while await self.reader.read(1 << 16):
                pass
        return True


@asynccontextmanager
async def guest(allowance: Allowance) -> AsyncIterator[Guest]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    left = asyncio.Event()
    try:
        yield Guest(Visit(allowance, writer, left.set), writer, reader, theirs, left)
    finally:
        if writer.transport.get_write_buffer_size() or not writer.is_closing():
            writer.transport.abort()
        theirs.close()
        await asyncio.sleep(0)


# -- how many


def test_there_are_so_many_and_one_address_has_half_of_them() -> None:
    visits = Visits(4, AGES)
    for key in "ab":
        visits.enter(key, "10.0.0.1", None)
    with pytest.raises(Full, match="of this client are open: the limit is 2") as share:
        visits.enter("c", "10.0.0.1", None)
    for key in "de":
        visits.enter(key, "10.0.0.2", None)
    with pytest.raises(Full, match="too many connections are open: the limit is 4") as crowd:
        visits.enter("f", "10.0.0.3", None)

    assert (share.value.share, crowd.value.share, len(visits)) == (True, False, 4)


def test_who_leaves_makes_room_once() -> None:
    visits = Visits(2, AGES)
    visits.enter("a", "10.0.0.1", None)
    for key in ("a", "a", "never entered"):
        visits.leave(key)

    assert len(visits) == 0
    visits.enter("b", "10.0.0.1", None)


def test_one_connection_is_always_possible() -> None:
    Visits(1, AGES).enter("a", "10.0.0.1", None)


async def test_who_left_without_taking_its_answer_counts_until_that_is_over() -> None:
    visits = Visits(2, AGES)
    async with guest(AGES) as it:
        visits.enter("a", "10.0.0.1", it.writer)
        it.writer.write(MUCH)
        it.writer.close()
        visits.leave("a")
        with pytest.raises(Full):
            visits.enter("b", "10.0.0.1", None)

        taken = 0
        while taken < len(MUCH):
            taken += len(await asyncio.to_thread(it.theirs.recv, 1 << 20))
        await it.writer.wait_closed()
        await asyncio.sleep(0)
        visits.enter("b", "10.0.0.1", None)


def test_who_never_entered_is_nobody_s_concern() -> None:
    visit = Visits(2, AGES).of("nobody")
    for turn in (visit.step, visit.rest, visit.carry, visit.moved, visit.serve, visit.gave):
        turn()


# -- how long


async def test_a_step_is_not_prolonged_by_what_looks_like_another() -> None:
    async with guest(replace(AGES, step=SHORT)) as it:
        it.visit.step()
        again = asyncio.create_task(stepping(it.visit))
        assert await it.cut()
        again.cancel()


async def stepping(visit: Visit) -> None:
    while True:
        visit.step()
        await asyncio.sleep(SHORT / 10)


async def test_each_turn_has_its_own_time() -> None:
    for allowance in (replace(AGES, step=SHORT), replace(AGES, idle=SHORT), replace(AGES, silence=SHORT)):
        async with guest(allowance) as it:
            if allowance.step == SHORT:
                it.visit.step()
            elif allowance.idle == SHORT:
                it.visit.rest()
            else:
                it.visit.carry()
            assert await it.cut()


async def test_nothing_of_a_turn_that_is_over_is_left() -> None:
    async with guest(replace(AGES, step=SHORT, idle=SHORT)) as it:
        it.visit.step()
        it.visit.rest()
        it.visit.serve()
        await asyncio.sleep(SHORT * 5)
        assert not it.writer.transport.is_closing()


async def test_what_moves_is_not_silent_and_what_moved_late_begins_nothing() -> None:
    async with guest(replace(AGES, silence=SHORT)) as it:
        it.visit.serve()
        it.visit.moved()  # a part that was queued while the client was done already
        await asyncio.sleep(SHORT * 5)
        assert not it.writer.transport.is_closing()


async def test_a_tunnel_is_left_alone_for_good() -> None:
    async with guest(Allowance(step=SHORT, idle=SHORT, silence=SHORT)) as it:
        it.visit.step()
        it.visit.leave_alone()
        for turn in (it.visit.serve, it.visit.step, it.visit.rest, it.visit.carry):
            turn()
        it.writer.write(MUCH)
        await asyncio.sleep(SHORT * 5)
        assert not it.writer.transport.is_closing()


# -- answers that are not taken


@pytest.mark.parametrize("turn", ["serve", "rest"])
async def test_who_takes_nothing_is_cut(turn: str) -> None:
    async with guest(replace(AGES, silence=SHORT)) as it:
        it.writer.write(MUCH)
        getattr(it.visit, turn)()
        assert await it.cut()


async def test_so_is_who_was_given_more_and_then_took_nothing() -> None:
    async with guest(replace(AGES, silence=SHORT)) as it:
        it.visit.serve()
        for _ in range(2):
            it.writer.write(MUCH)
            it.visit.gave()
        assert await it.cut()


async def test_who_takes_a_little_is_waited_for_and_then_may_rest() -> None:
    async with guest(replace(AGES, silence=0.3)) as it:
        it.writer.write(MUCH)
        it.visit.rest()
        taken = 0
        while taken < len(MUCH):
            taken += len(await asyncio.to_thread(it.theirs.recv, len(MUCH) // 20))
            await asyncio.sleep(0.03)
        assert taken == len(MUCH)
        assert not it.writer.transport.is_closing()


async def test_who_closed_and_takes_nothing_is_cut_as_well() -> None:
    async with guest(replace(AGES, silence=SHORT)) as it:
        it.writer.write(MUCH)
        it.writer.close()
        it.visit.end()
        assert not it.left.is_set()
        async with asyncio.timeout(10.0):
            await it.left.wait()


async def test_who_took_everything_is_gone_at_once() -> None:
    async with guest(AGES) as it:
        it.visit.rest()
        it.visit.end()
        assert it.left.is_set()


# -- who has just come


async def test_the_end_waits_for_whoever_has_just_come_and_not_for_whoever_left() -> None:
    visits = Visits(4, AGES)
    await visits.greeted()
    visits.enter("a", "10.0.0.1", None)
    waiting = asyncio.create_task(visits.greeted())
    await asyncio.sleep(0)
    assert not waiting.done()

    visits.leave("a")
    await waiting
