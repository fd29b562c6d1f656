"""The CDN answers as object storage does, and every fault is the fault that was asked for."""

import asyncio
import gzip
import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.deadline import eventually
from lab.faults import Fault
from lab.http import Client, Cut
from lab.images import MIB
from lab.journal import body_bytes, find, wait_for
from lab.names import NameMap
from lab.pki import Pki
from lab.web import served

DATA = random.Random("cdn").randbytes(MIB)
HEX = hashlib.sha256(DATA).hexdigest()
PATH = f"/docker/registry/v2/blobs/sha256/{HEX[:2]}/{HEX}/data"
URL = f"https://cdn.test{PATH}"


@pytest.fixture
def own_cdn(pki: Pki, names: NameMap, tmp_path: Path) -> Iterator[Cdn]:
    file = tmp_path / PATH.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(DATA)
    with served(Cdn(pki.identity("cdn.test"), tmp_path), names) as server:
        yield server


@pytest.fixture
def client(own_cdn: Cdn, pki: Pki, names: NameMap) -> Client:
    assert own_cdn.port
    return Client(pki.ca_file, names=names)


async def test_a_blob_comes_whole_with_its_length_and_a_validator(own_cdn: Cdn, client: Client) -> None:
    answer = await client.fetch(URL)

    assert (answer.status, answer.body, answer.digest) == (200, DATA, f"sha256:{HEX}")
    assert answer.headers["content-length"] == str(MIB)
    assert answer.headers["etag"]
    assert body_bytes(own_cdn.journal, HEX) == MIB


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        (f"bytes={MIB - 5}-", MIB - 5, MIB - 1),
        ("bytes=-7", MIB - 7, MIB - 1),
        (f"bytes=5-{2 * MIB}", 5, MIB - 1),
    ],
)
async def test_a_range_is_answered_with_that_part(client: Client, asked: str, first: int, last: int) -> None:
    answer = await client.fetch(URL, headers={"Range": asked})

    assert answer.status == 206
    assert answer.body == DATA[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{MIB}"


async def test_a_range_behind_the_end_is_416(client: Client) -> None:
    answer = await client.fetch(URL, headers={"Range": f"bytes={MIB}-"})

    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{MIB}")


async def test_if_range_with_an_old_validator_gets_everything(own_cdn: Cdn, client: Client) -> None:
    good = (await client.fetch(URL, method="HEAD")).headers["etag"]

    fresh = await client.fetch(URL, headers={"Range": "bytes=5-", "If-Range": good})
    stale = await client.fetch(URL, headers={"Range": "bytes=5-", "If-Range": '"old"'})

    assert (fresh.status, fresh.size) == (206, MIB - 5)
    assert (stale.status, stale.size) == (200, MIB)
    assert [request.if_range for request in find(own_cdn.journal, method="GET")] == [good, '"old"']


async def test_head_has_the_length_and_no_body(client: Client) -> None:
    answer = await client.fetch(URL, method="HEAD")

    assert (answer.status, answer.size, answer.headers["content-length"]) == (200, 0, str(MIB))


async def test_unknown_paths_are_404_and_other_methods_405(client: Client) -> None:
    assert (await client.fetch("https://cdn.test/nothing")).status == 404
    assert (await client.fetch("https://cdn.test/../../../etc/passwd")).status == 404
    assert (await client.fetch(URL, method="PUT", body=b"x")).status == 405


async def test_requests_follow_one_another_on_a_connection(own_cdn: Cdn, client: Client) -> None:
    async with client.connect("https://cdn.test") as connection:
        for _ in range(3):
            answer = await (await connection.ask(PATH)).read()
            assert answer.digest == f"sha256:{HEX}"

    assert len(find(own_cdn.journal, HEX)) == 3


async def test_the_journal_tells_the_range_the_credential_and_the_bytes(own_cdn: Cdn, client: Client) -> None:
    await client.fetch(URL, headers={"Range": "bytes=1-2", "Authorization": "Bearer x"})

    (request,) = own_cdn.journal.requests()
    assert (request.method, request.path, request.range) == ("GET", PATH, "bytes=1-2")
    assert (request.authorized, request.status, request.sent) == (True, 206, 2)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_ends_the_connection_early(own_cdn: Cdn, client: Client, *, reset: bool) -> None:
    own_cdn.fault(HEX, Fault(cut_after=1000, reset=reset))

    with pytest.raises(Cut) as cut:
        await client.fetch(URL)
    again = await client.fetch(URL)

    assert cut.value.size <= 1000
    assert cut.value.size == 1000 or reset
    assert find(own_cdn.journal)[0].sent == 1000
    assert again.digest == f"sha256:{HEX}"


async def test_a_reset_is_a_reset(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(cut_after=0, reset=True))

    with pytest.raises(Cut) as cut:
        await client.fetch(URL)

    assert isinstance(cut.value.__cause__, ConnectionResetError)


async def test_a_cut_counts_the_bytes_of_this_answer(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(cut_after=10))

    with pytest.raises(Cut) as cut:
        await client.fetch(URL, headers={"Range": "bytes=500000-"})

    assert (cut.value.status, cut.value.size) == (206, 10)


@pytest.mark.parametrize("at", [0, 1000, 300_000, MIB - 1])
async def test_a_wrong_byte_is_at_its_place_in_the_blob(own_cdn: Cdn, client: Client, at: int) -> None:
    own_cdn.fault(HEX, Fault(corrupt_at=at), times=None)

    wholly = await client.fetch(URL)
    partly = await client.fetch(URL, headers={"Range": f"bytes={at}-"})

    assert [place for place in range(MIB) if wholly.body[place] != DATA[place]] == [at]
    assert partly.body[0] != DATA[at]
    assert partly.body[1:] == DATA[at + 1 :]


async def test_a_length_may_promise_too_much(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(length_lie=7))

    with pytest.raises(Cut) as cut:
        await client.fetch(URL)

    assert cut.value.size == MIB


async def test_a_length_may_promise_too_little(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(length_lie=-7))

    assert (await client.fetch(URL)).size == MIB - 7


async def test_gzip_is_sent_unasked(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(gzip=True))

    answer = await client.fetch(URL)

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == DATA


@pytest.mark.parametrize("after", [0, 1000, 256 * 1024, MIB])
async def test_a_stall_lasts_until_it_is_released(own_cdn: Cdn, client: Client, after: int) -> None:
    armed = own_cdn.fault(HEX, Fault(stall_after=after))

    async with client.open(URL) as answer:
        await answer.read_at_least(after)
        await asyncio.to_thread(eventually, armed.reached.is_set, "the stall")
        assert armed.hits[0].sent == after
        armed.release()
        assert (await answer.read()).digest == f"sha256:{HEX}"


async def test_held_headers_come_when_they_are_released(own_cdn: Cdn, client: Client) -> None:
    armed = own_cdn.fault(HEX, Fault(hold_headers=True))

    pending = asyncio.create_task(client.fetch(URL))
    await asyncio.to_thread(eventually, armed.reached.is_set, "the hold")
    assert armed.hits[0].status is None
    armed.release()

    assert (await pending).status == 200


async def test_a_stall_may_end_in_a_cut(own_cdn: Cdn, client: Client) -> None:
    armed = own_cdn.fault(HEX, Fault(stall_after=50, cut_after=50))

    async with client.open(URL) as answer:
        await answer.read_at_least(50)
        await asyncio.to_thread(eventually, armed.reached.is_set, "the stall")
        armed.release()
        with pytest.raises(Cut):
            await answer.read()


async def test_ranges_may_be_ignored(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(ignore_range=True))

    answer = await client.fetch(URL, headers={"Range": "bytes=5-"})

    assert (answer.status, answer.size) == (200, MIB)


async def test_another_place_than_the_one_asked_for_may_be_sent(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(shift_range=-3))

    answer = await client.fetch(URL, headers={"Range": "bytes=10-19"})

    assert (answer.headers["content-range"], answer.body) == (f"bytes 7-16/{MIB}", DATA[7:17])


async def test_the_validator_may_change(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(etag='"new"'))

    answer = await client.fetch(URL, headers={"Range": "bytes=5-", "If-Range": '"old"'})

    assert (answer.status, answer.headers["etag"]) == (200, '"new"')


async def test_a_body_may_come_without_length(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(chunked=True))

    answer = await client.fetch(URL)

    assert "content-length" not in answer.headers
    assert answer.digest == f"sha256:{HEX}"


@pytest.mark.parametrize("status", [403, 416, 429, 500, 503])
async def test_any_status_may_come_instead(own_cdn: Cdn, client: Client, status: int) -> None:
    own_cdn.fault(HEX, Fault(status=status, headers={"Retry-After": "1"}, body=b"no"), times=2)

    answers = [await client.fetch(URL) for _ in range(3)]

    assert [answer.status for answer in answers] == [status, status, 200]
    assert (answers[0].headers["retry-after"], answers[0].body) == ("1", b"no")


async def test_head_alone_may_be_refused(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(status=403), times=None, method="HEAD")

    assert (await client.fetch(URL, method="HEAD")).status == 403
    assert (await client.fetch(URL)).status == 200


async def test_a_fault_may_be_chosen_by_any_property_of_the_request(own_cdn: Cdn, client: Client) -> None:
    armed = own_cdn.fault(lambda request: request.range is not None, Fault(status=500), times=None)

    assert (await client.fetch(URL)).status == 200
    assert (await client.fetch(URL, headers={"Range": "bytes=0-"})).status == 500
    assert [request.range for request in armed.hits] == ["bytes=0-"]


async def test_reset_disarms_and_forgets(own_cdn: Cdn, client: Client) -> None:
    own_cdn.fault(HEX, Fault(status=500), times=None)
    await client.fetch(URL)

    own_cdn.reset()

    assert own_cdn.journal.requests() == []
    assert (await client.fetch(URL)).status == 200


def test_stopping_ends_a_held_answer_and_the_port(own_cdn: Cdn, client: Client) -> None:
    armed = own_cdn.fault(HEX, Fault(hold_headers=True))

    async def scenario() -> None:
        pending = asyncio.create_task(client.fetch(URL))
        await asyncio.to_thread(wait_for, own_cdn.journal, HEX)
        await asyncio.to_thread(eventually, armed.reached.is_set, "the hold")
        await asyncio.to_thread(own_cdn.stop)
        with pytest.raises(Cut):
            await pending

    asyncio.run(scenario())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_cdn.address, own_cdn.port))


async def test_it_starts_again_on_the_same_port(own_cdn: Cdn, client: Client) -> None:
    port = own_cdn.port
    await asyncio.to_thread(own_cdn.stop)
    own_cdn.start()

    assert own_cdn.port == port
    assert (await client.fetch(URL)).status == 200


async def test_a_client_that_does_not_trust_the_ca_leaves_no_request(
    own_cdn: Cdn, names: NameMap, tmp_path: Path
) -> None:
    stranger = Pki(tmp_path / "other-ca")

    with pytest.raises(OSError, match="certificate verify failed"):
        await Client(stranger.ca_file, names=names).fetch(URL)

    assert own_cdn.journal.requests() == []
