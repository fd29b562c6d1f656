"""Range requests as RFC 9110 section 14 has them."""

import email.policy
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.ranges import (
    MAX_RANGES,
    Multipart,
    RangeSpec,
    Span,
    content_range,
    if_range_allows,
    parse,
    resolve,
    unsatisfied,
)


@pytest.mark.parametrize(
    ("header", "specs"),
    [
        ("bytes=0-0", (RangeSpec(0, 0),)),
        ("bytes=0-499", (RangeSpec(0, 499),)),
        ("bytes=500-", (RangeSpec(500, None),)),
        ("bytes=-500", (RangeSpec(None, 500),)),
        ("bytes=-0", (RangeSpec(None, 0),)),
        ("bytes=00-007", (RangeSpec(0, 7),)),
        ("BYTES=1-2", (RangeSpec(1, 2),)),
        (" bytes=1-2\t", (RangeSpec(1, 2),)),
        ("bytes=0-1, 4-5 ,\t-3", (RangeSpec(0, 1), RangeSpec(4, 5), RangeSpec(None, 3))),
        ("bytes=,0-1,,4-5,", (RangeSpec(0, 1), RangeSpec(4, 5))),
        (f"bytes={'9' * 19}-", (RangeSpec(int("9" * 19), None),)),
    ],
)
def test_well_formed_ranges(header: str, specs: tuple[RangeSpec, ...]) -> None:
    assert parse(header) == specs


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=--1",
        "bytes=-1-",
        "bytes=1",
        "bytes=a-b",
        "bytes=2-1",
        "bytes=0-1,x",
        "bytes=0-1,5-4",
        "bytes=1 -2",
        "bytes =1-2",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=٣-٤",
        "bytes=1-2\n",
        "items=0-1",
        f"bytes={'9' * 20}-",
        f"bytes=0-{'9' * 20}",
        f"bytes=-{'9' * 20}",
    ],
)
def test_other_headers_are_ignored(header: str | None) -> None:
    assert parse(header) is None


def test_the_number_of_ranges_is_bounded() -> None:
    most = "bytes=" + ",".join(["0-0"] * MAX_RANGES)
    assert len(parse(most) or ()) == MAX_RANGES
    assert parse(most + ",0-0") is None
    assert parse("bytes=0-0" + "," * MAX_RANGES) is None


@given(st.one_of(st.text(), st.text("0123456789-, =bytes").map("bytes=".__add__)))
def test_parsing_never_raises_and_never_gives_nothing(header: str) -> None:
    specs = parse(header)
    assert specs is None or specs


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-", [(0, 100)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=99-", [(99, 100)]),
        ("bytes=90-1000", [(90, 100)]),
        ("bytes=-10", [(90, 100)]),
        ("bytes=-1000", [(0, 100)]),
        # outside the body
        ("bytes=100-", []),
        ("bytes=100-200", []),
        ("bytes=-0", []),
        ("bytes=100-,-0", []),
        ("bytes=200-,5-6", [(5, 7)]),
        # several
        ("bytes=0-1,10-11", [(0, 2), (10, 12)]),
        ("bytes=10-11,0-1", [(10, 12), (0, 2)]),
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=2-3,0-1", [(0, 4)]),
        ("bytes=0-1,3-4", [(0, 2), (3, 5)]),
        ("bytes=0-50,10-20", [(0, 51)]),
        ("bytes=10-20,0-50", [(0, 51)]),
        ("bytes=5-5,5-5", [(5, 6)]),
        ("bytes=0-4,50-54,3-9", [(0, 10), (50, 55)]),
        ("bytes=50-54,0-4,90-,3-9", [(50, 55), (0, 10), (90, 100)]),
        ("bytes=8-9,20-29,0-9", [(0, 10), (20, 30)]),
        ("bytes=20-29,8-9,0-19", [(0, 30)]),
    ],
)
def test_resolved_against_a_hundred_bytes(header: str, spans: list[tuple[int, int]]) -> None:
    specs = parse(header)
    assert specs is not None
    assert [(span.start, span.stop) for span in resolve(specs, 100)] == spans


