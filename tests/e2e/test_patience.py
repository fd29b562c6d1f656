"""A client that keeps us waiting is cut, by whichever door it came; one that is slow, or pushes for long, is not.

The proxy's clients may take a hundredth of what they usually may. Tests wait for the end of a connection, not for a
time to pass; only what must not be cut is slower than all of these times.
"""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab.deadline import eventually
from lab.fake_registry import MANIFEST, FakeRegistry
from lab.hosts import PlainHost
from lab.names import NameMap
from lab.ports import free_port
from lab.proxy import Proxies, Proxy
from lab.web import Exchange

HASTY = {"step": 1.0, "idle": 0.5, "silence": 0.5, "taking": 0.5}
#: For what must not be cut, on a machine that does much else.
LENIENT = {"step": 1.5, "idle": 1.5, "silence": 1.5, "taking": 1.5}
LONG = 2.0
PAUSE = 0.1
DEADLINE = 20.0
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
#: A manifest that no socket's buffers hold.
HUGE = b'{"schemaVersion":2}'.ljust(8 << 20)


class Doors:
    """A proxy with all of them: explicit, by server name, redirected."""

    def __init__(self, proxies: Proxies, registry: FakeRegistry, allowance: dict[str, float]) -> None:
        self.ports = {"explicit": 0, "by name": free_port(), "redirected": free_port()}
        flags = ["--tls-listen", f"127.0.0.1:{self.ports['by name']}"]
        flags += ["--transparent-listen", f"127.0.0.1:{self.ports['redirected']}"]
        env = {"LAB_ALLOWANCE": json.dumps(allowance)}
        self.proxy: Proxy = proxies(registry, flags=flags, env=env)
        self.ports["explicit"] = self.proxy.port

    def knock(self, door: str = "explicit") -> socket.socket:
        """A connection to a door."""
        return socket.create_connection(("127.0.0.1", self.ports[door]), DEADLINE)


