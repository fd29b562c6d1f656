"""Sends bodies to clients, chunk by chunk, at each client's own pace.

Responsible for back-pressure, for counting what was sent against what was announced, and for cutting what cannot be
completed. Must not know what a body is made of. A mitmproxy addon: the stream in `layers` asks it for each chunk.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.connection import Client

from pullthrough.messages import Body, BodyError
from pullthrough.visits import Allowance

#: The key of an Outgoing in flow.metadata.
OUTGOING: Final = "pullthrough.outgoing"
#: Bytes per chunk. A fast client gets long chunks (fewer steps per byte), a slow one short ones (less memory).
_SHORTEST: Final = 64 << 10
_LONGEST: Final = 1 << 20
#: A chunk is at most this part of what was sent before.
_RAMP: Final = 16
#: Bytes in one chunk of each fast client, all of them together.
_TOGETHER: Final = 32 << 20
#: Before a chunk that is so long was sent, the next one is read. With shorter ones there are many clients, or new ones.
_AHEAD: Final = 512 << 10
#: Seconds after which a client that has not taken its chunk counts as slow.
_FAST: Final = 0.5


class Outgoing:
    """A response body on its way to one client."""

    def __init__(self, body: Body, done: Callable[[int], None]) -> None:
        self.body = body
        self.chunk = b""
        self.sent = 0
        #: Seconds in which the client was waited for.
        self.waited = 0.0
        self._done: Callable[[int], None] | None = done
        self._limit = _SHORTEST
        self._pull: asyncio.Task[bytes] | None = None

    async def next(self, most: int) -> bytes:
        """The next bytes; b"" at the end. BodyError if there are fewer than announced, or the client has left.

        Chunks grow up to `most` bytes. When they are long, the one after this is read while this one is sent.
        """
        self._limit = min(self._limit * 2, most)
        if self.body.length is not None and self.sent >= self.body.length:
            return b""
        pull = self._pull = self._pull or self._begin()
        try:
            chunk = await asyncio.shield(pull)
        except asyncio.CancelledError:
            if pull.cancelled():
                raise BodyError("the client left") from None
            raise
        self._pull = None
        if not chunk and self.body.length is not None:
            raise BodyError(f"the body ended after {self.sent} of {self.body.length} bytes")
        self.sent += len(chunk)
        if self._limit >= _AHEAD and chunk and self.sent != self.body.length:
            self._pull = self._begin()
        return chunk

    def _begin(self) -> asyncio.Task[bytes]:
        left = self._limit if self.body.length is None else self.body.length - self.sent
        return asyncio.ensure_future(self.body.read(min(self._limit, left)))

    async def close(self) -> None:
        """Wake whoever waits for bytes and let go of the body. Safe to call twice."""
        if self._pull is not None and not self._pull.cancel() and not self._pull.cancelled():
            self._pull.exception()  # nobody will ask for it any more
        if self._done is not None:
            done, self._done = self._done, None
            await self.body.aclose()
            done(self.sent)


class Sender:
    """The addon that pulls chunks. `writer` finds the connection of a client, None when it is gone.

    Clients have time as `allowance` says: mitmproxy's own time-out rests while a hook runs.
    """

    def __init__(self, writer: Callable[[Client], asyncio.StreamWriter | None], allowance: Allowance) -> None:
        self._writer = writer
        self._allowance = allowance
        self._outgoing: dict[str, dict[str, Outgoing]] = {}
        #: Those whose clients took their last chunk at once.
        self._fast: set[Outgoing] = set()

    def __len__(self) -> int:
        return sum(len(flows) for flows in self._outgoing.values())

    def start(self, flow: http.HTTPFlow, body: Body, done: Callable[[int], None]) -> None:
        """Let `flow` answer with `body`. `done` is called once with the number of bytes sent, however it ends."""
        outgoing = Outgoing(body, done)
        flow.metadata[OUTGOING] = outgoing
        self._outgoing.setdefault(flow.client_conn.id, {})[flow.id] = outgoing

    def sends(self, flow: http.HTTPFlow) -> bool:
        """Has `flow` a body of ours?"""
        return OUTGOING in flow.metadata

    async def pullthrough_chunk(self, flow: http.HTTPFlow) -> None:
        """The hook: wait for the client, then for the next bytes."""
        outgoing: Outgoing = flow.metadata[OUTGOING]
        writer = self._writer(flow.client_conn)
        try:
            if writer is None:
                raise BodyError("the client left")
            await self._take(outgoing, writer)
            outgoing.chunk = await outgoing.next(self._most(outgoing))
        except Exception as error:  # noqa: BLE001 - whatever it was: what stops short must not look whole
            flow.error = mflow.Error(str(error) or type(error).__name__)
            if writer is not None:
                _reset_if_unframed(flow, writer)
        if flow.error or not outgoing.chunk:
            await self._finish(flow.client_conn.id, flow.id)

    def _most(self, outgoing: Outgoing) -> int:
        """Bytes that its next chunk may have: the fast ones share, however many there are.

        What was sent may still be in the kernel, which takes megabytes at once even if the client takes nothing: so
        being fast counts for more only after much was sent.
        """
        if outgoing not in self._fast:
            return _SHORTEST
        return max(_SHORTEST, min(_LONGEST, outgoing.sent // _RAMP, _TOGETHER // len(self._fast)))

    async def _take(self, outgoing: Outgoing, writer: asyncio.StreamWriter) -> None:
        """Wait for the client. One that is too slow is given up: TimeoutError.

        What it was sent is not left to the kernel to be kept for it: that would be for as long as the client likes.
        """
        began = time.monotonic()
        try:
            if await _drained_at_once(writer):
                self._fast.add(outgoing)
            else:
                self._fast.discard(outgoing)
                await drained(writer, self._allowance.taking)
            outgoing.waited += time.monotonic() - began
            if outgoing.waited > self._allowance.taking + outgoing.sent / self._allowance.slowest:
                raise TimeoutError("the client took too little for too long")
        except TimeoutError:
            writer.transport.abort()
            raise

    async def error(self, flow: http.HTTPFlow) -> None:
        """Mitmproxy's hook: the exchange was cut or killed."""
        await self._finish(flow.client_conn.id, flow.id)

    async def client_disconnected(self, client: Client) -> None:
        """Mitmproxy's hook: a reader that waits for a silent source is woken here."""
        for flow_id in tuple(self._outgoing.get(client.id, ())):
            await self._finish(client.id, flow_id)

    async def _finish(self, client_id: str, flow_id: str) -> None:
        flows = self._outgoing.get(client_id, {})
        outgoing = flows.pop(flow_id, None)
        if not flows:
            self._outgoing.pop(client_id, None)
        if outgoing is not None:
            self._fast.discard(outgoing)
            await outgoing.close()


async def _drained_at_once(writer: asyncio.StreamWriter) -> bool:
    """Did the client take most of what it was sent before one could call it slow?"""
    try:
        async with asyncio.timeout(_FAST):
            await writer.drain()
    except TimeoutError:
        return False
    return True


async def drained(writer: asyncio.StreamWriter, patience: float) -> None:
    """Wait until the client took most of what it was sent. TimeoutError if it takes nothing for `patience` seconds."""
    left = writer.transport.get_write_buffer_size()
    while True:
        try:
            async with asyncio.timeout(patience):
                await writer.drain()
            return
        except TimeoutError:
            now = writer.transport.get_write_buffer_size()
            if now >= left:
                raise TimeoutError("the client took nothing for too long") from None
            left = now


def _reset_if_unframed(flow: http.HTTPFlow, writer: asyncio.StreamWriter) -> None:
    """A body that ends with the connection (HTTP/1.0, length unknown) looks whole when cut, unless it is reset."""
    headers = flow.response.headers if flow.response else http.Headers()
    if "content-length" not in headers and "transfer-encoding" not in headers:
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
