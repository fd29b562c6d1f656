"""Two servers on one data directory, by mistake or on purpose: one download, whoever of them dies."""

import asyncio

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.fake_registry import FakeRegistry, only
from lab.faults import Fault
from lab.http import Cut
from lab.images import KIB
from lab.journal import find
from lab.partials import partial_of, wait_for_partial, wait_until_landed
from lab.proxy import Proxies, Proxy

GOOD, BAD = "Bearer good", "Bearer bad"
STALL = 300 * KIB


@pytest.fixture
def two(fake: FakeRegistry, proxy_factory: Proxies) -> tuple[Proxy, Proxy]:
    one, other = proxy_factory(fake), proxy_factory(fake, start=False)
    other.data_dir = one.data_dir
    other.start()
    return one, other


def ranges(fake: FakeRegistry, digest: str) -> list[str | None]:
    return [request.range for request in find(fake.journal, digest, method="GET")]


async def test_both_read_one_download_and_only_who_may(
    fake: FakeRegistry, two: tuple[Proxy, Proxy], data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.manners.accepts = only(GOOD)
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    one, other = (Asking.through(proxy, fake, GOOD) for proxy in two)

    async with one.open_blob(repository, digest) as first:
        await first.read_at_least(200 * KIB)
        refused = await other.as_account(BAD).blob(repository, digest)
        async with other.open_blob(repository, digest) as second:
            await second.read_at_least(200 * KIB)
            stalled.release()
            answers = await asyncio.gather(first.read(), second.read())

    assert refused.status == 401
    assert [answer.digest for answer in answers] == [digest] * 2
    assert cache_status(answers[1]) == "pullthrough; fwd=miss; collapsed"
    await asyncio.to_thread(wait_until_landed, two[0])
    assert from_cache(await one.blob(repository, digest))
    assert from_cache(await other.blob(repository, digest))
    served = [
        request for request in find(fake.journal, digest, method="GET") if request.headers["authorization"] == GOOD
    ]
    assert len(served) == 1


async def test_whose_process_is_killed_leaves_its_download_to_the_other(
    fake: FakeRegistry, two: tuple[Proxy, Proxy], data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    one, other = (Asking.through(proxy, fake) for proxy in two)

    async with one.open_blob(repository, digest) as first, other.open_blob(repository, digest) as second:
        await asyncio.to_thread(wait_for_partial, two[0], digest, STALL)
        await second.read_at_least(200 * KIB)
        two[0].kill()
        whole = await second.read()
        with pytest.raises(Cut):
            await first.read()
    stalled.release()

    assert whole.digest == digest
    assert ranges(fake, digest) == [None, f"bytes={STALL}-"]
    await asyncio.to_thread(wait_until_landed, two[1])
    assert from_cache(await other.blob(repository, digest))
    assert not partial_of(two[1], digest).exists()
