"""What one process tells the others: in order, known to be taken in, and what becomes of those who do not listen."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.inside import until
from lab.siblings import joined
from pullthrough import siblings as module
from pullthrough.siblings import Siblings


class Listener:
    """What one of them heard."""

    def __init__(self, who: Siblings) -> None:
        self.who = who
        self.heard: list[object] = []
        self.missed = 0
        who.hear("word", lambda *words: self.heard.append(words))
        who.missed(self._forget)

    def _forget(self) -> None:
        self.missed += 1


@pytest.fixture
async def three(short_folder: Path) -> AsyncIterator[list[Listener]]:
    async with joined(short_folder, "0", "1", "2") as everybody:
        yield [Listener(one) for one in everybody]


async def test_all_others_hear_in_order_before_it_is_agreed(three: list[Listener]) -> None:
    for number in range(1000):
        three[1].who.tell("word", number, "x" * 100)
    await three[1].who.agreed()

    said = [(number, "x" * 100) for number in range(1000)]
    assert three[0].heard == three[2].heard == said
    assert three[1].heard == []


async def test_everybody_speaks_to_everybody(three: list[Listener]) -> None:
    for one in three:
        one.who.tell("word", three.index(one))
    await asyncio.gather(*(one.who.agreed() for one in three))

    assert [sorted(str(word) for word in one.heard) for one in three] == [
        ["(1,)", "(2,)"],
        ["(0,)", "(2,)"],
        ["(0,)", "(1,)"],
    ]


async def test_nobody_waits_who_is_alone() -> None:
    alone = Siblings()
    alone.tell("word", 1)
    await alone.agreed()
    await alone.aclose()


async def test_what_nobody_wants_to_hear_is_no_fault(three: list[Listener]) -> None:
    three[0].who.tell("another topic", 1)
    three[0].who.tell("word", 2)
    await three[0].who.agreed()

    assert three[1].heard == [(2,)]


async def test_who_ends_in_good_order_has_told_everything(three: list[Listener]) -> None:
    three[0].who.tell("word", 1)
    await three[0].who.aclose()
    await until(lambda: three[1].heard and three[2].heard)
    three[1].who.tell("word", 2)
    await three[1].who.agreed()

    assert three[2].heard == [(1,), (2,)]
    assert [one.missed for one in three] == [0, 0, 0]


async def test_all_start_at_the_same_time(short_folder: Path) -> None:
    everybody = [Listener(Siblings()) for _ in range(6)]
    await asyncio.gather(*(one.who.join(short_folder, str(number)) for number, one in enumerate(everybody)))
    for one in everybody:
        one.who.tell("word", everybody.index(one))
        await one.who.agreed()

    assert all(len(one.heard) == 5 for one in everybody)
    for one in everybody:
        await one.who.aclose()
    assert list(short_folder.iterdir()) == []


async def test_the_name_of_their_folder_may_be_longer_than_that_of_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    async with joined(folder, "0", "1") as everybody:
        one, other = (Listener(each) for each in everybody)
        one.who.tell("word", 1)
        await one.who.agreed()
        assert other.heard == [(1,)]
    assert list(folder.iterdir()) == []


async def test_who_comes_later_is_told_from_then_on(three: list[Listener], short_folder: Path) -> None:
    late = Listener(Siblings())
    await late.who.join(short_folder, "3")
    three[2].who.tell("word", 1)
    await three[2].who.agreed()

    assert late.heard == [(1,)]
    await late.who.aclose()


async def test_a_socket_that_the_dead_left_is_taken_away(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_folder / "dead.sock"))
    async with joined(short_folder, "0"):
        assert [path.name for path in short_folder.iterdir()] == ["0.sock"]


async def test_who_hangs_is_left_alone(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    gone = asyncio.Event()

    async def hear_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_unix_server(hear_for_ever, short_folder / "hanging.sock")
    async with server, joined(short_folder, "0") as [one]:
        await gone.wait()  # it was greeted, and given up
        one.tell("word", 1)
        await one.agreed()


async def test_who_may_have_missed_something_knows_it_and_is_told_again(
    three: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    three[0].who.tell("word", 1)
    await three[0].who.agreed()  # which takes longer than nothing
    monkeypatch.undo()
    await until(lambda: three[1].missed and three[2].missed)

    async def told_again() -> None:
        while (2,) not in three[1].heard or (2,) not in three[2].heard:
            three[0].who.tell("word", 2)
            await three[0].who.agreed()
            await asyncio.sleep(0.001)

    await asyncio.wait_for(told_again(), 20)
    assert three[0].missed == 0


async def test_who_does_not_read_is_given_up(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BACKLOG", 10_000)
    loop, answered, gone = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.pause_reading()
            self.transport.write((1).to_bytes(8))  # it has heard hello
            answered.set()

        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    made: list[Deaf] = []

    def deaf() -> Deaf:
        made.append(Deaf())
        return made[-1]

    async with await loop.create_unix_server(deaf, short_folder / "deaf.sock"), joined(short_folder, "0") as [one]:
        await answered.wait()
        for _ in range(1000):
            one.tell("word", "x" * 1000)
        made[0].transport.resume_reading()
        await gone.wait()
        one.tell("word", 1)
        await one.agreed()


async def test_nonsense_ends_a_conversation_and_nothing_else(three: list[Listener], short_folder: Path) -> None:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    reader, writer = await asyncio.open_unix_connection(short_folder / "0.sock")
    writer.write(b"what?\n")

    assert await reader.read() == b""
    writer.close()
    assert [type(fault) for fault in faults] == [json.JSONDecodeError]
    three[1].who.tell("word", 1)
    await three[1].who.agreed()
    assert three[0].heard == [(1,)]
    assert three[0].missed == 1  # nobody knows whose words these were
