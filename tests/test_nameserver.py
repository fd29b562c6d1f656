"""What the name server answers itself, what it hands to others, and how much of either at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from mitmproxy.dns import DNSMessage
from mitmproxy.net.dns import classes, response_codes, types

from lab.inside import until
from lab.nameserver import LENGTH, question
from pullthrough import nameserver
from pullthrough.balance import Balance
from pullthrough.core import dnsmessage
from pullthrough.core.dnsmessage import Question
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.forwarders import Forwarders
from pullthrough.guard import Guard
from pullthrough.listeners import Listener, opened
from pullthrough.nameserver import NameServer
from pullthrough.options import Address, IPAddress, parse_ip

FOUR, SIX = parse_ip("10.0.0.5"), parse_ip("fd00::5")


SAID = b"said by others"


class Others(Forwarders):
    """Whoever is asked for the rest: notes what, and replies once it may."""

    def __init__(self) -> None:
        super().__init__((), Guard())
        self.asked: list[tuple[str, bool]] = []
        self.may_reply = asyncio.Event()
        self.may_reply.set()
        self.reply: bytes | None = SAID

    async def ask(self, packet: bytes, asked: Question, *, tcp: bool) -> bytes | None:
        self.asked.append((asked.name, tcp))
        await self.may_reply.wait()
        return self.reply and packet[:2] + self.reply


def registries() -> Registries:
    entries = ("registry.test", "other.test:5050", "*.corp.test", "10.0.0.9:5050")
    return Registries([parse_entry(entry) for entry in entries])


def own(
    name: str, kind: int, advertised: Sequence[IPAddress] = (FOUR, SIX), of_class: int = classes.IN
) -> bytes | None:
    request = question(name, kind)
    request.questions[0].class_ = of_class
    asked = dnsmessage.question(request.packed)
    assert asked is not None
    return NameServer(registries(), advertised, Forwarders((), Guard())).answer(asked)


def given(answer: bytes | None) -> DNSMessage:
    assert answer is not None
    return DNSMessage.unpack(answer)


# -- what is answered


@pytest.mark.parametrize(
    "name", ["registry.test", "Registry.TEST", "other.test", "a.corp.test", "registry-1.docker.io", "GHCR.io"]
)
@pytest.mark.parametrize("of_class", [classes.IN, classes.ANY])
def test_a_registry_is_here_whatever_its_port(name: str, of_class: int) -> None:
    four, six, both = (given(own(name, kind, of_class=of_class)) for kind in (types.A, types.AAAA, types.ANY))

    assert [(record.name, record.type, record.data) for record in four.answers] == [(name, types.A, FOUR.packed)]
    assert [(record.name, record.type, record.data) for record in six.answers] == [(name, types.AAAA, SIX.packed)]
    assert both.answers == four.answers + six.answers
    assert all(0 < record.ttl <= 300 and record.class_ == classes.IN for record in both.answers)


@pytest.mark.parametrize(
    ("advertised", "name", "kind"),
    [
        ([FOUR], "registry.test", types.AAAA),
        ([SIX], "registry.test", types.A),
        ([FOUR, SIX], "registry.test", types.HTTPS),
        ([FOUR], "registry.test", types.SVCB),
        *(
            ([FOUR], f"{prefix}{name}", kind)
            for prefix in ("_https.", "_5050._https.", "_5050._HTTPS.")
            for name in ("registry.test", "Other.test", "ghcr.io")
            for kind in (types.HTTPS, types.SVCB, types.ANY)
        ),
    ],
)
def test_of_a_registry_nothing_is_given_that_would_lead_past_us(
    advertised: list[IPAddress], name: str, kind: int
) -> None:
    answer = given(own(name, kind, advertised))

    assert answer.response_code == response_codes.NOERROR
    assert answer.answers == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plain.test", types.A),
        ("plain.test", types.HTTPS),
        ("_5050._https.plain.test", types.HTTPS),
        ("_5050._https.registry.test", types.A),
        ("_5050._https.registry.test", types.TXT),
        ("_5050._other.registry.test", types.SVCB),
        ("_acme-challenge.registry.test", types.TXT),
        ("test", types.A),
        ("sub.registry.test", types.A),
        ("registry.test.evil.test", types.A),
        ("registry.test", types.TXT),
        ("registry.test", types.MX),
        ("", types.NS),
        ("", types.A),
    ],
)
def test_everything_else_is_for_others(name: str, kind: int) -> None:
    assert own(name, kind) is None


def test_of_other_classes_nothing_is_known() -> None:
    assert own("registry.test", types.A, of_class=classes.CH) is None


def test_a_dot_in_a_label_makes_no_registry() -> None:
    packet = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\x0dregistry.test\0\0\1\0\1"
    asked = dnsmessage.question(packet)

    assert asked is not None
    assert NameServer(registries(), [FOUR], Others()).answer(asked) is None


def test_what_is_no_query_is_not_implemented() -> None:
    asked = dnsmessage.question(struct.pack("!6H", 7, 5 << 11, 1, 0, 0, 0))

    assert asked is not None
    assert given(NameServer(registries(), [FOUR], Others()).answer(asked)).response_code == response_codes.NOTIMP


# -- over the network


@dataclass
class House:
    """The name server on loopback, and whom it asks."""

    names: NameServer
    others: Others
    address: tuple[str, int] = ("", 0)
    made: list[socket.socket] = field(default_factory=list)

    def datagrams(self) -> socket.socket:
        """A client of its own."""
        sock = socket.socket(type=socket.SOCK_DGRAM)
        self.made.append(sock)
        sock.setblocking(False)
        sock.connect(self.address)
        return sock

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    others = Others()
    made = House(NameServer(registries(), [FOUR], others), others)
    await made.names.listen(listener("127.0.0.1"))
    (made.address,) = made.names.addresses
    yield made
    others.may_reply.set()
    await made.names.aclose()
    for sock in made.made:
        sock.close()
    assert made.names.busy == 0


def listener(host: str, port: int = 0) -> Listener:
    (made,) = opened(Address(host, port), Balance(), datagrams=True)
    return made


async def heard(sock: socket.socket) -> bytes:
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(sock, 65535)


def framed(*packets: bytes) -> bytes:
    return b"".join(LENGTH.pack(len(packet)) + packet for packet in packets)


async def frame(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.readexactly(*LENGTH.unpack(await reader.readexactly(2)))


def asked(name: str, identity: int = 7) -> bytes:
    return question(name, types.A, identity).packed


ANSWER = question("plain.test", types.A).succeed([]).packed


async def test_datagrams_are_answered(house: House) -> None:
    sock = house.datagrams()
    for name, answers in [("registry.test", True), ("plain.test", False), ("registry.test", True)]:
        sock.send(asked(name))
        reply = await heard(sock)
        assert reply.startswith(b"\0\x07")
        assert (SAID not in reply) == answers
    await until(lambda: house.names.busy == 0)
    assert house.others.asked == [("plain.test", False)]


async def test_questions_of_a_connection_are_answered_as_answers_come(house: House) -> None:
    house.others.may_reply.clear()
    async with house.stream() as (reader, writer):
        writer.write(framed(asked("plain.test", 1), asked("registry.test", 2), asked("plain.test", 3)))
        assert (await frame(reader))[:2] == b"\0\2"
        house.others.may_reply.set()
        assert {(await frame(reader))[:2] for _ in range(2)} == {b"\0\1", b"\0\3"}
    assert house.others.asked == [("plain.test", True)] * 2
    await until(lambda: house.names.busy == 0)


async def test_a_client_that_ends_its_own_half_is_still_answered(house: House) -> None:
    house.others.may_reply.clear()
    async with house.stream() as (reader, writer):
        writer.write(framed(asked("plain.test")))
        writer.write_eof()
        await until(lambda: house.others.asked)
        house.others.may_reply.set()
        assert await frame(reader) == b"\0\x07" + SAID
        assert await reader.read() == b""


async def test_without_a_reply_of_others_the_client_is_told_so_and_can_go_on(house: House) -> None:
    house.others.reply = None
    sock = house.datagrams()
    async with house.stream() as (reader, writer):
        for name, code in [("plain.test", 2), ("plain.test", 2), ("registry.test", 0)]:
            sock.send(asked(name))
            writer.write(framed(asked(name)))
            for answer in (await heard(sock), await frame(reader)):
                assert DNSMessage.unpack(answer).response_code == code


NO_QUESTIONS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\xff" * 40, id="no question"),
    pytest.param(ANSWER, id="an answer"),
    pytest.param(struct.pack("!6H", 7, 256, 2, 0, 0, 0) + asked("plain.test")[12:] * 2, id="two questions"),
    pytest.param(asked("plain.test") + b"\0" * 5000, id="too long"),
]


@pytest.mark.parametrize("packet", NO_QUESTIONS)
async def test_a_datagram_that_is_no_question_gets_no_answer(house: House, packet: bytes) -> None:
    sock = house.datagrams()
    sock.send(packet)
    sock.send(asked("registry.test", 9))

    assert (await heard(sock))[:2] == b"\0\x09"
    assert house.others.asked == []
    assert house.names.busy == 0


@pytest.mark.parametrize("packet", NO_QUESTIONS)
async def test_a_connection_that_asks_no_question_is_closed(house: House, packet: bytes) -> None:
    async with house.stream() as (reader, writer):
        writer.write(framed(asked("plain.test", 9), packet, asked("registry.test")))
        assert (await frame(reader))[:2] == b"\0\x09"
        with contextlib.suppress(ConnectionError):  # what we did not read any more is lost, and that is told
            assert await reader.read() == b""
    assert house.others.asked == [("plain.test", True)]
    await until(lambda: house.names.busy == 0)


@pytest.mark.parametrize("begun", [b"", b"\0", b"\0\x20abc"])
async def test_a_connection_that_says_nothing_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(nameserver, "_PATIENCE", 0.05)
    async with house.stream() as (reader, writer):
        writer.write(begun)
        assert await reader.read() == b""


async def test_a_client_that_takes_no_answers_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "_PATIENCE", 0.2)
    house.others.reply = b"\0" * 65000
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, house.address)
        with contextlib.suppress(OSError):
            for _ in range(4000):
                await asyncio.get_running_loop().sock_sendall(sock, framed(asked("plain.test")))
        await until(lambda: house.names.busy == 0)
    assert len(house.others.asked) < 4000


# -- bounds


async def test_only_so_many_questions_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "_MAX_QUESTIONS", 3)
    house.others.may_reply.clear()
    sock = house.datagrams()
    for identity in range(10):
        sock.send(asked("plain.test", identity))
    sock.send(asked("registry.test", 99))
    assert (await heard(sock))[:2] == b"\0\x63"
    assert len(house.others.asked) == 3

    async with house.stream() as (reader, writer):
        writer.write(framed(asked("plain.test", 10)))
        assert DNSMessage.unpack(await frame(reader)).response_code == response_codes.SERVFAIL
    house.others.may_reply.set()
    assert {(await heard(sock))[1] for _ in range(3)} == {0, 1, 2}
    await until(lambda: house.names.busy == 0)
    sock.send(asked("plain.test", 11))
    assert (await heard(sock))[1] == 11


async def test_only_so_many_questions_of_a_connection(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "_MAX_PIPELINED", 2)
    house.others.may_reply.clear()
    async with house.stream() as (reader, writer), house.stream() as (other, asks):
        writer.write(framed(*(asked("plain.test", identity) for identity in range(9))))
        await until(lambda: len(house.others.asked) == 2)
        asks.write(framed(asked("registry.test")))
        assert await frame(other)
        assert len(house.others.asked) == 2

        house.others.may_reply.set()
        assert {(await frame(reader))[1] for _ in range(9)} == set(range(9))


async def test_only_so_many_connections(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "_MAX_CONNECTIONS", 2)
    async with house.stream() as (reader, writer):
        async with house.stream():
            await until(lambda: house.names.busy == 2)
            async with house.stream() as (third, _):
                with contextlib.suppress(ConnectionError):
                    assert await third.read() == b""
        writer.write(framed(asked("registry.test")))
        assert await frame(reader)
        await until(lambda: house.names.busy == 1)
    async with house.stream() as (reader, writer):
        writer.write(framed(asked("registry.test")))
        assert await frame(reader)


async def test_nothing_is_kept_of_what_was_asked(house: House) -> None:
    sock = house.datagrams()
    async with house.stream() as (reader, writer):
        for identity in range(500):
            sock.send(asked("plain.test", identity))
            writer.write(framed(asked("plain.test", identity)))
            await heard(sock)
            await frame(reader)
        await until(lambda: house.names.busy == 1)  # the connection
    await until(lambda: house.names.busy == 0)


# -- who is heard


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients on loopback count as having public addresses."""
    monkeypatch.setattr(nameserver, "is_private_client", lambda host: not host.startswith("127."))


