"""The one HTTP client with which we ask upstreams.

Responsible for connections, TLS, the parent proxy, time-outs and redirects. Must not know what is asked for:
it sends a request and hands back the answer. Only this module imports aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import yarl

from pullthrough.core.headers import Headers
from pullthrough.guard import Guard, is_loopback
from pullthrough.parent import ParentProxies, ParentProxy

#: Redirects that a request may follow. Registries need one, two behind some CDNs.
MAX_REDIRECTS: Final = 5
#: Bytes and seconds that the page of a redirect is worth.
_SHORT: Final = 16 * 1024
_DISCARDING: Final = 0.5
#: Small questions (checks, manifests) and long bodies have pools of their own: 64 fills must not
#: keep a tag check waiting for a free connection.
_CHECKS_PER_HOST: Final = 32
_BODIES_PER_HOST: Final = 64
#: A pre-signed Location or a long challenge may be far longer than aiohttp's default of 8 KiB.
_MAX_FIELD: Final = 64 * 1024
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
#: What may not stand in a request target but does in the Location of some registries.
_UNENCODED: Final = re.compile(rb"[^\x21-\x7e]")
#: What a foreign origin gets to see of the client's request. Everything else may be a credential.
_FOREIGN_FIELDS: Final = ("accept", "accept-encoding", "if-range", "range", "user-agent")


class UpstreamError(Exception):
    """The upstream did not give an answer. `status` is the one to give instead (502, 504); the text says why.

    The text never holds a query string: pre-signed URLs are credentials.
    """

    def __init__(self, reason: str, status: int = 502) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. An answer's head may take `connect` and `first_byte` together, redirects included.

    `stall` is the longest silence within a body.
    """

    connect: float = 10.0
    first_byte: float = 15.0
    stall: float = 60.0