@pytest.fixture(scope="module")
def doors(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Doors:
    session_fake.publish(session_names)
    return Doors(session_proxies, session_fake, HASTY)


@pytest.fixture(scope="module")
def lenient(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Doors:
    session_fake.publish(session_names)
    return Doors(session_proxies, session_fake, LENIENT)


def cut(sock: socket.socket, drip: bytes = b"") -> bool:
    """Does the connection end, although `drip` (if any) is sent on it a byte at a time and begun anew at its end?

    Fails by the test's own time-out where it does not.
    """
    if drip:
        sock.settimeout(PAUSE)
    at = 0
    while True:
        try:
            if not sock.recv(65536):
                return True
        except TimeoutError:
            if not drip:
                return False
        except ConnectionError:
            return True
        with suppress(ConnectionError):
            sock.sendall(drip[at : at + 1])
        at = (at + 1) % max(1, len(drip))


def connect(sock: socket.socket, authority: str) -> None:
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    assert b" 200 " in sock.recv(4096)


def inside(doors: Doors, registry: FakeRegistry) -> ssl.SSLSocket:
    """A connection to the registry, shaken hands on."""
    sock = doors.knock()
    connect(sock, f"{registry.name}:{registry.public_port}")
    context = ssl.create_default_context(cafile=doors.proxy.ca_file)
    return context.wrap_socket(sock, server_hostname=registry.name)


# -- those that only wait


@pytest.mark.parametrize(
    ("door", "first", "drip"),
    [
        ("explicit", b"", b""),
        ("explicit", b"", b"GET / HTTP/1.1\r\nX: " + b"y" * 1000),
        ("explicit", b"CONNECT a.test:443 HTTP/1.1\r\n", b"X: y\r\n"),
        ("explicit", HELLO, b""),
        ("explicit", HELLO, b"a"),
        ("by name", b"", b""),
        ("by name", HELLO, b"a"),
        ("redirected", b"", b""),
        ("redirected", HELLO, b"a"),
        ("redirected", b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
    ],
)
def test_what_is_due_at_a_door_is_due_as_a_whole(doors: Doors, door: str, first: bytes, drip: bytes) -> None:
    with doors.knock(door) as sock:
        sock.sendall(first)

        assert cut(sock, drip)


@pytest.mark.parametrize(("first", "drip"), [(b"", b""), (HELLO, b"a"), (b"GET / HTT", b"y")])
def test_after_connect_too(doors: Doors, fake: FakeRegistry, first: bytes, drip: bytes) -> None:
    with doors.knock() as sock:
        connect(sock, f"{fake.name}:{fake.public_port}")
        sock.sendall(first)

        assert cut(sock, drip)


@pytest.mark.parametrize("drip", [b"", b"GET /v2/ HTTP/1.1\r\nX: y"])
def test_and_after_the_handshake(doors: Doors, fake: FakeRegistry, drip: bytes) -> None:
    with inside(doors, fake) as tls:
        assert cut(tls, drip)


@pytest.mark.parametrize("drip", [b"", b"GET /healthz HTTP/1.1\r\nX: y"])
def test_the_next_request_is_waited_for_but_not_for_ever(doors: Doors, drip: bytes) -> None:
    with doors.knock() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")

        assert cut(sock, drip)


def test_a_body_that_stops_is_not_waited_for_for_ever(doors: Doors, fake: FakeRegistry) -> None:
    with inside(doors, fake) as tls:
        tls.sendall(b"PUT /v2/team/app/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")

        assert cut(tls)


def test_nor_one_that_nobody_reads_however_it_comes(doors: Doors) -> None:
    with doors.knock() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")

        assert cut(sock, b"a")


# -- those that do not take what they asked for


@contextmanager
def asked(doors: Doors, registry: FakeRegistry, target: str, *lines: str) -> Iterator[socket.socket]:
    """A request to the registry over plain HTTP to the proxy, of a client with next to no buffer."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(DEADLINE)
        sock.connect(doors.proxy.address)
        url = f"https://{registry.name}:{registry.public_port}{target}"
        sock.sendall("\r\n".join([f"GET {url} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
        yield sock


def sockets(proxy: Proxy) -> set[str]:
    """The ends of connections to its explicit door that it has open."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{proxy.port:04X}"
    return {row[2] for row in rows if row[1].endswith(port) and row[9] != "0"}


def mine(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"


@pytest.mark.parametrize(
    ("kind", "lines"), [("stored", ("Connection: close",)), ("stored", ()), ("passing", ()), ("blob", ())]
)
def test_an_answer_that_is_not_taken_is_given_up(
    doors: Doors, fake: FakeRegistry, kind: str, lines: tuple[str, ...]
) -> None:
    """The socket itself is gone: to close it would leave it to the client when that is."""
    fake.add_manifest("team/app", "huge", HUGE)
    fake.content.pages["/v2/team/app/tags/list"] = 200, {}, HUGE
    target = {
        "stored": "/v2/team/app/manifests/huge",
        "passing": "/v2/team/app/tags/list",
        "blob": f"/v2/team/app/blobs/{fake.add_blob(HUGE)}",
    }[kind]
    with asked(doors, fake, target, f"Accept: {MANIFEST}", *lines) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert mine(sock) in sockets(doors.proxy)

        eventually(lambda: mine(sock) not in sockets(doors.proxy), "its end of the connection is gone", DEADLINE)


# -- those that must not be cut


def test_a_push_takes_as_long_as_it_moves(lenient: Doors, fake: FakeRegistry) -> None:
    with inside(lenient, fake) as tls:
        tls.sendall(b"PUT /v2/team/app/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        slowly(lambda: tls.sendall(b"1\r\na\r\n"))
        tls.sendall(b"0\r\n\r\n")

        assert tls.recv(65536).startswith(b"HTTP/1.1 404")


def test_an_answer_that_is_taken_slowly_comes_whole(lenient: Doors, fake: FakeRegistry) -> None:
    fake.add_manifest("team/app", "huge", HUGE)
    taken = bytearray()
    with asked(lenient, fake, "/v2/team/app/manifests/huge", f"Accept: {MANIFEST}") as sock:
        slowly(lambda: taken.extend(sock.recv(200_000)))
        whole = taken.index(b"\r\n\r\n") + 4 + len(HUGE)
        while len(taken) < whole and (more := sock.recv(1 << 20)):
            taken += more

    assert taken.endswith(b"\r\n\r\n" + HUGE)


def test_an_upstream_that_takes_its_time_is_not_the_client_s_fault(lenient: Doors, fake: FakeRegistry) -> None:
    def late(exchange: Exchange) -> None:
        time.sleep(LONG)
        exchange.reply(201)

    fake.content.pages.clear()
    with inside(lenient, fake) as tls, answering(fake, late):
        tls.sendall(b"PUT /v2/team/app/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na")

        assert tls.recv(65536).startswith(b"HTTP/1.1 201")


def test_a_tunnel_is_left_alone(lenient: Doors, plain: PlainHost, session_names: NameMap) -> None:
    plain.publish(session_names)
    lenient.proxy.regain_names()
    with lenient.knock() as sock:
        connect(sock, "plain.test:443")
        slowly(lambda: None)
        sock.sendall(HELLO)

        assert not cut_within(sock, LONG)


def slowly(do: Callable[[], object]) -> None:
    """Do it again and again, for longer than any of the proxy's times."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        do()
        time.sleep(PAUSE)


def cut_within(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    return cut(sock)


@contextmanager
def answering(registry: FakeRegistry, answer: Callable[[Exchange], None]) -> Iterator[None]:
    """The registry answers so."""
    registry.answer = answer  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del registry.answer
