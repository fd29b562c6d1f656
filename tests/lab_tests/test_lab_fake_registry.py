"""The fake registry is a good registry by default, and as odd as a test tells it to be."""

from collections.abc import Iterator

import pytest

from lab.fake_registry import MANIFEST, FakeRegistry, Redirect, basic, digest_of, only
from lab.faults import Fault
from lab.http import Client, Cut
from lab.journal import find
from lab.names import NameMap
from lab.pki import Pki
from lab.web import served

LAYER = bytes(range(256)) * 1000


@pytest.fixture
def client(pki: Pki, names: NameMap) -> Client:
    return Client(pki.ca_file, names=names)


@pytest.fixture
def manifest_url(fake: FakeRegistry) -> str:
    fake.add_image("team/app", "v1", [LAYER])
    return f"{fake.url}/v2/team/app/manifests/v1"


@pytest.fixture
def blob_url(fake: FakeRegistry) -> str:
    return f"{fake.url}/v2/team/app/blobs/{fake.add_blob(LAYER)}"


@pytest.fixture
def insecure(names: NameMap) -> Iterator[FakeRegistry]:
    with served(FakeRegistry("storage.test", None, public_port=80), names) as server:
        yield server


async def test_an_image_is_there_by_tag_and_digest_with_its_blobs(fake: FakeRegistry, client: Client) -> None:
    image = fake.add_image("team/app", "v1", [LAYER])

    by_tag = await client.fetch(f"{fake.url}/v2/team/app/manifests/v1")
    by_digest = await client.fetch(f"{fake.url}/v2/team/app/manifests/{image.digest}")
    layer = await client.fetch(f"{fake.url}/v2/team/app/blobs/{image.layers[0]}")

    assert by_tag.digest == by_digest.digest == by_tag.headers["docker-content-digest"] == image.digest
    assert by_tag.headers["content-type"] == MANIFEST
    assert layer.body == LAYER


@pytest.mark.parametrize("path", ["/v2/team/app/manifests/none", f"/v2/a/blobs/{digest_of(b'')}", "/x"])
async def test_what_it_does_not_have_is_404_with_an_oci_error(fake: FakeRegistry, client: Client, path: str) -> None:
    answer = await client.fetch(fake.url + path)

    assert answer.status == 404
    assert b'"errors"' in answer.body


async def test_the_base_answers_and_any_page_may_be_added(fake: FakeRegistry, client: Client) -> None:
    fake.content.pages["/v2/app/tags/list"] = (429, {"Retry-After": "3"}, b"later")

    assert (await client.fetch(f"{fake.url}/v2/")).status == 200
    assert (await client.fetch(f"{fake.url}/v2/app/tags/list")).headers["retry-after"] == "3"


