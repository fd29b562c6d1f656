"""The one HTTP client with which we ask upstreams.

Responsible for requests, redirects, the parent proxy and time-outs, and for not asking who only keeps us waiting. Must
not know what is asked for: it sends a request and hands back the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import aiohttp
import yarl

from pullthrough.breaker import SLOW, Breaker
from pullthrough.core.headers import Headers
from pullthrough.guard import ForbiddenAddressError, Guard
from pullthrough.lookups import Ground, Lookups
from pullthrough.parent import ParentProxies, ParentProxy
from pullthrough.probes import Answers, Probes
from pullthrough.resolver import Resolver
from pullthrough.sessions import Patience, not_below, session

#: Redirects that a request may follow. Registries need one, two behind some CDNs.
MAX_REDIRECTS: Final = 5
#: Bytes and seconds that the page of a redirect is worth.
_SHORT: Final = 16 * 1024
_DISCARDING: Final = 0.5
#: Small questions (checks, manifests) and long bodies have pools of their own: 64 fills must not
#: keep a tag check waiting for a free connection.
_CHECKS_PER_HOST: Final = 32
_BODIES_PER_HOST: Final = 64
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
#: A gateway's word that whom we asked does not answer.
_NO_ANSWER: Final = frozenset((502, 503, 504))
#: What may not stand in a request target but does in the Location of some registries.
_UNENCODED: Final = re.compile(rb"[^\x21-\x7e]")
#: Seconds for a body that is read as a whole: 8 MiB come through the slowest line in that time.
_BODY_TIME: Final = 60.0
_CHALLENGES: Final = ("WWW-Authenticate", "Proxy-Authenticate", "Authentication-Info")
#: What a foreign origin gets to see of the client's request. Everything else may be a credential.
_FOREIGN_FIELDS: Final = ("accept", "accept-encoding", "if-range", "range", "user-agent")
#: How the body is sent is decided here.
_FRAMING: Final = ("content-length", "expect", "transfer-encoding")


class UpstreamError(Exception):
    """The upstream did not give an answer. `status` is the one to give instead (502, 503, 504); the text says why.

    `since` is when it began to fail, if it is known to. The text never holds a query string: pre-signed URLs are
    credentials.
    """

    def __init__(self, reason: str, status: int = 502, since: datetime | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.since = since


class UnusableAnswer(UpstreamError):
    """The upstream did answer, with something that is of no use: perhaps its way to refuse, and no outage."""


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
        #: Did a redirect lead to another origin than the one that was asked? That one cannot challenge in its name.
        self.foreign = foreign
        if foreign:
            self.headers = self.headers.without(*_CHALLENGES)

    @property
    def length(self) -> int | None:
        """Content-Length, if it is one."""
        text = self.headers.get("content-length") or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def origin(self) -> str:
        """Who answered, as far as it may stand in a log."""
        return _shown(self._response.url)

    @property
    def ok(self) -> bool:
        """Is it a 2xx?"""
        return 200 <= self.status < 300

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. UpstreamError if it is cut or falls silent."""
        with _translated(self._response.url):
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def body(self, limit: int, *, within: float = _BODY_TIME) -> bytes | None:
        """The whole body, or None if it is longer than `limit` bytes.

        UpstreamError if it is not here `within` seconds: one byte at a time would never be silence.
        """
        gathered = bytearray()
        with _translated(self._response.url):
            async with asyncio.timeout(within), contextlib.aclosing(self.chunks()) as chunks:
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


@dataclass(frozen=True, slots=True)
class _Question:
    """What is sent, wherever redirects lead, and who led there. `most`: see `Lookups.footing`."""

    session: aiohttp.ClientSession
    method: str
    headers: Headers
    body: bytes
    namer: yarl.URL | None
    most: Ground
    probe: bool = False


