"""One blob from one upstream, to its end, whatever breaks on the way.

Responsible for the request, for resuming a body that was cut (Range, If-Range), and for giving up after bounded
tries. Must not know who reads the bytes, nor whether they are stored: it yields them in order, unverified.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.messages import Repository
from pullthrough.upstream import Reply, Upstream, UpstreamError

#: Seconds to wait before each further try that made no progress. A try that brought bytes starts over.
BACK_OFF: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
#: Resumptions in all: an upstream that always sends one byte and hangs up must not keep us for ever.
MAX_RESUMPTIONS: Final = 200
#: An error answer is relayed up to this length.
_MAX_REFUSAL: Final = 64 * 1024
#: Fields of the client's request that are not repeated for the whole blob.
_NOT_REPEATED: Final = (
    "host",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "accept-encoding",
    "content-length",
    "content-type",
    "expect",
)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Refused(Exception):
    """The upstream answered, with something other than the content: its own words, to be relayed."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


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


def repeated(headers: Headers) -> Headers:
    """A client's fields as they go upstream with a request of our own."""
    # Identity: a coded body has another digest, and ranges of it are ranges of the code (FACTS: Go asks for gzip).
    return headers.end_to_end().without(*_NOT_REPEATED).having("Accept-Encoding", "identity")


async def refusal(reply: Reply) -> Refused:
    """Read an error answer, to be relayed or raised."""
    try:
        body = await reply.body(_MAX_REFUSAL)
    finally:
        reply.close()
    return Refused(reply.status, reply.headers, body or b"")


class Fetch:
    """A blob on its way. Make it with `open`; then iterate `chunks` once, and `close`."""

    def __init__(self, upstream: Upstream, sources: Callable[[], Sequence[Source]], digest: Digest) -> None:
        self._upstream = upstream
        self._sources = sources
        self._digest = digest
        self._reply: Reply | None = None
        self._etag: str | None = None
        self._skip = 0
        self.size: int | None = None
        self.offset = 0

    @classmethod
    async def open(
        cls, upstream: Upstream, sources: Callable[[], Sequence[Source]], digest: Digest, offset: int = 0
    ) -> Fetch:
        """Ask for the blob from `offset` on.

        `sources` is asked again at each resumption, best one first: tokens expire during long transfers, and a client
        that came later may have a fresher one. Raises `Refused`, `Unsuitable` or `UpstreamError`.
        """
        fetch = cls(upstream, sources, digest)
        fetch.offset = offset
        await fetch._connect()
        return fetch

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset` to the end. UpstreamError when no try brings more."""
        tries = iter(BACK_OFF)
        for _ in range(MAX_RESUMPTIONS):
            try:
                async with contextlib.aclosing(self._received()) as received:
                    async for chunk in received:
                        self.offset += len(chunk)
                        tries = iter(BACK_OFF)
                        yield chunk
                if self.size is None or self.offset >= self.size:
                    return
                raise UpstreamError(f"the body ended after {self.offset} of {self.size} bytes")
            except UpstreamError as error:
                self.close()
                await self._resume(tries, error)
        raise UpstreamError(f"cut {MAX_RESUMPTIONS} times")

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    async def _resume(self, tries: Iterator[float], error: UpstreamError) -> None:
        """Connect again from where we are, waiting longer each time; raise when the tries are used up."""
        if self.size is None:
            raise error  # nobody knows where this body ends, so nobody knows what is missing
        for pause in tries:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            try:
                await self._connect()
            except (UpstreamError, Refused) as again:
                error = again if isinstance(again, UpstreamError) else UpstreamError(str(again))
            else:
                return
        raise error

    async def _received(self) -> AsyncGenerator[bytes, None]:
        """What the present connection sends, without the bytes that we have already."""
        if self._reply is None:
            return
        async with contextlib.aclosing(self._reply.chunks()) as chunks:
            async for chunk in chunks:
                fresh = chunk[self._skip :]
                self._skip -= len(chunk) - len(fresh)
                if fresh:
                    yield fresh

    async def _connect(self) -> None:
        """Have a reply whose body continues at `offset`, by the first source that the upstream accepts."""
        refused: Refused | None = None
        for source in self._sources():
            try:
                await self._ask(source, ranged=self.offset > 0)
            except Refused as error:
                refused = error
                if error.status not in (401, 403):
                    break
            else:
                return
        raise refused or UpstreamError("nobody to ask for")

    async def _ask(self, source: Source, *, ranged: bool) -> None:
        headers = source.headers
        if ranged:
            headers = headers.having("Range", f"bytes={self.offset}-")
            if self._etag:
                headers = headers.having("If-Range", self._etag)
        reply = await self._upstream.ask("GET", source.url(self._digest), headers, follow=True, bulk=True)
        if ranged and reply.status == 416:
            # Nothing is left to send, or the server does not know open-ended ranges: ask for all, skip what we have.
            reply.close()
            return await self._ask(source, ranged=False)
        if reply.status not in (200, 206):
            raise await refusal(reply)
        try:
            self._accept(reply)
        except BaseException:
            reply.close()
            raise
        return None

    def _accept(self, reply: Reply) -> None:
        """Take `reply` as the continuation, if it is one."""
        coding = (reply.headers.get("content-encoding") or "identity").strip().lower()
        if coding not in ("identity", ""):
            raise Unsuitable(f"upstream coded the blob ({coding[:32]})")
        size = reply.length if reply.status == 200 else self._continues(reply)
        if self.size is not None and size != self.size:
            raise UpstreamError(f"the upstream now says {size} bytes, before it said {self.size}")
        self._skip = self.offset if reply.status == 200 else 0
        self._reply, self.size = reply, size
        etag = reply.headers.get("etag") or ""
        self._etag = etag if etag.startswith('"') else None  # only strong validators may join parts (RFC 9110 13.1.5)

    def _continues(self, reply: Reply) -> int:
        """The whole size that a 206 speaks of; UpstreamError if it is not the part that was asked for."""
        match = _CONTENT_RANGE.fullmatch((reply.headers.get("content-range") or "").strip())
        if match is None or match[3] == "*" or int(match[1]) != self.offset:
            raise UpstreamError("the upstream answered a Range with another part")
        return int(match[3])
