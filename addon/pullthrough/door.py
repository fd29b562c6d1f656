"""The explicit proxy's front door: who may come in, where a connection may lead, and in which layers it runs.

Responsible for connections: clients, CONNECT, TLS towards clients, addresses of servers. Must not know what is asked
inside of them. A mitmproxy addon.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from mitmproxy import connection, http
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import layer, server_hooks
from mitmproxy.proxy.layers import ClientTLSLayer, modes
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from pullthrough.core.registries import Registries, looks_like_registry
from pullthrough.guard import Guard, is_loopback, is_private_client
from pullthrough.layers import TUNNEL, Close, Connections, Http, Tunnel, TunnelCount, error_response
from pullthrough.leaves import LeafContexts
from pullthrough.metrics import Metrics
from pullthrough.neighbours import Neighbours
from pullthrough.parent import ParentProxies

log = logging.getLogger(__name__)
traffic = logging.getLogger("pullthrough.traffic")

_TLS_PREFIX: Final = 3
#: Hosts that are remembered as already hinted at or warned about.
_MAX_TOLD: Final = 1024


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
        limit: int,
        offline: bool,
    ) -> None:
        self._offline = offline
        self._connections = connections
        self._limit = limit
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
        """Refuse whoever is neither on this machine nor on a private network."""
        if not is_private_client(client.peername[0]):
            client.error = "pullthrough serves loopback and private networks only"
            self._tell_once("public", client.peername[0], "is a client with a public address: refused")
        elif len(self._connections) > self._limit:  # each may need three descriptors: itself, an upstream, a blob
            client.error = "too many connections"
            self._tell_once("crowd", "a client", f"was refused: more than {self._limit} connections (ulimit -n)")

    def client_disconnected(self, client: connection.Client) -> None:
        """Its sockets are closed. If it was a tunnel, this is its only log line."""
        self._connections.close_remains(client)
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

    def http_connect(self, flow: http.HTTPFlow) -> None:
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
        flow.metadata[TUNNEL] = self._tunnels[flow.client_conn.id] = TunnelCount(host, port)
        parent = self._parents.towards("https", host, port)
        if parent is not None:
            flow.server_conn.via = parent.via
        if looks_like_registry(host):
            entry = _entry(host, port)
            self._tell_once(
                "hint", entry, f"looks like a registry and is not cached: add --registry {entry} to cache it"
            )

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        """Identify ourselves to the parent proxy."""
        parent = self._parents.towards("https", flow.request.host, flow.request.port)
        if parent is not None and parent.authorization is not None:
            flow.request.headers["Proxy-Authorization"] = parent.authorization

    def _objection(self, client: connection.Client, host: str, port: int) -> str | None:
        if port != 443 and not self._neighbours.named(host, port):
            return (
                f"tunnels lead to port 443 only; if {_entry(host, port)} is a registry, start pullthrough with "
                f"--registry {_entry(host, port)}, else put {host} into NO_PROXY"
            )
        if is_loopback(host) and not is_loopback(client.peername[0]):
            return f"{host} would be this proxy's own machine"
        return self._guard.objection(host, port)

    # -- layers

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Choose how the bytes that a client sends are understood. Overrides what mitmproxy's own addon chose."""
        context = nextlayer.context
        if nextlayer.layer is not None:  # in mitmdump, whose addon was asked before us
            del context.layers[context.layers.index(nextlayer.layer) :]
            nextlayer.layer = None
        data = nextlayer.data_client()
        inside = context.layers[-1]
        if isinstance(inside, modes.HttpProxy):
            nextlayer.layer = Close(context) if starts_like_tls_record(data) else Http(context, HTTPMode.regular)
        elif isinstance(inside, ClientTLSLayer):
            nextlayer.layer = Http(context, HTTPMode.transparent)
        elif len(data) >= _TLS_PREFIX:
            nextlayer.layer = self._inside_connect(context, data)

    def _inside_connect(self, context: object, data: bytes) -> layer.Layer:
        """A registry's CONNECT: TLS, plain HTTP (a registry without TLS), or something that is only passed on."""
        if starts_like_tls_record(data):
            context.server.tls = True  # type: ignore[attr-defined]
            return ClientTLSLayer(context)  # type: ignore[arg-type]
        if data[:3].isalpha() and data[:3].isupper():
            return Http(context, HTTPMode.transparent)  # type: ignore[arg-type]
        if self._offline:
            return Close(context)  # type: ignore[arg-type]
        host, port = context.server.address  # type: ignore[attr-defined]
        return Tunnel(context, TunnelCount(host, port))  # type: ignore[arg-type]

    # -- TLS towards clients

    def tls_start_client(self, start: TlsData) -> None:
        """Show our leaf for the host that was asked for. SNI does not choose: we sign for registries only."""
        address = start.context.server.address
        if address is None or not self._registries.covers(_canonical(address[0]), address[1]):
            return
        start.ssl_conn = SSL.Connection(self._leaves.context(_canonical(address[0])))
        start.ssl_conn.set_accept_state()

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

    def _tell_once(self, about: str, whom: str, text: str) -> None:
        """Log `text` unless it was said of `whom` before. Beyond a bound nothing is told: strangers choose `whom`."""
        if (about, whom) not in self._told and len(self._told) < _MAX_TOLD:
            self._told[about, whom] = None
            log.warning("%s %s", whom, text)


def _canonical(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")


def _entry(host: str, port: int) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == 443 else f"{bracketed}:{port}"
