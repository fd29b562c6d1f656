"""A server of blobs: ranges, validators and HEAD done right, and every fault that a test arms.

Bodies are sent in pieces from a source, so a blob of any size costs the same memory. Where the
blobs come from and who may have them is the business of the subclasses.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.byterange import Part, resolve, whole
from lab.faults import Armed, Fault
from lab.faulty import FaultyServer
from lab.journal import Request
from lab.web import READ_BYTES, Exchange, Headers

type Piece = bytes | memoryview


class Source(Protocol):
    """Where the bytes of one blob are."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """The bytes first..last; a piece is valid until the next one is asked for."""
        ...


class FileSource:
    """A blob that is a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """The bytes first..last of the file."""
        buffer = memoryview(bytearray(READ_BYTES))
        with self._path.open("rb", buffering=0) as file:
            file.seek(first)
            left = last - first + 1
            while left > 0 and (count := file.readinto(buffer[: min(left, READ_BYTES)])):
                yield buffer[:count]
                left -= count


class BytesSource:
    """A blob in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """The bytes first..last."""
        for start in range(first, last + 1, READ_BYTES):
            yield self._data[start : min(start + READ_BYTES, last + 1)]


class BlobServer(FaultyServer):
    """Sends blobs as a good server does, unless a fault is armed."""

    def send_blob(self, exchange: Exchange, source: Source, headers: Headers, armed: Armed) -> None:
        """The blob or the part of it that was asked for, with the fault."""
        if armed.fault.etag is not None:
            headers = {**headers, "ETag": armed.fault.etag}
        plan = _plan(exchange.request, source, headers, armed.fault)
        if plan is None:
            exchange.reply(416, {"Content-Range": f"bytes */{source.size}"})
        else:
            _send(exchange, plan, armed)


@dataclass(frozen=True)
class _Plan:
    """The answer as it would be without the faults of its body."""

    status: int
    headers: Headers
    source: Source
    part: Part


def _plan(request: Request, source: Source, headers: Headers, fault: Fault) -> _Plan | None:
    """None for a range that is not satisfiable."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    if not _ranged(request, headers.get("ETag"), fault):
        plan = _Plan(200, headers, source, whole(source.size))
    else:
        part = resolve(request.range, source.size)
        if part is None:
            return None
        part = part.shifted(fault.shift_range) if fault.shift_range else part
        plan = _Plan(206, {**headers, "Content-Range": part.content_range}, source, part)
    return _compressed(plan) if fault.gzip else plan


def _ranged(request: Request, etag: str | None, fault: Fault) -> bool:
    """Whether a range is asked for and to be honoured (If-Range: RFC 9110 section 13.1.5)."""
    return request.range is not None and not fault.ignore_range and request.if_range in (None, etag)


def _compressed(plan: _Plan) -> _Plan:
    pieces = plan.source.pieces(plan.part.first, plan.part.last)
    data = gzip.compress(b"".join(bytes(piece) for piece in pieces), 1, mtime=0)
    headers = {**plan.headers, "Content-Encoding": "gzip"}
    return _Plan(plan.status, headers, BytesSource(data), whole(len(data)))


def _send(exchange: Exchange, plan: _Plan, armed: Armed) -> None:
    fault = armed.fault
    framing = {"Content-Length": str(plan.part.length + fault.length_lie)}
    if fault.chunked:
        framing = {"Transfer-Encoding": "chunked"}
    exchange.begin(plan.status, {**plan.headers, **framing, **fault.headers})
    if exchange.request.method == "HEAD":
        return
    write = exchange.frame if fault.chunked else exchange.write
    pieces = plan.source.pieces(plan.part.first, plan.part.last)
    for piece in _faulty(pieces, plan.part.first, armed):
        if piece:
            write(piece)
    if fault.cut_after is not None or fault.length_lie:
        exchange.cut(reset=fault.reset)
    if fault.chunked:
        exchange.frame(b"")


def _faulty(pieces: Iterator[Piece], first: int, armed: Armed) -> Iterator[Piece]:
    """The pieces as the fault lets them through."""
    fault = armed.fault
    if fault.corrupt_at is not None:
        pieces = _corrupted(pieces, fault.corrupt_at - first)
    if fault.stall_after is not None:
        pieces = _stalled(pieces, fault.stall_after, armed)
    if fault.cut_after is not None:
        pieces = _limited(pieces, fault.cut_after)
    return pieces


def _corrupted(pieces: Iterator[Piece], at: int) -> Iterator[Piece]:
    for piece in pieces:
        yield _flipped(piece, at) if 0 <= at < len(piece) else piece
        at -= len(piece)


def _flipped(piece: Piece, at: int) -> bytes:
    wrong = bytearray(piece)
    wrong[at] ^= 0xFF
    return bytes(wrong)


def _stalled(pieces: Iterator[Piece], after: int, armed: Armed) -> Iterator[Piece]:
    passed = 0
    for piece in pieces:
        before = after - passed  # how much of this piece goes out before the stall
        if 0 <= before < len(piece):
            yield piece[:before]
            armed.hold()
            yield piece[before:]
        else:
            yield piece
        passed += len(piece)
    if passed <= after:
        armed.hold()


def _limited(pieces: Iterator[Piece], left: int) -> Iterator[Piece]:
    """Asks for one piece more than it lets through, so a stall at the same place comes before the cut."""
    for piece in pieces:
        if left <= 0:
            return
        yield piece[:left]
        left -= len(piece)
