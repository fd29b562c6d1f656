"""The ways in that mitmproxy has not: TLS by server name, and connections that a firewall redirects.

Responsible for listening, and for where a redirected connection was going. Must not know what becomes of it (`door`).
mitmproxy finds modes by their class names: `sni@HOST:PORT`, `redirect@HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

from mitmproxy import platform
from mitmproxy.proxy import context, layer, mode_servers, mode_specs
from mitmproxy.proxy.layers import modes

from pullthrough.options import Address

_IP_TRANSPARENT: Final = 19  # linux/in.h; Python has no name for it
_IPV6_TRANSPARENT: Final = 75


class SniMode(mode_specs.ProxyMode):
    """Clients take us for the registry, because DNS or a route led them here."""

    description = "TLS by server name"
    transport_protocol = "tcp"

    def __post_init__(self) -> None:
        """There is nothing to check."""


class RedirectMode(mode_specs.ProxyMode):
    """A firewall on this machine handed us a connection that was going elsewhere."""

    description = "redirected connections"
    transport_protocol = "tcp"

    def __post_init__(self) -> None:
        """There is nothing to check."""


class SniInstance(mode_servers.AsyncioServerInstance[SniMode]):
    """Listens."""

    def make_top_layer(self, context: context.Context) -> layer.Layer:
        """All is for the door to decide."""
        return modes.HttpProxy(context)


class RedirectInstance(mode_servers.AsyncioServerInstance[RedirectMode]):
    """Listens, also for connections to addresses that are not this machine's (TPROXY)."""

    _destination: tuple[str, int] | None = None

    async def listen(self, host: str, port: int) -> list[Any]:
        """As mitmproxy does, and transparent where we may be (CAP_NET_ADMIN). REDIRECT needs no such right."""
        servers = await super().listen(host, port)
        for server in servers:
            for sock in server.sockets if isinstance(server, asyncio.Server) else ():
                _make_transparent(sock)
        return servers

    async def handle_stream(self, reader: Any, writer: Any = None) -> None:
        """Note where this one was going; nothing else runs until `make_top_layer` has taken it."""
        self._destination = destination(writer.get_extra_info("socket"))
        await super().handle_stream(reader, writer)

    def make_top_layer(self, context: context.Context) -> layer.Layer:
        """All is for the door to decide; where it was going is the server's address."""
        context.server.address, self._destination = self._destination, None
        return modes.HttpProxy(context)


def destination(sock: socket.socket) -> tuple[str, int]:
    """Where the client wanted to connect to: what the firewall rewrote (REDIRECT), else our own end (TPROXY)."""
    host, port = sock.getsockname()[:2]
    if platform.original_addr is not None:
        with contextlib.suppress(OSError):  # no such connection was rewritten
            host, port = platform.original_addr(sock)
    return host.removeprefix("::ffff:") if "." in host else host, port


def _make_transparent(sock: Any) -> None:
    six = sock.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if six else (socket.IPPROTO_IP, _IP_TRANSPARENT)
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, 1)


def spec(mode: type[mode_specs.ProxyMode], address: Address) -> str:
    """How mitmproxy is told to listen there in that way."""
    return f"{mode.type_name}@{address.host}:{address.port}"
