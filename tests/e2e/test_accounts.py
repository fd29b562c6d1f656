"""Cached private images are for the accounts that the registry lets pull them, through its real token server.

Clients are led to the proxy for their tokens, so it knows which account shows which token; what an account may do
stays the registry's word.
"""

import asyncio
import json
from collections.abc import Callable

import pytest

from lab.asking import Asking, from_cache, spoken
from lab.cdn import Cdn
from lab.clients import Clients, Skopeo
from lab.deadline import eventually
from lab.engines import Engines
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.pullers import KINDS, puller
from lab.registry import Registry
from lab.token_path import ask_token, challenge, login, pull
from lab.tokens import TokenServer

ALICE, BOB = "alice:secret", "bob:hunter2"


@pytest.fixture
def image(registry: Registry, layout: Layout, private: str) -> Image:
    made = layout.image(private, [40 * KIB], seed=private)
    registry.seed(made, private, "v1")
    return made


@pytest.fixture
def skopeo(clients: Clients, site_proxy: Proxy, public: Pki) -> Skopeo:
    return clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)


async def pulled(asking: Asking, repository: str, image: Image) -> bool:
    """Does the image come, every byte of it?"""
    manifest = await asking.manifest(repository, "v1")
    blobs = [await asking.blob(repository, blob.digest) for blob in image.blobs]
    return [manifest.digest, *(blob.digest for blob in blobs)] == [image.digest, *(blob.digest for blob in image.blobs)]


# -- who may have what is cached


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_private_image_is_a_hit_for_its_account_and_refused_to_others(
    registry: Registry,
    cdn: Cdn,
    tokens: TokenServer,
    clients: Clients,
    engines: Engines,
    site_proxy: Proxy,
    public: Pki,
    image: Image,
    private: str,
    kind: str,
) -> None:
    client = puller(kind, clients, engines, site_proxy.url, site_proxy.ca_file, public.ca_file)
    name = registry.image_name(private, "v1")
    first = client.pull(name, creds=ALICE)
    assert first, first.err
    client.clean()
    cdn.journal.clear()
    registry.journal.clear()

    for reference, creds in [("v1", None), ("v1", BOB), ("v1", "alice:wrong"), (image.digest, None)]:
        refused = client.pull(registry.image_name(private, reference), creds=creds)
        assert not refused
        assert any(word in refused.err.lower() for word in ("unauthorized", "denied", "authoriz")), refused.err
    registry.journal.clear()
    again = client.pull(name, creds=ALICE)

    assert again, again.err
    assert client.holds(name, image)
    assert find(registry.journal, "/blobs/") == []
    assert find(registry.journal, "/manifests/", method="GET", status=200) == []  # containerd's first GET has no token
    assert cdn.journal.requests() == []


async def test_the_refusal_is_the_registrys_own(
    anybody: Asking, directly: Asking, tokens: TokenServer, image: Image, private: str
) -> None:
    assert await pulled(await login(anybody, ALICE, private), private, image)

    for creds in (None, BOB):
        stranger = await login(anybody, creds, private)
        plainly = directly.as_account(stranger.authorization)
        for target in ("manifests/v1", f"manifests/{image.digest}", f"blobs/{image.config.digest}"):
            refused = await stranger.fetch(f"/v2/{private}/{target}")
            assert refused.status == 401
            assert spoken(refused) == spoken(await plainly.fetch(f"/v2/{private}/{target}"))


async def test_the_refusal_of_a_token_is_the_token_servers_own(
    anybody: Asking, tokens: TokenServer, private: str
) -> None:
    tokens.forbids = True

    wrong, forbidden = (
        await ask_token(anybody, "alice:wrong", pull(private)),
        await ask_token(anybody, BOB, pull(private)),
    )

    assert (wrong.status, json.loads(wrong.body)["errors"][0]["code"]) == (401, "UNAUTHORIZED")
    assert (forbidden.status, json.loads(forbidden.body)["errors"][0]["message"]) == (403, "access forbidden")


