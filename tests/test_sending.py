"""Bodies on their way to clients: counted, paced, and cut rather than passed off as whole."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.test import tflow, tutils

from pullthrough.messages import BodyError
from pullthrough.sending import OUTGOING, Outgoing, Sender, drained
from pullthrough.visits import Allowance

SHORTEST, MOST = 64 << 10, 1 << 20


class Scripted:
    """A body that gives what it is told to, one piece for each read; an error is raised, None waits for ever."""

    def __init__(self, *pieces: bytes | Exception | None, length: int | None = None) -> None:
        self.length = length
        self.limits: list[int] = []
        self.waiting = asyncio.Event()
        self.closed = 0
        self._pieces = list(pieces)

    async def read(self, limit: int) -> bytes:
        self.limits.append(limit)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            self.waiting.set()
            await asyncio.Event().wait()
        return piece or b""

    async def aclose(self) -> None:
        self.closed += 1


class Done:
    """Counts how often it was called, and with what."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, sent: int) -> None:
        self.calls.append(sent)


# -- counting


async def everything(outgoing: Outgoing) -> bytes:
    whole = b""
    while chunk := await outgoing.next(MOST):
        whole += chunk
    return whole


@pytest.mark.parametrize("length", [None, 10])
async def test_a_body_is_sent_as_it_is(length: int | None) -> None:
    done = Done()
    outgoing = Outgoing(Scripted(b"hello", b"world", length=length), done)
    assert await everything(outgoing) == b"helloworld"
    assert outgoing.sent == 10
    assert done.calls == []
    await outgoing.close()
    assert done.calls == [10]


async def test_what_was_announced_ends_the_body_without_another_read() -> None:
    body = Scripted(b"hello", None, length=5)
    assert await everything(Outgoing(body, Done())) == b"hello"
    assert len(body.limits) == 1


@pytest.mark.parametrize("pieces", [(), (b"hell",)])
async def test_a_body_that_is_shorter_than_announced_is_an_error(pieces: tuple[bytes, ...]) -> None:
    outgoing = Outgoing(Scripted(*pieces, length=5), Done())
    with pytest.raises(BodyError, match=f"ended after {4 * len(pieces)} of 5 bytes"):
        await everything(outgoing)


async def test_no_more_is_asked_for_than_was_announced() -> None:
    body = Scripted(b"hel", b"lo", length=5)
    assert await everything(Outgoing(body, Done())) == b"hello"
    assert body.limits == [5, 2]


async def test_an_empty_body_needs_no_read() -> None:
    body = Scripted(length=0)
    assert await Outgoing(body, Done()).next(MOST) == b""
    assert body.limits == []


async def test_the_bodys_own_error_is_passed_on() -> None:
    outgoing = Outgoing(Scripted(b"hello", BodyError("the upstream cut it"), length=10), Done())
    assert await outgoing.next(MOST) == b"hello"
    with pytest.raises(BodyError, match="the upstream cut it"):
        await outgoing.next(MOST)


async def test_chunks_grow_to_what_is_permitted_and_shrink_at_once() -> None:
    body = Scripted(*[b"x"] * 20)
    outgoing = Outgoing(body, Done())
    for most in (MOST, MOST, MOST, MOST, MOST, SHORTEST, MOST):
        await outgoing.next(most)
    await asyncio.sleep(0)
    # what was read ahead of the sixth was still long
    assert [limit >> 10 for limit in body.limits] == [128, 256, 512, 512, 1024, 1024, 128]
    await outgoing.close()


async def test_the_next_chunk_is_read_while_this_one_is_sent() -> None:
    body = Scripted(*[b"x"] * 20)
    outgoing = Outgoing(body, Done())
    for _ in range(3):
        await outgoing.next(MOST)
    await asyncio.sleep(0)
    assert (len(body.limits), outgoing.sent) == (4, 3)
    await outgoing.close()


async def test_nothing_is_read_ahead_for_a_slow_client() -> None:
    body = Scripted(*[b"x"] * 20)
    outgoing = Outgoing(body, Done())
    for _ in range(3):
        await outgoing.next(SHORTEST)
    await asyncio.sleep(0)
    assert len(body.limits) == 3


async def test_an_error_ahead_that_nobody_asks_for_any_more_is_no_error() -> None:
    body, done = Scripted(b"a", b"b", b"c", BodyError("the upstream cut it"), length=10), Done()
    outgoing = Outgoing(body, done)
    for _ in range(3):
        await outgoing.next(MOST)
    await asyncio.sleep(0)
    await outgoing.close()
    assert done.calls == [3]


# -- ending


