"""Peers of the UDP server: how long they last, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from lab.inside import until
from pullthrough import datagrams
from pullthrough.datagrams import Datagrams, Peer

type Serve = Callable[[Callable[[Peer, Peer], Awaitable[None]]], Awaitable[tuple[str, int]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Listens on loopback, and gives its address."""
    made: list[Datagrams] = []

    async def start(handler: Callable[[Peer, Peer], Awaitable[None]]) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        _, server = await loop.create_datagram_endpoint(lambda: Datagrams(handler), local_addr=("127.0.0.1", 0))
        made.append(server)
        host, port = server.sockets[0].getsockname()
        return host, port

    yield start
    for server in made:
        server.close()


@contextlib.contextmanager
def asking(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        yield sock


async def answered(sock: socket.socket) -> bytes:
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(sock, 100)


async def test_who_was_answered_ends_soon_and_may_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_LINGER", 0.05)
    ended: list[Peer] = []

    async def echo(peer: Peer, _: Peer) -> None:
        while data := await peer.read(100):
            peer.write(data)
        ended.append(peer)

    with asking(await serve(echo)) as sock:
        for number in (1, 2):
            sock.send(b"one")
            assert await answered(sock) == b"one"
            await until(lambda number=number: len(ended) == number)  # type: ignore[misc]
    assert all(peer.is_closing() for peer in ended)


async def test_who_waits_for_a_slow_answer_is_not_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that has to ask others first takes its time."""
    linger = 0.05
    monkeypatch.setattr(datagrams, "_LINGER", linger)
    reading: list[asyncio.Task[bytes]] = []

    async def slow(peer: Peer, _: Peer) -> None:
        await peer.read(100)
        reading.append(asyncio.ensure_future(peer.read(100)))
        await asyncio.wait(reading, timeout=4 * linger)
        assert not reading[0].done()
        peer.write(b"late")
        await peer.wait_closed()
        await asyncio.wait(reading)

    with asking(await serve(slow)) as sock:
        sock.send(b"question")
        assert await answered(sock) == b"late"
        reading[0].cancel()


async def test_who_is_never_answered_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_LINGER", 0.02)
    monkeypatch.setattr(datagrams, "_PATIENCE", 0.05)
    ended = asyncio.Event()

    async def mute(peer: Peer, _: Peer) -> None:
        assert [await peer.read(100), await peer.read(100)] == [b"question", b""]
        ended.set()

    with asking(await serve(mute)) as sock:
        sock.send(b"question")
        async with asyncio.timeout(20):
            await ended.wait()


async def test_only_so_many_peers_at_a_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_MAX_PEERS", 2)
    seen: list[Peer] = []
    go = asyncio.Event()

    async def hold(peer: Peer, _: Peer) -> None:
        seen.append(peer)
        await go.wait()
        peer.write(await peer.read(100))

    address = await serve(hold)
    with asking(address) as one, asking(address) as two, asking(address) as three:
        for sock in (one, two):
            sock.send(b"question")
        await until(lambda: len(seen) == 2)
        three.send(b"question")
        go.set()
        assert [await answered(sock) for sock in (one, two)] == [b"question"] * 2
        await until(lambda: all(peer.is_closing() for peer in seen))
        three.send(b"again")
        assert await answered(three) == b"again"


async def test_a_fault_ends_one_peer_and_is_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(peer: Peer, _: Peer) -> None:
        if await peer.read(100) == b"bad":
            raise ValueError("broken")
        peer.write(b"fine")

    address = await serve(broken)
    with asking(address) as one, asking(address) as other:
        one.send(b"bad")
        other.send(b"good")
        assert await answered(other) == b"fine"
        await until(lambda: "fault while answering a datagram" in caplog.text)
