"""Range requests on a body of known size (RFC 9110 section 14).

Turns header values into half-open spans and spans into the framing of a 206 answer. Whoever calls reads
the bytes and decides whether a body may be ranged at all; a Range that cannot be understood is ignored,
as section 14.2 allows for every Range.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_RANGES = 1024
# Nineteen digits exceed any file size; more are not worth a big integer.
_SPEC = re.compile(r"(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))")


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """One requested range, both ends inclusive as on the wire.

    `last` None is open-ended ("5-"); `first` None makes `last` the length of a suffix ("-5").
    """

    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def parse(header: str | None) -> tuple[RangeSpec, ...] | None:
    """The ranges that a Range header asks for; None means "answer as if there were no such header".

    That is so for an absent or malformed header, another unit than bytes, and more than `MAX_RANGES`
    ranges (section 14.2 warns of those). Never raises and never returns ().
    """
    unit, _, ranges = (header or "").strip(" \t").partition("=")
    if unit.lower() != "bytes" or ranges.count(",") >= MAX_RANGES:
        return None
    items = [item for item in (part.strip(" \t") for part in ranges.split(",")) if item]
    specs = [spec for spec in map(_spec, items) if spec]
    return tuple(specs) if specs and len(specs) == len(items) else None


def _spec(text: str) -> RangeSpec | None:
    found = _SPEC.fullmatch(text)
    if not found:
        return None
    first, last, suffix = found.groups()
    if suffix:
        return RangeSpec(None, int(suffix))
    spec = RangeSpec(int(first), int(last) if last else None)
    return None if last and int(last) < int(first) else spec


def resolve(specs: Sequence[RangeSpec], size: int) -> tuple[Span, ...]:
    """The spans of a body of `size` bytes that `specs` select; () means 416.

    Ranges outside the body are dropped. Those that overlap or touch become one, at the place of the one
    asked for first; the others keep the order of the request (section 15.3.7.2). Of an empty body every
    range is outside; a caller who would rather answer 200 there, as many servers do, must ask first.
    """
    return _coalesced([span for span in (_span(spec, size) for spec in specs) if span.length > 0])


def _span(spec: RangeSpec, size: int) -> Span:
    if spec.first is None:
        return Span(max(0, size - (spec.last or 0)), size)
    return Span(spec.first, size if spec.last is None else min(spec.last + 1, size))


def _coalesced(spans: Sequence[Span]) -> tuple[Span, ...]:
    merged: list[tuple[int, Span]] = []  # (place of the earliest request in it, span)
    for place, span in sorted(enumerate(spans), key=lambda item: item[1].start):
        if merged and span.start <= merged[-1][1].stop:
            earliest, before = merged[-1]
            merged[-1] = (min(earliest, place), Span(before.start, max(before.stop, span.stop)))
        else:
            merged.append((place, span))
    return tuple(span for _, span in sorted(merged, key=lambda item: item[0]))


def if_range_allows(if_range: str | None, etag: str) -> bool:
    """Whether Range may be honoured (section 13.1.5): no condition, or the same strong entity tag.

    `etag` is the current one with its quotes, "" for none. Dates never match: a cache of immutable
    content has no modification time worth comparing.
    """
    if if_range is None:
        return True
    wanted = if_range.strip(" \t")
    return wanted == etag and len(wanted) >= 2 and wanted[0] == wanted[-1] == '"'


def content_range(span: Span, size: int) -> str:
    """The Content-Range of a part, such as "bytes 0-9/100"."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def unsatisfied(size: int) -> str:
    """The Content-Range of a 416."""
    return f"bytes */{size}"


class Multipart:
    """The framing of a multipart/byteranges body (section 14.6) around spans that the caller reads.

    `content_type` given is that of each part; the property is that of the whole answer. `boundary` must
    not occur in the content: pick it at random.
    """

    __slots__ = ("_closing", "_openings", "_spans", "boundary")

    def __init__(self, spans: Sequence[Span], size: int, content_type: str, boundary: str) -> None:
        self.boundary = boundary
        self._spans = tuple(spans)
        self._openings = tuple(
            f"{'\r\n' if number else ''}--{boundary}\r\nContent-Type: {content_type}\r\n"
            f"Content-Range: {content_range(span, size)}\r\n\r\n".encode("latin-1")
            for number, span in enumerate(self._spans)
        )
        self._closing = f"\r\n--{boundary}--\r\n".encode("latin-1")

    @property
    def content_type(self) -> str:
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """The exact number of bytes of the whole body."""
        framing = sum(map(len, self._openings)) + len(self._closing)
        return framing + sum(span.length for span in self._spans)

    def pieces(self) -> Iterator[bytes | Span]:
        """The body in order: bytes to send as they are, and spans to read from the content."""
        for opening, span in zip(self._openings, self._spans, strict=True):
            yield opening
            yield span
        yield self._closing