async def test_an_account_is_the_same_with_every_token_however_it_was_asked_for(
    anybody: Asking, registry: Registry, tokens: TokenServer, image: Image, private: str
) -> None:
    tokens.ttl = 60  # too short to be given again
    first = await login(anybody, ALICE, private)
    assert await pulled(first, private, image)
    registry.journal.clear()

    second, third = await login(anybody, ALICE, private), await login(anybody, ALICE, private, post=True)

    assert len({first.authorization, second.authorization, third.authorization}) == 3
    for alice in (second, third):
        assert from_cache(await alice.manifest(private, image.digest))
        assert from_cache(await alice.blob(private, image.layers[0].digest))
    assert find(registry.journal, private) == []


async def test_a_token_is_asked_for_once_by_each_account_and_scope(
    anybody: Asking, tokens: TokenServer, private: str, repository: str
) -> None:
    asked = [(ALICE, private), (BOB, private), (None, private), (ALICE, repository)]

    given = [(await login(anybody, creds, name)).authorization for creds, name in asked * 3]

    assert len(tokens.asked) == len(asked)
    assert len(set(given)) == len(asked)


async def test_a_token_for_two_repositories_opens_both_and_a_narrow_one_only_its_own(
    anybody: Asking, registry: Registry, tokens: TokenServer, layout: Layout, image: Image, private: str
) -> None:
    team = private.replace("priv/", "team/")
    registry.seed(image, team, "v1")
    both, narrow = await login(anybody, ALICE, private, team), await login(anybody, ALICE, team)
    bob = await login(anybody, BOB, private, team)

    assert await pulled(both, private, image)
    assert await pulled(both, team, image)
    assert await pulled(narrow, team, image)
    assert await pulled(bob, team, image)
    for one in (narrow, bob):
        assert (await one.manifest(private, image.digest)).status == 401
        assert (await one.blob(private, image.layers[0].digest)).status == 401


async def test_several_accounts_take_turns_on_one_connection(
    anybody: Asking, registry: Registry, image: Image, private: str
) -> None:
    people = [
        (await login(anybody, creds, private), status) for creds, status in ((ALICE, 200), (BOB, 401), (None, 401))
    ]

    async with anybody.connect() as connection:
        for _ in range(2):
            for person, status in people:
                fields = {"Authorization": str(person.authorization), "Accept": image.manifest.media_type}
                answer = await connection.ask(f"/v2/{private}/manifests/{image.digest}", headers=fields)
                assert (await answer.read()).status == status


# -- rights that are taken away


def revoked(tokens: TokenServer, private: str) -> None:
    tokens.revoke("alice", private)


def forbidden(tokens: TokenServer, private: str) -> None:
    tokens.forbids = True
    tokens.revoke("alice", private)


def denied(tokens: TokenServer, private: str) -> None:
    tokens.deny("alice")


@pytest.mark.parametrize("take", [revoked, forbidden, denied])
async def test_a_right_that_is_taken_away_upstream_is_soon_gone_here(
    registry: Registry,
    brisk_proxy: Proxy,
    tokens: TokenServer,
    image: Image,
    private: str,
    take: Callable[[TokenServer, str], None],
) -> None:
    anybody = Asking.through(brisk_proxy, registry)
    assert await pulled(await login(anybody, ALICE, private), private, image)
    take(tokens, private)

    async def opens() -> bool:
        answer = await ask_token(anybody, ALICE, pull(private))
        if answer.status != 200:
            return False
        alice = anybody.as_account(f"Bearer {json.loads(answer.body)['token']}")
        return (await alice.blob(private, image.layers[0].digest)).status == 200

    await asyncio.to_thread(eventually, lambda: not asyncio.run(opens()), "alice is refused")
    tokens.permit("alice")
    tokens.forbids = False
    assert await opens()


