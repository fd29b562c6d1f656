"""Too many connections: one client cannot keep others out, and is told why it is refused itself."""

import http.client
import json
import socket
from contextlib import ExitStack

import pytest

from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.ports import free_port
from lab.proxy import Proxies, Proxy

#: With so many open files a proxy takes 20 connections, half of them of one client.
FILES, ALL, SHARE = 316, 20, 10
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def by_name() -> int:
    return free_port()


@pytest.fixture(scope="module")
def proxy(session_proxies: Proxies, session_fake: FakeRegistry, by_name: int) -> Proxy:
    return session_proxies(
        session_fake, flags=["--tls-listen", f"127.0.0.1:{by_name}"], env={"LAB_OPEN_FILES": str(FILES)}
    )


def knock(proxy: Proxy, address: str, port: int | None = None) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port or proxy.port), TIMEOUT, source_address=(address, 0))


def status(proxy: Proxy, address: str) -> tuple[int, bytes]:
    """What a client at this address gets."""
    connection = http.client.HTTPConnection(*proxy.address, timeout=TIMEOUT, source_address=(address, 0))
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def message(body: bytes) -> tuple[str, str]:
    error = json.loads(body)["errors"][0]
    return error["code"], error["message"]


def test_one_client_does_not_keep_others_out(proxy: Proxy, by_name: int) -> None:
    with ExitStack() as held:
        for _ in range(SHARE):
            held.enter_context(knock(proxy, "127.0.0.2"))
        eventually(lambda: status(proxy, "127.0.0.2")[0] == 429, "its share is taken", TIMEOUT)

        code, text = message(status(proxy, "127.0.0.2")[1])
        assert (code, f"of this client are open: the limit is {SHARE}" in text) == ("TOOMANYREQUESTS", True)
        with knock(proxy, "127.0.0.2", by_name) as sock:  # where an answer could not be read
            assert sock.recv(100) == b""
        assert status(proxy, "127.0.0.3")[0] == 200

    eventually(lambda: status(proxy, "127.0.0.2")[0] == 200, "there is room again", TIMEOUT)
    told = [line for line in proxy.log_lines() if "127.0.0.2 was refused" in line.get("message", "")]
    assert len(told) == 1


def test_a_crowd_of_them_does_and_says_so(proxy: Proxy) -> None:
    with ExitStack() as held:
        for number in range(ALL):
            held.enter_context(knock(proxy, f"127.0.1.{number + 1}"))
        eventually(lambda: status(proxy, "127.0.0.4")[0] == 503, "all are taken", TIMEOUT)

        assert message(status(proxy, "127.0.0.4")[1])[0] == "UNAVAILABLE"
    eventually(lambda: status(proxy, "127.0.0.4")[0] == 200, "there is room again", TIMEOUT)
