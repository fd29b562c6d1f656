"""Where a connection was going, and how mitmproxy is told of the doors that it has not."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from mitmproxy.proxy import mode_servers, mode_specs

from pullthrough.modes import RedirectInstance, RedirectMode, SniInstance, SniMode, destination, spec
from pullthrough.options import parse_address


@contextmanager
def accepted(listening: str, connecting: str) -> Iterator[tuple[socket.socket, int]]:
    """The accepted end of a connection, and the port that it was made to."""
    six = ":" in listening
    family = socket.AF_INET6 if six else socket.AF_INET
    with closing(socket.create_server((listening, 0), family=family, dualstack_ipv6=six)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((connecting, port)), closing(server.accept()[0]) as end:
            yield end, port


@pytest.mark.parametrize(
    ("listening", "connecting"),
    [("0.0.0.0", "127.0.0.9"), ("::", "::1"), ("::", "127.0.0.9")],
    ids=["IPv4", "IPv6", "IPv4 at an IPv6 socket"],
)
def test_a_connection_that_nobody_redirected_was_going_to_our_own_end(listening: str, connecting: str) -> None:
    with accepted(listening, connecting) as (end, port):
        assert destination(end) == (connecting, port)


@pytest.mark.parametrize("mode", [SniMode, RedirectMode])
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("443", "0.0.0.0", 443), ("127.0.0.1:5050", "127.0.0.1", 5050), ("[::]:443", "::", 443)],
)
def test_mitmproxy_understands_where_to_listen(
    mode: type[mode_specs.ProxyMode], text: str, host: str, port: int
) -> None:
    parsed = mode_specs.ProxyMode.parse(spec(mode, parse_address(text)))

    assert isinstance(parsed, mode)
    assert (parsed.listen_host(), parsed.listen_port()) == (host, port)
    assert parsed.transport_protocol == "tcp"  # of UDP, which is QUIC, we take nothing


@pytest.mark.parametrize(("mode", "made"), [("sni@443", SniInstance), ("redirect@3129", RedirectInstance)])
def test_mitmproxy_finds_the_doors(mode: str, made: type[mode_servers.ServerInstance[mode_specs.ProxyMode]]) -> None:
    no_connections: Any = None

    assert isinstance(mode_servers.ServerInstance.make(mode, no_connections), made)
