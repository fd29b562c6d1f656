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
_RAMP: Final = 32
#: Seconds for one chunk to be taken, below which a client counts as fast.
_FAST: Final = 0.05


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

    async def next(self, *, fast: bool) -> bytes:
        """The next bytes; b"" at the end. BodyError if there are fewer than announced, or the client has left."""
        # What was sent may still be in the kernel, which takes megabytes at once even if the client takes nothing:
        # so being fast counts for more only after much was sent.
        longest = max(_SHORTEST, min(self.sent // _RAMP, _LONGEST))
        self._limit = min(self._limit * 2, longest) if fast else _SHORTEST
        if self.body.length is not None and self.sent >= self.body.length:
            return b""
        left = self._limit if self.body.length is None else self.body.length - self.sent
        self._pull = asyncio.ensure_future(self.body.read(min(self._limit, left)))
        try:
            chunk = await asyncio.shield(self._pull)
        except asyncio.CancelledError:
            if self._pull.cancelled():
                raise BodyError("the client left") from None
            raise
        if not chunk and self.body.length is not None:
            raise BodyError(f"the body ended after {self.sent} of {self.body.length} bytes")
        self.sent += len(chunk)
        return chunk

    async def close(self) -> None:
        """Wake whoever waits for bytes and let go of the body. Safe to call twice."""
        if self._pull is not None:
            self._pull.cancel()
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
            outgoing.chunk = await outgoing.next(fast=await self._take(outgoing, writer) < _FAST)
        except Exception as error:  # noqa: BLE001 - whatever it was: what stops short must not look whole
            flow.error = mflow.Error(str(error) or type(error).__name__)
            if writer is not None:
                _reset_if_unframed(flow, writer)
        if flow.error or not outgoing.chunk:
            await self._finish(flow.client_conn.id, flow.id)

    async def _take(self, outgoing: Outgoing, writer: asyncio.StreamWriter) -> float:
        """Wait for the client; the seconds that it took. One that is too slow is given up: TimeoutError.

        What it was sent is not left to the kernel to be kept for it: that would be for as long as the client likes.
        """
        began = time.monotonic()
        try:
            await drained(writer, self._allowance.taking)
            took = time.monotonic() - began
            outgoing.waited += took
            if outgoing.waited > self._allowance.taking + outgoing.sent / self._allowance.slowest:
                raise TimeoutError("the client took too little for too long")
        except TimeoutError:
            writer.transport.abort()
            raise
        return took

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
            await outgoing.close()


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