class Upstream:
    """Asks upstreams, for all clients of this process. Make it inside the event loop; `aclose` it.

    `offline`: nobody is asked, and no name is looked up. `clock` measures how long upstreams take, `sleep` waits
    between background tries of those that a breaker keeps from being asked.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        timeouts: Timeouts,
        parents: ParentProxies,
        guard: Guard,
        agent: str,
        breaker: Breaker | None = None,
        resolver: Resolver | None = None,
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._parents = parents
        self._guard = guard
        self._agent = agent
        self._offline = offline
        self._clock = clock
        self._seconds = timeouts.connect + timeouts.first_byte
        self._breaker = breaker or Breaker(clock, functools.partial(datetime.now, UTC))
        self._probes = Probes(self._breaker.opened, sleep)
        self._answers = Answers(clock)
        self._lookups = Lookups(guard, resolver or Resolver())
        made = functools.partial(
            session, tls=tls, lookups=self._lookups, connect=timeouts.connect, stall=timeouts.stall
        )
        self._checks = made(per_host=_CHECKS_PER_HOST)
        self._bodies = made(per_host=_BODIES_PER_HOST)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._probes.aclose()
        await self._checks.close()
        await self._bodies.close()
        self._lookups.aclose()

    async def ask(
        self,
        method: str,
        url: str,
        headers: Headers,
        *,
        body: bytes = b"",
        follow: bool = False,
        bulk: bool = False,
        named_by: str | None = None,
    ) -> Reply:
        """Send one request and return the answer's head. UpstreamError if there is none, at once if a breaker is open.

        `follow` follows redirects (RFC 9110 section 15.4) as registries mean them: credentials stay with their origin,
        never from https to http, at most `MAX_REDIRECTS`, and never with a `body`. `bulk` is for bodies of any length
        in the answer. `named_by` is the URL of who named this address: a public server may name public ones only, and
        nobody our loopback who is not on it (issue 3).
        """
        if self._offline:
            raise UpstreamError("pullthrough was started with --offline", 503)
        at, foreign, left = _parsed(url), False, self._seconds
        namer = None if named_by is None else _parsed(named_by)
        most = Ground.PRIVATE if namer is None else Ground.PUBLIC
        question = _Question(self._bodies if bulk else self._checks, method, headers, body, namer, most)
        for _ in range(MAX_REDIRECTS + 1):
            response, patience = await self._send(question, at, left)
            left = patience.left
            reply = Reply(response, foreign=foreign)
            location = reply.headers.get("location")
            if not follow or body or reply.status not in _REDIRECTS or location is None:
                return reply
            await reply.discard()
            target = _target(at, location)
            if _origin(target) != _origin(at):
                question, foreign = replace(question, headers=question.headers.only(*_FOREIGN_FIELDS), namer=at), True
            at = target
        raise UnusableAnswer(f"{_shown(_parsed(url))} redirected more than {MAX_REDIRECTS} times")

    async def answers(self, url: str, *, named_by: str | None = None) -> bool:
        """Does this origin answer, with any status but 429 and those of a server in trouble (5xx)?

        Asked without credentials (HEAD), once for all who want to know, and again only after some seconds.
        """
        return await self._answers.ask((url, named_by), lambda: self._is_well(url, named_by))

    async def _is_well(self, url: str, named_by: str | None) -> bool:
        try:
            reply = await self.ask("HEAD", url, Headers(), named_by=named_by)
        except UpstreamError:
            return False
        reply.close()
        return reply.status != 429 and reply.status < 500

    async def _send(self, question: _Question, url: yarl.URL, left: float) -> tuple[aiohttp.ClientResponse, Patience]:
        """The answer's head, and what is left of the `left` seconds. The breaker hears of it."""
        origin = _shown(url)
        if not question.probe and (refusal := self._breaker.refusal(origin)) is not None:
            self._watch(question, url)
            raise UpstreamError(refusal, 503, self._breaker.since(origin))
        patience = Patience(left, self._clock)
        try:
            response = await self._exchange(question, url, patience)
        except UpstreamError as error:
            if not _is_our_own_refusal(error):
                self._failed(question, url, str(error), patience.spent)
                error.since = self._breaker.since(origin)
            raise
        if response.status in _NO_ANSWER:
            self._failed(question, url, f"{origin} answered {response.status}", patience.spent)
        else:
            self._breaker.worked(origin)
        return response, patience

    async def _exchange(self, question: _Question, url: yarl.URL, patience: Patience) -> aiohttp.ClientResponse:
        host, port = url.host or "", url.port or 0
        proxy = self._parents.towards(url.scheme, host, port)
        fields = _sendable(self._fields(question.headers))
        own = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        if url.scheme == "http":  # no tunnel: the parent proxy reads the request itself
            fields += own.items()
        with _translated(url, proxy):
            self._guard.check(host, port)  # addresses; names are checked when they are resolved
            async with patience.deadline:
                # Looked up here, for a connection that is open already, and again by the session for a new one.
                with not_below(Ground.LOOPBACK if proxy else await self._footing(question, url)):
                    return await question.session.request(
                        question.method,
                        url,
                        data=question.body or None,
                        headers=fields,
                        allow_redirects=False,
                        proxy=proxy.url if proxy else None,
                        proxy_headers=own or None,
                        trace_request_ctx=patience,
                    )

    def _fields(self, headers: Headers) -> Headers:
        headers = headers.without(*_FRAMING)
        return headers if "user-agent" in headers else headers.adding("User-Agent", self._agent)

    async def _footing(self, question: _Question, url: yarl.URL) -> Ground:
        if question.namer is None:
            return Ground.LOOPBACK
        return await self._lookups.footing(_place(url), _place(question.namer), question.most)

    # -- upstreams that fail

    def _failed(self, question: _Question, url: yarl.URL, reason: str, seconds: float) -> None:
        origin = _shown(url)
        self._breaker.failed(origin, reason, seconds)
        if self._breaker.opened(origin):
            self._watch(question, url)

    def _watch(self, question: _Question, url: yarl.URL) -> None:
        """Try this origin in the background, by a question that is asked of every registry and needs no credentials."""
        probe = replace(question, session=self._checks, method="HEAD", headers=Headers(), body=b"", probe=True)
        self._probes.watch(_shown(url), lambda: self._probe(probe, url.origin().with_path("/v2/")))

    async def _probe(self, probe: _Question, url: yarl.URL) -> None:
        """Close the breaker if there is an answer; a gateway's that there is none must at least have come at once."""
        try:
            response, patience = await self._send(probe, url, self._seconds)
        except UpstreamError:
            return
        response.release()
        if patience.spent < SLOW:
            self._breaker.close(_shown(url))