class Reply:
    """An upstream's answer: the head is here, the body is to be read or closed."""

    def __init__(self, response: aiohttp.ClientResponse, *, foreign: bool) -> None:
        self._response = response
        self.status = response.status
        self.headers = Headers(response.headers.items())
        #: Did a redirect lead to another origin than the one that was asked?
        self.foreign = foreign

    @property
    def length(self) -> int | None:
        """Content-Length, if it is one."""
        text = self.headers.get("content-length") or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def ok(self) -> bool:
        """Is it a 2xx?"""
        return 200 <= self.status < 300

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. UpstreamError if it is cut or falls silent."""
        with _translated(self._response.url):
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def body(self, limit: int) -> bytes | None:
        """The whole body, or None if it is longer than `limit` bytes."""
        gathered = bytearray()
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                gathered += chunk
                if len(gathered) > limit:
                    return None
        return bytes(gathered)

    async def discard(self) -> None:
        """Close, after reading a body that is short, so that the connection can be used again."""
        if self.length is not None and self.length <= _SHORT:
            with contextlib.suppress(UpstreamError, TimeoutError):
                async with asyncio.timeout(_DISCARDING):
                    await self.body(_SHORT)
        self.close()

    def close(self) -> None:
        """Let go of the connection; it is used again only if the body was read to its end."""
        self._response.release()


class Upstream:
    """Asks upstreams, for all clients of this process. Make it inside the event loop; `aclose` it."""

    def __init__(
        self, *, tls: ssl.SSLContext, timeouts: Timeouts, parents: ParentProxies, guard: Guard, agent: str
    ) -> None:
        self._timeouts = timeouts
        self._parents = parents
        self._guard = guard
        self._agent = agent
        self._checks = self._session(tls, _CHECKS_PER_HOST)
        self._bodies = self._session(tls, _BODIES_PER_HOST)

    def _session(self, tls: ssl.SSLContext, per_host: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=tls,
            limit=0,
            limit_per_host=per_host,
            use_dns_cache=False,  # a registry that moves must be found at once; the system caches look-ups
            resolver=_GuardedResolver(self._guard),
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookie must never reach another's request
            auto_decompress=False,
            trust_env=False,  # it would also read ~/.netrc; the parent proxy comes from ParentProxies
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.stall
            ),
            trace_configs=[_unhurried_queue()],
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._checks.close()
        await self._bodies.close()

    async def ask(self, method: str, url: str, headers: Headers, *, follow: bool = False, bulk: bool = False) -> Reply:
        """Send one request without a body and return the answer's head.

        `follow` follows redirects (RFC 9110 section 15.4) as registries mean them: credentials stay with their origin,
        never from https to http, at most `MAX_REDIRECTS`. `bulk` is for bodies of any length. UpstreamError if
        there is no answer.
        """
        session = self._bodies if bulk else self._checks
        left = self._timeouts.connect + self._timeouts.first_byte
        at, foreign = _parsed(url), False
        for _ in range(MAX_REDIRECTS + 1):
            response, left = await self._send(session, method, at, headers, left)
            reply = Reply(response, foreign=foreign)
            location = reply.headers.get("location")
            if not follow or reply.status not in _REDIRECTS or location is None:
                return reply
            await reply.discard()
            target = _target(at, location)
            if _origin(target) != _origin(at):
                await self._stay_outside(at, target)
                headers, foreign = headers.only(*_FOREIGN_FIELDS), True
            at = target
        raise UpstreamError(f"{_shown(_parsed(url))} redirected more than {MAX_REDIRECTS} times")

    async def _stay_outside(self, at: yarl.URL, target: yarl.URL) -> None:
        """Follow nobody onto this machine's own loopback, unless who leads there is on it as well."""
        if self._parents.towards(target.scheme, target.host or "", target.port or 0) is not None:
            return
        with _translated(target):
            async with asyncio.timeout(self._timeouts.connect):
                outside = not await _leads_to_loopback(target) or await _leads_to_loopback(at)
        if not outside:
            raise UpstreamError(f"{_shown(at)} redirected to this machine's own loopback")

    async def _send(
        self, session: aiohttp.ClientSession, method: str, url: yarl.URL, headers: Headers, left: float
    ) -> tuple[aiohttp.ClientResponse, float]:
        """The answer's head, and the seconds that are left of those that there were."""
        host, port = url.host or "", url.port or 0
        proxy = self._parents.towards(url.scheme, host, port)
        fields = _sendable(headers if "user-agent" in headers else headers.adding("User-Agent", self._agent))
        own = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        if url.scheme == "http":  # no tunnel: the parent proxy reads the request itself
            fields += own.items()
        with _translated(url, proxy):
            self._guard.check(host, port)  # addresses; names are checked when they are resolved
            async with asyncio.timeout(left) as deadline:
                response = await session.request(
                    method,
                    url,
                    headers=fields,
                    allow_redirects=False,
                    proxy=proxy.url if proxy else None,
                    proxy_headers=own or None,
                    trace_request_ctx=deadline,
                )
            return response, _seconds_to(deadline)


def _unhurried_queue() -> aiohttp.TraceConfig:
    """Stop the clock while a request waits for one of our connections: that is not the upstream's doing."""
    stopped: dict[asyncio.Timeout, float] = {}

    async def stop(session: aiohttp.ClientSession, context: Any, about: Any) -> None:
        deadline: asyncio.Timeout = context.trace_request_ctx
        stopped[deadline] = _seconds_to(deadline)
        deadline.reschedule(None)

    async def go_on(session: aiohttp.ClientSession, context: Any, about: Any) -> None:
        deadline: asyncio.Timeout = context.trace_request_ctx
        deadline.reschedule(asyncio.get_running_loop().time() + stopped.pop(deadline))

    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(stop)
    config.on_connection_queued_end.append(go_on)
    return config


def _seconds_to(deadline: asyncio.Timeout) -> float:
    return (deadline.when() or 0.0) - asyncio.get_running_loop().time()


def _sendable(headers: Headers) -> list[tuple[str, str]]:
    """The fields as they can be sent, without those that cannot: bytes that are no text, or that end a line."""
    return [(name, value) for name, value in headers if _is_sendable(name) and _is_sendable(value)]


