"""docker-registry of the lab is a real registry: tokens from another host, blobs from a third, a true log."""

import asyncio
import json
from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.deadline import eventually
from lab.fake_registry import basic
from lab.http import Client, Fetched
from lab.images import KIB, MANIFEST, MIB, Image, Layer, Layout
from lab.journal import find, settled
from lab.names import NameMap
from lab.pki import Pki
from lab.push import PushRefused
from lab.registry import LINK_ABOVE, Registry
from lab.tokens import TokenServer


@pytest.fixture
def client(pki: Pki, public: Pki, names: NameMap) -> Client:
    return Client(pki.ca_file, public.ca_file, names=names)


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image("v1", [64 * KIB, 1 * KIB], seed="registry")
    registry.seed(made, repository, "v1")
    return made


async def get(client: Client, registry: Registry, path: str, account: str | None = None) -> Fetched:
    """As a client does it: ask, be challenged, get a token, ask again."""
    url = f"{registry.url}/v2/{path}"
    challenged = await client.fetch(url)
    assert challenged.status == 401
    assert 'realm="https://auth.test/jwt/auth"' in challenged.headers["www-authenticate"]
    scope = f"repository:{path.rsplit('/', 2)[0]}:pull"
    headers = {"Authorization": basic(account, {"alice": "secret", "bob": "hunter2"}[account])} if account else {}
    query = f"service=container_registry&scope={scope}"
    token = json.loads((await client.fetch(f"https://auth.test/jwt/auth?{query}", headers=headers)).body)["token"]
    return await client.fetch(url, headers={"Authorization": f"Bearer {token}", "Accept": MANIFEST})


async def test_a_seeded_image_is_there_by_tag_and_by_digest(
    registry: Registry, client: Client, image: Image, repository: str
) -> None:
    by_tag = await get(client, registry, f"{repository}/manifests/v1")
    by_digest = await get(client, registry, f"{repository}/manifests/{image.digest}")

    assert by_tag.digest == by_digest.digest == image.digest
    assert by_tag.headers["docker-content-digest"] == image.digest


async def test_blobs_are_redirected_to_the_cdn_which_has_them(
    registry: Registry, cdn: Cdn, client: Client, image: Image, repository: str
) -> None:
    layer = image.layers[0]

    redirect = await get(client, registry, f"{repository}/blobs/{layer.digest}")
    blob = await client.fetch(redirect.headers["location"])

    assert redirect.status == 307
    assert redirect.headers["location"].startswith("https://cdn.test/docker/registry/v2/blobs/sha256/")
    assert (blob.digest, blob.size) == (layer.digest, layer.size)
    assert [request.status for request in find(cdn.journal, layer.digest)] == [200]


async def test_the_journal_has_every_request_before_its_answer_and_none_of_the_seeding(
    registry: Registry, client: Client, image: Image, repository: str
) -> None:
    await get(client, registry, f"{repository}/manifests/v1")

    first, second = registry.journal.requests()
    assert (first.method, first.path) == ("GET", f"/v2/{repository}/manifests/v1")
    await asyncio.to_thread(settled, registry.journal)
    assert (first.authorized, first.status) == (False, 401)
    assert (second.authorized, second.status, second.sent) == (True, 200, image.manifest.size)


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("priv/app", {"alice": 200, "bob": 401, None: 401}),
        ("team/app", {"alice": 200, "bob": 200, None: 401}),
        ("open/app", {"alice": 200, "bob": 200, None: 200}),
    ],
)
async def test_private_repositories_are_for_their_owners(
    registry: Registry, client: Client, layout: Layout, name: str, statuses: dict[str | None, int]
) -> None:
    image = layout.image("private", [KIB], seed="private")
    registry.seed(image, name, "v1")

    for account, status in statuses.items():
        answer = await get(client, registry, f"{name}/manifests/v1", account)
        journal = await asyncio.to_thread(settled, registry.journal)
        assert answer.status == journal[-1].status == status
        assert journal[-1].authorized