async def test_closing_is_safe_at_any_time_and_tells_once() -> None:
    body, done = Scripted(b"hello", length=5), Done()
    outgoing = Outgoing(body, done)
    await outgoing.close()
    await outgoing.close()
    assert (body.closed, done.calls) == (1, [0])


async def test_a_silent_source_is_left_when_the_client_leaves() -> None:
    body, done = Scripted(b"hello", None, length=10), Done()
    outgoing = Outgoing(body, done)
    await outgoing.next(MOST)
    waiting = asyncio.create_task(outgoing.next(MOST))
    await body.waiting.wait()
    await outgoing.close()
    with pytest.raises(BodyError, match="the client left"):
        await waiting
    assert (body.closed, done.calls) == (1, [5])


async def test_a_stop_of_the_program_is_not_taken_for_the_client() -> None:
    body = Scripted(None)
    outgoing = Outgoing(body, Done())
    waiting = asyncio.create_task(outgoing.next(MOST))
    await body.waiting.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await outgoing.close()


# -- waiting for the client


class SlowWriter:
    """A client that takes as much of its buffer, between two looks at it, as the script says."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = list(sizes)
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]

    async def drain(self) -> None:
        if self._sizes[0] > 0:
            await asyncio.Event().wait()


@pytest.mark.parametrize("sizes", [(0,), (100, 0)])
async def test_a_client_that_took_everything_is_not_waited_for(sizes: tuple[int, ...]) -> None:
    await drained(SlowWriter(*sizes), 10.0)  # type: ignore[arg-type]


async def test_a_client_that_takes_a_little_is_waited_for() -> None:
    await drained(SlowWriter(100, 99, 98, 97, 0, 0), 0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(100, 100), (100, 99, 98, 98), (100, 50, 60)])
async def test_a_client_that_takes_nothing_is_given_up(sizes: tuple[int, ...]) -> None:
    with pytest.raises(TimeoutError, match="took nothing for too long"):
        await drained(SlowWriter(*sizes), 0.01)  # type: ignore[arg-type]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamWriter, socket.socket]]:
    """A writer, and the client's end of its connection. Anything but a small buffer waits for the client."""
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    writer.transport.set_write_buffer_limits(high=1 << 16)
    try:
        yield writer, theirs
    finally:
        writer.transport.abort()
        theirs.close()
        await asyncio.sleep(0)


async def test_a_real_client_that_takes_nothing_is_given_up() -> None:
    async with connected() as (writer, _):
        writer.write(b"x" * (8 << 20))
        with pytest.raises(TimeoutError, match="took nothing for too long"):
            await drained(writer, 0.05)


async def test_a_real_client_that_takes_all_is_not() -> None:
    async with connected() as (writer, theirs):
        writer.write(b"x" * (8 << 20))

        def take() -> None:
            taken = 0
            while taken < 8 << 20:
                taken += len(theirs.recv(1 << 20))

        taking = asyncio.create_task(asyncio.to_thread(take))
        await drained(writer, 10.0)
        await taking


async def test_a_real_client_that_leaves_is_an_error_at_once() -> None:
    async with connected() as (writer, theirs):
        writer.write(b"x" * (8 << 20))
        waiting = asyncio.create_task(drained(writer, 60.0))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            await waiting


# -- the addon


def a_flow(**headers: str) -> http.HTTPFlow:
    flow = tflow.tflow(resp=tutils.tresp(headers=http.Headers([(k.encode(), v.encode()) for k, v in headers.items()])))
    flow.client_conn = tflow.tclient_conn()
    return flow


class Connections:
    """Which clients are connected."""

    def __init__(self) -> None:
        self.writers: dict[str, asyncio.StreamWriter] = {}

    def __call__(self, client: Client) -> asyncio.StreamWriter | None:
        return self.writers.get(client.id)


@pytest.fixture
def connections() -> Connections:
    return Connections()


@pytest.fixture
def sender(connections: Connections) -> Sender:
    return Sender(connections, Allowance(taking=10.0))


async def test_the_addon_sends_chunk_by_chunk(sender: Sender, connections: Connections) -> None:
    flow, body, done = a_flow(), Scripted(b"hello", b"world"), Done()
    assert not sender.sends(flow)
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, body, done)
        assert (sender.sends(flow), len(sender)) == (True, 1)
        chunks = []
        for _ in range(3):
            await sender.pullthrough_chunk(flow)
            chunks.append(flow.metadata[OUTGOING].chunk)
    assert chunks == [b"hello", b"world", b""]
    assert (flow.error, len(sender), body.closed, done.calls) == (None, 0, 1, [10])


