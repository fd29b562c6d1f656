"""The sockets that clients come to: open or told about, and not shared with strangers."""

import asyncio
import copy
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from lab.deadline import eventually
from pullthrough.balance import Balance
from pullthrough.config import Settings, load
from pullthrough.guard import Guard
from pullthrough.listeners import SETTINGS, ListenError, Listeners, ListeningEventLoop, moved, opened
from pullthrough.options import Address

HERE = Address("127.0.0.1", 0)


@pytest.fixture
def settings() -> Settings:
    return replace(load({}, {"HOME": "/home/someone"}), listen=HERE)


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    with closing(Listeners()) as made:
        yield made


def test_each_setting_has_its_own_and_ports_are_real(settings: Settings, listeners: Listeners) -> None:
    listeners.open(replace(settings, tls_listen=(HERE, HERE), dns_listen=(HERE,)))

    assert [len(listeners.of(name)) for name in SETTINGS] == [1, 2, 0, 1]
    assert len({port for _, port in listeners.addresses}) == 4
    assert all(port > 0 for _, port in listeners.addresses)
    for address in listeners.addresses:
        socket.create_connection(address).close()


def test_names_are_asked_by_datagrams_on_the_same_port(settings: Settings, listeners: Listeners) -> None:
    listeners.open(replace(settings, dns_listen=(HERE,)))

    (names,) = listeners.of("dns_listen")
    assert names.udp is not None
    assert names.udp.getsockname() == names.address
    assert [listener.udp for listener in listeners.of("listen")] == [None]


def test_all_that_is_wrong_is_told_and_nothing_stays_open(settings: Settings, listeners: Listeners) -> None:
    with socket.create_server(HERE) as taken, socket.socket(type=socket.SOCK_DGRAM) as asked:
        asked.bind(HERE)
        wanted = replace(
            settings,
            tls_listen=(Address(*taken.getsockname()), Address("192.0.2.1", 443)),
            dns_listen=(Address(*asked.getsockname()),),
        )
        with pytest.raises(ListenError) as told:
            listeners.open(wanted)

    assert told.value.args == (
        f"--tls-listen {wanted.tls_listen[0]}: Address already in use",
        "--tls-listen 192.0.2.1:443: Cannot assign requested address",
        f"--dns-listen {wanted.dns_listen[0]}: Address already in use",
    )
    assert listeners.addresses == []


def test_both_families_can_have_one_port() -> None:
    (four,) = opened(Address("0.0.0.0", 0), Balance(), datagrams=True)
    (six,) = opened(Address("::", four.address.port), Balance(), datagrams=True)

    assert six.address == ("::", four.address.port)
    for sock in (four.tcp, four.udp, six.tcp, six.udp):
        assert sock is not None
        sock.close()


def test_a_name_has_one_port_on_all_its_addresses() -> None:
    listeners = list(opened(Address("localhost", 0), Balance(), datagrams=False))

    assert len({listener.address.port for listener in listeners}) == 1
    assert {listener.address.host for listener in listeners} <= {"127.0.0.1", "::1"}
    for listener in listeners:
        listener.tcp.close()


def test_a_loop_listens_on_what_is_open_and_may_be_followed_by_another(
    settings: Settings, listeners: Listeners
) -> None:
    listeners.open(settings)
    (address,) = listeners.addresses
    mine = socket.socket(fileno=os.dup(listeners.of("listen")[0].tcp.fileno()))  # as after a fork

    async def answer(text: bytes) -> bytes:
        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(text)
            writer.close()

        server = await asyncio.start_server(connected, *address)
        reader, writer = await asyncio.open_connection(*address)
        said = await reader.read()
        writer.close()
        server.close()
        return said

    def run(text: bytes, those: Listeners) -> bytes:
        with asyncio.Runner(loop_factory=lambda: ListeningEventLoop(Guard(), None, those)) as runner:
            return runner.run(answer(text))

    assert run(b"one", listeners) == b"one"
    with mine:
        socket.create_connection(address).close()  # it waits for whoever comes next
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert run(b"on a port that nobody had opened", Listeners()) == b"on a port that nobody had opened"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_for_the_client_to_acknowledge_another(
    settings: Settings, listeners: Listeners, host: str
) -> None:
    listeners.open(replace(settings, listen=Address(host, 0)))
    (address,) = listeners.addresses

    async def connected_to() -> bool:
        found = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nodelay = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            found.set_result(bool(nodelay))
            writer.close()

        server = await asyncio.start_server(connected, *address)
        with socket.create_connection(address):
            nodelay: bool = await found
        server.close()
        return nodelay

    with asyncio.Runner(loop_factory=lambda: ListeningEventLoop(Guard(), None, listeners)) as runner:
        assert runner.run(connected_to())


def test_a_connection_counts_until_it_is_closed(settings: Settings, listeners: Listeners) -> None:
    listeners.open(settings)
    other = copy.copy(listeners.balance)  # as a process sees it that was forked
    listeners.balance.join(0)
    other.join(1)
    (listener,) = listeners.of("listen")

    with socket.create_connection(listener.address), socket.create_connection(listener.address):
        (mine,) = eventually(lambda: accepted(listener.tcp), "the first connection")
        with pytest.raises(BlockingIOError):
            listener.tcp.accept()
        mine.close()
        mine.close()
        again, _ = listener.tcp.accept()
        again.close()
    assert listeners.balance.may_take()


def accepted(listening: socket.socket) -> list[socket.socket]:
    try:
        return [listening.accept()[0]]
    except BlockingIOError:
        return []


def test_what_a_reload_cannot_move_is_named(settings: Settings) -> None:
    new = replace(settings, listen=Address("127.0.0.1", 1), dns_listen=(HERE,), offline=True)

    assert list(moved(settings, new)) == ["--listen", "--dns-listen"]
    assert list(moved(settings, settings)) == []
