"""What one client can make the proxy remember is bounded."""

import socket

import pytest

from lab.fake_registry import FakeRegistry
from lab.proxy import Proxy

PATIENCE_SECONDS = 20.0
MUCH = 64 << 20


@pytest.mark.parametrize(
    "head",
    [
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
        b"PUT /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1",
        b"GET /readyz HTTP/1.1\r\nX: ",
    ],
    ids=["a body of GET", "endless trailers", "an endless chunk size", "an endless head"],
)
def test_endless_bytes_end_the_connection(fake: FakeRegistry, fake_proxy: Proxy, head: bytes) -> None:
    with socket.create_connection(fake_proxy.address, PATIENCE_SECONDS) as sock:
        sock.sendall(head)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # as the kernel likes; no time-out of ours
            for _ in range(MUCH >> 16):
                sock.sendall(b"1" * (1 << 16))

    assert fake_proxy.get("/readyz")[0] == 200
