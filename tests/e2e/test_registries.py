"""Registries of all manners: each keeps its own content, and oddities cost cache hits at most, never a pull."""

import json
from collections.abc import Iterator

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.clients import Clients
from lab.fake_registry import FakeRegistry, Manners, basic, only
from lab.faults import Fault
from lab.images import KIB, Layout
from lab.journal import find
from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.web import served


@pytest.fixture
def second(pki: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    with served(FakeRegistry("registry2.test", pki.identity("registry2.test")), names) as server:
        yield server


@pytest.fixture
def insecure(names: NameMap) -> Iterator[FakeRegistry]:
    with served(FakeRegistry("storage.test", None), names) as server:
        yield server


async def test_the_same_repository_and_tag_of_two_registries_never_mix(
    fake: FakeRegistry, second: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, second)
    ones, others = fake.add_image(repository, "v1", [data]), second.add_image(repository, "v1", [data[::-1]])
    roads = [(Asking.through(proxy, fake), ones), (Asking.through(proxy, second), others)]

    for _ in range(2):
        for asking, image in roads:
            assert (await asking.manifest(repository, "v1")).digest == image.digest
            assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
    for asking, foreign in ((roads[0][0], others), (roads[1][0], ones)):
        assert (await asking.blob(repository, foreign.layers[0])).status == 404
        assert (await asking.manifest(repository, foreign.digest)).status == 404


async def test_the_same_host_on_two_ports_is_two_registries(
    fake: FakeRegistry, pki: Pki, names: NameMap, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    with served(FakeRegistry("fake.test", pki.identity("fake.test")), names) as other:
        proxy = proxy_factory(fake, other)
        image = fake.add_image(repository, "v1", [data])
        assert (await Asking.through(proxy, fake).blob(repository, image.layers[0])).status == 200
        assert (await Asking.through(proxy, other).blob(repository, image.layers[0])).status == 404


async def test_a_blob_that_two_registries_have_is_stored_once_and_asked_for_in_each(
    fake: FakeRegistry, second: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, second)
    digest = fake.add_blob(data)
    second.add_blob(data)
    assert (await Asking.through(proxy, fake).blob(repository, digest)).digest == digest

    answer = await Asking.through(proxy, second).blob(repository, digest)

    assert (answer.digest, from_cache(answer)) == (digest, True)
    assert [request.method for request in find(second.journal, digest)] == ["HEAD"]


async def test_a_plain_http_registry_is_cached_too(
    insecure: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    asking = Asking.through(proxy_factory(insecure), insecure)
    image = insecure.add_image(repository, "v1", [data])

    for cached in (False, True):
        assert (await asking.manifest(repository, "v1")).digest == image.digest
        answer = await asking.blob(repository, image.layers[0])
        assert (answer.digest, from_cache(answer)) == (image.layers[0], cached)
    assert (await asking.fetch("/v2/")).status == 200


@pytest.mark.timeout(30)
def test_skopeo_pulls_from_a_plain_http_registry(
    insecure: FakeRegistry, proxy_factory: Proxies, clients: Clients, layout: Layout, repository: str
) -> None:
    image = layout.image(None, [20 * KIB], seed=repository)
    for blob in image.blobs:
        insecure.add_blob(blob.path.read_bytes())
    insecure.add_manifest("app", "v1", image.manifest.path.read_bytes())
    proxy = proxy_factory(insecure, flags=["--connect-timeout", "1s", "--first-byte-timeout", "1s"])
    skopeo = clients.skopeo(proxy.url, proxy.ca_file)

    for _ in range(2):
        pulled = skopeo.pull(f"docker://{insecure.host}/app:v1", "--src-tls-verify=false")
        assert pulled.holds(image), pulled.result.err
    assert len(find(insecure.journal, image.layers[0].digest, method="GET")) == 1


def test_skopeo_pulls_from_a_registry_with_basic_authentication_alone(
    fake: FakeRegistry, fake_proxy: Proxy, clients: Clients, layout: Layout, repository: str
) -> None:
    image = layout.image(None, [20 * KIB], seed=repository)
    for blob in image.blobs:
        fake.add_blob(blob.path.read_bytes())
    fake.add_manifest(repository, "v1", image.manifest.path.read_bytes())
    fake.manners.accepts = only(basic("a", "b"))
    skopeo = clients.skopeo(fake_proxy.url, fake_proxy.ca_file)
    reference = f"docker://{fake.host}/{repository}:v1"

    for _ in range(2):
        assert skopeo.pull(reference, creds="a:b").holds(image)
    assert len(find(fake.journal, image.layers[0].digest, method="GET")) == 1
    assert not skopeo.pull(reference, creds="a:wrong")
    assert not skopeo.pull(reference)


@pytest.mark.parametrize(
    "manners",
    [
        Manners(digest_on_head=False),
        Manners(digest_on_head=False, digest_on_get=False, etag=False),
        Manners(head_status=405),
        Manners(head_status=404),
        Manners(head_status=401),
        Manners(head_status=500),
    ],
    ids=["no digest on HEAD", "no digest at all", "HEAD 405", "HEAD 404", "HEAD 401", "HEAD 500"],
)
async def test_oddities_of_head_cost_a_get_of_the_manifest_and_no_more(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str, manners: Manners
) -> None:
    fake.manners = manners
    image = fake.add_image(repository, "v1", [data])
    moved = fake.add_image(repository, "v2", [data[::-1]])

    for _ in range(2):
        assert (await asking.manifest(repository, "v1")).digest == image.digest
        assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
    fake.content.manifests[repository, "v1"] = fake.content.manifests[repository, "v2"]

    assert (await asking.manifest(repository, "v1")).digest == moved.digest
    assert (await asking.manifest(repository, image.digest)).digest == image.digest
    assert len(find(fake.journal, image.layers[0], method="GET")) == 1


async def test_a_wrong_digest_header_is_not_believed(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    image = fake.add_image(repository, "v1", [data])
    other = fake.add_image(repository, "v2", [data[::-1]])
    await asking.manifest(repository, "v2")
    fake.manners.digest_on_head = False
    fake.manners.digest_header = other.digest

    assert (await asking.manifest(repository, "v1")).digest == image.digest
    fake.manners.digest_header = None
    assert (await asking.manifest(repository, image.digest)).digest == image.digest


async def test_a_manifest_that_is_too_big_to_keep_passes(fake: FakeRegistry, asking: Asking, repository: str) -> None:
    digest = fake.add_manifest(repository, "big", b'{"pad": "' + b"x" * (9 << 20) + b'"}')

    for _ in range(2):
        answer = await asking.manifest(repository, "big")
        assert (answer.digest, "fwd=bypass" in cache_status(answer)) == (digest, True)


async def test_a_rate_limited_manifest_is_told_as_it_is(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    fake.add_image(repository, "v1", [data])
    limit = Fault(status=429, headers={"Retry-After": "9", "Content-Type": "text/plain"}, body=b"HAP429")
    fake.fault("/manifests/v1", limit, times=None, method=None)

    limited = asking.as_account("Bearer whoever is limited")  # who was told to wait is not heard for so long

    answer = await limited.manifest(repository, "v1")

    assert (answer.status, answer.headers["retry-after"]) == (429, "9")
    assert json.loads(answer.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert [request.method for request in find(fake.journal, "/manifests/v1")] == ["HEAD"]  # a GET would be one more


async def test_accept_decides_which_manifest_a_tag_means(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    """As distribution: a manifest whose type is not accepted is 404, also when it is cached for others."""
    image = fake.add_image(repository, "v1", [data])
    refusal = Fault(status=404, body=b"not in that type")
    fake.fault(
        lambda request: "/manifests/" in request.path and request.headers.get("accept") == "text/other",
        refusal,
        times=None,
        method=None,
    )
    assert (await asking.manifest(repository, "v1")).digest == image.digest

    for reference in ("v1", image.digest):
        answer = await asking.manifest(repository, reference, headers={"Accept": "text/other"})
        assert (answer.status, answer.body) == (404, b"not in that type")
    assert from_cache(await asking.manifest(repository, image.digest))
