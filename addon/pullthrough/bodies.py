"""Bodies of answers: pieces of a blob, framed as the client asked for them.

Responsible for ranges (RFC 9110 section 14) over anything that can be read at an offset, be it a stored file or one
that still grows, and for never sending more or less than was announced. Must not know where the bytes come from.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Protocol

from pullthrough.core import ranges
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.ranges import Span
from pullthrough.messages import Body, BodyError


class Blob(Protocol):
    """Bytes that can be read from any offset, possibly by waiting for them."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None while unknown."""

    async def read_at(self, offset: int, limit: int) -> bytes:
        """1 to `limit` bytes from `offset`; b"" at the end; BodyError if they cannot be had."""

    def close(self) -> None:
        """Let go of it. Safe to call twice."""


class BlobBody:
    """Pieces of a blob, and the framing between them, as one body."""

    def __init__(self, blob: Blob, pieces: Iterator[bytes | Span], length: int | None) -> None:
        self.length = length
        self._blob = blob
        self._pieces = pieces
        self._piece: bytes | Span | None = next(pieces, None)
        self._at = 0

    async def read(self, limit: int) -> bytes:
        """The next bytes, b"" at the end. BodyError if the blob ends too early."""
        while self._piece is not None:
            piece = self._piece
            if isinstance(piece, bytes):
                data = piece[self._at : self._at + limit]
            elif self._at < piece.length:
                data = await self._blob.read_at(piece.start + self._at, min(limit, piece.length - self._at))
                if not data:
                    raise BodyError(f"the blob ended after {piece.start + self._at} bytes")
            else:
                data = b""
            if data:
                self._at += len(data)
                return data
            self._piece, self._at = next(self._pieces, None), 0
        return b""

    async def aclose(self) -> None:
        """Close the blob."""
        self._blob.close()


class EndlessBody:
    """A whole blob whose length nobody knows yet."""

    length = None

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._at = 0

    async def read(self, limit: int) -> bytes:
        """The next bytes, b"" at the end."""
        data = await self._blob.read_at(self._at, limit)
        self._at += len(data)
        return data

    async def aclose(self) -> None:
        """Close the blob."""
        self._blob.close()


type Head = tuple[int, Headers, Body | bytes, int | None]


def whole_or_ranges(blob: Blob, digest: Digest, request: Headers, headers: Headers, *, head: bool = False) -> Head:
    """The (status, headers, body, length) with which `blob` answers `request`.

    The blob is the body's from then on; if the body is bytes, the blob has been closed. `headers` must hold
    the Content-Type of the whole. `head` is for HEAD, to which Range does not apply (RFC 9110 section 14.2).
    """
    etag = f'"{digest}"'
    if _matches(request.all("if-none-match"), etag):
        blob.close()
        return 304, headers.without("Content-Type", "Accept-Ranges"), b"", None
    if head:
        blob.close()
        return 200, headers, b"", blob.size
    specs = ranges.parse(request.get("range")) if blob.size else None
    if specs is None or not ranges.if_range_allows(request.get("if-range"), etag):
        return 200, headers, _whole(blob), None
    return _ranged(blob, specs, blob.size or 0, headers)


def _whole(blob: Blob) -> Body:
    if blob.size is None:
        return EndlessBody(blob)
    return BlobBody(blob, iter((Span(0, blob.size),)), blob.size)


def _ranged(blob: Blob, specs: tuple[ranges.RangeSpec, ...], size: int, headers: Headers) -> Head:
    spans = ranges.resolve(specs, size)
    if not spans:
        blob.close()
        return (
            416,
            headers.without("Content-Type").having("Content-Range", ranges.unsatisfied(size)),
            b"",
            None,
        )
    if len(spans) == 1:
        span = spans[0]
        headers = headers.having("Content-Range", ranges.content_range(span, size))
        return 206, headers, BlobBody(blob, iter(spans), span.length), None
    content_type = headers.get("content-type") or "application/octet-stream"
    parts = ranges.Multipart(spans, size, content_type, secrets.token_hex(16))
    headers = headers.having("Content-Type", parts.content_type)
    return 206, headers, BlobBody(blob, parts.pieces(), parts.length), None


def _matches(conditions: tuple[str, ...], etag: str) -> bool:
    """If-None-Match (RFC 9110 section 13.1.2): weak comparison with a list of entity tags, or `*`."""
    tags = {tag.strip().removeprefix("W/") for condition in conditions for tag in condition.split(",")}
    return etag in tags or "*" in tags
