"""Pushes and everything else pass through as they are, and what they change is known here at once."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lab.asking import Asking, cache_status, from_cache, spoken
from lab.clients import Clients, Skopeo
from lab.fake_registry import FakeRegistry
from lab.http import Client
from lab.images import KIB, MANIFEST, MIB, Image, Layout
from lab.journal import find
from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import Proxy
from lab.registry import Registry
from lab.tokens import TokenServer

MB = 1_000_000


@pytest.fixture
def skopeo(clients: Clients, site_proxy: Proxy, public: Pki) -> Skopeo:
    return clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)


@pytest.fixture
def credential(tokens: TokenServer, repository: str) -> str:
    scopes = [f"repository:{name}:pull,push,delete" for name in (repository, f"{repository}/copy")]
    return "Bearer " + tokens.mint("alice", [*scopes, "registry:catalog:*"])


@pytest.fixture
def alice(registry: Registry, site_proxy: Proxy, credential: str) -> Asking:
    return Asking.through(site_proxy, registry, credential)


@pytest.fixture
def directly(registry: Registry, pki: Pki, names: NameMap, credential: str) -> Asking:
    return Asking(Client(pki.ca_file, names=names), registry, credential)


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [50 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


async def pull(asking: Asking, repository: str, image: Image) -> None:
    assert (await asking.manifest(repository, "v1")).digest == image.digest
    for blob in image.blobs:
        assert (await asking.blob(repository, blob.digest)).digest == blob.digest


# -- pushes


def test_skopeo_pushes_what_it_then_pulls(registry: Registry, skopeo: Skopeo, layout: Layout, repository: str) -> None:
    image = layout.image(repository, [300 * KIB], seed=repository)
    reference = registry.reference(repository, "v1")

    pushed = skopeo.push(layout.reference(repository), reference, creds="alice:secret")

    assert pushed, pushed.err
    assert skopeo.pull(reference).holds(image)


async def test_a_chunked_upload_of_200_mb_lands_intact_with_flat_memory(
    registry: Registry, alice: Asking, directly: Asking, site_proxy: Proxy, repository: str
) -> None:
    piece, count = bytes(range(256)) * (MIB // 256), 200
    digest = f"sha256:{_hash(piece, count)}"
    place = await _begin_upload(alice, repository)
    site_proxy.reset_peak_rss()
    before = site_proxy.peak_rss()

    patched = await alice.fetch(place, method="PATCH", body=(piece for _ in range(count)))
    finished = await alice.fetch(
        f"{_target(patched.headers['location'])}&digest={digest}", method="PUT", headers={"Content-Length": "0"}
    )

    assert (patched.status, finished.status) == (202, 201)
    assert site_proxy.peak_rss() - before < 50 * MB
    assert _hash_of(registry, digest) == digest.removeprefix("sha256:")
    assert (await directly.blob(repository, digest, method="HEAD")).status == 307


async def test_chunked_patches_land_in_their_order(alice: Asking, repository: str) -> None:
    pieces = [bytes([number]) * 100 * KIB for number in range(5)]
    digest = f"sha256:{hashlib.sha256(b''.join(pieces)).hexdigest()}"
    place = await _begin_upload(alice, repository)

    for piece in pieces:
        patched = await alice.fetch(place, method="PATCH", body=iter([piece[: 60 * KIB], piece[60 * KIB :]]))
        assert patched.status == 202
        place = _target(patched.headers["location"])
    finished = await alice.fetch(f"{place}&digest={digest}", method="PUT", headers={"Content-Length": "0"})

    assert finished.status == 201
    assert (await alice.blob(repository, digest)).digest == digest


async def test_a_wrong_digest_is_refused_by_the_registry_itself(alice: Asking, repository: str) -> None:
    place = await _begin_upload(alice, repository)

    refused = await alice.fetch(f"{place}&digest=sha256:{'0' * 64}", method="PUT", body=b"something else")

    assert refused.status == 400
    assert b"DIGEST_INVALID" in refused.body


async def test_a_blob_is_mounted_from_another_repository(alice: Asking, image: Image, repository: str) -> None:
    layer = image.layers[0]
    uploads = f"/v2/{repository}/copy/blobs/uploads/?mount={layer.digest}&from={repository}"

    mounted = await alice.fetch(uploads, method="POST", headers={"Content-Length": "0"})

    assert mounted.status == 201
    assert (await alice.blob(f"{repository}/copy", layer.digest)).digest == layer.digest


# -- what a change upstream means here


async def test_a_deleted_manifest_is_gone_at_once(alice: Asking, image: Image, repository: str) -> None:
    await pull(alice, repository, image)
    assert from_cache(await alice.manifest(repository, image.digest))

    deleted = await alice.manifest(repository, image.digest, method="DELETE")

    assert deleted.status == 202
    assert (await alice.manifest(repository, image.digest)).status == 404
    assert (await alice.manifest(repository, image.digest, method="HEAD")).status == 404
    assert (await alice.manifest(repository, "v1")).status == 404


async def test_a_deleted_blob_is_gone_at_once_from_its_repository_alone(
    registry: Registry, alice: Asking, image: Image, repository: str
) -> None:
    registry.seed(image, f"{repository}/copy", "v1")
    layer = image.layers[0]
    for name in (repository, f"{repository}/copy"):
        await pull(alice, name, image)

    deleted = await alice.blob(repository, layer.digest, method="DELETE")

    assert deleted.status == 202
    assert (await alice.blob(repository, layer.digest)).status == 404
    assert (await alice.blob(repository, layer.digest, method="HEAD")).status == 404
    assert from_cache(await alice.blob(f"{repository}/copy", layer.digest))


async def test_a_delete_that_the_upstream_refused_changes_nothing(
    alice: Asking, tokens: TokenServer, image: Image, repository: str
) -> None:
    await pull(alice, repository, image)
    bob = alice.as_account("Bearer " + tokens.mint("bob", [f"repository:{repository}:pull,delete"]))

    assert (await bob.manifest(repository, image.digest, method="DELETE")).status == 401
    assert from_cache(await alice.manifest(repository, image.digest))


async def test_a_tag_that_was_put_anew_brings_the_new_image_at_once(
    registry: Registry, layout: Layout, alice: Asking, image: Image, repository: str
) -> None:
    await pull(alice, repository, image)
    moved = layout.image(None, [10 * KIB], seed=f"{repository} moved")
    registry.seed(moved, repository, "other")

    body, kind = moved.manifest.path.read_bytes(), {"Content-Type": MANIFEST}
    put = await alice.manifest(repository, "v1", method="PUT", body=body, headers=kind)

    assert (put.status, put.headers["docker-content-digest"]) == (201, moved.digest)
    assert (await alice.manifest(repository, "v1", method="HEAD")).headers["docker-content-digest"] == moved.digest
    await pull(alice, repository, moved)


# -- unchanged answers


async def test_head_is_answered_as_without_us(alice: Asking, directly: Asking, image: Image, repository: str) -> None:
    for reference in ("v1", image.digest, "no-such-tag", f"sha256:{'0' * 64}"):
        through = await alice.manifest(repository, reference, method="HEAD")
        assert spoken(through) == spoken(await directly.manifest(repository, reference, method="HEAD"))
    unknown = f"sha256:{'0' * 64}"
    through = await alice.blob(repository, unknown, method="HEAD")
    assert spoken(through) == spoken(await directly.blob(repository, unknown, method="HEAD"))


async def test_head_of_a_blob_is_answered_from_the_end_of_its_redirects(
    alice: Asking, image: Image, repository: str
) -> None:
    """Else a client that pushes has to reach and to trust the storage host, unlike one that pulls."""
    layer = image.layers[0]

    head = await alice.blob(repository, layer.digest, method="HEAD")

    assert (head.status, head.headers["content-length"], head.size) == (200, str(layer.size), 0)
    assert head.headers["docker-content-digest"] == layer.digest


async def test_head_of_a_cached_manifest_is_answered_as_without_us(
    alice: Asking, directly: Asking, image: Image, repository: str
) -> None:
    await pull(alice, repository, image)

    for reference in ("v1", image.digest):
        through = await alice.manifest(repository, reference, method="HEAD")
        assert spoken(through) == spoken(await directly.manifest(repository, reference, method="HEAD"))


async def test_get_of_a_manifest_is_answered_as_without_us_cold_and_warm(
    alice: Asking, directly: Asking, image: Image, repository: str
) -> None:
    for reference in ("v1", image.digest, "v1", image.digest):
        through = await alice.manifest(repository, reference)
        assert spoken(through) == spoken(await directly.manifest(repository, reference))


async def test_head_of_a_cached_blob_tells_its_size_and_digest(alice: Asking, image: Image, repository: str) -> None:
    await pull(alice, repository, image)
    layer = image.layers[0]

    head = await alice.blob(repository, layer.digest, method="HEAD")

    assert (head.status, head.size, from_cache(head)) == (200, 0, True)
    assert head.headers["content-length"] == str(layer.size)
    assert head.headers["docker-content-digest"] == layer.digest


async def test_head_of_a_cached_blob_is_answered_here_for_every_account_that_may_pull(
    registry: Registry, alice: Asking, tokens: TokenServer, image: Image, repository: str
) -> None:
    """Else a client that pushes has to reach and to trust the storage host, unlike one that pulls."""
    await pull(alice, repository, image)
    bob = alice.as_account("Bearer " + tokens.mint("bob", [f"repository:{repository}:pull"]))

    head = await bob.blob(repository, image.layers[0].digest, method="HEAD")

    assert (head.status, from_cache(head)) == (200, True)
    assert [request.method for request in find(registry.journal, image.layers[0].digest)][-1] == "HEAD"


async def test_if_none_match_is_honoured(alice: Asking, image: Image, repository: str) -> None:
    await pull(alice, repository, image)
    known = {"If-None-Match": f'"{image.digest}"'}

    for reference in ("v1", image.digest):
        unchanged = await alice.manifest(repository, reference, headers=known)
        assert (unchanged.status, unchanged.size) == (304, 0)
        assert (await alice.manifest(repository, reference, headers={"If-None-Match": '"x"'})).status == 200
    layer = image.layers[0].digest
    assert (await alice.blob(repository, layer, headers={"If-None-Match": f'"{layer}"'})).status == 304


@pytest.mark.parametrize(
    "target",
    [
        "/v2/",
        "/v2/_catalog",
        "/v2/_catalog?n=1",
        "/v2/{repository}/tags/list",
        "/v2/{repository}/tags/list?n=1&last=a",
        "/v2/{repository}/referrers/{digest}",
        "/v2/{repository}/no-such-end-point",
        "/",
        "/favicon.ico?x=%2F..",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_everything_else_passes_with_the_same_bytes(
    alice: Asking, directly: Asking, image: Image, repository: str, target: str, method: str
) -> None:
    target = target.format(repository=repository, digest=image.digest)

    through = await alice.fetch(target, method=method)

    assert spoken(through) == spoken(await directly.fetch(target, method=method))
    assert "fwd=bypass" in cache_status(through)


async def test_referrers_pass_with_the_same_bytes(fake: FakeRegistry, asking: Asking, repository: str) -> None:
    target = f"/v2/{repository}/referrers/sha256:{'1' * 64}"
    index = (200, {"Content-Type": "application/vnd.oci.image.index.v1+json", "OCI-Filters-Applied": "x"}, b'{"a":1}')
    fake.content.pages[target] = index

    for _ in range(2):
        answer = await asking.fetch(f"{target}?artifactType=x")
        assert (answer.status, answer.body, answer.headers["oci-filters-applied"]) == (200, b'{"a":1}', "x")
    assert len(find(fake.journal, "/referrers/")) == 2


async def test_requests_follow_one_another_on_one_connection(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)

    async with asking.connect() as connection:
        for _ in range(2):
            assert (await (await connection.ask("/v2/")).read()).status == 200
            assert (await (await connection.ask(f"/v2/{repository}/blobs/{digest}")).read()).digest == digest
            head = await (await connection.ask(f"/v2/{repository}/blobs/{digest}", method="HEAD")).read()
            assert head.headers["content-length"] == str(len(data))
            posted = await connection.ask("/v2/x", method="POST", body=iter([b"a", b"b"]))
            assert (await posted.read()).status == 404


async def test_an_old_client_that_speaks_http_1_0_gets_its_blob(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)

    for _ in range(2):
        assert (await asking.blob(repository, digest, version="1.0")).digest == digest


async def _begin_upload(asking: Asking, repository: str) -> str:
    begun = await asking.fetch(f"/v2/{repository}/blobs/uploads/", method="POST", headers={"Content-Length": "0"})
    assert begun.status == 202
    return _target(begun.headers["location"])


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def _hash(piece: bytes, count: int) -> str:
    hasher = hashlib.sha256()
    for _ in range(count):
        hasher.update(piece)
    return hasher.hexdigest()


def _hash_of(registry: Registry, digest: str) -> str:
    name = digest.removeprefix("sha256:")
    with Path(registry.storage, "docker/registry/v2/blobs/sha256", name[:2], name, "data").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