async def test_a_digest_may_be_missing_on_head(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    fake.manners.digest_on_head = False

    assert "docker-content-digest" not in (await client.fetch(manifest_url, method="HEAD")).headers
    assert "docker-content-digest" in (await client.fetch(manifest_url)).headers


async def test_a_digest_may_be_missing_on_get(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    fake.manners.digest_on_get = False

    assert "docker-content-digest" in (await client.fetch(manifest_url, method="HEAD")).headers
    assert "docker-content-digest" not in (await client.fetch(manifest_url)).headers


async def test_a_digest_may_be_wrong(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    fake.manners.digest_header = digest_of(b"something else")

    answer = await client.fetch(manifest_url)

    assert answer.headers["docker-content-digest"] == digest_of(b"something else") != answer.digest


async def test_head_may_be_refused(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    fake.manners.head_status = 405

    assert (await client.fetch(manifest_url, method="HEAD")).status == 405
    assert (await client.fetch(manifest_url)).status == 200


async def test_conditional_requests_are_honoured_or_not(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    etag = (await client.fetch(manifest_url)).headers["etag"]

    honoured = await client.fetch(manifest_url, headers={"If-None-Match": etag})
    fake.manners.conditional = False
    ignored = await client.fetch(manifest_url, headers={"If-None-Match": etag})
    fake.manners.etag = False

    assert (honoured.status, honoured.size, ignored.status) == (304, 0, 200)
    assert "etag" not in (await client.fetch(manifest_url)).headers


async def test_credentials_may_be_demanded(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    alice = basic("alice", "secret")
    fake.manners.accepts = only(alice)
    fake.manners.challenge = 'Basic realm="ecr"'

    refused = await client.fetch(manifest_url)
    accepted = await client.fetch(manifest_url, headers={"Authorization": alice})

    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="ecr"')
    assert accepted.status == 200
    assert [request.authorized for request in fake.journal.requests()] == [False, True]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_blobs_may_be_redirected_in_any_way(
    fake: FakeRegistry, client: Client, blob_url: str, status: int
) -> None:
    fake.manners.redirect = Redirect(status)

    redirect = await client.fetch(blob_url)
    blob = await client.fetch(fake.url + redirect.headers["location"])

    assert redirect.status == status
    assert blob.body == LAYER


async def test_a_redirect_may_take_many_hops(fake: FakeRegistry, client: Client, blob_url: str) -> None:
    fake.manners.redirect = Redirect(302, "/hop/2/{digest}")

    answer, hops = await client.fetch(blob_url), 0
    while answer.status != 200:
        answer, hops = await client.fetch(fake.url + answer.headers["location"]), hops + 1

    assert (hops, answer.body) == (3, LAYER)


async def test_a_redirect_may_lead_to_plain_http(
    fake: FakeRegistry, insecure: FakeRegistry, client: Client, blob_url: str
) -> None:
    insecure.add_blob(LAYER)
    fake.manners.redirect = Redirect(302, insecure.url + "/storage/{digest}")

    location = (await client.fetch(blob_url)).headers["location"]

    assert location.startswith("http://storage.test/storage/sha256:")
    assert (await client.fetch(location)).body == LAYER


async def test_storage_may_refuse_a_forwarded_authorization(fake: FakeRegistry, client: Client, blob_url: str) -> None:
    fake.manners.refuses_authorization = True
    url = f"{fake.url}/storage/{digest_of(LAYER)}"

    assert (await client.fetch(url, headers={"Authorization": "Bearer x"})).status == 400
    assert (await client.fetch(url)).status == 200
    assert (await client.fetch(blob_url, headers={"Authorization": "Bearer x"})).status == 200


async def test_blobs_have_the_faults_of_the_cdn(fake: FakeRegistry, client: Client, blob_url: str) -> None:
    fake.fault(blob_url.rpartition("/")[2], Fault(cut_after=10))
    fake.fault("/blobs/", Fault(ignore_range=True))

    with pytest.raises(Cut):
        await client.fetch(blob_url)
    ranged = await client.fetch(blob_url, headers={"Range": "bytes=5-"})

    assert (ranged.status, ranged.size) == (200, len(LAYER))


async def test_manifests_may_be_answered_with_anything(fake: FakeRegistry, client: Client, manifest_url: str) -> None:
    fake.fault("/manifests/", Fault(status=429, headers={"Retry-After": "9"}), method=None)
    fake.fault("/manifests/", Fault(status=200, headers={"Content-Type": MANIFEST}, body=b"{}"))

    limited = await client.fetch(manifest_url, method="HEAD")
    wrong = await client.fetch(manifest_url)

    assert (limited.status, limited.headers["retry-after"]) == (429, "9")
    assert (wrong.status, wrong.body) == (200, b"{}")
    assert len(find(fake.journal, "/manifests/")) == 2


async def test_a_manifest_may_be_big(fake: FakeRegistry, client: Client) -> None:
    body = b'{"schemaVersion": 2, "pad": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    digest = fake.add_manifest("app", "big", body)

    assert (await client.fetch(f"{fake.url}/v2/app/manifests/big")).digest == digest


async def test_one_fault_of_several_is_taken_back(fake: FakeRegistry, client: Client, blob_url: str) -> None:
    first = fake.fault("/blobs/", Fault(status=500), times=None)
    fake.fault("/blobs/", Fault(status=429), times=None)

    assert (await client.fetch(blob_url)).status == 500
    fake.disarm(first)
    assert (await client.fetch(blob_url)).status == 429
