"""A name server that leads clients of registries here, and asks others for everything else. UDP and TCP.

Responsible for who is heard, in which bounds, and for what is ours to answer. Must not know how registries are served,
nor whom others are asked by (`forwarders`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from pullthrough.core import dnsmessage
from pullthrough.core.dnsmessage import Code, Question
from pullthrough.core.registries import Registries
from pullthrough.forwarders import Forwarders
from pullthrough.guard import is_private_client
from pullthrough.listeners import Listener
from pullthrough.options import IPAddress

log = logging.getLogger(__name__)

#: Seconds for which clients believe us: whoever turns the redirection off is soon rid of it.
_TTL: Final = 60
#: Questions at the same time that others are asked. A datagram beyond is lost, as datagrams may be.
_MAX_QUESTIONS: Final = 1024
_MAX_CONNECTIONS: Final = 256
#: Questions of one connection at the same time (RFC 7766 section 6.2.1.1); the next one is not read before.
_MAX_PIPELINED: Final = 32
#: Seconds in which a client on a connection begins its next question, and ends it, and takes an answer.
_PATIENCE: Final = 10.0
#: Clients that are remembered as refused: strangers choose their addresses.
_MAX_TOLD: Final = 1024

#: Records of RFC 9460 would lead past our addresses, or to a protocol that we lack.
_SERVICES: Final = (dnsmessage.HTTPS, dnsmessage.SVCB, dnsmessage.ANY)
#: What a client could connect by.
_LEADING: Final = (dnsmessage.A, dnsmessage.AAAA, *_SERVICES)
_CLASSES: Final = (dnsmessage.IN, dnsmessage.ANY)
#: Before the host, where such records of a service on another port are (RFC 9460 section 2.3).
_SERVICE: Final = re.compile(r"(?:_[0-9]{1,5}\.)?_https\.", re.IGNORECASE)

#: Sends an answer to whoever asked.
type _Say = Callable[[bytes], Awaitable[None]]


class NameServer:
    """`advertised` are our own addresses; `forwarders` are asked for the rest."""

    def __init__(self, registries: Registries, advertised: Sequence[IPAddress], forwarders: Forwarders) -> None:
        self._registries = registries
        self._advertised = tuple(advertised)
        self._forwarders = forwarders
        self._servers: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._connections: set[asyncio.Task[Any]] = set()
        self._questions: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()

    # -- what is answered

    def answer(self, asked: Question) -> bytes | None:
        """What is ours to say; None if others have to be asked.

        Of a registry our address, or nothing: with an address of the registry's own, a client would go past us.
        """
        if asked.opcode != dnsmessage.QUERY:
            return dnsmessage.failed(asked, Code.NOTIMP)
        if asked.kind not in _LEADING or asked.of_class not in _CLASSES:
            return None
        if self._registries.names(asked.name):
            return dnsmessage.found(asked, (each for each in self._advertised if _is_asked(each, asked.kind)), _TTL)
        service = _SERVICE.match(asked.name)
        if service and asked.kind in _SERVICES and self._registries.names(asked.name[service.end() :]):
            return dnsmessage.found(asked, (), _TTL)
        return None

    # -- life

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it is asked."""
        return [sock.getsockname()[:2] for server in self._servers for sock in server.sockets]

    @property
    def busy(self) -> int:
        """Connections, and questions that others are asked."""
        return len(self._connections) + len(self._questions)

    async def listen(self, listener: Listener) -> None:
        """Be asked there too, by connections and by datagrams. The sockets are ours from now on."""
        limit = dnsmessage.MAX_QUESTION
        self._servers.append(await asyncio.start_server(self._connected, sock=listener.tcp, limit=limit))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._heard), sock=listener.udp)
        self._datagrams.append(transport)

    async def aclose(self) -> None:
        """Hear nobody any more, and leave what is under way."""
        for server in self._servers:
            server.close()
        for transport in self._datagrams:
            transport.close()
        ending = [*self._connections, *self._questions]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # -- datagrams

    def _heard(self, packet: bytes, peer: Any, send: Callable[[bytes], None]) -> None:
        if not self._admits(peer):
            return
        asked = dnsmessage.question(packet)
        if asked is None:
            return

        async def say(answer: bytes) -> None:
            send(answer)

        own = self.answer(asked)
        if own is not None:
            send(own)
        elif len(self._questions) < _MAX_QUESTIONS:
            self._start(self._ask_others(packet, asked, say, tcp=False))

    # -- connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, peer = asyncio.current_task(), writer.get_extra_info("peername")
        if task is None or len(self._connections) >= _MAX_CONNECTIONS or not self._admits(peer):
            writer.transport.abort()
            return
        self._connections.add(task)
        writer.transport.set_write_buffer_limits(0)  # what is drained is sent
        try:
            await self._converse(reader, writer)
        except (OSError, EOFError):
            pass  # it went, or said nothing for too long
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client says something else than questions, or nothing. What it asked before is still answered."""
        room, waiting = asyncio.Semaphore(_MAX_PIPELINED), set[asyncio.Task[None]]()

        async def say(answer: bytes) -> None:
            await _write(writer, answer)

        def answered(task: asyncio.Task[None]) -> None:
            waiting.discard(task)
            room.release()

        try:
            while packet := await _frame(reader):
                asked = dnsmessage.question(packet)
                if asked is None:
                    break
                answer = self.answer(asked)
                if answer is None:
                    await room.acquire()
                    if len(self._questions) < _MAX_QUESTIONS:
                        task = self._start(self._ask_others(packet, asked, say, tcp=True))
                        waiting.add(task)
                        task.add_done_callback(answered)
                        continue
                    room.release()
                    answer = dnsmessage.failed(asked, Code.SERVFAIL)
                await say(answer)
        finally:
            if waiting:
                await asyncio.wait(waiting)

    # -- both

    def _admits(self, peer: Any) -> bool:
        """Is it on this machine or on a private network? As at the other doors; strangers get nothing."""
        if not peer:
            return False
        host = str(peer[0])
        admitted = is_private_client(host)
        if not admitted and host not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(host)
            log.warning("%s is a client with a public address: refused", host)
        return admitted

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="question")
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)
        return task

    async def _ask_others(self, packet: bytes, asked: Question, say: _Say, *, tcp: bool) -> None:
        try:
            reply = await self._forwarders.ask(packet, asked, tcp=tcp)
            await say(reply or dnsmessage.failed(asked, Code.SERVFAIL))
        except OSError:
            pass  # whoever asked is gone
        except Exception:
            log.exception("fault while answering a question")


class _Datagrams(asyncio.DatagramProtocol):
    """Hands each datagram on, with what sends an answer to it. Answers for which there is no room are lost."""

    def __init__(self, heard: Callable[[bytes, Any, Callable[[bytes], None]], None]) -> None:
        self._heard = heard
        self._transport: asyncio.DatagramTransport | None = None
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.DatagramTransport):
            self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._heard(data, addr, functools.partial(self._send, addr))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def _send(self, peer: Any, answer: bytes) -> None:
        if self._transport is not None and not self._full and not self._transport.is_closing():
            self._transport.sendto(answer, peer)


def _is_asked(address: IPAddress, kind: int) -> bool:
    return kind in (dnsmessage.ANY, dnsmessage.A if address.version == 4 else dnsmessage.AAAA)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The next message, which comes after its length (RFC 1035 section 4.2.2); b"" if it is too long for a question.

    OSError or EOFError if it does not come, or not in time.
    """
    async with asyncio.timeout(_PATIENCE):
        size = int.from_bytes(await reader.readexactly(2))
    if size > dnsmessage.MAX_QUESTION:
        return b""
    async with asyncio.timeout(_PATIENCE):
        return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Until all of it is sent. Who does not take it is cut off."""
    if writer.is_closing():
        return
    writer.write(len(answer).to_bytes(2) + answer)
    try:
        async with asyncio.timeout(_PATIENCE):
            await writer.drain()
    except TimeoutError:
        writer.transport.abort()
