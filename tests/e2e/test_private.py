"""A cached private image is for those alone whom the upstream gives it; others get the upstream's own words."""

import pytest

from lab.asking import Asking, from_cache, spoken
from lab.cdn import Cdn
from lab.clients import Clients
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.pki import Pki
from lab.proxy import Proxy
from lab.registry import Registry
from lab.tokens import TokenServer


@pytest.fixture
def image(registry: Registry, layout: Layout, private: str) -> Image:
    made = layout.image(None, [100 * KIB], seed=private)
    registry.seed(made, private, "v1")
    return made


def bearer(tokens: TokenServer, account: str, *repositories: str) -> str:
    return "Bearer " + tokens.mint(account, [f"repository:{repository}:pull" for repository in repositories])


async def pull(asking: Asking, repository: str, image: Image) -> None:
    """The image comes, and is cached from then on."""
    assert (await asking.manifest(repository, "v1")).digest == image.digest
    for blob in image.blobs:
        assert (await asking.blob(repository, blob.digest)).digest == blob.digest
        assert from_cache(await asking.blob(repository, blob.digest))


@pytest.mark.parametrize("who", ["nobody", "bob", "liar"])
async def test_others_get_the_upstreams_own_refusal_of_what_is_cached(
    anybody: Asking, directly: Asking, tokens: TokenServer, image: Image, private: str, who: str
) -> None:
    await pull(anybody.as_account(bearer(tokens, "alice", private)), private, image)
    credential = {"nobody": None, "bob": bearer(tokens, "bob", private), "liar": "Bearer made.up.token"}[who]
    stranger, plainly = anybody.as_account(credential), directly.as_account(credential)

    for reference in ("v1", image.digest):
        refused = await stranger.manifest(private, reference)
        assert spoken(refused) == spoken(await plainly.manifest(private, reference))
        assert refused.status == 401
        assert "Bearer realm=" in refused.headers["www-authenticate"]
    for blob in image.blobs:
        refused = await stranger.blob(private, blob.digest)
        assert spoken(refused) == spoken(await plainly.blob(private, blob.digest))
        assert refused.status == 401


async def test_a_head_tells_others_nothing_either(
    anybody: Asking, directly: Asking, tokens: TokenServer, image: Image, private: str
) -> None:
    await pull(anybody.as_account(bearer(tokens, "alice", private)), private, image)

    for reference in ("v1", image.digest):
        refused = await anybody.manifest(private, reference, method="HEAD")
        assert spoken(refused) == spoken(await directly.manifest(private, reference, method="HEAD"))
    refused = await anybody.blob(private, image.config.digest, method="HEAD")
    assert spoken(refused) == spoken(await directly.blob(private, image.config.digest, method="HEAD"))


@pytest.mark.parametrize("reference", ["tag", "digest"])
def test_skopeo_is_refused_a_cached_private_image_without_the_right_credentials(
    registry: Registry,
    clients: Clients,
    site_proxy: Proxy,
    public: Pki,
    cdn: Cdn,
    image: Image,
    private: str,
    reference: str,
) -> None:
    skopeo = clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)
    name = registry.reference(private, "v1" if reference == "tag" else image.digest)
    assert skopeo.pull(name, creds="alice:secret").holds(image)
    cdn.journal.clear()

    assert not skopeo.pull(name)
    assert not skopeo.pull(name, creds="bob:hunter2")
    assert not skopeo.pull(name, creds="alice:wrong")
    assert skopeo.pull(name, creds="alice:secret").holds(image)
    assert cdn.journal.requests() == []


async def test_a_repository_that_one_may_read_does_not_open_the_blobs_of_another(
    anybody: Asking, directly: Asking, tokens: TokenServer, image: Image, private: str
) -> None:
    await pull(anybody.as_account(bearer(tokens, "alice", private)), private, image)
    team = private.replace("priv/", "team/")
    credential = bearer(tokens, "bob", team)
    bob, plainly = anybody.as_account(credential), directly.as_account(credential)

    for blob in image.blobs:
        refused = await bob.blob(team, blob.digest)
        assert spoken(refused) == spoken(await plainly.blob(team, blob.digest))
        assert refused.status == 404
    refused = await bob.manifest(team, image.digest)
    assert spoken(refused) == spoken(await plainly.manifest(team, image.digest))
    assert refused.status == 404


async def test_a_manifest_of_ones_own_that_names_a_foreign_blob_does_not_open_it(
    fake: FakeRegistry, asking: Asking, data: bytes, repository: str
) -> None:
    """Some registries let anybody push a manifest that names whatever they like."""
    private, team = f"priv/{repository}", f"team/{repository}"
    (layer,) = fake.add_image(private, "v1", [data]).layers
    fake.add_image(team, "v1", [data])
    fake.fault(f"/v2/{team}/blobs/{layer}", Fault(status=404, body=b"unknown here"), times=None, method=None)
    alice, bob = asking.as_account("Bearer alice"), asking.as_account("Bearer bob")
    assert (await alice.blob(private, layer)).digest == layer
    assert (await bob.manifest(team, "v1")).status == 200

    refused = await bob.blob(team, layer)

    assert (refused.status, refused.body) == (404, b"unknown here")


async def test_a_private_blob_on_its_way_is_not_shared_with_others(
    cdn: Cdn, anybody: Asking, tokens: TokenServer, image: Image, private: str
) -> None:
    layer = image.layers[0]
    stalled = cdn.fault(layer.digest, Fault(stall_after=10 * KIB))
    alice = anybody.as_account(bearer(tokens, "alice", private))
    bob = anybody.as_account(bearer(tokens, "bob", private, private.replace("priv/", "team/")))

    async with alice.open_blob(private, layer.digest) as coming:
        await coming.read_at_least(KIB)
        refused = await bob.blob(private, layer.digest)
        elsewhere = await bob.blob(private.replace("priv/", "team/"), layer.digest)
        stalled.release()
        whole = await coming.read()

    assert (refused.status, elsewhere.status) == (401, 404)
    assert whole.digest == layer.digest


async def test_each_account_that_may_pull_is_asked_for_once_and_then_gets_the_cached_blobs(
    registry: Registry, layout: Layout, cdn: Cdn, anybody: Asking, tokens: TokenServer, private: str
) -> None:
    team = private.replace("priv/", "team/")
    image = layout.image(None, [50 * KIB], seed=team)
    registry.seed(image, team, "v1")
    await pull(anybody.as_account(bearer(tokens, "alice", team)), team, image)
    cdn.journal.clear()
    registry.journal.clear()

    await pull(anybody.as_account(bearer(tokens, "bob", team)), team, image)

    assert find(cdn.journal, method="GET") == []
    assert [request.method for request in registry.journal.requests()] == ["HEAD"]
