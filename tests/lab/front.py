"""A reverse proxy before a registry: the load balancer and the rate limit of a public one.

The registry behind stays the real one. This passes everything on, counts pulls as Docker Hub does
(GET of a manifest counts, HEAD does not) where a budget is set, and commits the faults of
`lab.faulty`: refuse, hang. It keeps nothing and does not know what a manifest is.
"""

import http.client
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing

from lab.direct import DirectConnection
from lab.faulty import FaultyServer
from lab.names import Endpoint
from lab.pki import Identity
from lab.web import READ_BYTES, Exchange, Headers, joined

MANIFEST = re.compile(r"/v2/.+/manifests/[^/]+$")
WINDOW_SECONDS = 21600
OF_ONE_CONNECTION = frozenset({"connection", "keep-alive", "expect"})
TOO_MANY = (
    b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase '
    b'the limit by authenticating and upgrading"}]}'
)


class Budget:
    """So many manifests may be fetched."""

    def __init__(self, limit: int, remaining: int) -> None:
        self.limit = limit
        self.remaining = remaining
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """One fetch; False if none is left."""
        with self._lock:
            left = self.remaining > 0
            self.remaining -= left
            return left

    def fields(self) -> dict[str, str]:
        """What Docker Hub says of it with every manifest, HEAD or GET."""
        return {
            "ratelimit-limit": f"{self.limit};w={WINDOW_SECONDS}",
            "ratelimit-remaining": f"{self.remaining};w={WINDOW_SECONDS}",
            "docker-ratelimit-source": "127.0.0.1",
        }


class Front(FaultyServer):
    """`https://front.test:PORT/` over a registry; without `budget` there is no limit."""

    def __init__(self, identity: Identity, registry: Endpoint, context: ssl.SSLContext) -> None:
        """`context` is the one with which the registry is spoken to."""
        super().__init__(identity.name, identity, public_port=None)
        self.budget: Budget | None = None
        self._registry = registry
        self._tls = context

    def reset(self) -> None:
        """As new: no faults, no limit, an empty journal."""
        super().reset()
        self.budget = None

    def answer(self, exchange: Exchange) -> None:
        """The registry's answer, unless a fault or the limit has one."""
        if self.strike(exchange) is None:
            return
        request = exchange.request
        budget = self.budget if MANIFEST.match(request.path) else None
        pulls = request.method == "GET" and request.authorized  # without a token it is only going to be challenged
        if budget and pulls and not budget.spend():
            exchange.reply(429, {"Content-Type": "application/json", **budget.fields()}, TOO_MANY)
        else:
            self._pass(exchange, budget.fields() if budget else {})

    def _pass(self, exchange: Exchange, more: Headers) -> None:
        with closing(DirectConnection(self._registry, self._tls)) as connection:
            try:
                connection.connect()
            except OSError:
                exchange.reply(502, {"Content-Type": "text/html"}, b"<h1>502 Bad Gateway</h1>")
                return
            _ask(connection, exchange)
            with connection.getresponse() as answer:
                _give(exchange, answer, more)


def _ask(connection: DirectConnection, exchange: Exchange) -> None:
    """The request as it came, field by field; its body too, in the framing that it had."""
    request = exchange.request
    connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name not in OF_ONE_CONNECTION:
            connection.putheader(name, value)
    chunked = "transfer-encoding" in request.headers
    body = exchange.body() if chunked or "content-length" in request.headers else None
    connection.endheaders(body, encode_chunked=chunked)


def _give(exchange: Exchange, answer: http.client.HTTPResponse, more: Headers) -> None:
    headers = {name: value for name, value in joined(answer.getheaders()).items() if name not in OF_ONE_CONNECTION}
    bodiless = exchange.request.method == "HEAD" or answer.status in (204, 304)
    if not bodiless and "content-length" not in headers:
        headers["transfer-encoding"] = "chunked"
    exchange.begin(answer.status, {**headers, **more})
    if bodiless:
        return
    chunked = "transfer-encoding" in headers
    write = exchange.frame if chunked else exchange.write
    for piece in _pieces(answer):
        write(piece)
    if chunked:
        exchange.frame(b"")


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read1(READ_BYTES):
        yield piece