def test_a_client_notices_that_its_right_was_taken_away(
    registry: Registry,
    brisk_proxy: Proxy,
    tokens: TokenServer,
    clients: Clients,
    public: Pki,
    image: Image,
    private: str,
) -> None:
    skopeo = clients.skopeo(brisk_proxy.url, brisk_proxy.ca_file, public.ca_file)
    name = registry.reference(private, image.digest)
    assert skopeo.pull(name, creds=ALICE).holds(image)
    tokens.revoke("alice")

    eventually(lambda: not skopeo.pull(name, creds=ALICE), "alice is refused")


# -- logins and pushes


def test_skopeo_and_podman_log_in_and_pull_and_push_as_who_they_are(
    registry: Registry,
    tokens: TokenServer,
    clients: Clients,
    site_proxy: Proxy,
    skopeo: Skopeo,
    public: Pki,
    layout: Layout,
    image: Image,
    private: str,
) -> None:
    podman = clients.podman(site_proxy.url, site_proxy.ca_file, public.ca_file)

    for run in (skopeo.run, podman.run):
        assert not run("login", "--username", "alice", "--password", "wrong", registry.host)
        done = run("login", "--username", "alice", "--password", "secret", registry.host)
        assert done, done.err
    assert skopeo.pull(registry.reference(private, "v1")).holds(image)
    assert podman.pull(registry.image_name(private, "v1"))
    pushed = skopeo.push(layout.reference(private), registry.reference(private, "v2"))
    assert pushed, pushed.err
    assert podman.run("push", "--quiet", registry.image_name(private, "v1"), registry.image_name(private, "v3"))
    assert skopeo.run("logout", registry.host)
    assert not skopeo.push(layout.reference(private), registry.reference(private, "v4"))
    written = [request.path.rpartition("/")[2] for request in find(registry.journal, "/manifests/", method="PUT")]
    assert written == ["v2", "v3"]


def test_docker_logs_in_pulls_pushes_and_mounts(
    registry: Registry,
    tokens: TokenServer,
    engines: Engines,
    site_proxy: Proxy,
    public: Pki,
    image: Image,
    private: str,
) -> None:
    docker = engines.docker(site_proxy.url, site_proxy.ca_file, public.ca_file)
    name, copy = registry.image_name(private, "v1"), registry.image_name(f"{private}/copy", "v1")

    assert not docker.login(registry.host, "alice:wrong")
    done = docker.login(registry.host, ALICE)
    assert done, done.err
    pulled = docker.pull(name)
    assert pulled, pulled.err
    assert docker.tag(name, copy)
    pushed = docker.push(copy)
    assert pushed, pushed.err

    (mount,) = find(registry.journal, f"/v2/{private}/copy/blobs/uploads/?", method="POST", status=201)
    assert f"mount={image.layers[0].digest.replace(':', '%3A')}" in mount.target
    assert any(len(asked.scopes) == 2 for asked in tokens.asked)
    assert any(b"grant_type=refresh_token" in asked.body for asked in tokens.asked)
    assert docker.logout(registry.host)
    assert not docker.push(copy)


async def test_a_client_is_led_to_the_registrys_own_host_for_its_token(
    anybody: Asking, registry: Registry, tokens: TokenServer, private: str
) -> None:
    plain, scoped = challenge(await anybody.fetch("/v2/")), challenge(await anybody.manifest(private, "v1"))

    assert plain["realm"] == scoped["realm"]
    assert plain["realm"].startswith(f"{registry.url}/v2/_pullthrough/token/")
    assert "scope" not in plain
    assert scoped["scope"] == f"repository:{private}:pull"


async def test_without_the_broker_challenges_stay_as_they_are(
    registry: Registry, tokens: TokenServer, proxy_factory: Proxies, image: Image, private: str
) -> None:
    proxy = proxy_factory(registry, flags=["--no-auth-broker"])
    anybody = Asking.through(proxy, registry)
    alice = anybody.as_account("Bearer " + tokens.mint("alice", pull(private)))

    assert challenge(await anybody.fetch("/v2/"))["realm"] == tokens.realm
    assert await pulled(alice, private, image)
    assert from_cache(await alice.blob(private, image.layers[0].digest))
    assert (await anybody.blob(private, image.layers[0].digest)).status == 401
