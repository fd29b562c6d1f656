"""Ranges through the proxy mean the same on a blob that is cold, that grows, and that is cached."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lab.asking import Asking
from lab.fake_registry import FakeRegistry, digest_of
from lab.faults import Fault
from lab.images import KIB, MIB
from lab.journal import body_bytes, find
from lab.proxy import Proxy

SIZE = 700 * KIB
STATES = ["cold", "growing", "warm"]


@pytest.fixture
def digest(fake: FakeRegistry, data: bytes) -> str:
    return fake.add_blob(data)


@asynccontextmanager
async def in_state(state: str, fake: FakeRegistry, asking: Asking, repository: str, digest: str) -> AsyncIterator[None]:
    """Inside of it, the blob is cold, on its way (all but the last 100 KiB), or cached."""
    if state == "cold":
        yield
    elif state == "warm":
        assert (await asking.blob(repository, digest)).digest == digest
        yield
    else:
        stalled = fake.fault(digest, Fault(stall_after=SIZE - 100 * KIB))
        async with asking.open_blob(repository, digest) as other:
            await other.read_at_least(1)
            asyncio.get_running_loop().call_later(0.1, stalled.release)  # ranges behind it have to wait for it
            yield


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        (f"bytes={SIZE - 7}-", SIZE - 7, SIZE - 1),
        ("bytes=-9", SIZE - 9, SIZE - 1),
        ("bytes=0-", 0, SIZE - 1),
        (f"bytes=5-{10 * SIZE}", 5, SIZE - 1),
    ],
)
async def test_one_range(
    fake: FakeRegistry,
    asking: Asking,
    data: bytes,
    digest: str,
    repository: str,
    state: str,
    asked: str,
    first: int,
    last: int,
) -> None:
    async with in_state(state, fake, asking, repository, digest):
        answer = await asking.blob(repository, digest, headers={"Range": asked})

    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.body == data[first : last + 1]
    assert len(find(fake.journal, digest, method="GET")) == 1


@pytest.mark.parametrize("state", STATES)
async def test_several_ranges_come_as_parts(
    fake: FakeRegistry, asking: Asking, data: bytes, digest: str, repository: str, state: str
) -> None:
    async with in_state(state, fake, asking, repository, digest):
        answer = await asking.blob(repository, digest, headers={"Range": f"bytes=0-99,{SIZE - 50}-,300-399"})

    assert answer.status == 206
    assert parts(answer.headers["content-type"], answer.body) == [
        (f"bytes 0-99/{SIZE}", data[:100]),
        (f"bytes {SIZE - 50}-{SIZE - 1}/{SIZE}", data[-50:]),
        (f"bytes 300-399/{SIZE}", data[300:400]),
    ]


@pytest.mark.parametrize("state", STATES)
async def test_a_range_behind_the_end_is_416(
    fake: FakeRegistry, asking: Asking, digest: str, repository: str, state: str
) -> None:
    async with in_state(state, fake, asking, repository, digest):
        answer = await asking.blob(repository, digest, headers={"Range": f"bytes={SIZE}-"})

    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("state", STATES)
async def test_if_range_decides_between_the_part_and_the_whole(
    fake: FakeRegistry, asking: Asking, digest: str, repository: str, state: str
) -> None:
    async with in_state(state, fake, asking, repository, digest):
        fresh = await asking.blob(repository, digest, headers={"Range": "bytes=5-", "If-Range": f'"{digest}"'})
        stale = await asking.blob(repository, digest, headers={"Range": "bytes=5-", "If-Range": '"another"'})

    assert (fresh.status, fresh.size) == (206, SIZE - 5)
    assert (stale.status, stale.digest) == (200, digest)


@pytest.mark.parametrize("asked", ["bytes=9-5", "lines=0-5", "bytes=", "bytes=a-b"])
async def test_a_range_that_cannot_be_understood_gets_the_whole(
    asking: Asking, digest: str, repository: str, asked: str
) -> None:
    answer = await asking.blob(repository, digest, headers={"Range": asked})

    assert (answer.status, answer.digest) == (200, digest)


async def test_a_cold_range_of_a_blob_without_a_length_is_answered_as_one_with(
    fake: FakeRegistry, asking: Asking, data: bytes, digest: str, repository: str
) -> None:
    fake.fault(digest, Fault(chunked=True))

    answer = await asking.blob(repository, digest, headers={"Range": "bytes=-10"})

    assert (answer.status, answer.body) == (206, data[-10:])


async def test_a_cut_pull_is_continued_from_the_cache(
    fake: FakeRegistry, asking: Asking, data: bytes, digest: str, repository: str
) -> None:
    async with asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(100 * KIB)
        had = answer.size
    rest = await asking.blob(repository, digest, headers={"Range": f"bytes={had}-"})

    assert rest.body == data[had:]
    assert len(find(fake.journal, digest, method="GET")) == 1


async def test_parallel_open_ended_ranges_that_are_dropped_early_cost_one_upstream_get(
    fake: FakeRegistry, fake_proxy: Proxy, repository: str
) -> None:
    """As containerd 2 fetches a layer: from every 8 MiB on, each connection dropped after its part."""
    whole = bytes(range(256)) * (24 * MIB // 256) + repository.encode()
    digest = fake.add_blob(whole)
    asking = Asking.through(fake_proxy, fake)

    async def part(first: int) -> bytes:
        kept = bytearray()
        async with asking.open_blob(repository, digest, headers={"Range": f"bytes={first}-"}) as answer:
            assert answer.headers["content-range"] == f"bytes {first}-{len(whole) - 1}/{len(whole)}"
            async for piece in answer.pieces():
                kept += piece
                if len(kept) >= 8 * MIB:
                    break
        return bytes(kept[: 8 * MIB])

    got = await asyncio.gather(*(part(first) for first in range(0, len(whole), 8 * MIB)))

    assert digest_of(b"".join(got)) == digest
    assert len(find(fake.journal, digest, method="GET")) == 1
    assert body_bytes(fake.journal, digest) == len(whole)


def parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """(Content-Range, bytes) of each part of a multipart/byteranges body (RFC 9110 section 14.6)."""
    found = re.fullmatch(r'multipart/byteranges; boundary="?([^"]+)"?', content_type)
    assert found
    mark = b"--" + found[1].encode()
    preamble, *middle, end = body.split(mark)
    assert (preamble.strip(), end.strip()) == (b"", b"--")
    split = [part.removeprefix(b"\r\n").removesuffix(b"\r\n").split(b"\r\n\r\n", 1) for part in middle]
    return [(field(head, "Content-Range"), content) for head, content in split]


def field(head: bytes, name: str) -> str:
    found = re.search(rf"(?im)^{name}: ([^\r\n]*)", head.decode())
    assert found
    return found[1]
