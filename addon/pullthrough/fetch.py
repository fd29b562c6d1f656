"""One blob from its registry or from a mirror of that, to its end, whatever breaks on the way.

Responsible for the request, for resuming a body that was cut (Range, If-Range), and for giving up after bounded
tries. Must not know who reads the bytes, nor whether they are stored: it yields them in order, unverified.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.media import media_type
from pullthrough.messages import Repository
from pullthrough.upstream import Reply, Upstream, UpstreamError

#: Seconds to wait before each further try that made no progress. A try that brought bytes starts over.
BACK_OFF: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
#: Resumptions in all: an upstream that always sends one byte and hangs up must not keep us for ever.
MAX_RESUMPTIONS: Final = 200
#: Seconds that a mirror may keep us waiting, beyond what bytes take at the slowest rate that we put up with (a second).
_PATIENCE: Final = 10.0
_SLOWEST: Final = 32 << 10
#: An error answer is relayed up to this length.
_MAX_REFUSAL: Final = 64 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
#: Refusals that may be meant for one client only: another may have a better token, or another repository. Some
#: registries say 400 to a token that they do not know.
NOT_YOU: Final = (400, 401, 403, 404)
#: What no registry calls a blob, but what a login page behind a redirect is.
_PAGES: Final = ("text/html", "application/xhtml+xml")


class Refused(Exception):
    """The upstream answered, with something other than the content: its own words, to be relayed."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Elsewhere(UpstreamError):
    """A host to which the registry led answered with something other than the content: nobody's word on any right."""


class Unsuitable(Exception):
    """The upstream's answer is good for its client but not for a cache; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a blob may be had, and in whose name: the repository and one client's request fields."""

    repository: Repository
    headers: Headers
    principal: bytes = b""

    def url(self, digest: Digest) -> str:
        """The blob's address (OCI distribution spec 1.1, end-2)."""
        return f"{self.repository.registry}/v2/{self.repository.name}/blobs/{digest}"


class Mirror(Protocol):
    """Somebody else to have a blob from. Equal ones are the same place."""

    async def blob(self, digest: Digest, fields: Headers) -> Reply:
        """The answer to GET with these fields (Range, If-Range), of any status. UpstreamError if there is none."""

    def failed(self, reason: str) -> None:
        """What it had begun to send ended early."""

    def spoiled(self, digest: Digest) -> None:
        """What it sent is not `digest`."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The mirrors that are worth asking now, best first, and the size that the registry said, if it did."""

    places: Callable[[], Sequence[Mirror]] = tuple
    size: int | None = None


#: Nobody but the registry is asked.
UNMIRRORED: Final = Mirrored()


def repeated(headers: Headers, *more: str) -> Headers:
    """A client's fields as they go upstream with a request of our own: its credentials, and `more` by name.

    Nothing else: others may join the question, and no field that decides nothing about access may decide whether the
    upstream answers. Identity, because a coded body has another digest, and ranges of it are ranges of the code.
    """
    names = (name for name, _ in headers.credentials())
    return headers.end_to_end().only(*names, *more).having("Accept-Encoding", "identity")


async def refusal(reply: Reply) -> Refused:
    """Read an error answer, to be relayed or raised.

    Raises `Elsewhere` for that of a host to which the registry led.
    """
    if reply.foreign:
        reply.close()
        raise Elsewhere(f"{reply.origin}, to which the registry led, answered {reply.status}")
    try:
        body = await reply.body(_MAX_REFUSAL)
    finally:
        reply.close()
    return Refused(reply.status, reply.headers, body or b"")


