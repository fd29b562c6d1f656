"""Which addresses are never an upstream, and who may be a client."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.guard import (
    ForbiddenAddressError,
    Guard,
    GuardedEventLoop,
    is_loopback,
    is_private_client,
    literal,
)

PORT = 3128

FORBIDDEN = [
    "169.254.169.254",  # AWS, Azure, Google Cloud, OpenStack, DigitalOcean
    "169.254.170.2",  # ECS
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
]
ALLOWED = ["10.0.0.1", "192.168.1.1", "172.16.0.1", "93.184.215.14", "fd00::1", "2001:db8::1", "127.0.0.1", "::1"]


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("brackets", [False, True])
def test_a_forbidden_address_is_objected_to(address: str, brackets: bool) -> None:
    objection = Guard().objection(f"[{address}]" if brackets else address, 443)
    assert objection is not None
    assert address in objection
    with pytest.raises(ForbiddenAddressError):
        Guard().check(address, 443)


@pytest.mark.parametrize("address", ALLOWED)
def test_others_are_not(address: str) -> None:
    assert Guard().objection(address, 443) is None
    Guard().check(address, 443)


@pytest.mark.parametrize("name", ["registry.test", "169.254.169.254.nip.test", "localhost", "", "0x7f.1", "1.2.3"])
def test_a_name_says_nothing(name: str) -> None:
    assert literal(name) is None
    assert Guard().objection(name, 443) is None
    assert not is_loopback(name)
    assert not is_private_client(name)


@given(st.text(), st.integers())
def test_no_host_is_a_surprise(host: str, port: int) -> None:
    Guard().objection(host, port)


# -- ourselves


@pytest.fixture
def guard() -> Guard:
    made = Guard()
    made.listening([("0.0.0.0", PORT), ("::", PORT)])
    return made


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "[::1]"])
def test_our_own_port_on_this_machine_is_ourselves(guard: Guard, address: str) -> None:
    assert guard.is_ourselves(address, PORT)
    assert "this proxy itself" in (guard.objection(address, PORT) or "")
    assert not guard.is_ourselves(address, PORT + 1)
    assert guard.objection(address, PORT + 1) is None


def test_every_address_of_this_machine_counts(guard: Guard) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel says from which address it would
        except OSError:
            pytest.skip("this machine has loopback only")
        address = probe.getsockname()[0]
    assert guard.is_ourselves(address, PORT)


@pytest.mark.parametrize(
    ("listener", "others"),
    [("127.0.0.1", ["127.0.0.2", "::1", "192.0.2.1"]), ("::1", ["127.0.0.1"]), ("192.0.2.1", ["127.0.0.1"])],
)
def test_with_a_listener_on_one_address_the_others_are_somebody_elses(listener: str, others: list[str]) -> None:
    guard = Guard()
    guard.listening([(listener, PORT)])

    assert guard.is_ourselves(listener, PORT)
    assert not any(guard.is_ourselves(other, PORT) for other in others)


def test_another_machine_may_have_the_same_port(guard: Guard) -> None:
    assert not guard.is_ourselves("192.0.2.1", PORT)
    assert not guard.is_ourselves("2001:db8::1", PORT)
    assert not guard.is_ourselves("registry.test", PORT)


def test_before_we_listen_nothing_is_ourselves() -> None:
    assert not Guard().is_ourselves("127.0.0.1", PORT)


# -- clients


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.0.1", True),
        ("100.64.0.1", True),
        ("169.254.1.1", True),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("8.8.8.8", False),
        ("172.32.0.1", False),
        ("100.128.0.1", False),
        ("2606:4700::1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::8.8.8.8", False),
        ("2002:0a00:0001::1", False),
        ("client.test", False),
        ("", False),
    ],
)
def test_who_may_be_a_client(address: str, private: bool) -> None:
    assert is_private_client(address) is private


@given(st.ip_addresses())
def test_no_global_address_is_a_client(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert not (address.is_global and is_private_client(str(address)))


# -- look-ups


type Infos = list[tuple[Any, ...]]


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name lead to these."""

    def lookup(host: Any, port: Any, *args: Any, **options: Any) -> Infos:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, int(port or 0), 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def run[T](guard: Guard, work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    with asyncio.Runner(loop_factory=lambda: GuardedEventLoop(guard)) as runner:
        return runner.run(main())


def looked_up(guard: Guard, host: str | None, **options: Any) -> list[str]:
    infos = run(guard, lambda: asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM, **options))
    return [str(info[4][0]) for info in infos]


def test_a_look_up_leaves_out_what_is_forbidden(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "169.254.169.254", "10.0.0.1", "fe80::1", "fd00::1")
    assert looked_up(guard, "registry.test") == ["10.0.0.1", "fd00::1"]


def test_a_name_that_leads_nowhere_else_is_refused(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "169.254.169.254")
    with pytest.raises(ForbiddenAddressError, match="metadata"):
        looked_up(guard, "metadata.test")


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376"])
def test_however_an_address_is_spelled(guard: Guard, host: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="metadata"):
        looked_up(guard, host)


def test_who_wants_to_listen_is_let(guard: Guard) -> None:
    assert looked_up(guard, None, flags=socket.AI_PASSIVE)
    assert looked_up(guard, "0.0.0.0", flags=socket.AI_PASSIVE) == ["0.0.0.0"]


def test_a_server_can_be_made_and_asked_unless_it_is_ours(guard: Guard) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def work() -> bytes:
        async with await asyncio.start_server(connect, "localhost") as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port)
            said = await reader.read()
            writer.close()
            guard.listening(sock.getsockname()[:2] for sock in server.sockets)
            with pytest.raises(ForbiddenAddressError, match="this proxy itself"):
                await asyncio.open_connection("localhost", port)
            return said

    assert run(guard, work) == b"hello"


def test_a_name_that_does_not_exist_is_an_ordinary_error(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*args: Any, **options: Any) -> Infos:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(socket.gaierror):
        looked_up(guard, "unknown.test")


def test_a_forbidden_address_is_an_error_of_connecting() -> None:
    assert issubclass(ForbiddenAddressError, OSError)