def _sendable(headers: Headers) -> list[tuple[str, str]]:
    """The fields as they can be sent, without those that cannot: bytes that are no text, or that end a line."""
    return [(name, value) for name, value in headers if _is_sendable(name) and _is_sendable(value)]


#: Characters that no field may have (RFC 9110 section 5.5).
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _is_sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return _CONTROLS.search(text) is None


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
        raise UnusableAnswer(f"{_shown(at)} redirected to something that is no http URL")
    if at.scheme == "https" and target.scheme == "http":
        raise UnusableAnswer(f"{_shown(at)} redirected from https to http, which is never followed")
    return target


def _origin(url: yarl.URL) -> tuple[str, str | None, int | None]:
    """RFC 6454 section 4: `:443` said or unsaid is the same."""
    return url.scheme, url.host, url.port


def _shown(url: yarl.URL) -> str:
    """The URL as far as it may stand in a log, and the breaker's name for it: no user, no path, no query."""
    return f"{url.scheme}://{url.host_subcomponent}:{url.port}"


def _place(url: yarl.URL) -> tuple[str, int]:
    return url.host or "", url.port or 0


def _is_our_own_refusal(error: UpstreamError) -> bool:
    """Did we not want to connect? That says nothing about the upstream."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorError):
        cause = cause.os_error
    return isinstance(cause, ForbiddenAddressError)


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
    (socket.gaierror, "cannot connect to {what}: {reason}"),
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
        if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError | OSError):
            raise UnusableAnswer(text) from error  # we could not even ask: that says nothing about the upstream
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
