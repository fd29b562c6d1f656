"""A raw HTTP/1.1 client on asyncio and h11, for what no registry client can be told to do.

It goes through CONNECT like a client, sends exactly the headers it is given, reads as slowly as it
is told, hashes what comes and leaves early on request. It never retries and never follows redirects.
"""

import asyncio
import hashlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

from lab.names import NameMap

READ_BYTES = 256 * 1024
KEEP_BYTES = 4 * 1024 * 1024

type Body = bytes | Iterable[bytes] | None


class ConnectRefused(Exception):
    """The proxy did not open the tunnel."""

    def __init__(self, head: str) -> None:
        super().__init__(head.splitlines()[0] if head else "closed without an answer")
        self.status = int(head.split()[1]) if head else 0


class Cut(Exception):
    """The connection ended before the answer did; `size` body bytes had come by then."""

    def __init__(self, status: int | None, size: int) -> None:
        super().__init__(f"cut after {size} bytes of a {status}")
        self.status = status
        self.size = size


@dataclass(frozen=True)
class Fetched:
    """A whole answer. `body` is empty for one of more than KEEP_BYTES; `digest` and `size` always tell."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    digest: str


class Answer:
    """An answer whose headers have come and whose body is coming."""

    def __init__(self, connection: "Connection", status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self.size = 0
        self._connection = connection
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The digest of what has come so far."""
        return f"sha256:{self._hash.hexdigest()}"

    async def pieces(self, *, rate: int | None = None) -> AsyncIterator[bytes]:
        """The body as it comes, read no faster than `rate` bytes a second. Raises Cut."""
        begin = time.monotonic()
        while True:
            event = await self._connection.event(self)
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Data):
                data = bytes(event.data)
                self.size += len(data)
                self._hash.update(data)
                yield data
                if rate:
                    await asyncio.sleep(begin + self.size / rate - time.monotonic())

    async def read(self, *, rate: int | None = None) -> Fetched:
        """The rest of the body."""
        kept = bytearray()
        async for piece in self.pieces(rate=rate):
            if self.size <= KEEP_BYTES:
                kept += piece
            else:
                kept.clear()
        return Fetched(self.status, self.headers, bytes(kept), self.size, self.digest)

    async def read_at_least(self, size: int) -> None:
        """Read until so many body bytes have come; the rest is left on the wire."""
        if self.size >= size:
            return
        async for _ in self.pieces():
            if self.size >= size:
                return


class Connection:
    """One connection to one origin; requests follow one another on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, prefix: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._prefix = prefix
        self._protocol = h11.Connection(h11.CLIENT)

    @property
    def peer_certificate(self) -> bytes:
        """The certificate that the other end proved itself with, in DER."""
        tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) or b""

    async def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        version: str = "1.1",
    ) -> Answer:
        """Send a request, return when the answer's headers are there. An iterable body is sent chunked."""
        if self._protocol.our_state is h11.DONE:
            self._protocol.start_next_cycle()
        fields = {"Host": self._host, **_framing(body), **(headers or {})}
        request = h11.Request(method=method, target=self._prefix + target, headers=list(fields.items()))
        head = self._protocol.send(request) or b""
        self._writer.write(head.replace(b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1))
        for piece in [body] if isinstance(body, bytes) else body or ():
            self._writer.write(self._protocol.send(h11.Data(data=piece)) or b"")
            await self._writer.drain()
        self._writer.write(self._protocol.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()
        return await self._head()

    async def event(self, answer: Answer | None = None) -> Any:
        """The next h11 event; Cut if the connection ends first."""
        status, size = (answer.status, answer.size) if answer else (None, 0)
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(READ_BYTES))
        except (h11.RemoteProtocolError, OSError) as error:
            raise Cut(status, size) from error
        if isinstance(event, h11.ConnectionClosed):
            raise Cut(status, size)
        return event

    def abort(self) -> None:
        """Leave at once, with a RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _head(self) -> Answer:
        while True:
            event = await self.event()
            if isinstance(event, h11.Response):
                return Answer(self, event.status_code, _joined(event.headers))


class Client:
    """Where to connect and whom to trust. Without a proxy it connects directly, to the lab's names."""

    def __init__(self, *ca_files: Path, proxy: tuple[str, int] | None = None, names: NameMap | None = None) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for ca_file in ca_files:
            self._tls.load_verify_locations(ca_file)
        self._proxy = proxy
        self._names = names or NameMap()

    @asynccontextmanager
    async def connect(self, origin: str, *, receive_buffer: int | None = None) -> AsyncIterator[Connection]:
        """A connection to `https://host[:port]`. A small receive buffer (bytes) makes a slow reader felt."""
        url = urlsplit(origin)
        secure = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if secure else 80)
        sock = await self._dial(host, port, receive_buffer)
        if self._proxy and secure:
            await _tunnel(sock, f"{host}:{port}")
        reader, writer = await asyncio.open_connection(
            sock=sock,
            ssl=self._tls if secure else None,
            server_hostname=host if secure else None,
            limit=min(receive_buffer or READ_BYTES, READ_BYTES),
        )
        try:
            yield Connection(reader, writer, url.netloc, origin if self._proxy and not secure else "")
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def open(self, url: str, *, receive_buffer: int | None = None, **request: Any) -> AsyncIterator[Answer]:
        """One request on a connection of its own; leaving the block leaves the answer, read or not."""
        origin, target = _split(url)
        async with self.connect(origin, receive_buffer=receive_buffer) as connection:
            yield await connection.ask(target, **request)

    async def fetch(self, url: str, *, rate: int | None = None, deadline: float = 100.0, **request: Any) -> Fetched:
        """One request, the whole answer. Keyword arguments as for `Connection.ask`."""
        async with asyncio.timeout(deadline), self.open(url, **request) as answer:
            return await answer.read(rate=rate)

    async def _dial(self, host: str, port: int, receive_buffer: int | None) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        place = self._proxy or self._names.lookup(host, port) or (host, port)
        try:
            await asyncio.get_running_loop().sock_connect(sock, place)
        except BaseException:
            sock.close()
            raise
        return sock


async def _tunnel(sock: socket.socket, authority: str) -> None:
    loop, head = asyncio.get_running_loop(), b""
    await loop.sock_sendall(sock, f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    while b"\r\n\r\n" not in head and (more := await loop.sock_recv(sock, 4096)):
        head += more
    if b" 200 " not in head.partition(b"\r\n")[0] + b" ":
        sock.close()
        raise ConnectRefused(head.decode("latin-1"))


def _framing(body: Body) -> dict[str, str]:
    if body is None:
        return {}
    return {"Content-Length": str(len(body))} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"}


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    return f"{parts.scheme}://{parts.netloc}", target
