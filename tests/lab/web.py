"""An HTTP/1.1 server in a thread of the test process, over TLS or plain, whose every byte a test decides.

It parses requests, keeps a journal and lets the answer be written piece by piece, cut, or reset.
What is answered is the business of its subclasses. One thread serves one connection, so an answer
may block for as long as a test wants; `stop` ends every connection and joins every thread.
"""

import http.client
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any

from lab.journal import MemoryJournal, Request
from lab.names import Endpoint, NameMap
from lab.pki import Identity

Headers = Mapping[str, str]
READ_BYTES = 256 * 1024
MAX_LINE = 65536
TLS_HANDSHAKE = b"\x16"
STOP_SECONDS = 10.0


class Disconnect(Exception):
    """The connection is over: the answer was cut on purpose, or the client left."""


class Wire:
    """One accepted connection: bytes in, bytes out, and two ways to end it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.reader: BufferedReader = sock.makefile("rb")

    def handshake(self) -> None:
        """The TLS handshake where there is TLS; OSError if the client does not want it."""
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.do_handshake()

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it, or raise Disconnect."""
        try:
            self._sock.sendall(data)
        except (OSError, ValueError) as error:
            raise Disconnect from error

    def reset_on_close(self) -> None:
        """Make the close a RST. What the kernel has not sent yet is lost, so a client may see less."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def hang_up(self) -> None:
        """End the connection from another thread: its blocked reads and writes fail at once."""
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # SSLSocket's own would drop its TLS state

    def close(self) -> None:
        """Close without a TLS close_notify, as a server does that dies or is cut off."""
        self.reader.close()
        self._sock.close()


class Exchange:
    """One request and the answer to it."""

    def __init__(self, wire: Wire, request: Request, version: str) -> None:
        self.request = request
        self.keep_alive = version == "HTTP/1.1" and request.headers.get("connection", "").lower() != "close"
        self.wire = wire
        self._body = _body_of(request, wire)
        self._expects = request.headers.get("expect", "").lower() == "100-continue"

    def body(self) -> Iterator[bytes]:
        """The request's body in pieces; can be read once."""
        if self._expects:
            self._expects = False
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        yield from self._body

    def begin(self, status: int, headers: Headers) -> None:
        """Send the status line and exactly these headers."""
        self.request.status = status
        self.keep_alive = self.keep_alive and headers.get("Connection", "").lower() != "close"
        reason = http.client.responses.get(status, "Unknown")
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        self.wire.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def write(self, data: bytes | memoryview) -> None:
        """Send a piece of the body as it is."""
        self.wire.send(data)
        self.request.sent += len(data)

    def frame(self, data: bytes | memoryview) -> None:
        """Send a piece of a chunked body; an empty one ends it."""
        self.wire.send(f"{len(data):x}\r\n".encode())
        if data:
            self.write(data)
        self.wire.send(b"\r\n")

    def reply(self, status: int, headers: Headers | None = None, body: bytes = b"") -> None:
        """A whole answer with its length; HEAD gets the headers alone."""
        self.begin(status, {**(headers or {}), "Content-Length": str(len(body))})
        if body and self.request.method != "HEAD":
            self.write(body)

    def cut(self, *, reset: bool = False) -> None:
        """End the connection here, by FIN or by RST."""
        if reset:
            self.wire.reset_on_close()
        raise Disconnect

    def drain(self) -> None:
        """Read what the answer left unread of the request, so that the next one can follow."""
        if self._expects:
            self.keep_alive = False
            return
        for _ in self._body:
            pass


class WebServer(Endpoint):
    """A named service. Subclasses say in `answer` what it does."""

    def __init__(self, name: str, identity: Identity | None, *, public_port: int | None = 443) -> None:
        """`identity` None is plain HTTP; `public_port` None publishes the port that is really listened on."""
        super().__init__(name, secure=identity is not None, fixed_port=public_port)
        self.journal = MemoryJournal()
        self._context = identity.server_context() if identity else None
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; a second start after `stop` listens on the same port again."""
        self._listener = _Listener((self.address, self.port), self._context, self._converse)
        self.port = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), name=self.name)
        self._thread.start()

    def stop(self) -> None:
        """Close the port, end every connection, join every thread."""
        if self._listener and self._thread:
            self._listener.shutdown()
            self._thread.join(STOP_SECONDS)
            self._listener.hang_up()
            self.release()  # after the hang-up, so that what was held is cut and not sent
            self._listener.join()
        self._listener = self._thread = None

    def start_if_stopped(self) -> None:
        """For the end of a test that may have stopped it."""
        if self._listener is None:
            self.start()

    def release(self) -> None:
        """Let go of every answer that is being held back."""

    def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        raise NotImplementedError

    def _converse(self, wire: Wire) -> None:
        try:
            wire.handshake()
            while self._serve_one(wire):
                pass
        except (Disconnect, OSError, ValueError):  # the client left, or sent what is no HTTP
            pass
        finally:
            wire.close()

    def _serve_one(self, wire: Wire) -> bool:
        if wire.reader.peek(1)[:1] == TLS_HANDSHAKE:
            return False  # of it no line ever ends
        line = wire.reader.readline(MAX_LINE).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers = joined(http.client.parse_headers(wire.reader).items())
        request = Request(line[0], line[1], headers, authorized="authorization" in headers)
        exchange = Exchange(wire, request, line[2])
        self.journal.add(request)
        try:
            self.answer(exchange)
        finally:
            request.done = True
        exchange.drain()
        return exchange.keep_alive


@contextmanager
def served[S: WebServer](server: S, names: NameMap) -> Iterator[S]:
    """Have `server` listen under its name, until the end."""
    server.start()
    server.publish(names)
    try:
        yield server
    finally:
        server.stop()


class _Listener(socketserver.TCPServer):
    """Accepts; gives each connection a thread; ends them all."""

    allow_reuse_address = True
    request_queue_size = 256

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext | None, converse: Callable[[Wire], None]
    ) -> None:
        self._context = context
        self._converse = converse
        self._open: dict[threading.Thread, Wire] = {}
        super().__init__(address, socketserver.BaseRequestHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the handshake is left to the connection's own thread."""
        sock, address = super().get_request()
        if self._context is None:
            return sock, address
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread; it is known here before it runs, so `hang_up` misses none."""
        wire = Wire(request)
        thread = threading.Thread(target=self._run, args=(wire,))
        self._open[thread] = wire
        thread.start()

    def _run(self, wire: Wire) -> None:
        try:
            self._converse(wire)
        finally:
            self._open.pop(threading.current_thread(), None)

    def hang_up(self) -> None:
        """Close the port and end every connection."""
        self.server_close()
        for wire in list(self._open.values()):
            wire.hang_up()

    def join(self) -> None:
        """Wait for the threads of the connections."""
        for thread in list(self._open):
            thread.join(STOP_SECONDS)


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by lower-case name; the values of a repeated one are joined (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _body_of(request: Request, wire: Wire) -> Iterator[bytes]:
    if request.headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunks(wire.reader)
    return _counted(wire.reader, int(request.headers.get("content-length", 0)))


def _counted(reader: BufferedReader, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = reader.read(min(READ_BYTES, length))
        if not piece:
            raise Disconnect
        length -= len(piece)
        yield piece


def _chunks(reader: BufferedReader) -> Iterator[bytes]:
    while size := int(reader.readline(MAX_LINE).split(b";")[0], 16):
        yield from _counted(reader, size)
        reader.readline(MAX_LINE)
    while reader.readline(MAX_LINE).strip():
        pass