@pytest.mark.parametrize("spec", [RangeSpec(0, None), RangeSpec(0, 0), RangeSpec(None, 5)])
def test_nothing_of_an_empty_body_can_be_selected(spec: RangeSpec) -> None:
    assert resolve([spec], 0) == ()


def specs_of_a_small_body() -> st.SearchStrategy[list[RangeSpec]]:
    small = st.integers(0, 24)
    closed = st.tuples(small, small).map(lambda pair: RangeSpec(min(pair), max(pair)))
    opened = st.one_of(small.map(lambda n: RangeSpec(n, None)), small.map(lambda n: RangeSpec(None, n)))
    return st.lists(st.one_of(closed, opened), max_size=8)


def selected_by(spec: RangeSpec, size: int) -> set[int]:
    content = range(size)
    if spec.first is None:
        return set(content[size - min(spec.last or 0, size) :])
    return set(content[spec.first : None if spec.last is None else spec.last + 1])


@given(specs_of_a_small_body(), st.integers(0, 20))
def test_spans_select_exactly_the_bytes_asked_for_each_once(specs: list[RangeSpec], size: int) -> None:
    spans = resolve(specs, size)
    positions = [position for span in spans for position in range(span.start, span.stop)]
    assert sorted(positions) == sorted(set().union(*(selected_by(spec, size) for spec in specs)))
    assert all(span.length > 0 for span in spans)
    edges = {span.start for span in spans} & {span.stop for span in spans}
    assert not edges, "spans that touch are one span"


@pytest.mark.parametrize(
    ("if_range", "etag", "allowed"),
    [
        (None, '"a"', True),
        (None, "", True),
        ('"a"', '"a"', True),
        (' "a" ', '"a"', True),
        ('""', '""', True),
        ('"a"', '"b"', False),
        ('W/"a"', '"a"', False),
        ('W/"a"', 'W/"a"', False),
        ('"a"', 'W/"a"', False),
        ("a", "a", False),
        ('"', '"', False),
        ("", "", False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", '"a"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
def test_if_range_compares_strongly(if_range: str | None, etag: str, allowed: bool) -> None:
    assert if_range_allows(if_range, etag) is allowed


def test_content_range_is_inclusive_on_the_wire() -> None:
    assert content_range(Span(0, 10), 100) == "bytes 0-9/100"
    assert unsatisfied(100) == "bytes */100"


def body_of(answer: Multipart, content: bytes) -> bytes:
    return b"".join(
        piece if isinstance(piece, bytes) else content[piece.start : piece.stop] for piece in answer.pieces()
    )


def test_multipart_framing_to_the_byte() -> None:
    answer = Multipart([Span(0, 2), Span(5, 9)], 10, "application/octet-stream", "B0")
    assert answer.content_type == "multipart/byteranges; boundary=B0"
    assert body_of(answer, b"0123456789") == (
        b"--B0\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--B0\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 5-8/10\r\n\r\n5678"
        b"\r\n--B0--\r\n"
    )


@given(specs_of_a_small_body(), st.integers(1, 20))
def test_a_mime_parser_reads_the_parts_back_and_the_length_is_exact(specs: list[RangeSpec], size: int) -> None:
    content = bytes(range(65, 65 + size))
    spans = resolve(specs, size) or (Span(0, 1),)
    answer = Multipart(spans, size, "text/plain", "xyz")
    body = body_of(answer, content)
    assert len(body) == answer.length
    head = f"Content-Type: {answer.content_type}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    read = [(part["Content-Range"], part.get_payload()) for part in message.iter_parts()]
    assert read == [(content_range(span, size), content[span.start : span.stop].decode()) for span in spans]


def test_pieces_can_be_asked_for_twice() -> None:
    answer = Multipart([Span(0, 1)], 1, "text/plain", "b")
    assert list(answer.pieces()) == list(answer.pieces())
