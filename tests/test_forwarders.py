"""Other name servers: which of them is asked, and which reply is believed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from mitmproxy.dns import DNSMessage
from mitmproxy.net.dns import types

from lab.nameserver import LabNameServer, question
from lab.ports import free_port
from pullthrough import forwarders
from pullthrough.core import dnsmessage
from pullthrough.core.dnsmessage import Question
from pullthrough.forwarders import Forwarders
from pullthrough.guard import Guard

FIRST, SECOND = "127.0.0.61", "127.0.0.62"
PACKET = question("plain.test", types.A, identity=7).packed


def asked() -> Question:
    read = dnsmessage.question(PACKET)
    assert read is not None
    return read


@dataclass
class Elsewhere:
    """Two addresses and a port, at which a test puts name servers."""

    port: int
    time: float = 1000.0
    running: dict[str, LabNameServer] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)

    def there(self, address: str) -> LabNameServer:
        """A name server that knows plain.test by its own address."""
        made = self.running[address] = LabNameServer()
        made.host("plain.test", address)
        made.listen(address, self.port)
        return made

    def forwarders(self, *servers: str) -> Forwarders:
        return Forwarders(servers or (FIRST, SECOND), self.guard, port=self.port, clock=lambda: self.time)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere(free_port())
    yield made
    for server in made.running.values():
        server.stop()


async def said(asking: Forwarders, *, tcp: bool = False) -> str | None:
    """The address that plain.test has for whoever replied."""
    reply = await asking.ask(PACKET, asked(), tcp=tcp)
    if reply is None:
        return None
    answer = DNSMessage.unpack(reply)
    assert answer.id == 7
    return str(answer.answers[0])


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_first_is_asked_and_no_other(elsewhere: Elsewhere, tcp: bool) -> None:
    first, second = elsewhere.there(FIRST), elsewhere.there(SECOND)

    assert await said(elsewhere.forwarders(), tcp=tcp) == FIRST
    assert (first.asked("plain.test"), second.asked("plain.test")) == (1, 0)


@pytest.mark.parametrize("tcp", [False, True])
async def test_one_that_refuses_is_passed_over_and_for_a_while_comes_last(elsewhere: Elsewhere, tcp: bool) -> None:
    elsewhere.there(SECOND)
    asking = elsewhere.forwarders()
    assert await said(asking, tcp=tcp) == SECOND

    elsewhere.there(FIRST)
    assert await said(asking, tcp=tcp) == SECOND
    elsewhere.time += 31
    assert await said(asking, tcp=tcp) == FIRST


@pytest.mark.parametrize("tcp", [False, True])
async def test_one_that_is_silent_is_not_waited_for(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, tcp: bool
) -> None:
    monkeypatch.setattr(forwarders, "_PATIENCE", 0.2)
    second = elsewhere.there(SECOND)
    with socket.socket(type=socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as silent:
        silent.bind((FIRST, elsewhere.port))
        if tcp:
            silent.listen()

        assert await said(elsewhere.forwarders(), tcp=tcp) == SECOND
        assert second.asked("plain.test") == 1


@pytest.mark.parametrize("tcp", [False, True])
async def test_with_nobody_there_is_no_reply_and_all_are_asked_again(elsewhere: Elsewhere, tcp: bool) -> None:
    asking = elsewhere.forwarders()
    assert await said(asking, tcp=tcp) is None

    elsewhere.there(SECOND)
    assert await said(asking, tcp=tcp) == SECOND


async def test_nobody_is_asked_where_nobody_was_named(elsewhere: Elsewhere) -> None:
    assert await Forwarders((), elsewhere.guard).ask(PACKET, asked(), tcp=False) is None


async def test_an_address_of_the_other_family(elsewhere: Elsewhere) -> None:
    names = elsewhere.there("::1")
    names.host("plain.test", FIRST)

    assert [await said(elsewhere.forwarders("::1"), tcp=tcp) for tcp in (False, True)] == [FIRST] * 2


# -- ourselves


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(("listening", "written"), [(FIRST, FIRST), ("0.0.0.0", FIRST), ("127.0.0.1", "0.0.0.0")])
async def test_this_proxy_is_never_asked(
    elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture, tcp: bool, listening: str, written: str
) -> None:
    ourselves, other = elsewhere.there(listening), elsewhere.running.get(SECOND)
    elsewhere.guard.listening([(listening, elsewhere.port)])
    asking = elsewhere.forwarders(written)

    assert [await said(asking, tcp=tcp) for _ in range(3)] == [None] * 3
    assert ourselves.asked("plain.test") == 0
    assert other is None
    assert caplog.text.count("is this proxy itself and is not asked: name another with --resolver") == 1


# -- replies

type Speak = Callable[[bytes, tuple[str, int], socket.socket], None]


@contextlib.contextmanager
def speaking(elsewhere: Elsewhere, speak: Speak) -> Iterator[list[bytes]]:
    """A name server at the first address that says what a test says."""
    heard: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((FIRST, elsewhere.port))

        def come() -> None:
            packet, peer = sock.recvfrom(65535)
            heard.append(packet)
            speak(packet, peer, sock)

        loop.add_reader(sock, come)
        try:
            yield heard
        finally:
            loop.remove_reader(sock)


def answer(packet: bytes, identity: int | None = None) -> bytes:
    request = DNSMessage.unpack(packet)
    lab = LabNameServer()
    lab.host(request.questions[0].name.lower(), FIRST)
    reply = lab.answer(packet)
    return reply if identity is None else dnsmessage.identified(reply, identity)


async def test_others_see_the_question_as_it_came_under_ids_that_nobody_can_guess(elsewhere: Elsewhere) -> None:
    def reply(packet: bytes, peer: tuple[str, int], sock: socket.socket) -> None:
        ports.add(peer[1])
        sock.sendto(answer(packet), peer)

    ports = set[int]()
    with speaking(elsewhere, reply) as heard:
        asking = elsewhere.forwarders(FIRST)
        assert [await said(asking) for _ in range(20)] == [FIRST] * 20

    assert {packet[2:] for packet in heard} == {PACKET[2:]}
    assert len({packet[:2] for packet in heard}) > 10
    assert len(ports) > 10


async def test_what_does_not_reply_to_the_question_is_passed_over(elsewhere: Elsewhere) -> None:
    def guess(packet: bytes, peer: tuple[str, int], sock: socket.socket) -> None:
        identity = int.from_bytes(packet[:2])
        for wrong in (b"", packet, answer(packet, identity ^ 1), answer(packet).replace(b"plain", b"other")):
            sock.sendto(wrong.replace(socket.inet_aton(FIRST), b"\x06\x06\x06\x06"), peer)
        sock.sendto(answer(packet), peer)

    with speaking(elsewhere, guess):
        assert await said(elsewhere.forwarders(FIRST)) == FIRST


async def test_whoever_goes_on_guessing_is_not_listened_to(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarders, "_PATIENCE", 30.0)
    monkeypatch.setattr(forwarders, "_LAST_PATIENCE", 30.0)
    elsewhere.there(SECOND)

    def guess(packet: bytes, peer: tuple[str, int], sock: socket.socket) -> None:
        for _ in range(40):
            sock.sendto(answer(packet, int.from_bytes(packet[:2]) ^ 1), peer)

    with speaking(elsewhere, guess):
        assert await said(elsewhere.forwarders()) == SECOND


async def test_a_reply_that_was_cut_is_handed_on_as_it_is(elsewhere: Elsewhere) -> None:
    def cut(packet: bytes, peer: tuple[str, int], sock: socket.socket) -> None:
        whole = answer(packet)
        sock.sendto(whole[:2] + bytes([whole[2] | 2]) + whole[3:], peer)

    with speaking(elsewhere, cut):
        reply = await elsewhere.forwarders(FIRST).ask(PACKET, asked(), tcp=False)

    assert reply is not None
    assert DNSMessage.unpack(reply).truncation


@pytest.mark.parametrize("half", [b"", b"\0", b"\0\x20abc"])
async def test_a_stream_that_ends_early_is_no_reply(elsewhere: Elsewhere, half: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2 + len(PACKET))
        writer.write(half)
        writer.close()

    async with await asyncio.start_server(hang_up, FIRST, elsewhere.port):
        assert await said(elsewhere.forwarders(FIRST), tcp=True) is None


async def test_a_long_reply_comes_over_a_stream(elsewhere: Elsewhere) -> None:
    async def say_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = (await reader.readexactly(2 + len(PACKET)))[2:]
        reply = answer(packet).ljust(65535, b"\0")
        writer.write(len(reply).to_bytes(2))
        for start in range(0, len(reply), 9000):
            writer.write(reply[start : start + 9000])
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(say_much, FIRST, elsewhere.port):
        reply = await elsewhere.forwarders(FIRST).ask(PACKET, asked(), tcp=True)

    assert reply is not None
    assert len(reply) == 65535


async def test_without_a_descriptor_there_is_no_reply_and_no_fault(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> Awaitable[None]:
        raise OSError(errno.EMFILE, "Too many open files")

    asking = elsewhere.forwarders()
    monkeypatch.setattr(socket, "socket", none_left)

    assert await asking.ask(PACKET, asked(), tcp=False) is None
