"""mitmproxy's HTTP hooks, translated: a flow becomes a `Request`, an `Answer` becomes a response.

Responsible for translation, for the one log line of every exchange, and for letting what passes stream through in
both directions. Must not know how answers come about. A mitmproxy addon.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Final

from mitmproxy import http
from mitmproxy.net.http import status_codes

from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.core.registries import Registries
from pullthrough.core.routes import OWN_PATH, classify
from pullthrough.guard import Guard
from pullthrough.layers import ABSOLUTE, GATHERED, TO_US, Connections, error_response
from pullthrough.messages import Answer, Pass, Registry, Request, refusal
from pullthrough.metrics import Metrics
from pullthrough.mirror import Mirror
from pullthrough.modes import SniMode
from pullthrough.page import Page
from pullthrough.parent import ParentProxies
from pullthrough.pulls import Pulls
from pullthrough.sending import Sender

log = logging.getLogger(__name__)
traffic = logging.getLogger("pullthrough.traffic")

_EXCHANGE: Final = "pullthrough.exchange"
_BODYLESS: Final = frozenset((204, 304))


@dataclass(slots=True)
class _Exchange:
    """What has to be remembered of a request until it is over."""

    request: Request
    cache: CacheStatus
    began: float
    sent: int = 0
    #: Does the answer come from the upstream, through mitmproxy?
    passing: bool = False
    logged: bool = False
    #: Hangs up on an upstream that does not begin to answer; mitmproxy would wait for ever.
    timer: asyncio.TimerHandle | None = None

    def answered(self) -> None:
        """The upstream began to answer, or nobody waits any more."""
        if self.timer is not None:
            self.timer.cancel()


class PullthroughAddon:
    """Exchanges with registries, and requests to the proxy itself."""

    def __init__(
        self,
        *,
        registries: Registries,
        pulls: Pulls,
        mirror: Mirror,
        page: Page,
        sender: Sender,
        connections: Connections,
        patience: float,
        guard: Guard,
        parents: ParentProxies,
        metrics: Metrics,
        offline: bool,
    ) -> None:
        self._offline = offline
        self._registries = registries
        self._pulls = pulls
        self._mirror = mirror
        self._page = page
        self._sender = sender
        self._connections = connections
        self._patience = patience
        self._guard = guard
        self._parents = parents
        self._metrics = metrics
        self._open: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no exchange is under way."""
        await self._idle.wait()

    # -- requests

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Every request but CONNECT begins here."""
        if flow.error:
            return
        if flow.metadata.get(TO_US):
            mirrored = (flow.request.path.partition("?")[0] + "/").startswith("/v2/")
            await (self._answer_as_mirror(flow) if mirrored else self._answer_ourselves(flow))
            return
        if flow.metadata.get(ABSOLUTE):  # servers believe it more than the Host field (RFC 9112 section 3.2.2)
            flow.response = error_response(400, "inside a tunnel a request names a path, not another server")
            return
        registry = _registry(flow)
        if not self._registries.covers(registry.host, registry.port):
            self._forward(flow, registry)
            return
        request = _request(flow, registry)
        if request.misdirected and isinstance(flow.client_conn.proxy_mode, SniMode):  # RFC 9110 section 15.5.20
            flow.response = error_response(421, f"this connection leads to {registry.authority}, and to no other port")
            return
        exchange = _Exchange(request, CacheStatus(fwd="bypass"), time.monotonic())
        flow.metadata[_EXCHANGE] = exchange
        self._began(flow)
        if request.method == "POST" and request.target.startswith(OWN_PATH):
            flow.metadata[GATHERED] = True  # a token is asked for: the form says by whom
        else:
            await self._answer(flow, exchange)

    async def request(self, flow: http.HTTPFlow) -> None:
        """All of a request that was not answered before is here."""
        exchange = flow.metadata.get(_EXCHANGE)
        if flow.metadata.get(GATHERED) and exchange is not None and flow.response is None:
            exchange.request = dataclasses.replace(exchange.request, body=flow.request.raw_content or b"")
            await self._answer(flow, exchange)

    async def _answer(self, flow: http.HTTPFlow, exchange: _Exchange) -> None:
        request = exchange.request
        answer = await self._pulls.answer(request)
        exchange.cache = answer.cache
        if isinstance(answer, Pass):
            exchange.passing = True
            self._stream_through(flow, request.registry)
            if request.method in ("GET", "HEAD"):  # a write may rightly take minutes
                exchange.timer = asyncio.get_running_loop().call_later(
                    self._patience, self._connections.hang_up_upstream, flow.client_conn
                )
        else:
            self._respond(flow, answer)

    async def _answer_as_mirror(self, flow: http.HTTPFlow) -> None:
        request = _request(flow, _registry(flow))
        meant = self._mirror.meant(request)
        exchange = _Exchange(meant or request, CacheStatus(), time.monotonic())
        flow.metadata[_EXCHANGE] = exchange
        self._began(flow)
        try:
            answer = await self._mirror.answer(request, meant)
        except Exception:
            log.exception("fault while answering as a mirror")
            answer = refusal(500, ocierrors.UNAVAILABLE, "internal fault; the log of the proxy has it")
        exchange.cache = answer.cache
        self._respond(flow, answer)

    async def _answer_ourselves(self, flow: http.HTTPFlow) -> None:
        request, by_name = flow.request, isinstance(flow.client_conn.proxy_mode, SniMode)
        try:
            answer = await self._page.answer(request.method, request.path, request.host_header or "", by_name=by_name)
        except Exception:  # without an answer mitmproxy would send the request to where it came from
            log.exception("fault while answering %s", flow.request.path)
            flow.response = error_response(500, "internal fault; the log of the proxy has it")
        else:
            self._respond(flow, answer)

    def _forward(self, flow: http.HTTPFlow, registry: Registry) -> None:
        """Plain HTTP to a host that is no registry (HTTP_PROXY): relayed unseen, to port 80 only."""
        objection = self._guard.objection(registry.host, registry.port)
        if objection is None and registry.port != 80:
            objection = f"plain HTTP leads to port 80 only; put {registry.host} into NO_PROXY"
        if self._offline:
            flow.response = error_response(503, "pullthrough was started with --offline: nothing leads out of it")
        elif objection is not None:
            flow.response = error_response(403, objection)
        else:
            self._stream_through(flow, registry)

    def _stream_through(self, flow: http.HTTPFlow, registry: Registry) -> None:
        flow.request.stream = True
        for name in ("Proxy-Authorization", "Proxy-Connection"):  # meant for us, not for the upstream
            flow.request.headers.pop(name, None)
        parent = self._parents.towards(registry.scheme, registry.host, registry.port)
        if parent is not None:
            flow.server_conn.via = parent.via

    def _respond(self, flow: http.HTTPFlow, answer: Answer) -> None:
        flow.response = _response(answer, flow.request.http_version)
        exchange = flow.metadata.get(_EXCHANGE)
        bodyless = flow.request.method == "HEAD" or answer.status in _BODYLESS
        if bodyless or isinstance(answer.body, bytes):
            content = b"" if bodyless or not isinstance(answer.body, bytes) else answer.body
            # Not `content`: its setter would write a Content-Length of its own.
            flow.response.raw_content = content
            if exchange is not None:
                exchange.sent = len(content)
            return

        def done(sent: int) -> None:
            if exchange is not None:
                exchange.sent = sent
                self._over(flow)

        self._sender.start(flow, answer.body, done)

    # -- answers

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        """What comes from the upstream streams through, but what it means for the cache is noted first."""
        if flow.response is None or flow.metadata.get(TO_US):
            return
        exchange = flow.metadata.get(_EXCHANGE)
        if exchange is None:
            flow.response.stream = True
        elif exchange.passing:
            exchange.answered()
            flow.response.stream = _Counter(exchange)
            headers = Headers(flow.response.headers.items(multi=True))
            heard = await self._pulls.observe(exchange.request, flow.response.status_code, headers)
            if heard is not headers:
                flow.response.headers = _fields(heard)
            flow.response.headers.add("Cache-Status", exchange.cache.header())

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer is there: log it, unless its body is still to be pulled."""
        exchange = flow.metadata.get(_EXCHANGE)
        if exchange is not None and (exchange.passing or not self._sender.sends(flow)):
            self._over(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """It was cut, by the client or for a reason."""
        if flow.metadata.get(_EXCHANGE) is not None:
            self._over(flow)

    # -- bookkeeping

    def _began(self, flow: http.HTTPFlow) -> None:
        self._open.add(flow.id)
        self._idle.clear()

    def _over(self, flow: http.HTTPFlow) -> None:
        self._open.discard(flow.id)
        if not self._open:
            self._idle.set()
        exchange: _Exchange = flow.metadata[_EXCHANGE]
        exchange.answered()
        if not exchange.logged:
            exchange.logged = True
            self._log(flow, exchange)

    def _log(self, flow: http.HTTPFlow, exchange: _Exchange) -> None:
        request, cache = exchange.request, exchange.cache
        route = classify(request.method, request.target)
        self._metrics.answered(route.kind, cache.outcome, exchange.sent)
        traffic.info(
            "request",
            extra={
                "client": request.client,
                "method": request.method,
                "host": request.registry.authority,
                "repository": route.repository or None,
                "reference": route.reference or route.kind.value,
                "status": _status(flow),
                "outcome": cache.outcome,
                "detail": (flow.error.msg if flow.error else None) or cache.detail,
                "bytes": exchange.sent,
                "ms": round((time.monotonic() - exchange.began) * 1000),
            },
        )


def _status(flow: http.HTTPFlow) -> int | None:
    """What the client was told. Without a response, our layer says 502 to whoever is still there."""
    if flow.response is not None:
        return flow.response.status_code
    return 502 if flow.client_conn.connected else None


class _Counter:
    """Passes chunks through and counts them: what mitmproxy calls a stream function."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def __call__(self, chunk: bytes) -> bytes:
        self._exchange.sent += len(chunk)
        return chunk


def _registry(flow: http.HTTPFlow) -> Registry:
    request = flow.request
    return Registry(request.scheme, request.host.lower().rstrip(".").strip("[]"), request.port)


def _request(flow: http.HTTPFlow, registry: Registry) -> Request:
    headers = Headers(flow.request.headers.items(multi=True))
    return Request(registry, flow.request.method, flow.request.path, headers, flow.client_conn.peername[0])


def _response(answer: Answer, version: str) -> http.Response:
    fields = _fields(answer.headers)
    fields["Cache-Status"] = answer.cache.header()
    if answer.status not in _BODYLESS:
        for name, value in _framing(_length(answer), version):
            fields[name] = value
    now = time.time()
    reason = status_codes.RESPONSES.get(answer.status, "").encode()
    return http.Response(b"HTTP/1.1", answer.status, reason, fields, b"", None, now, now)


def _fields(headers: Headers) -> http.Headers:
    return http.Headers([(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers])


def _framing(length: int | None, version: str) -> list[tuple[str, str]]:
    """How the client finds the end of the body (RFC 9112 section 6.3)."""
    if length is not None:
        return [("Content-Length", str(length))]
    if version == "HTTP/1.0":  # knows no chunks: the body ends with the connection
        return []
    return [("Transfer-Encoding", "chunked")]


def _length(answer: Answer) -> int | None:
    if answer.length is not None:
        return answer.length
    return len(answer.body) if isinstance(answer.body, bytes) else answer.body.length