def objection(reply: Reply) -> str | None:
    """Why a 2xx is not the content that was asked for, or not as it is stored; None if nothing speaks against it."""
    coding = (reply.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        return f"upstream coded the blob ({coding[:32]})"
    if media_type(reply.headers.get("content-type") or "") in _PAGES:
        return "upstream answered with a page, not with a blob"
    return None


def whole_size(reply: Reply) -> int | None:
    """Bytes of the whole blob, as a 200 or a 206 tells."""
    if reply.status != 206:
        return reply.length
    part = _content_range(reply)
    return int(part[3]) if part is not None and part[3] != "*" else None


def _content_range(reply: Reply) -> re.Match[str] | None:
    return _CONTENT_RANGE.fullmatch((reply.headers.get("content-range") or "").strip())


class Fetch:
    """A blob on its way. Make it with `open`, then `read` to the end; `close` it in any case."""

    def __init__(
        self,
        upstream: Upstream,
        digest: Digest,
        offset: int,
        others: Callable[[], Sequence[Source]],
        mirrored: Mirrored,
    ) -> None:
        self._upstream = upstream
        self._digest = digest
        self._others = others
        self._mirrored = mirrored
        self._used: list[Mirror] = []
        #: Did a part come from elsewhere?
        self._mixed = offset > 0
        self._reply: Reply | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._etag: str | None = None
        self._skip = 0
        self._patience = _PATIENCE
        self._tries = iter(BACK_OFF)
        self._resumptions = 0
        #: Bytes of the whole blob, if the upstream said so.
        self.size: int | None = None
        #: Where the next bytes belong.
        self.offset = offset
        #: Who sends them, if it is not the registry.
        self.mirror: Mirror | None = None

    @classmethod
    async def open(
        cls,
        upstream: Upstream,
        digest: Digest,
        source: Source,
        *,
        offset: int = 0,
        others: Callable[[], Sequence[Source]] | None = None,
        mirrored: Mirrored = UNMIRRORED,
    ) -> Fetch:
        """Ask for the blob from `offset` on. Raises `Refused`, `Unsuitable` or `UpstreamError`.

        Of the registry only `source` is asked for, so that the answer proves something about it and nobody else.
        `others` are for resumptions, best one first: tokens expire during long transfers, and a client that came later
        may have a fresher one. Mirrors come first, each time; what they say proves nothing.
        """
        fetch = cls(upstream, digest, offset, others or (lambda: (source,)), mirrored)
        await fetch._connect((source,))
        return fetch

    @classmethod
    async def resume(
        cls,
        upstream: Upstream,
        digest: Digest,
        others: Callable[[], Sequence[Source]],
        *,
        offset: int,
        size: int | None,
        mirrored: Mirrored = UNMIRRORED,
    ) -> Fetch:
        """Go on with what somebody else fetched as far as `offset`, and whose readers were told `size`.

        Raises as `open` does. Whoever of `others` is accepted will do, so it proves nothing about anybody.
        """
        fetch = cls(upstream, digest, offset, others, mirrored)
        fetch.size = size
        await fetch._connect(others())
        return fetch

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. UpstreamError when no try brings more."""
        while True:
            try:
                chunk = await self._receive()
            except UpstreamError as error:
                await self._resume(error)
                continue
            except BaseException:
                self.close()  # a cancelled read leaves nothing to go on with, and must not look like the end
                raise
            if chunk:
                self.offset += len(chunk)
                self._tries = iter(BACK_OFF)
            return chunk

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        reply, self._reply, self._chunks = self._reply, None, None
        if reply is not None:
            reply.close()

    def spoiled(self) -> None:
        """What came is not the blob. One mirror that sent it is to blame; of several nobody knows which."""
        if len(self._used) == 1 and not self._mixed:
            self._used[0].spoiled(self._digest)
        else:
            for mirror in self._used:
                mirror.failed(f"a part of what is not {self._digest} came from it")

    @property
    def mirrored(self) -> bool:
        """Did some of it come from a mirror?"""
        return bool(self._used)

    async def _receive(self) -> bytes:
        """What the present connection sends, without the bytes that we have already."""
        if self.size is not None and self.offset >= self.size:
            return b""
        if self._chunks is None:
            raise UpstreamError("not connected")
        while chunk := await self._next(self._chunks):
            fresh = chunk[self._skip :]
            self._skip -= len(chunk) - len(fresh)
            if fresh:
                # A part may be longer than it said (RFC 9110 has no cure): readers were told of `size` bytes.
                return fresh if self.size is None else fresh[: self.size - self.offset]
        if self.size is None:
            return b""
        raise UpstreamError(f"the body ended after {self.offset} of {self.size} bytes")

    async def _next(self, chunks: AsyncGenerator[bytes, None]) -> bytes:
        """The next chunk; b"" at the end. A mirror that keeps us waiting is given up: there are others."""
        if self.mirror is None:
            return await anext(chunks, b"")
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                chunk = await anext(chunks, b"")
        except TimeoutError:
            raise UpstreamError("the mirror is too slow") from None
        waited = time.monotonic() - began
        self._patience = min(_PATIENCE, self._patience - waited + len(chunk) / _SLOWEST)
        return chunk

    async def _resume(self, error: UpstreamError) -> None:
        """Connect again from where we are, waiting longer each time; raise when the tries are used up."""
        self.close()
        if self.mirror is not None:
            self.mirror.failed(str(error))
        self._resumptions += 1
        if self.size is None:
            raise error  # nobody knows where this body ends, so nobody knows what is missing
        if self._resumptions > MAX_RESUMPTIONS:
            raise UpstreamError(f"cut {self._resumptions} times, the last time because: {error}")
        for pause in self._tries:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                return await self._connect(self._others())
            except UpstreamError as again:
                error = again
            except (Refused, Unsuitable) as again:
                error = UpstreamError(str(again))
        raise error

    async def _connect(self, sources: Sequence[Source]) -> None:
        """Have a reply whose body continues at `offset`: from a mirror, or by the first source that is accepted."""
        ranged = self.offset > 0
        for mirror in self._mirrored.places():
            with contextlib.suppress(Unsuitable, UpstreamError):  # then the next one, or the registry
                return await self._ask(functools.partial(mirror.blob, self._digest), Headers(), mirror, ranged=ranged)
        refused: Exception = UpstreamError("nobody to ask for")
        for source in sources:
            get = functools.partial(self._upstream.ask, "GET", source.url(self._digest), follow=True, bulk=True)
            try:
                return await self._ask(get, source.headers, None, ranged=ranged)
            except Refused as error:
                refused = error
                if error.status not in NOT_YOU:
                    break
        raise refused

    async def _ask(
        self, get: Callable[[Headers], Awaitable[Reply]], fields: Headers, mirror: Mirror | None, *, ranged: bool
    ) -> None:
        asked = fields
        if ranged:
            asked = asked.having("Range", f"bytes={self.offset}-")
            if self._etag and mirror == self.mirror:
                asked = asked.having("If-Range", self._etag)
        reply = await get(asked)
        if ranged and (reply.status == 416 or (reply.status == 206 and not self._continued_by(reply))):
            # Nothing is left to send, or the server does not know open-ended ranges: ask for all, skip what we have.
            reply.close()
            return await self._ask(get, fields, mirror, ranged=False)
        if reply.status not in (200, 206):
            if mirror is None:
                raise await refusal(reply)
            reply.close()
            raise Unsuitable(f"a mirror answered {reply.status}")
        try:
            self._accept(reply, mirror)
        except BaseException:
            reply.close()
            raise
        return None

    def _accept(self, reply: Reply, mirror: Mirror | None) -> None:
        """Take `reply` as the continuation, if it is one."""
        if (reason := objection(reply)) is not None:
            raise Unsuitable(reason)
        if reply.status == 206 and not self._continued_by(reply):
            raise UpstreamError("the upstream sent another part than the one that was asked for")
        size = whole_size(reply)
        if mirror is not None and self._mirrored.size not in (None, size):
            raise Unsuitable(f"a mirror has {size} bytes, the registry {self._mirrored.size}")
        if self.size is None:
            self.size = size
        elif size not in (None, self.size):
            raise UpstreamError(f"the upstream now says {size} bytes, before it said {self.size}")
        self._skip = self.offset if reply.status == 200 else 0
        self._reply, self._chunks, self.mirror = reply, reply.chunks(), mirror
        self._patience = _PATIENCE
        if mirror is None:
            self._mixed = True
        elif mirror not in self._used:
            self._used.append(mirror)
        etag = reply.headers.get("etag") or ""
        self._etag = etag if etag.startswith('"') else None  # only strong validators may join parts (RFC 9110 13.1.5)

    def _continued_by(self, reply: Reply) -> bool:
        """Is this 206 the part from `offset` on?"""
        part = _content_range(reply)
        return part is not None and int(part[1]) == self.offset
