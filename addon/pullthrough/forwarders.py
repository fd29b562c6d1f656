"""Other name servers, of which the first that replies is believed.

Responsible for who is asked, in which order and for how long, and for which reply is one. Must not know who asks us,
nor what is ours to answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pullthrough.core import dnsmessage
from pullthrough.core.dnsmessage import Question
from pullthrough.guard import Guard

log = logging.getLogger(__name__)

_PORT: Final = 53
#: Seconds that each gets for its reply; the last one keeps nobody else waiting, but clients ask again after five.
_PATIENCE: Final = 2.0
_LAST_PATIENCE: Final = 4.5
#: Seconds for which one that gave none is asked after the others.
_REST: Final = 30.0
#: Messages that are no reply to the question, until whoever sends them is asked no more: somebody is guessing.
_MAX_STRAY: Final = 32
_MAX_REPLY: Final = 65535
#: Where a connection to these addresses comes out.
_THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nobody listens there

#: Gives the next message.
type _Next = Callable[[], Awaitable[bytes]]


class Forwarders:
    """Asks these addresses, in this order. Never this proxy itself: the question would go round."""

    def __init__(
        self,
        servers: Sequence[str],
        guard: Guard,
        *,
        port: int = _PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = tuple(_THIS_MACHINE.get(server, server) for server in servers)
        self._guard = guard
        self._port = port
        self._clock = clock
        self._resting: dict[str, float] = {}
        self._told: set[str] = set()

    async def ask(self, packet: bytes, asked: Question, *, tcp: bool) -> bytes | None:
        """The reply to `packet`, in which `asked` was read, with its id again; None if nobody gives one."""
        servers = [server for server in self._in_order() if not self._is_ourselves(server)]
        for server in servers:
            try:
                async with asyncio.timeout(_LAST_PATIENCE if server == servers[-1] else _PATIENCE):
                    reply = await self._reply(server, packet, asked, tcp=tcp)
            except (OSError, EOFError) as error:
                self._resting[server] = self._clock() + _REST
                log.debug("name server %s did not reply: %r", server, error)
            else:
                self._resting.pop(server, None)
                return dnsmessage.identified(reply, asked.identity)
        return None

    def _in_order(self) -> list[str]:
        now = self._clock()
        return sorted(self._servers, key=lambda server: now < self._resting.get(server, now))

    def _is_ourselves(self, server: str) -> bool:
        itself = self._guard.is_ourselves(server, self._port)
        if itself and server not in self._told:
            self._told.add(server)
            log.warning("name server %s is this proxy itself and is not asked: name another with --resolver", server)
        return itself

    async def _reply(self, server: str, packet: bytes, asked: Question, *, tcp: bool) -> bytes:
        identity = secrets.randbelow(1 << 16)
        packet = dnsmessage.identified(packet, identity)
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        family, place = _place(server, self._port)
        with socket.socket(family, kind) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, place)
            ask = _by_stream if tcp else _by_datagram
            return await _first_reply(await ask(sock, packet), asked, identity)


def _place(server: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """How sockets have it, with the interface of a link-local address."""
    flags = socket.AI_NUMERICHOST
    family, _, _, _, place = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM, flags=flags)[0]
    return family, place


async def _first_reply(following: _Next, asked: Question, identity: int) -> bytes:
    for _ in range(_MAX_STRAY):
        message = await following()
        if dnsmessage.replies(message, asked, identity):
            return message
    raise ConnectionAbortedError("what came was no reply")


async def _by_datagram(sock: socket.socket, packet: bytes) -> _Next:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, packet)
    return lambda: loop.sock_recv(sock, _MAX_REPLY)


async def _by_stream(sock: socket.socket, packet: bytes) -> _Next:
    """Each message comes after its length (RFC 1035 section 4.2.2)."""
    await asyncio.get_running_loop().sock_sendall(sock, len(packet).to_bytes(2) + packet)

    async def following() -> bytes:
        return await _exactly(sock, int.from_bytes(await _exactly(sock, 2)))

    return following


async def _exactly(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, size - len(got))
        if not piece:
            raise EOFError("it hung up")
        got += piece
    return bytes(got)
