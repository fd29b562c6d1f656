"""Whatever an upstream does wrong: no wrong byte is taken for right, nothing hangs, and the next pull is clean."""

import asyncio
import gzip
import json
from dataclasses import dataclass

import pytest

from lab.asking import Asking, from_cache
from lab.cdn import Cdn
from lab.clients import Clients
from lab.fake_registry import FakeRegistry, Redirect
from lab.faults import Fault
from lab.http import Cut, Fetched
from lab.images import KIB, MIB, Layout
from lab.journal import find
from lab.partials import wait_for_partial
from lab.pki import Pki
from lab.proxy import Proxy
from lab.registry import Registry

DEADLINE = 15.0
SIZE = 700 * KIB
CUT = Fault(cut_after=300 * KIB)


@dataclass(frozen=True)
class Case:
    """Faults of the first, second, ... GET of a blob; is the first pull right all the same?"""

    faults: tuple[Fault, ...]
    right: bool = True


CASES = {
    "cut": Case((CUT,)),
    "reset": Case((Fault(cut_after=300 * KIB, reset=True),)),
    "cut before the first byte": Case((Fault(cut_after=0),)),
    "reset before the first byte": Case((Fault(cut_after=0, reset=True),)),
    "cut before the last byte": Case((Fault(cut_after=SIZE - 1),)),
    "cut twice": Case((CUT, Fault(cut_after=100 * KIB))),
    "silent": Case((Fault(stall_after=300 * KIB),)),
    "chunked": Case((Fault(chunked=True),)),
    "gzip once": Case((Fault(gzip=True),)),
    "first byte wrong": Case((Fault(corrupt_at=0),), right=False),
    "last byte wrong": Case((Fault(corrupt_at=SIZE - 1),), right=False),
    "cut, then a wrong byte": Case((CUT, Fault(corrupt_at=500 * KIB)), right=False),
    "length too long": Case((Fault(length_lie=10),), right=False),
    "length too short": Case((Fault(length_lie=-10),), right=False),
    "chunked and cut": Case((Fault(chunked=True, cut_after=300 * KIB),), right=False),
    "error": Case((Fault(status=500, body=b"upstream says no"),), right=False),
    "not found": Case((Fault(status=404, body=b"upstream says no"),), right=False),
}
CONTINUED = {
    "by a range": Fault(),
    "by the whole, without ranges": Fault(ignore_range=True),
    "after 416": Fault(status=416),
    "with another validator": Fault(etag='"new"'),
    "after a part of another place": Fault(shift_range=-1000),
    "after 503": Fault(status=503),
}


async def pulled(asking: Asking, repository: str, digest: str) -> Fetched | None:
    """The answer, or None for one that was cut: no client takes that for a blob."""
    try:
        return await asking.blob(repository, digest, deadline=DEADLINE)
    except Cut:
        return None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_blob_from_a_bad_upstream(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str, case: Case
) -> None:
    digest = fake.add_blob(data)
    for fault in case.faults:
        fake.fault(digest, fault)

    first = await pulled(asking, repository, digest)
    fake.release()
    second = await pulled(asking.as_account("Bearer another client"), repository, digest)
    third = await pulled(asking, repository, digest)

    assert (first is not None and first.digest == digest) == case.right
    assert first is None or first.digest == digest or first.status >= 400
    assert second is not None
    assert second.digest == digest
    assert third is not None
    assert (third.digest, from_cache(third)) == (digest, True)


@pytest.mark.parametrize("how", CONTINUED.values(), ids=CONTINUED)
async def test_a_cut_blob_is_continued_where_it_stopped(
    fake: FakeRegistry, fake_proxy: Proxy, asking: Asking, data: bytes, repository: str, how: Fault
) -> None:
    digest = fake.add_blob(data)
    cut = fake.fault(digest, Fault(stall_after=300 * KIB, cut_after=300 * KIB))
    fake.fault(digest, how)

    async with asking.open_blob(repository, digest) as coming:
        await asyncio.to_thread(wait_for_partial, fake_proxy, digest, 300 * KIB)
        cut.release()
        answer = await coming.read()

    assert answer.digest == digest
    assert [request.range for request in find(fake.journal, digest, method="GET")][:2] == [None, f"bytes={300 * KIB}-"]
    assert from_cache(await asking.blob(repository, digest))


async def test_an_upstream_that_sends_only_a_little_before_each_cut_brings_the_blob_in_the_end(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data[: 60 * KIB])
    fake.fault(digest, Fault(cut_after=10 * KIB), times=None)

    answer = await pulled(asking, repository, digest)

    assert answer is not None
    assert answer.digest == digest