@pytest.mark.usefixtures("strangers")
async def test_a_client_with_a_public_address_gets_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    sock = house.datagrams()
    for name in ("registry.test", "plain.test"):
        sock.send(asked(name))
        async with house.stream() as (reader, writer):
            writer.write(framed(asked(name)))
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    assert house.others.asked == []
    assert caplog.text.count("127.0.0.1 is a client with a public address: refused") == 1


# -- life


async def test_ports_are_free_again_and_what_is_under_way_ends() -> None:
    others = Others()
    others.may_reply.clear()
    names = NameServer(registries(), [FOUR], others)
    await names.listen(listener("127.0.0.1"))
    house = House(names, others, names.addresses[0])
    house.datagrams().send(asked("plain.test"))
    async with house.stream() as (reader, writer):
        writer.write(framed(asked("plain.test")))
        await until(lambda: len(others.asked) == 2)
        await names.aclose()
        assert await reader.read() == b""
    assert names.busy == 0
    assert names.addresses == []
    for sock in house.made:
        sock.close()

    again = NameServer(registries(), [FOUR], others)
    await again.listen(listener(*house.address))
    await again.aclose()
    await again.aclose()


async def test_both_families_on_one_port() -> None:
    names = NameServer(registries(), [FOUR], Others())
    await names.listen(listener("0.0.0.0"))
    port = names.addresses[0][1]
    await names.listen(listener("::", port))

    assert names.addresses == [("0.0.0.0", port), ("::", port)]
    for address in ("127.0.0.1", "::1"):
        house = House(names, Others(), (address, port))
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(house.address)
            sock.send(asked("registry.test"))
            assert given(await heard(sock)).answers
    await names.aclose()


async def test_a_fault_is_told_and_ends_one_question(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> bytes:
        raise ValueError("broken")

    right: Callable[..., Awaitable[bytes | None]] = house.others.ask
    sock = house.datagrams()
    monkeypatch.setattr(house.others, "ask", broken)
    sock.send(asked("plain.test", 1))
    await until(lambda: "fault while answering a question" in caplog.text)
    monkeypatch.setattr(house.others, "ask", right)
    sock.send(asked("plain.test", 2))
    assert (await heard(sock))[:2] == b"\0\2"
