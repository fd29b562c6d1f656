"""While the registry, its token server or the names are gone, everybody pulls what they pulled before, and no more."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.deadline import eventually
from lab.front import Front
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.proxy import Proxies, Proxy
from lab.pullers import KINDS, Puller
from lab.raw import Spoken
from lab.registry import Registry
from lab.token_path import ask_token, challenge, login, pull, token
from lab.tokens import TokenServer

ALICE, BOB = "alice:secret", "bob:hunter2"


@dataclass(frozen=True)
class Site:
    """A registry with its token server, and the proxy before them."""

    registry: Registry
    tokens: TokenServer
    proxy: Proxy

    @contextmanager
    def without_both(self) -> Iterator[None]:
        with self.without_registry(), self.without_tokens():
            yield

    @contextmanager
    def without_registry(self) -> Iterator[None]:
        self.registry.stop()
        try:
            yield
        finally:
            self.registry.start()

    @contextmanager
    def without_tokens(self) -> Iterator[None]:
        self.tokens.stop()
        try:
            yield
        finally:
            self.tokens.start()

    @contextmanager
    def without_names(self) -> Iterator[None]:
        self.proxy.lose_names("registry.test", "front.test", "auth.test", "cdn.test")
        try:
            yield
        finally:
            self.proxy.regain_names()


type Outage = Callable[[Site], AbstractContextManager[None]]
OUTAGES: dict[str, Outage] = {
    "both stopped": Site.without_both,
    "registry stopped": Site.without_registry,
    "token server stopped": Site.without_tokens,
    "names gone": Site.without_names,
}


@pytest.fixture
def site(registry: Registry, tokens: TokenServer, brisk_proxy: Proxy) -> Site:
    return Site(registry, tokens, brisk_proxy)


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str, private: str) -> Image:
    """Alice's as `private`, and everybody's as `repository`."""
    made = layout.image(None, [40 * KIB, 3 * KIB], seed=private)
    for name in (private, repository):
        registry.seed(made, name, "v1")
    return made


@pytest.fixture
def anybody(front: Front, brisk_proxy: Proxy) -> Asking:
    """Whose own requests reach `front`, which notes their fields."""
    return Asking.through(brisk_proxy, front)


async def pulled(asking: Asking, repository: str, image: Image) -> bool:
    """Does the image come, every byte of it?"""
    manifest = await asking.manifest(repository, "v1")
    blobs = [await asking.blob(repository, blob.digest) for blob in image.blobs]
    return [manifest.digest, *(blob.digest for blob in blobs)] == [image.digest, *(blob.digest for blob in image.blobs)]


def ready(proxy: Proxy) -> dict[str, list[dict[str, str]]]:
    said: dict[str, list[dict[str, str]]] = json.loads(proxy.get("/readyz")[1])
    return said


# -- real clients


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_everybody_pulls_what_they_pulled_before_and_no_more(
    site: Site,
    make: Callable[[str], Puller],
    layout: Layout,
    image: Image,
    private: str,
    repository: str,
    kind: str,
    outage: Outage,
) -> None:
    client, names = make(kind), site.registry.image_name
    for name, creds in [(names(private, "v1"), ALICE), (names(repository, "v1"), BOB), (names(repository, "v1"), None)]:
        first = client.pull(name, creds=creds)
        assert first, first.err
        client.clean()

    with outage(site):
        for name, creds in [
            (names(private, "v1"), ALICE),
            (names(private, image.digest), ALICE),
            (names(repository, "v1"), None),
        ]:
            again = client.pull(name, creds=creds)
            assert again, again.err
            assert client.holds(name, image)
            client.clean()
        for reference, creds in [("v1", BOB), (image.digest, "alice:wrong"), ("v1", None)]:
            assert not client.pull(names(private, reference), creds=creds)

    moved = layout.image(None, [KIB], seed=f"{private} moved")
    site.registry.seed(moved, private, "v1")
    fresh = client.pull(names(private, "v1"), creds=ALICE)
    assert fresh, fresh.err
    assert client.holds(names(private, "v1"), moved)


@pytest.mark.parametrize("kind", ["skopeo", "docker", "ctr"])
def test_what_was_known_before_a_restart_in_an_outage_is_known_after_it(
    site: Site, make: Callable[[str], Puller], image: Image, private: str, repository: str, kind: str
) -> None:
    client, name = make(kind), site.registry.image_name(private, "v1")
    assert client.pull(name, creds=ALICE)
    client.clean()
    assert client.pull(site.registry.image_name(repository, "v1"), creds=BOB)

    with site.without_both():
        site.proxy.restart()
        again = client.pull(name, creds=ALICE)
        assert again, again.err
        assert client.holds(name, image)
        assert not client.pull(name, creds=BOB)


# -- request by request


async def test_the_answers_in_an_outage_say_why_and_since_when(
    front: Front, tokens: TokenServer, anybody: Asking, image: Image, private: str
) -> None:
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)
    before = await anybody.fetch("/v2/")
    front.refuse(503)
    tokens.stop()

    ping, local = await anybody.fetch("/v2/"), await ask_token(anybody, ALICE, pull(private))
    alice = await login(anybody, ALICE, private)
    tag, blob = await alice.manifest(private, "v1"), await alice.blob(private, image.layers[0].digest)
    stranger = await ask_token(anybody, "carol:unknown", pull(private))

    assert (ping.status, ping.headers["www-authenticate"]) == (401, before.headers["www-authenticate"])
    assert (local.status, "fwd=stale" in cache_status(local)) == (200, True)
    assert (tag.digest, blob.digest) == (image.digest, image.layers[0].digest)
    assert cache_status(tag).startswith("pullthrough; fwd=stale; detail=")
    assert from_cache(blob)
    refusal = Spoken(stranger.status, stranger.headers, stranger.body)
    assert refusal.status == 503
    assert "https://auth.test" in refusal.message
    assert "unreachable since 2" in refusal.message


async def test_a_head_that_is_refused_in_an_outage_leaves_the_connection_usable(
    site: Site, anybody: Asking, front: Front, image: Image, private: str
) -> None:
    """A body after it is taken for the next answer: containerd and BuildKit then fail."""
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)
    front.refuse(503)

    async with anybody.connect() as connection:
        for method, reference in [("HEAD", "v1"), ("HEAD", image.digest), ("GET", "v1")]:
            target = f"/v2/{private}/manifests/{reference}"
            refused = await (await connection.ask(target, method=method)).read()
            assert refused.status == 401
            assert challenge(refused)["scope"] == f"repository:{private}:pull"


@pytest.mark.parametrize("outage", [429, 500, 503], ids=str)
async def test_a_server_in_trouble_is_an_outage_too(
    front: Front, tokens: TokenServer, anybody: Asking, image: Image, private: str, outage: int
) -> None:
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)

    front.refuse(outage)
    assert await pulled(alice, private, image)
    front.release()
    tokens.failing = outage
    assert await pulled(await login(anybody, ALICE, private, post=True), private, image)


async def test_what_the_upstream_refused_before_the_outage_is_refused_in_it(
    site: Site, anybody: Asking, front: Front, image: Image, private: str, repository: str
) -> None:
    alice, nobody = await login(anybody, ALICE, private), await login(anybody, None, repository)
    assert await pulled(alice, private, image)
    assert await pulled(nobody, repository, image)
    site.tokens.revoke("alice", private)
    site.registry.delete(repository, image.digest)
    assert (await (await login(anybody, ALICE, private)).manifest(private, "v1")).status == 401
    assert (await nobody.manifest(repository, "v1")).status == 404
    front.refuse(503)

    assert (await alice.manifest(private, "v1")).status == 503
    assert (await nobody.manifest(repository, "v1")).status == 503


async def test_a_password_that_the_token_server_refused_before_the_outage_gets_no_token_in_it(
    tokens: TokenServer, anybody: Asking, private: str
) -> None:
    await login(anybody, ALICE, private)
    tokens.deny("alice")
    assert (await ask_token(anybody, ALICE, pull(private))).status == 401
    tokens.failing = 503

    assert (await ask_token(anybody, ALICE, pull(private))).status == 503


async def test_a_token_of_ours_that_a_client_kept_never_goes_upstream(
    front: Front, tokens: TokenServer, anybody: Asking, image: Image, private: str
) -> None:
    assert await pulled(await login(anybody, ALICE, private), private, image)
    tokens.failing = 503
    kept = await token(anybody, ALICE, private)
    alice = anybody.as_account(f"Bearer {kept}")
    assert await pulled(alice, private, image)
    tokens.failing = None

    def refused() -> bool:
        return asyncio.run(alice.manifest(private, "v1")).status == 401

    await asyncio.to_thread(eventually, refused, "it is found out that the token server is back")
    answers = [await alice.fetch("/v2/"), await alice.manifest(private, "v1")]
    answers += [await alice.blob(private, image.layers[0].digest), await alice.fetch(f"/v2/{private}/tags/list")]
    answers.append(await alice.manifest(private, "v2", method="PUT", body=b"{}"))
    answers.append(await alice.fetch(f"/v2/{private}/blobs/uploads/", method="POST", body=b""))
    realm = challenge(answers[0])["realm"].partition(front.host)[2]
    await alice.fetch(f"{realm}?service=x")

    assert [answer.status for answer in answers] == [401] * len(answers)
    assert {challenge(answer)["error"] for answer in answers} == {"invalid_token"}
    for journal in (front.journal, tokens.journal):
        assert not [request for request in journal.requests() if kept in str(request)]
    assert await pulled(await login(anybody, ALICE, private), private, image)


async def test_a_token_from_before_the_outage_is_good_in_it_and_after_a_restart_another_one_is_to_be_had(
    site: Site, front: Front, anybody: Asking, image: Image, private: str
) -> None:
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)

    with site.without_both():
        assert await pulled(alice, private, image)
        await asyncio.to_thread(site.proxy.restart)
        forgotten = await alice.manifest(private, "v1")
        assert (forgotten.status, challenge(forgotten)["error"]) == (401, "invalid_token")
        assert await pulled(await login(anybody, ALICE, private), private, image)


async def test_an_outage_is_told_once_in_the_log_and_on_the_page_of_health(
    registry: Registry, tokens: TokenServer, proxy_factory: Proxies, image: Image, private: str
) -> None:
    proxy = proxy_factory(registry)
    anybody = Asking.through(proxy, registry)
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)
    registry.stop()

    for _ in range(5):
        assert (await alice.manifest(private, "v1")).digest == image.digest

    told = [line for line in proxy.log_lines() if "answered from the cache" in line.get("message", "")]
    assert [(line["level"], registry.host in line["message"]) for line in told] == [("warning", True)]
    assert [entry["upstream"] for entry in ready(proxy)["unreachable"]] == [registry.url]


# -- an upstream that hangs


async def test_a_registry_that_hangs_does_not_slow_another(
    front: Front, registry: Registry, tokens: TokenServer, proxy_factory: Proxies, image: Image, private: str
) -> None:
    proxy = proxy_factory(registry, front)
    slow, quick = Asking.through(proxy, front), Asking.through(proxy, registry)
    hang = front.hang()
    targets = [f"/v2/{private}/manifests/v{number}" for number in range(40)]
    hanging = [asyncio.ensure_future(slow.fetch(target)) for target in targets]
    await asyncio.to_thread(hang.reached.wait, 10)

    assert await pulled(await login(quick, ALICE, private), private, image)

    assert not [answer for answer in hanging if answer.done()]
    hang.release()
    assert {answer.status for answer in await asyncio.gather(*hanging)} == {401}


async def test_after_a_few_requests_that_hung_the_others_fail_at_once_until_it_answers_again(
    front: Front, anybody: Asking, image: Image, private: str, proxy_factory: Proxies
) -> None:
    proxy = proxy_factory(front, flags=["--connect-timeout", "1s", "--first-byte-timeout", "2s"])
    anybody = Asking.through(proxy, front)
    alice = await login(anybody, ALICE, private)
    assert await pulled(alice, private, image)
    hang = front.hang()
    targets = [f"/v2/{private}/manifests/v{number}" for number in range(2, 6)]
    first = await asyncio.gather(*(alice.fetch(target) for target in targets))
    front.journal.clear()

    refused = [await alice.fetch(target) for target in targets * 5]
    stale = await alice.manifest(private, "v1")

    assert {answer.status for answer in (*first, *refused)} == {503}
    assert b"tried again in the background" in refused[0].body
    assert (stale.digest, "fwd=stale" in cache_status(stale)) == (image.digest, True)
    assert find(front.journal, "/manifests/") == []
    assert "pullthrough_breakers_open 1.0" in proxy.get("/metrics")[1].decode()
    hang.release()
    await asyncio.to_thread(eventually, lambda: not ready(proxy)["unreachable"], "it is asked again", 30)
    assert (await alice.fetch(targets[0])).status == 404
