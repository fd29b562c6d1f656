"""TLS contexts towards clients: one for each host, with a leaf of our own, kept and renewed in time.

Responsible for what we offer in a handshake. Must not know who connects or which hosts are intercepted.
Only this module imports `OpenSSL` (pyOpenSSL), because that is the TLS that mitmproxy speaks. Not
thread-safe: made for one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from OpenSSL import SSL

from pullthrough.ca import Authority, Clock, Leaf

#: HTTP/2 is not offered: clients that know it speak HTTP/1.1 as well, and a body is then paced by one
#: socket instead of by stream windows (DESIGN section 4).
_PROTOCOL: Final = b"http/1.1"
#: Renegotiation and compression are attacks without a use. The cipher order is the client's: it knows
#: whether it has AES in hardware, and Go's first choice (AES-128-GCM) is also the fastest for long bodies.
_OPTIONS: Final = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION


@dataclass(frozen=True, slots=True)
class _Entry:
    context: SSL.Context
    signer: str
    renew_at: datetime


class LeafContexts:
    """Contexts by host, at most `limit` of them, the least recently used dropped first.

    A context is made anew once less than a third of its leaf's lifetime remains, or when another CA has taken over.
    Connections that run on the old one are not touched.
    """

    def __init__(self, authority: Authority, now: Clock, limit: int = 1024) -> None:
        self._authority = authority
        self._now = now
        self._limit = limit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def context(self, host: str) -> SSL.Context:
        """For connections that play `host`.

        ValueError if that is no host, CAError if the CA has expired or may not sign for it.
        """
        host = host.lower()
        moment = self._now()
        signer = self._authority.signer(host)
        entry = self._entries.get(host)
        if entry is None or entry.signer != signer or moment >= entry.renew_at:
            entry = self._entries[host] = self._made(host, signer, moment)
        self._entries.move_to_end(host)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry.context

    def _made(self, host: str, signer: str, moment: datetime) -> _Entry:
        leaf = self._authority.issue(host)
        return _Entry(_server_context(leaf), signer, leaf.not_valid_after - (leaf.not_valid_after - moment) / 3)


def openssl_version() -> str:
    """Of the OpenSSL that speaks to clients, which is not the interpreter's."""
    return SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii")


def _server_context(leaf: Leaf) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_verify(SSL.VERIFY_NONE, None)
    context.set_alpn_select_callback(_select_protocol)
    context.use_privatekey(leaf.key)
    context.use_certificate(leaf.chain[0])
    for intermediate in leaf.chain[1:]:
        context.add_extra_chain_cert(intermediate)
    return context


def _select_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    """A client that names only protocols we do not speak is told none, and decides by itself."""
    return _PROTOCOL if _PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS
