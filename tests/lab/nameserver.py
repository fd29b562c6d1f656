"""A name server that knows what a test tells it, over UDP and TCP, and counts what it is asked; and a client of any.

Messages are packed and unpacked by mitmproxy, as in the program that is tested; that both agree with the rest of the
world is shown by the clients of tests/doors, which bring resolvers of their own.
"""

import ipaddress
import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from contextlib import suppress
from typing import Final

from mitmproxy.dns import DNSMessage, Question, ResourceRecord
from mitmproxy.net.dns import classes, response_codes, types

LENGTH: Final = struct.Struct("!H")
DATAGRAM: Final = 65535
PORT: Final = 53
TIMEOUT_SECONDS: Final = 10.0


class LabNameServer:
    """`listen` where it is to be asked; `stop` it."""

    def __init__(self) -> None:
        self._records: list[ResourceRecord] = []
        self._servers: list[tuple[socketserver.BaseServer, threading.Thread]] = []
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, int]] = Counter()

    def add(self, *records: ResourceRecord) -> None:
        """From now on it knows these."""
        self._records += records

    def host(self, name: str, *addresses: str) -> None:
        """A name and its addresses, of either family."""
        for text in addresses:
            address = ipaddress.ip_address(text)
            kind = types.A if address.version == 4 else types.AAAA
            self.add(ResourceRecord(name, kind, classes.IN, ResourceRecord.DEFAULT_TTL, address.packed))

    def asked(self, name: str, kind: int | None = None) -> int:
        """How often it was asked for this name, and for this type of record if one is given."""
        with self._lock:
            return sum(self._asked[key] for key in self._asked if key[0] == name and kind in (None, key[1]))

    def listen(self, address: str, port: int = PORT) -> None:
        """UDP and TCP, in the network that this thread is in."""
        for kind in (_Udp, _Tcp):
            server = kind((address, port), self)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"name server {address}")
            thread.start()
            self._servers.append((server, thread))

    def stop(self) -> None:
        """Listen no more."""
        while self._servers:
            server, thread = self._servers.pop()
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, packed: bytes) -> bytes:
        """The answer to a question, as both come over the wire. ValueError or struct.error for what it cannot read."""
        request = DNSMessage.unpack(packed)
        question = request.questions[0]
        name = question.name.lower()
        with self._lock:
            self._asked[name, question.type] += 1
        known = [record for record in self._records if record.name == name]
        if not known:
            return request.fail(response_codes.NXDOMAIN).packed
        return request.succeed([record for record in known if record.type == question.type]).packed


class _Udp(socketserver.UDPServer):
    """Datagrams."""

    max_packet_size = DATAGRAM

    def __init__(self, place: tuple[str, int], names: LabNameServer) -> None:
        self.address_family = _family(place[0])
        self.names = names
        super().__init__(place, _Datagram)


class _Tcp(socketserver.ThreadingTCPServer):
    """Connections."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, place: tuple[str, int], names: LabNameServer) -> None:
        self.address_family = _family(place[0])
        self.names = names
        super().__init__(place, _Conversation)


class _Datagram(socketserver.BaseRequestHandler):
    server: _Udp

    def handle(self) -> None:
        packed, sock = self.request
        with suppress(struct.error, ValueError):
            sock.sendto(self.server.names.answer(packed), self.client_address)


class _Conversation(socketserver.StreamRequestHandler):
    server: _Tcp

    def handle(self) -> None:
        with suppress(struct.error, ValueError):
            while length := self.rfile.read(LENGTH.size):
                answer = self.server.names.answer(self.rfile.read(*LENGTH.unpack(length)))
                self.wfile.write(LENGTH.pack(len(answer)) + answer)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def question(name: str, kind: int, identity: int | None = None) -> DNSMessage:
    """One that asks for recursion, as stub resolvers do."""
    return DNSMessage(
        id=random.randrange(1 << 16) if identity is None else identity,
        query=True,
        op_code=0,
        authoritative_answer=False,
        truncation=False,
        recursion_desired=True,
        recursion_available=False,
        reserved=0,
        response_code=response_codes.NOERROR,
        questions=[Question(name, kind, classes.IN)],
        answers=[],
        authorities=[],
        additionals=[],
    )


class Asker:
    """Asks one name server over one socket. Make it, and use it as a context, in the network that it is to be in."""

    def __init__(self, address: str, *, tcp: bool = False, port: int = PORT) -> None:
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        self._sock = socket.socket(_family(address), kind)
        self._sock.settimeout(TIMEOUT_SECONDS)
        self._sock.connect((address, port))
        self._tcp = tcp

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, asked: DNSMessage) -> DNSMessage:
        """The answer; TimeoutError if there is none."""
        self.send(asked.packed)
        while True:  # what comes late, to a question before this one, is not for us
            answer = DNSMessage.unpack(self._receive())
            if answer.id == asked.id:
                return answer

    def first(self) -> bytes:
        """The next message that comes, whatever it is."""
        return self._receive()

    def send(self, packed: bytes) -> None:
        """Bytes as they are, in one message."""
        self._sock.sendall(LENGTH.pack(len(packed)) + packed if self._tcp else packed)

    def _receive(self) -> bytes:
        if not self._tcp:
            return self._sock.recv(DATAGRAM)
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self._sock.recv(size - len(got))
            if not piece:
                raise ConnectionResetError("the name server hung up")
            got += piece
        return got


def bomb(labels: int, size: int) -> bytes:
    """A name without end, and as many questions that point to it as there is room for."""
    body, count = b"\x01a" * labels + b"\0\0\1\0\1", 1
    while len(body) + 20 < size:
        body += b"\x01b\xc0\x0c\0\1\0\1"
        count += 1
    return struct.pack("!6H", 1, 0x0100, count, 0, 0, 0) + body


def chain(links: int) -> bytes:
    """Pointers, each to the next."""
    pointers = b"".join(struct.pack("!H", 0xC000 | 12 + 2 * (link + 1)) for link in range(links))
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + pointers + b"\0\0\1\0\1"