@pytest.mark.parametrize("error", [BodyError("cut"), OSError("cut"), ValueError("cut"), KeyError("cut")])
async def test_whatever_goes_wrong_the_exchange_is_cut(
    sender: Sender, connections: Connections, error: Exception
) -> None:
    flow, body, done = a_flow(**{"content-length": "10"}), Scripted(b"hello", error, length=10), Done()
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, body, done)
        await sender.pullthrough_chunk(flow)
        await sender.pullthrough_chunk(flow)
    assert flow.error is not None
    assert "cut" in flow.error.msg
    assert (len(sender), body.closed, done.calls) == (0, 1, [5])


async def test_a_client_that_is_gone_before_the_first_chunk(sender: Sender) -> None:
    flow, body, done = a_flow(), Scripted(b"hello"), Done()
    sender.start(flow, body, done)
    await sender.pullthrough_chunk(flow)
    assert flow.error is not None
    assert (len(sender), body.limits, body.closed, done.calls) == (0, [], 1, [0])


async def test_a_client_that_leaves_wakes_the_hook(sender: Sender, connections: Connections) -> None:
    flow, body, done = a_flow(), Scripted(None), Done()
    other, others = a_flow(), Scripted(b"hello")
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, body, done)
        sender.start(other, others, Done())
        hook = asyncio.create_task(sender.pullthrough_chunk(flow))
        await body.waiting.wait()
        await sender.client_disconnected(flow.client_conn)
        await hook
    assert flow.error is not None
    assert (body.closed, done.calls) == (1, [0])
    assert (len(sender), others.closed) == (1, 0), "another client's body goes on"


async def test_an_exchange_that_mitmproxy_ends_is_over(sender: Sender) -> None:
    flow, body, done = a_flow(), Scripted(b"hello"), Done()
    sender.start(flow, body, done)
    for _ in range(2):
        await sender.error(flow)
        await sender.client_disconnected(flow.client_conn)
    assert (len(sender), body.closed, done.calls) == (0, 1, [0])


def reset_on_close(writer: asyncio.StreamWriter) -> bool:
    linger = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return bool(struct.unpack("ii", linger) == (1, 0))


@pytest.mark.parametrize(
    ("headers", "reset"),
    [({}, True), ({"content-length": "10"}, False), ({"transfer-encoding": "chunked"}, False)],
)
async def test_a_cut_that_would_look_like_the_end_is_a_reset(
    sender: Sender, connections: Connections, headers: dict[str, str], reset: bool
) -> None:
    flow = a_flow(**headers)
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, Scripted(BodyError("cut")), Done())
        await sender.pullthrough_chunk(flow)
        assert reset_on_close(writer) is reset


async def test_two_requests_of_one_connection_are_kept_apart(sender: Sender, connections: Connections) -> None:
    first, second = a_flow(), a_flow()
    second.client_conn = first.client_conn
    bodies = Scripted(b"first"), Scripted(b"second")
    async with connected() as (writer, _):
        connections.writers[first.client_conn.id] = writer
        for flow, body in zip((first, second), bodies, strict=True):
            sender.start(flow, body, Done())
        await sender.pullthrough_chunk(first)
        await sender.pullthrough_chunk(first)
        assert [body.closed for body in bodies] == [1, 0]
        await sender.client_disconnected(first.client_conn)
    assert [body.closed for body in bodies] == [1, 1]


# -- clients that take too little


async def test_a_client_that_takes_nothing_is_not_left_to_the_kernel(connections: Connections) -> None:
    sender, flow = Sender(connections, Allowance(taking=0.05)), a_flow(**{"content-length": "10"})
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, Scripted(b"hello", length=10), Done())
        writer.write(b"x" * (8 << 20))
        await sender.pullthrough_chunk(flow)
        assert flow.error is not None
        assert "took nothing" in flow.error.msg
        assert writer.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(("slowest", "cut"), [(100_000.0, True), (100.0, False)])
async def test_a_client_that_takes_little_by_little_is_given_up_in_the_end(
    connections: Connections, slowest: float, cut: bool
) -> None:
    sender, flow = Sender(connections, Allowance(taking=10.0, slowest=slowest)), a_flow(**{"content-length": "5000"})
    async with connected() as (writer, _):
        connections.writers[flow.client_conn.id] = writer
        sender.start(flow, Scripted(b"hello", length=5000), Done())
        outgoing: Outgoing = flow.metadata[OUTGOING]
        outgoing.sent, outgoing.waited = 1000, 11.0
        await sender.pullthrough_chunk(flow)
        assert (flow.error is not None) == cut
        assert flow.error is None or "took too little" in flow.error.msg