async def test_a_tag_moves(registry: Registry, client: Client, image: Image, layout: Layout, repository: str) -> None:
    newer = layout.image("v2", [2 * KIB], seed="newer")

    registry.seed(newer, repository, "v1")

    assert (await get(client, registry, f"{repository}/manifests/v1")).digest == newer.digest
    assert (await get(client, registry, f"{repository}/manifests/{image.digest}")).digest == image.digest


async def test_a_deleted_manifest_is_gone(registry: Registry, client: Client, image: Image, repository: str) -> None:
    registry.delete(repository, image.digest)

    assert (await get(client, registry, f"{repository}/manifests/v1")).status == 404
    with pytest.raises(PushRefused, match="404"):
        registry.delete(repository, image.digest)


async def test_a_very_large_blob_is_there_without_having_been_pushed(
    registry: Registry, cdn: Cdn, client: Client, layout: Layout, repository: str
) -> None:
    image = layout.image("large", [Layer(LINK_ABOVE, sparse=True)])
    registry.seed(image, repository, "large")
    layer = image.layers[0]

    redirect = await get(client, registry, f"{repository}/blobs/{layer.digest}")
    blob = await client.fetch(redirect.headers["location"])

    assert (blob.digest, blob.size) == (layer.digest, layer.size)
    assert find(cdn.journal, layer.digest)[0].sent == layer.size


async def test_an_index_brings_its_images(registry: Registry, client: Client, layout: Layout, repository: str) -> None:
    images = [(arch, layout.image(None, [KIB], seed="multi", arch=arch)) for arch in ("amd64", "arm64")]
    index = layout.index("multi", images)

    registry.seed(index, repository, "multi")

    for _, image in images:
        assert (await get(client, registry, f"{repository}/manifests/{image.digest}")).digest == image.digest


async def test_without_tokens_and_cdn_it_gives_blobs_to_anybody_and_starts_again_on_its_port(
    pki: Pki, client: Client, names: NameMap, layout: Layout, tmp_path: Path
) -> None:
    registry = Registry(pki, tmp_path / "registry", name="registry2.test")
    registry.start()
    try:
        registry.publish(names)
        image = layout.image("simple", [2 * MIB], seed="simple")
        registry.seed(image, "app", "v1")
        url = f"{registry.url}/v2/app/blobs/{image.layers[0].digest}"
        whole = await client.fetch(url)
        part = await client.fetch(url, headers={"Range": "bytes=0-9"})
        port = registry.port
        registry.stop()
        with pytest.raises(ConnectionRefusedError):
            await client.fetch(url)
        registry.start()
        again = await client.fetch(url)
    finally:
        registry.stop()

    assert registry.port == port
    assert whole.digest == again.digest == image.layers[0].digest
    assert part.size == 10
    seen = [(request.status, request.sent) for request in registry.journal.requests()]
    assert seen == [(200, whole.size), (206, 10), (200, whole.size)]


def test_a_registry_that_cannot_start_says_why(pki: Pki, tmp_path: Path) -> None:
    registry = Registry(pki, tmp_path, cdn_url="")
    pki.identity(registry.name)
    registry.port = 1_000_000

    with pytest.raises(RuntimeError, match="docker-registry ended with"):
        registry.start()


def test_a_token_is_accepted_only_from_this_lab(
    registry: Registry, tokens: TokenServer, names: NameMap, pki: Pki, tmp_path: Path
) -> None:
    stranger = TokenServer(pki.identity("auth.test"), Pki(tmp_path / "other").signer())
    forged = stranger.mint("alice", ["repository:priv/app:pull"])

    async def ask() -> int:
        headers = {"Authorization": f"Bearer {forged}"}
        client = Client(pki.ca_file, names=names)
        return (await client.fetch(f"{registry.url}/v2/priv/app/manifests/v1", headers=headers)).status

    assert asyncio.run(ask()) == 401
    assert eventually(lambda: find(registry.journal, status=401), "the refusal")[0].authorized
    assert tokens.asked == []
