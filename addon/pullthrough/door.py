"""The front doors: who may come in, where a connection may lead, and in which layers it runs.

Responsible for connections, whichever way they came: clients, CONNECT, server names, redirected ones, TLS towards
clients, addresses of servers. Must not know what is asked inside of them. A mitmproxy addon.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from dataclasses import dataclass
from typing import Final

from mitmproxy import connection, http
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import layer, server_hooks
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.tls import parse_client_hello
from mitmproxy.proxy.mode_specs import RegularMode
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from pullthrough.ca import CAError
from pullthrough.core.registries import Registries, looks_like_registry
from pullthrough.discovery import Discovery
from pullthrough.guard import Guard, is_loopback, is_private_client
from pullthrough.layers import TUNNEL, Close, Connections, Http, Tls, TunnelCount, error_bytes, error_response, tunnel
from pullthrough.leaves import LeafContexts
from pullthrough.metrics import Metrics
from pullthrough.modes import RedirectMode, SniMode
from pullthrough.neighbours import Neighbours
from pullthrough.parent import ParentProxies
from pullthrough.visits import Full, Visits

log = logging.getLogger(__name__)
traffic = logging.getLogger("pullthrough.traffic")

_TLS_PREFIX: Final = 3
#: Bytes within which a client has to say where it wants to go.
_MAX_HELLO: Final = 64 << 10
_HOST_FIELD: Final = re.compile(rb"\r\nhost:[ \t]*(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]+)?[ \t]*\r\n", re.IGNORECASE)
#: Of HTTP, whole or its beginning. Other protocols begin with capitals as well: `SSH-2.0-`.
_METHOD: Final = re.compile(rb"[A-Z]{3,20}(?: |$)")
#: Hosts that are remembered as already hinted at or warned about.
_MAX_TOLD: Final = 1024
#: Of them, names that clients took us for. What is no host name is not told: strangers choose it.
_MAX_NAMES: Final = 256
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,253}")


class Door:
    """Decides for every connection whether it is opened, tunnelled or refused."""

    def __init__(
        self,
        *,
        registries: Registries,
        neighbours: Neighbours,
        leaves: LeafContexts,
        guard: Guard,
        parents: ParentProxies,
        metrics: Metrics,
        connections: Connections,
        visits: Visits,
        own_names: frozenset[str],
        discovery: Discovery | None,
        offline: bool,
    ) -> None:
        self._offline = offline
        self._own_names = own_names
        self._discovery = discovery
        self._connections = connections
        self._visits = visits
        self._registries = registries
        self._neighbours = neighbours
        self._leaves = leaves
        self._guard = guard
        self._parents = parents
        self._metrics = metrics
        self._tunnels: dict[str, TunnelCount] = {}
        self._told: dict[tuple[str, str], None] = {}

    # -- clients

    def client_connected(self, client: connection.Client) -> None:
        """Refuse whoever is neither on this machine nor on a private network, and whoever is too many."""
        address, writer = client.peername[0], self._connections.writer(client)
        if not is_private_client(address):
            client.error = "pullthrough serves loopback and private networks only"
            self._tell_once("public", address, "is a client with a public address: refused")
            return
        try:
            self._visits.enter(client.id, address, writer)
        except Full as full:
            client.error = str(full)
            if writer is not None and isinstance(client.proxy_mode, RegularMode):  # elsewhere it could not be read
                writer.write(error_bytes(429 if full.share else 503, client.error))
            self._tell_of_crowd(address, full)

    def _tell_of_crowd(self, address: str, full: Full) -> None:
        text = f"was refused: more than {full.limit} connections (ulimit -n gives room for more)"
        self._tell_once("crowd", address if full.share else "a client", text)

    def client_disconnected(self, client: connection.Client) -> None:
        """Its sockets are closed. If it was a tunnel, this is its only log line."""
        self._connections.close_remains(client)
        self._visits.leave(client.id)
        tunnel = self._tunnels.pop(client.id, None)
        if tunnel is not None:
            self._metrics.tunnelled(tunnel.transferred)
            traffic.info(
                "tunnel",
                extra={
                    "client": client.peername[0],
                    "host": f"{tunnel.host}:{tunnel.port}",
                    "bytes": tunnel.transferred,
                },
            )

    # -- CONNECT

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        """Open a registry's connection, tunnel the others, refuse what no build machine needs."""
        host, port = _canonical(flow.request.host), flow.request.port
        if self._registries.covers(host, port):
            return
        if self._offline:
            flow.response = error_response(503, "pullthrough was started with --offline: nothing leads out of it")
            return
        if objection := self._objection(flow.client_conn, host, port):
            flow.response = error_response(403, objection)
            # Clients seldom show the answer to a CONNECT: whoever reads the log has to find it there.
            self._tell_once("refused", _entry(host, port), f"was refused to a client: {objection}")
            return
        if await self._is_found(flow.client_conn, host, port):
            return
        self._visits.of(flow.client_conn.id).leave_alone()
        flow.metadata[TUNNEL] = self._tunnels[flow.client_conn.id] = TunnelCount(host, port)
        parent = self._parents.towards("https", host, port)
        if parent is not None:
            flow.server_conn.via = parent.via
        self._hint(host, port)

    async def _is_registry(self, client: connection.Client, host: str, port: int) -> bool:
        """Is it one that is opened? For a place that the client's bytes would be passed on to, if it is none."""
        return self._registries.covers(host, port) or await self._is_found(client, host, port)

    async def _is_found(self, client: connection.Client, host: str, port: int) -> bool:
        """With --discover it is asked whether it is one, if the client may reach it at all."""
        if self._discovery is None or await self._forbidden(client, host, port) is not None:
            return False
        return await self._discovery.look(host, port)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        """Identify ourselves to the parent proxy."""
        parent = self._parents.towards("https", flow.request.host, flow.request.port)
        if parent is not None and parent.authorization is not None:
            flow.request.headers["Proxy-Authorization"] = parent.authorization

    def _objection(self, client: connection.Client, host: str, port: int) -> str | None:
        if self._guard.is_ourselves(host, port) or (host in self._own_names and port == client.sockname[1]):
            return f"{_entry(host, port)} is this proxy itself: put {host} into NO_PROXY"
        if port != 443 and not self._neighbours.named(host, port):
            return (
                f"tunnels lead to port 443 only; if {_entry(host, port)} is a registry, start pullthrough with "
                f"--registry {_entry(host, port)}, else put {host} into NO_PROXY"
            )
        if is_loopback(host) and not is_loopback(client.peername[0]):
            return f"{host} would be this proxy's own machine"
        return self._guard.objection(host, port)

    # -- layers

    async def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Choose how the bytes that a client sends are understood. Overrides what mitmproxy's own addon chose."""
        context = nextlayer.context
        if nextlayer.layer is not None:  # in mitmdump, whose addon was asked before us
            del context.layers[context.layers.index(nextlayer.layer) :]
            nextlayer.layer = None
        data = nextlayer.data_client()
        if isinstance(context.layers[-1], ClientTLSLayer):
            to_us = context.server.address is None
            nextlayer.layer = self._http(context, HTTPMode.regular if to_us else HTTPMode.transparent)
        elif len(data) < _TLS_PREFIX:
            return
        elif len(context.layers) > 1:
            nextlayer.layer = self._inside_connect(context, data)
        elif isinstance(context.client.proxy_mode, SniMode):
            nextlayer.layer = await self._by_name(context, data)
        elif isinstance(context.client.proxy_mode, RedirectMode):
            nextlayer.layer = await self._redirected(context, data)
        else:
            tls = starts_like_tls_record(data)
            nextlayer.layer = Tls(context) if tls else self._http(context, HTTPMode.regular)

    def _http(self, context: Context, mode: HTTPMode) -> layer.Layer:
        return Http(context, mode, self._visits.of(context.client.id))

    def _inside_connect(self, context: Context, data: bytes) -> layer.Layer:
        """A registry's CONNECT: TLS, plain HTTP (a registry without TLS), or something that is only passed on."""
        if starts_like_tls_record(data):
            return _opened(context)
        if _METHOD.match(data):
            return self._http(context, HTTPMode.transparent)
        return self._passed_on(context)

    async def _by_name(self, context: Context, data: bytes) -> layer.Layer | None:
        """The server name is all that says where the client wants to go; None while more of it is to come."""
        hello = _hello(data)
        if hello is None:
            return None
        name, port = hello.name, context.client.sockname[1]
        if not name:
            return Close(context)
        if name in self._own_names:
            return Tls(context)
        # Outside the port may be another (containers publish ports), unless it is one that registries have.
        ports = (port,) if self._registries.on_port(port) else (port, 443)
        for registry in ((name, each) for each in ports):
            if await self._is_registry(context.client, *registry):
                context.server.address = registry
                return _opened(context)
        context.server.address = (name, port)
        return self._passed_on(context)

    async def _redirected(self, context: Context, data: bytes) -> layer.Layer | None:
        """Where the connection was going is known, and its name tells whether that is a registry."""
        if context.server.address is None:
            return Close(context)
        address, port = context.server.address[:2]
        plain = not starts_like_tls_record(data)
        hello = _head(data) if plain else _hello(data)
        if hello is None:
            return None
        name = hello.name or _canonical(address)
        if self._guard.is_ourselves(address, port):
            return Close(context)
        known = self._registries.covers(name, port) if plain else await self._is_registry(context.client, name, port)
        if not known:
            return self._passed_on(context)
        context.server.address = (name, port)
        return self._http(context, HTTPMode.transparent) if plain else _opened(context)

    def _passed_on(self, context: Context) -> layer.Layer:
        """Unopened, to where it was going."""
        address = context.server.address
        if self._offline or address is None:
            return Close(context)
        host, port = address[:2]
        parent = self._parents.towards("https", host, port)
        if parent is not None:
            context.server.via = parent.via
        self._hint(host, port)
        self._visits.of(context.client.id).leave_alone()
        count = self._tunnels[context.client.id] = TunnelCount(host, port)
        return tunnel(context, count)

    # -- TLS towards clients

    def tls_start_client(self, start: TlsData) -> None:
        """Show our leaf for the host that was asked for. SNI does not choose: we sign for registries and ourselves."""
        address = start.context.server.address
        if address is None:
            host = self._own_name(start.context.client)
        else:
            host = _canonical(address[0]) if self._registries.covers(_canonical(address[0]), address[1]) else None
        if host is None:
            if address is None:
                self._tell_of_name(_canonical(start.context.client.sni or ""))
            return
        try:
            context = self._leaves.context(host)
        except (CAError, ValueError) as error:  # without a connection to speak with, mitmproxy hangs up
            self._tell_once("leaf", host, f"has no certificate of ours: {error}")
            return
        start.ssl_conn = SSL.Connection(context)
        start.ssl_conn.set_accept_state()

    def tls_established_client(self, start: TlsData) -> None:
        """The handshake is over in time; now the client may ask."""
        self._visits.of(start.context.client.id).rest()

    def _own_name(self, client: connection.Client) -> str | None:
        """What a client that speaks TLS to us takes us for; without a server name, the address that it found."""
        if not client.sni:
            return _canonical(str(client.sockname[0]))
        name = _canonical(client.sni)
        return name if name in self._own_names else None

    def _tell_of_name(self, name: str) -> None:
        """A client took us for somebody that we do not know: the name says what to do, once."""
        told = sum(about == "name" for about, _ in self._told)
        if told < _MAX_NAMES and _NAME.fullmatch(name) and not self._registries.names(name):
            self._tell_once(
                "name", name, f"is no name of this proxy, and TLS for it came here: if it is, add --name {name}"
            )

    def tls_failed_client(self, start: TlsData) -> None:
        """Most often a client that does not trust our CA: say so once, with the remedy."""
        client = start.context.client
        reason = start.conn.error or ""
        if "trust" in reason or "unknown ca" in reason or "certificate" in reason:
            hint = "does not trust our CA: install http://THIS-PROXY/ca.pem there (see the README)"
            self._tell_once("trust", client.peername[0], hint)

    # -- servers

    async def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Refuse addresses that are never an upstream, by whatever name they go."""
        if self._offline:
            data.server.error = "pullthrough was started with --offline"
            return
        if data.server.address is None or data.server.via is not None:
            return
        host, port = data.server.address[:2]
        if any((proxy.host, proxy.port) == (host, port) for proxy in self._parents):
            return
        data.server.error = await self._forbidden(data.client, host, port)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """The name may have another address by now than when it was looked at: hang up before a byte goes there."""
        address, peer = data.server.address, data.server.peername
        if address is None or peer is None or data.server.via is not None:
            return
        if any((proxy.host, proxy.port) == address[:2] for proxy in self._parents):
            return
        if self._address_objection(data.client, address[0], peer[0], peer[1]):
            self._connections.refuse(data.client, data.server)

    async def _forbidden(self, client: connection.Client, host: str, port: int) -> str | None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            return f"{host} cannot be resolved: {error.strerror or error}"
        addresses = (str(info[4][0]) for info in found)
        objections = (self._address_objection(client, host, address, port) for address in addresses)
        return next((objection for objection in objections if objection), None)

    def _address_objection(self, client: connection.Client, host: str, address: str, port: int) -> str | None:
        named = self._registries.named_by_operator(_canonical(host), port)
        if is_loopback(address) and not is_loopback(client.peername[0]) and not named:
            return f"{host} would be this proxy's own machine"
        return self._guard.objection(address, port)

    def _hint(self, host: str, port: int) -> None:
        if looks_like_registry(host):
            entry = _entry(host, port)
            self._tell_once(
                "hint", entry, f"looks like a registry and is not cached: add --registry {entry} to cache it"
            )

    def _tell_once(self, about: str, whom: str, text: str) -> None:
        """Log `text` unless it was said of `whom` before. Beyond a bound nothing is told: strangers choose `whom`."""
        if (about, whom) not in self._told and len(self._told) < _MAX_TOLD:
            self._told[about, whom] = None
            log.warning("%s %s", whom, text)


@dataclass(frozen=True, slots=True)
class _Hello:
    """What the first bytes of a client say. `name` is empty if they name nobody."""

    name: str = ""


def _hello(data: bytes) -> _Hello | None:
    """Of TLS; None while more is to come."""
    try:
        hello = parse_client_hello(data)
    except ValueError:
        return _Hello()
    if hello is None:
        return None if len(data) <= _MAX_HELLO else _Hello()
    return _Hello(_canonical(hello.sni or ""))


def _head(data: bytes) -> _Hello | None:
    """Of plain HTTP, or of anything else that is no TLS; None while more is to come."""
    if not _METHOD.match(data):
        return _Hello()
    if b"\r\n\r\n" not in data and len(data) <= _MAX_HELLO:
        return None
    found = _HOST_FIELD.search(data)
    return _Hello(_canonical(found[1].decode("ascii"))) if found else _Hello()


def _opened(context: Context) -> layer.Layer:
    """TLS that we end: so says the scheme of what is asked inside."""
    context.server.tls = True
    return Tls(context)


def _canonical(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")


def _entry(host: str, port: int) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == 443 else f"{bracketed}:{port}"
