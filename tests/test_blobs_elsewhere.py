"""Blobs that another process on the same store is fetching: who may have them, and from whom."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, Redirect, basic, only
from lab.faults import Armed, Fault
from lab.inside import STORE_SIZE, Chosen, Got, Inside, digest_in, inside, reached, until, whole
from lab.journal import find
from pullthrough import following
from pullthrough.messages import Answer, Pass

DATA = random.Random(6).randbytes(200_000)
ALICE, BOB = basic("alice", "a"), basic("bob", "b")


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=True) as it:
        yield it


@pytest.fixture
async def other(proxy: Inside) -> AsyncIterator[Inside]:
    """Another process of the same installation."""
    made = Inside(proxy.folder, proxy.fake, STORE_SIZE, True, None, Chosen())
    yield made
    proxy.fake.release()
    await made.aclose()
    await made.store.aclose()


@pytest.fixture
def digest(proxy: Inside) -> str:
    return proxy.fake.add_blob(DATA)


def at(digest: str) -> str:
    return f"/v2/team/app/blobs/{digest}"


def asked(proxy: Inside, authorization: str = BOB) -> list[str]:
    """What was asked of the registry in Bob's name."""
    requests = find(proxy.fake.journal, "/v2/")
    return [request.method for request in requests if request.headers.get("authorization") == authorization]


async def fetching(
    proxy: Inside, digest: str, fault: Fault | None = None, *, path: str = "/blobs/"
) -> tuple[Armed, asyncio.Task[Got]]:
    """Alice pulls it, and it is on its way."""
    armed = proxy.fake.fault(f"{path}{digest}", fault or Fault(stall_after=1000))
    pull = asyncio.create_task(proxy.get(at(digest), authorization=ALICE))
    await reached(armed)
    return armed, pull


@pytest.mark.parametrize("redirected", [True, False])
async def test_who_may_have_it_reads_along(proxy: Inside, other: Inside, digest: str, redirected: bool) -> None:
    """No digest stands in the answer to HEAD here: its length is held against what the other process was told."""
    if redirected:
        proxy.fake.manners.redirect = Redirect()
    armed, pull = await fetching(proxy, digest, path="/storage/" if redirected else "/blobs/")
    answer = await other.ask(at(digest), authorization=BOB)
    armed.release()

    assert isinstance(answer, Answer)
    assert answer.cache.header() == "pullthrough; fwd=miss; collapsed"
    assert await whole(answer.body) == DATA
    await pull
    assert asked(proxy) == ["HEAD"]
    await other.landed()
    assert (await other.get(at(digest), authorization=BOB)).outcome == "hit"
    assert asked(proxy) == ["HEAD"]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_may_not_gets_nothing(proxy: Inside, other: Inside, digest: str, status: int) -> None:
    armed, pull = await fetching(proxy, digest)
    refused = proxy.fake.fault(digest, Fault(status=status), times=None, method=None)
    got = await other.get(at(digest), authorization=BOB)

    assert (got.status, got.body) == (status, b"")
    assert len(refused.hits) == 2
    assert len(other.flights) == 0
    armed.release()
    await pull


async def test_a_refusal_looks_the_same_whether_somebody_fetches_it_or_not(
    proxy: Inside, other: Inside, digest: str
) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    nowhere = await other.get(at(proxy.fake.add_blob(b"nowhere")), authorization=BOB)
    cost = sorted(asked(proxy))
    proxy.fake.journal.clear()
    armed, pull = await fetching(proxy, digest)
    fetched = await other.get(at(digest), authorization=BOB)

    assert (fetched.status, fetched.headers, fetched.body) == (401, nowhere.headers, nowhere.body)
    assert sorted(asked(proxy)) == cost
    armed.release()
    await pull


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, headers={"Content-Length": "5"}),
        Fault(status=200, headers={"Content-Type": "text/html", "Content-Length": str(len(DATA))}),
    ],
)
async def test_whoever_says_yes_to_everybody_gives_nothing_away(
    proxy: Inside, other: Inside, digest: str, fault: Fault
) -> None:
    armed, pull = await fetching(proxy, digest)
    proxy.fake.fault(digest, fault, times=None, method=None)

    assert isinstance(await other.ask(at(digest), authorization=BOB), Pass)
    assert len(other.flights) == 0
    armed.release()
    await pull


async def test_the_word_of_a_registry_that_nobody_named_is_no_proof(proxy: Inside, other: Inside, digest: str) -> None:
    other.found.add(other.registry.host)
    armed, pull = await fetching(proxy, digest)

    answer = await other.ask(at(digest), authorization=BOB)
    assert isinstance(answer, Pass)
    assert answer.cache.detail == "the upstream proves nothing"
    armed.release()
    await pull


async def test_who_begins_at_the_same_moment_finds_out_and_asks(proxy: Inside, other: Inside, digest: str) -> None:
    go = other.store.holding["begin"] = asyncio.Event()
    late = asyncio.ensure_future(other.get(at(digest), authorization=BOB))
    await until(lambda: other.store.calls["begin"])
    armed, pull = await fetching(proxy, digest)
    go.set()
    await until(lambda: other.flights.find(digest_in(digest)) and other.store.done["follow"])
    armed.release()

    assert (await late).body == DATA
    await pull
    assert asked(proxy) == ["HEAD"]
    assert len(find(proxy.fake.journal, digest, method="GET")) == 1


async def test_a_fill_that_waits_for_its_upstream_is_waited_for(proxy: Inside, other: Inside, digest: str) -> None:
    armed, pull = await fetching(proxy, digest, Fault(hold_headers=True))
    commit = proxy.store.holding["commit"] = asyncio.Event()
    late = asyncio.ensure_future(other.get(at(digest), authorization=BOB))
    await until(lambda: asked(proxy) == ["HEAD"])
    armed.release()
    await until(lambda: other.store.done["follow"])
    commit.set()

    assert (await late).body == DATA
    await pull
    assert asked(proxy) == ["HEAD"]


async def test_but_not_for_ever(proxy: Inside, other: Inside, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_UNTIL_IT_SENDS", 0.0)
    armed, pull = await fetching(proxy, digest, Fault(hold_headers=True))

    assert isinstance(await other.ask(at(digest), authorization=BOB), Pass)
    armed.release()
    await pull


async def test_its_length_is_told_while_it_comes(proxy: Inside, other: Inside, digest: str) -> None:
    armed, pull = await fetching(proxy, digest)
    answer = await other.ask(at(digest), "HEAD", authorization=BOB)

    assert isinstance(answer, Answer)
    assert (answer.status, answer.length, answer.cache.header()) == (
        200,
        len(DATA),
        'pullthrough; hit; detail="access checked"',
    )
    armed.release()
    await pull


async def test_to_read_along_renews_no_right(proxy: Inside, other: Inside, digest: str) -> None:
    """The flight asked nobody: what its reader was granted counts from when the upstream was asked."""
    armed, pull = await fetching(proxy, digest)
    answer = await other.ask(at(digest), authorization=BOB)
    assert isinstance(answer, Answer)
    other.clock.time += 59.0
    armed.release()
    await whole(answer.body)
    await pull
    await other.landed()
    other.clock.time += 2.0
    proxy.fake.manners.accepts = only(ALICE)

    assert (await other.get(at(digest), authorization=BOB)).status == 401
