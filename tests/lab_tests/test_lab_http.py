"""The raw client does what registry clients cannot be told to do, and says what it saw."""

import asyncio
import time

import pytest

from lab.deadline import eventually
from lab.fake_registry import FakeRegistry, digest_of
from lab.http import Client, ConnectRefused
from lab.images import KIB, MIB
from lab.journal import find
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Pki

LAYER = bytes(range(256)) * 16 * KIB


@pytest.fixture
def url(fake: FakeRegistry) -> str:
    return f"{fake.url}/v2/app/blobs/{fake.add_blob(LAYER)}"


@pytest.fixture
def client(pki: Pki, parent: ParentProxy) -> Client:
    return Client(pki.ca_file, proxy=(parent.address, parent.port))


async def test_it_goes_through_connect(client: Client, fake: FakeRegistry, parent: ParentProxy, url: str) -> None:
    answer = await client.fetch(url)

    assert (answer.size, answer.digest) == (len(LAYER), digest_of(LAYER))
    assert [request.target for request in find(parent.journal, method="CONNECT")] == [fake.host]


async def test_a_refused_connect_is_told_with_its_status(client: Client) -> None:
    with pytest.raises(ConnectRefused) as refused:
        await client.fetch("https://nowhere.test/")

    assert refused.value.status == 502


async def test_it_sees_the_certificate_of_the_other_end(client: Client, pki: Pki, fake: FakeRegistry) -> None:
    async with client.connect(fake.url) as connection:
        assert connection.peer_certificate == pki.identity("fake.test").leaf_der()


async def test_it_speaks_http_1_0(client: Client, fake: FakeRegistry, url: str) -> None:
    async with client.open(url, version="1.0") as answer:
        assert (await answer.read()).digest == digest_of(LAYER)

    assert fake.journal.requests()[0].done


async def test_it_reads_no_faster_than_it_is_told(client: Client, url: str) -> None:
    begin = time.monotonic()

    answer = await client.fetch(url, rate=8 * MIB)

    assert answer.digest == digest_of(LAYER)
    assert time.monotonic() - begin >= len(LAYER) / (8 * MIB) * 0.9


async def test_it_leaves_early(client: Client, fake: FakeRegistry, url: str) -> None:
    data = b"x" * 64 * MIB
    large = f"{fake.url}/v2/app/blobs/{fake.add_blob(data)}"

    async with client.open(large, receive_buffer=64 * KIB) as answer:
        await answer.read_at_least(10 * KIB)
    request = find(fake.journal, digest_of(data))[0]
    await asyncio.to_thread(eventually, lambda: request.done, "the server notices")

    assert 10 * KIB <= request.sent < len(data)


async def test_many_at_once_get_the_same_bytes(client: Client, url: str) -> None:
    answers = await asyncio.gather(*(client.fetch(url) for _ in range(20)))

    assert {answer.digest for answer in answers} == {digest_of(LAYER)}


@pytest.mark.parametrize("body", [b"one two", [b"one ", b"two"]], ids=["counted", "chunked"])
async def test_it_sends_bodies_of_both_kinds(client: Client, fake: FakeRegistry, body: bytes | list[bytes]) -> None:
    async with client.connect(fake.url) as connection:
        first = await (await connection.ask("/v2/", method="PATCH", body=body)).read()
        second = await (await connection.ask("/v2/")).read()

    assert (first.status, second.status) == (200, 200)
    framing = {"content-length", "transfer-encoding"} & set(fake.journal.requests()[0].headers)
    assert framing == {"content-length" if isinstance(body, bytes) else "transfer-encoding"}


async def test_without_a_proxy_it_knows_the_names_it_is_given(
    pki: Pki, names: NameMap, fake: FakeRegistry, url: str
) -> None:
    assert (await Client(pki.ca_file, names=names).fetch(url)).digest == digest_of(LAYER)
    assert fake.journal.requests()


async def test_a_parent_may_demand_credentials(pki: Pki, names: NameMap, fake: FakeRegistry) -> None:
    parent = ParentProxy(names, authorization="Basic eDp5")
    parent.start()
    try:
        with pytest.raises(ConnectRefused) as refused:
            await Client(pki.ca_file, proxy=(parent.address, parent.port)).fetch(f"{fake.url}/v2/")
    finally:
        await asyncio.to_thread(parent.stop)

    assert refused.value.status == 407


async def test_a_parent_tunnels_nothing_but_connect(parent: ParentProxy) -> None:
    client = Client(proxy=(parent.address, parent.port))

    assert (await client.fetch("http://plain.test/x")).status == 405
    assert find(parent.journal)[0].target == "http://plain.test/x"
