"""A UDP server for mitmproxy's name server: each peer is a stream for as long as it goes on asking.

Responsible for datagrams, in bounds. Must not know what is in them. mitmproxy's own server (mitmproxy_rs 0.12) keeps a
peer for 20 seconds, and never again hears one that it has forgotten: clients run out of ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

log = logging.getLogger(__name__)

#: Seconds for which a peer that has been answered may ask again without being a new one.
_LINGER: Final = 2.0
#: Seconds for which one that has not waits for whoever is asked in turn. Clients ask again after five.
_PATIENCE: Final = 5.0
#: Peers at the same time, and datagrams of each, that wait for their turn. What is more is lost, as datagrams may be.
_MAX_PEERS: Final = 1024
_MAX_WAITING: Final = 64

#: What is done with a peer, as reader and as writer: mitmproxy declares streams of its own, and calls their methods.
type Handler = Callable[[Any, Any], Awaitable[None]]


class Datagrams(asyncio.DatagramProtocol):
    """Gives each peer to `handler`. Looks like an `asyncio.Server` to whoever listens."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._peers: dict[Any, Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        """The one that it listens on."""
        return [] if self._transport is None else [self._transport.get_extra_info("socket")]

    def close(self) -> None:
        """Hear nobody any more."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It listens."""
        if isinstance(transport, asyncio.DatagramTransport):
            self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """From a peer that is known, or a new one."""
        peer = self._peers.get(addr)
        if peer is None:
            if len(self._peers) >= _MAX_PEERS or self._transport is None:
                return
            peer = self._peers[addr] = Peer(self._transport, addr, lambda: self._peers.pop(addr, None))
            peer.received(data)
            task = asyncio.ensure_future(self._handled(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            peer.received(data)

    async def _handled(self, peer: Peer) -> None:
        try:
            await self._handler(peer, peer)
        except Exception:
            log.exception("fault while answering a datagram")
        finally:
            peer.close()


class Peer:
    """Reader and writer of one peer, with the methods of streams that mitmproxy calls."""

    def __init__(self, transport: asyncio.DatagramTransport, address: Any, forget: Callable[[], object]) -> None:
        self._transport = transport
        self._address = address
        self._forget = forget
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)
        self._unanswered = 0
        self._closed = False

    def received(self, data: bytes) -> None:
        """A datagram came."""
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(data)
            self._unanswered += 1

    async def read(self, _: int) -> bytes:
        """The next datagram, whole; b"" if none comes for a moment."""
        await asyncio.sleep(0)  # mitmproxy's tasks begin at once, and it is not ready for one that goes on at once
        for seconds in (_LINGER, _PATIENCE - _LINGER):
            try:
                async with asyncio.timeout(seconds):
                    return await self._waiting.get()
            except TimeoutError:
                if not self._unanswered:
                    break
        self.close()
        return b""

    def write(self, data: bytes) -> None:
        """Send one datagram, unless the server is closed."""
        self._unanswered = max(0, self._unanswered - 1)
        if not self._transport.is_closing():
            self._transport.sendto(data, self._address)

    async def drain(self) -> None:
        """Datagrams wait for nobody."""

    def write_eof(self) -> None:
        """Datagrams have no end."""

    def close(self) -> None:
        """This peer is over; if it comes again it is a new one."""
        if not self._closed:
            self._closed = True
            self._forget()

    def is_closing(self) -> bool:
        """Is it over?"""
        return self._closed

    async def wait_closed(self) -> None:
        """It is."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What a stream tells of itself."""
        own = self._transport.get_extra_info("sockname")
        return {"transport_protocol": "udp", "peername": self._address, "sockname": own}.get(name, default)
