"""The measuring client: threads that each go through a script of requests, in a process of their own.

Run by `bench.load` as a program, several at once, the standard library alone, so that it starts in no time. Blocking
sockets and no HTTP library: OpenSSL does the work, so that a GiB costs a fifth more processor than curl's, while small
requests need no process for each client. Several processes, because threads of one would wait for each other at every
TLS record.

Reads one JSON object, says "ready", begins when told to, says "flowing" when every client gets the body of its last
request, or has ended; prints one JSON object. Times are of the monotonic clock, which all processes share.
"""

import json
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

BUFFER: Final = 256 * 1024
HEAD: Final = 64 * 1024
REDIRECTS: Final = 3
END: Final = b"\r\n\r\n"
ACCEPT: Final = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"


class Broken(Exception):
    """The answer is not what was asked for."""


@dataclass
class Answer:
    """What came of one request."""

    status: int
    location: str
    first: float
    size: int
    lasting: bool


class Connection:
    """One TLS connection to an origin, perhaps through a proxy."""

    def __init__(
        self, origin: str, proxy: str | None, context: ssl.SSLContext, patience: float, pace: int | None
    ) -> None:
        host, port = split(origin)
        plain = socket.create_connection(split(f"//{proxy}") if proxy else (host, port), patience)
        if pace:  # else the kernel would take megabytes for it at once
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, pace)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy:
                ask_tunnel(plain, f"{host}:{port}")
            self._sock = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        self._host = f"{host}:{port}"
        self._pace = pace

    def ask(self, method: str, target: str, buffer: memoryview, *, close: bool, flows: Callable[[], object]) -> Answer:
        """One request and the whole of its answer, whose body is counted and forgotten. `flows`: some of it came."""
        asked = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\nAccept: {ACCEPT}\r\nUser-Agent: bench\r\n"
        self._sock.sendall(f"{asked}{'Connection: close' if close else 'Connection: keep-alive'}\r\n\r\n".encode())
        count = self._sock.recv_into(buffer)
        first = time.monotonic()
        while (end := bytes(buffer[:count]).find(END)) < 0:
            if count >= HEAD or not (more := self._sock.recv_into(buffer[count:])):
                raise Broken("no head")
            count += more
        status, fields = parsed(bytes(buffer[:end]))
        size = count - end - len(END)
        if method == "HEAD" or status in {204, 304}:
            expected = 0
        elif "content-length" not in fields:
            raise Broken(f"{status} without Content-Length")
        else:
            expected = int(fields["content-length"])
        while size < expected:
            if not (more := self._sock.recv_into(buffer)):
                raise Broken(f"{size} of {expected} bytes")
            size += more
            flows()
            if self._pace:
                time.sleep(more / self._pace)
        lasting = not close and fields.get("connection", "").lower() != "close"
        return Answer(status, fields.get("location", ""), first, size, lasting)

    def close(self) -> None:
        self._sock.close()


class Client(threading.Thread):
    """One client: its requests one after the other, with or without keeping its connections."""

    def __init__(self, order: dict[str, Any], script: list[list[Any]], context: ssl.SSLContext) -> None:
        super().__init__(daemon=True)
        self.samples: list[list[Any]] = []
        #: The body of the last request comes, or nothing more will.
        self.flowing = threading.Event()
        self._order = order
        self._script = script
        self._context = context
        self._kept: dict[str, Connection] = {}
        self._buffer = memoryview(bytearray(BUFFER))

    def run(self) -> None:
        for method, path, expected in self._script:
            begin = first = time.monotonic()
            status = size = 0
            trouble = ""
            try:
                answer = self._follow(method, path)
                status, size, first = answer.status, answer.size, answer.first
                if status != 200 or (expected is not None and size != expected):
                    raise Broken(f"{status} with {size} bytes")
            except (OSError, ValueError, Broken) as error:
                trouble = f"{method} {path}: {error!r}"[:300]
                self._forget()
            self.samples.append([begin, first, time.monotonic(), status, size, trouble])
        self.flowing.set()
        self._forget()

    def _flows(self) -> None:
        if len(self.samples) == len(self._script) - 1:
            self.flowing.set()

    def _follow(self, method: str, path: str) -> Answer:
        url = self._order["origin"] + path
        for _ in range(REDIRECTS):
            answer = self._ask(method, url)
            if answer.status not in {301, 302, 307, 308}:
                return answer
            url = urljoin(url, answer.location)
        raise Broken("redirected in a circle")

    def _ask(self, method: str, url: str) -> Answer:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection = self._kept.pop(origin, None) or self._connect(origin)
        answer = None
        try:
            answer = connection.ask(
                method, target, self._buffer, close=not self._order["keep_alive"], flows=self._flows
            )
        finally:
            if answer is not None and answer.lasting:
                self._kept[origin] = connection
            else:
                connection.close()
        return answer

    def _connect(self, origin: str) -> Connection:
        order = self._order
        return Connection(origin, order["proxy"], self._context, order["patience"], order["pace"])

    def _forget(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()


def split(origin: str) -> tuple[str, int]:
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or 443


def ask_tunnel(sock: socket.socket, place: str) -> None:
    """CONNECT, and what the proxy says to it up to the end of its head, and not a byte more."""
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    head = b""
    while not head.endswith(END):
        more = sock.recv(HEAD)  # the server's TLS waits for ours, so nothing comes after the head
        if not more or len(head) > HEAD:
            raise Broken("no tunnel")
        head += more
    if parsed(head)[0] != 200:
        raise Broken(f"no tunnel: {parsed(head)[0]}")


def parsed(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and fields."""
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def main() -> None:
    order = json.loads(sys.stdin.readline())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(order["ca"])
    context.check_hostname = order["named"]
    context.set_alpn_protocols(["http/1.1"])
    clients = [Client(order, script, context) for script in order["scripts"]]
    print("ready", flush=True)  # noqa: T201 - it is what the other end waits for
    sys.stdin.readline()
    for client in clients:
        client.start()
    for client in clients:
        client.flowing.wait()
    print("flowing", flush=True)  # noqa: T201 - as above
    for client in clients:
        client.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {"samples": [client.samples for client in clients], "cpu": used.ru_utime + used.ru_stime}
    print(json.dumps(found), flush=True)  # noqa: T201 - its one output


if __name__ == "__main__":
    main()
