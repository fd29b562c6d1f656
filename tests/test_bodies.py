"""Answers made of pieces of a blob, whole or still growing."""

import email.policy
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.inside import until_cut, whole
from pullthrough.bodies import BlobBody, EndlessBody, Head, whole_or_ranges
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.ranges import Span
from pullthrough.messages import BodyError

DATA = bytes(range(100))
DIGEST = Digest.of(DATA)
ETAG = f'"{DIGEST}"'
HEADERS = Headers((("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes"), ("ETag", ETAG)))


class Bytes:
    """A blob in memory, which gives few bytes at a time and may end too early."""

    def __init__(self, data: bytes = DATA, *, size: int | None = -1, step: int = 7) -> None:
        self.data = data
        self.size = len(data) if size == -1 else size
        self.step = step
        self.closed = 0

    async def read_at(self, offset: int, limit: int) -> bytes:
        return self.data[offset : offset + min(limit, self.step)]

    def close(self) -> None:
        self.closed += 1


def ask(blob: Bytes, *, head: bool = False, **fields: str) -> Head:
    request = Headers((name.replace("_", "-"), value) for name, value in fields.items())
    return whole_or_ranges(blob, DIGEST, request, HEADERS, head=head)


async def test_all_of_it() -> None:
    blob = Bytes()
    status, headers, body, length = ask(blob)

    assert (status, headers, length) == (200, HEADERS, None)
    assert not isinstance(body, bytes)
    assert body.length == 100
    assert blob.closed == 0
    assert await whole(body) == DATA
    assert blob.closed == 1


async def test_all_of_nothing() -> None:
    status, _, body, _ = ask(Bytes(b""))

    assert status == 200
    assert not isinstance(body, bytes)
    assert body.length == 0
    assert await whole(body) == b""


async def test_a_range_of_nothing_gets_all_of_it() -> None:
    status, _, body, _ = ask(Bytes(b""), range="bytes=0-")

    assert (status, await whole(body)) == (200, b"")


async def test_a_size_that_nobody_knows() -> None:
    blob = Bytes(size=None)
    status, headers, body, _ = ask(blob, range="bytes=1-2")

    assert (status, "content-range" in headers) == (200, False)
    assert isinstance(body, EndlessBody)
    assert body.length is None
    assert await whole(body) == DATA
    assert blob.closed == 1


@pytest.mark.parametrize(
    ("asked", "got", "content_range"),
    [
        ("bytes=10-19", DATA[10:20], "bytes 10-19/100"),
        ("bytes=90-", DATA[90:], "bytes 90-99/100"),
        ("bytes=-5", DATA[95:], "bytes 95-99/100"),
        ("bytes=0-999", DATA, "bytes 0-99/100"),
        ("bytes=10-19,15-29", DATA[10:30], "bytes 10-29/100"),
    ],
)
async def test_one_part(asked: str, got: bytes, content_range: str) -> None:
    status, headers, body, _ = ask(Bytes(), range=asked)

    assert status == 206
    assert headers.get("content-range") == content_range
    assert not isinstance(body, bytes)
    assert body.length == len(got)
    assert await whole(body) == got


async def test_several_parts() -> None:
    blob = Bytes()
    status, headers, body, _ = ask(blob, range="bytes=90-, 0-9, 50-59")

    content_type = headers.get("content-type") or ""
    assert (status, headers.get("content-range")) == (206, None)
    assert not isinstance(body, bytes)
    text = f"Content-Type: {content_type}\r\n\r\n".encode() + await whole(body)
    parts = list(BytesParser(policy=email.policy.HTTP).parsebytes(text).iter_parts())
    assert [part.get_payload(decode=True) for part in parts] == [DATA[90:], DATA[:10], DATA[50:60]]
    assert [part["Content-Range"] for part in parts] == ["bytes 90-99/100", "bytes 0-9/100", "bytes 50-59/100"]
    assert {part.get_content_type() for part in parts} == {"application/octet-stream"}
    assert blob.closed == 1


async def test_parts_of_a_blob_without_a_type() -> None:
    status, headers, body, _ = whole_or_ranges(Bytes(), DIGEST, Headers((("Range", "bytes=0-1,5-6"),)), Headers())

    assert (status, (headers.get("content-type") or "").partition(";")[0]) == (206, "multipart/byteranges")
    assert b"application/octet-stream" in await whole(body)


def test_a_range_outside() -> None:
    blob = Bytes()
    status, headers, body, length = ask(blob, range="bytes=100-")

    assert (status, body, length) == (416, b"", None)
    assert headers.get("content-range") == "bytes */100"
    assert "content-type" not in headers
    assert blob.closed == 1


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=", "bytes=5-1"])
async def test_a_range_that_means_nothing_is_ignored(asked: str) -> None:
    status, _, body, _ = ask(Bytes(), range=asked)

    assert (status, await whole(body)) == (200, DATA)


@pytest.mark.parametrize(("validator", "status"), [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200)])
async def test_if_range(validator: str, status: int) -> None:
    got, _, body, _ = ask(Bytes(), range="bytes=0-9", if_range=validator)

    assert got == status
    assert await whole(body) == (DATA[:10] if status == 206 else DATA)


@pytest.mark.parametrize("known", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
@pytest.mark.parametrize("head", [True, False])
def test_what_the_client_has_already(known: str, head: bool) -> None:
    blob = Bytes()
    status, headers, body, _ = ask(blob, head=head, if_none_match=known, range="bytes=0-1")

    assert (status, body) == (304, b"")
    assert headers.get("etag") == ETAG
    assert "content-type" not in headers
    assert blob.closed == 1


def test_head_has_the_length_and_no_body_and_knows_no_range() -> None:
    blob = Bytes()

    assert ask(blob, head=True, range="bytes=0-9", if_none_match='"other"') == (200, HEADERS, b"", 100)
    assert blob.closed == 1


async def test_a_blob_that_ends_too_early_is_an_error() -> None:
    _, _, body, _ = ask(Bytes(size=101))

    assert await until_cut(body) == DATA


async def test_a_range_that_ends_too_early_is_an_error() -> None:
    _, _, body, _ = ask(Bytes(size=200), range="bytes=95-150")

    assert await until_cut(body) == DATA[95:]


async def test_a_failure_of_the_blob_is_passed_on_each_time() -> None:
    class Broken(Bytes):
        async def read_at(self, offset: int, limit: int) -> bytes:
            raise BodyError("cut")

    for body in (BlobBody(Broken(), iter((Span(0, 5),)), 5), EndlessBody(Broken())):
        for _ in range(2):
            with pytest.raises(BodyError, match="cut"):
                await body.read(10)


async def test_the_end_is_the_end() -> None:
    body = BlobBody(Bytes(), iter((Span(0, 3),)), 3)

    assert [await body.read(10) for _ in range(3)] == [DATA[:3], b"", b""]


@given(
    pieces=st.lists(
        st.one_of(st.binary(max_size=5), st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted)), max_size=5
    ),
    limit=st.integers(1, 20),
)
async def test_pieces_are_sent_as_they_are_and_never_more_at_once_than_asked_for(
    pieces: list[bytes | list[int]], limit: int
) -> None:
    framed = [piece if isinstance(piece, bytes) else Span(*piece) for piece in pieces]
    wanted = b"".join(piece if isinstance(piece, bytes) else DATA[piece.start : piece.stop] for piece in framed)

    assert await whole(BlobBody(Bytes(), iter(framed), len(wanted)), limit) == wanted