async def test_what_the_upstream_answers_instead_is_relayed(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(status=429, headers={"Retry-After": "7"}, body=b"slowly!"), times=None, method=None)
    limited = asking.as_account("Bearer whoever is limited")  # who was told to wait is not heard for so long

    answer = await limited.blob(repository, digest)

    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert b"TOOMANYREQUESTS" in answer.body


async def test_a_coded_blob_passes_through_and_is_not_cached(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(gzip=True), times=None)

    answers = [await asking.blob(repository, digest) for _ in range(2)]

    for answer in answers:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body) == data
        assert not from_cache(answer)


async def test_an_upstream_that_always_cuts_gives_a_cut_and_then_a_clean_pull(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(cut_after=0), times=None)

    assert await pulled(asking, repository, digest) is None
    fake.release()
    again = await asking.blob(repository, digest)

    assert again.digest == digest


async def test_headers_that_never_come_are_an_error_with_the_time_since_when(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    held = fake.fault(digest, Fault(hold_headers=True), times=None, method=None)

    answer = await asking.blob(repository, digest, deadline=DEADLINE)
    held.release()

    message = json.loads(answer.body)["errors"][0]["message"]
    assert answer.status == 503
    assert message.startswith("pullthrough: ")
    assert "unreachable since 2" in message


@pytest.mark.parametrize("status", [403, 401, 405, 404])
async def test_storage_that_refuses_head_does_not_keep_a_blob_from_being_cached(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str, status: int
) -> None:
    digest = fake.add_blob(data)
    fake.manners.redirect = Redirect()
    fake.fault("/storage/", Fault(status=status), method="HEAD", times=None)

    assert (await asking.blob(repository, digest)).digest == digest
    fake.journal.clear()

    assert from_cache(await asking.blob(repository, digest))
    # While the proof of the first pull is still being written down, the second is checked: with one byte.
    assert all(request.range == "bytes=0-0" for request in find(fake.journal, method="GET"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_for_the_client(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str, status: int
) -> None:
    digest = fake.add_blob(data)
    fake.manners.redirect = Redirect(status, "/hop/2/{digest}")

    answer = await asking.blob(repository, digest)

    assert (answer.status, answer.digest) == (200, digest)
    assert from_cache(await asking.blob(repository, digest))


async def test_redirects_without_an_end_are_an_error(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.manners.redirect = Redirect(302, "/hop/50/{digest}")

    answer = await asking.blob(repository, digest)

    assert answer.status == 502
    assert "redirected more than" in json.loads(answer.body)["errors"][0]["message"]


async def test_a_redirect_to_plain_http_is_never_followed(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.manners.redirect = Redirect(302, "http://storage.test/{digest}")

    answer = await asking.blob(repository, digest)

    assert answer.status == 502
    assert "from https to http" in json.loads(answer.body)["errors"][0]["message"]


async def test_manifests_that_are_not_what_their_digest_says_are_refused(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    image = fake.add_image(repository, "v1", [data])
    wrong = Fault(status=200, headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, body=b"{}")
    fake.fault(image.digest, wrong)

    answer = await asking.manifest(repository, image.digest)

    assert answer.status == 502
    assert (await asking.manifest(repository, image.digest)).digest == image.digest


@pytest.mark.parametrize("fault", [Fault(cut_after=2 * MIB), Fault(cut_after=2 * MIB, reset=True)], ids=["fin", "rst"])
def test_skopeo_never_notices_a_cdn_that_cuts(
    registry: Registry,
    cdn: Cdn,
    layout: Layout,
    clients: Clients,
    site_proxy: Proxy,
    public: Pki,
    repository: str,
    fault: Fault,
) -> None:
    image = layout.image(None, [6 * MIB], seed=repository)
    registry.seed(image, repository, "v1")
    cdn.fault(image.layers[0].digest, fault, times=2)
    skopeo = clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)

    pulled = skopeo.pull(registry.reference(repository, "v1"))

    assert pulled.holds(image), pulled.result.err


def test_skopeo_is_told_of_a_wrong_byte_and_pulls_cleanly_afterwards(
    registry: Registry,
    cdn: Cdn,
    layout: Layout,
    clients: Clients,
    site_proxy: Proxy,
    public: Pki,
    repository: str,
) -> None:
    image = layout.image(None, [1 * MIB], seed=repository)
    registry.seed(image, repository, "v1")
    cdn.fault(image.layers[0].digest, Fault(corrupt_at=1000), times=None)
    skopeo = clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)

    assert not skopeo.pull(registry.reference(repository, "v1"))
    cdn.release()
    assert skopeo.pull(registry.reference(repository, "v1")).holds(image)