def _is_sendable(text: str) -> bool:
    try:
        return not set(text.encode()) & {0, 10, 13}
    except UnicodeEncodeError:
        return False


class _GuardedResolver(aiohttp.ThreadedResolver):
    """Look-ups that leave out what the guard objects to, on whatever event loop."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        """As the system says, less the forbidden addresses; ForbiddenAddressError if none is left."""
        found = await super().resolve(host, port, family)
        allowed = [entry for entry in found if self._guard.objection(entry["host"], port) is None]
        if found and not allowed:
            self._guard.check(found[0]["host"], port)
        if not allowed:  # aiohttp takes it for granted that there is one
            raise OSError(f"{host} has no address")
        return allowed


async def _leads_to_loopback(url: yarl.URL) -> bool:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host or "", url.port or 0, type=socket.SOCK_STREAM)
    return any(is_loopback(str(info[4][0])) for info in found)


def _parsed(url: str) -> yarl.URL:
    """Encoded as given: a pre-signed URL that is encoded anew is refused."""
    try:
        parsed = yarl.URL(url, encoded=True)
        _origin(parsed)  # a port that is none shows only when it is asked for
    except ValueError:
        raise UpstreamError("the upstream's address is no URL") from None
    return parsed


def _target(at: yarl.URL, location: str) -> yarl.URL:
    """Where a redirect leads."""
    raw = _UNENCODED.sub(lambda byte: b"%%%02X" % ord(byte[0]), location.encode("utf-8", "surrogateescape"))
    try:
        target = at.join(_parsed(raw.decode("ascii"))).with_fragment(None)
    except UpstreamError:
        target = yarl.URL()
    if target.scheme not in ("http", "https") or not target.host:
        raise UpstreamError(f"{_shown(at)} redirected to something that is no http URL")
    if at.scheme == "https" and target.scheme == "http":
        raise UpstreamError(f"{_shown(at)} redirected from https to http, which is never followed")
    return target


def _origin(url: yarl.URL) -> tuple[str, str | None, int | None]:
    """RFC 6454 section 4: `:443` said or unsaid is the same."""
    return url.scheme, url.host, url.port


def _shown(url: yarl.URL) -> str:
    """The URL as far as it may stand in a log: no user, no path, no query."""
    return f"{url.scheme}://{url.host}:{url.port}"


#: Our own words for what happened, the first that fits. The library's quote URLs and heads, signatures included.
_EXPLANATIONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TimeoutError, "{what} did not answer in time"),
    (
        aiohttp.ClientConnectorCertificateError,
        "the certificate of {what} is not trusted ({reason}); if your own CA signed it, give that to --upstream-ca",
    ),
    (aiohttp.ClientHttpProxyError, "the parent proxy {proxy} refused the way to {what}: {reason}"),
    (aiohttp.ClientProxyConnectionError, "cannot connect to the parent proxy {proxy}: {reason}"),
    (aiohttp.ClientConnectorError, "cannot connect to {what}: {reason}"),
    (aiohttp.ClientResponseError, "{what} sent no valid HTTP answer"),
    (aiohttp.ClientPayloadError, "{what} cut the body"),
    (aiohttp.ServerDisconnectedError, "{what} hung up without an answer"),
    (OSError, "{what}: {reason}"),
    (Exception, "{what}: {kind}"),
)


@contextlib.contextmanager
def _translated(url: yarl.URL, proxy: ParentProxy | None = None) -> Iterator[None]:
    """Turn the client library's failures into `UpstreamError`."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        words = next(words for kind, words in _EXPLANATIONS if isinstance(error, kind))
        text = words.format(what=_shown(url), proxy=proxy, reason=_reason(error), kind=type(error).__name__)
        raise UpstreamError(text, 504 if isinstance(error, TimeoutError) else 502) from error


def _reason(error: Exception) -> str:
    """What the system said below the library."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientResponseError):
        return str(error.status)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _reason(error.os_error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
