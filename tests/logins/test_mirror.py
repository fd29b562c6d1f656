"""The mirror endpoint: what is meant, who gets it, as whom the registry is asked, and what it refuses."""

from __future__ import annotations

import base64
import ipaddress
import json
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeImage, digest_of
from lab.faults import Fault
from lab.inside import Chosen, Got, Inside, whole
from lab.logins import ALICE
from lab.mirrors import mirror_of
from lab.tokens import TokenServer
from pullthrough.core.headers import Headers
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.keyring import Keyring
from pullthrough.logins import Logins
from pullthrough.messages import Registry, Repository, Request
from pullthrough.mirror import Mirror

LAYER = b"layer" * 1000
OPEN, PRIVATE = "open/app", "priv/app"
OURSELVES = Registry("http", "cache.test", 3128)
NETWORK = ipaddress.ip_network("10.1.0.0/16")
HERE, ELSEWHERE = "10.1.2.3", "10.2.2.3"


@pytest.fixture
def registries(proxy: Inside) -> Registries:
    return Registries([parse_entry(proxy.registry.authority)])


@pytest.fixture
def image(proxy: Inside) -> FakeImage:
    proxy.fake.add_image(PRIVATE, "v1", [LAYER])
    return proxy.fake.add_image(OPEN, "v1", [LAYER])


@pytest.fixture
def mirror(proxy: Inside, registries: Registries) -> Mirror:
    return mirror_of(proxy, registries)


@pytest.fixture
def alices(proxy: Inside, registries: Registries, tmp_path: Path) -> Mirror:
    """A mirror that reads as alice, for one network."""
    config = tmp_path / "docker.json"
    auth = base64.b64encode(b"alice:secret").decode()
    config.write_text(json.dumps({"auths": {proxy.registry.authority: {"auth": auth}}}))
    config.chmod(0o600)
    return mirror_of(proxy, registries, networks=[NETWORK], credentials=config)


async def get(mirror: Mirror, target: str, method: str = "GET", client: str = HERE, **fields: str) -> Got:
    headers = Headers(
        [("Host", OURSELVES.authority), *((name.replace("_", "-"), text) for name, text in fields.items())]
    )
    request = Request(OURSELVES, method, target, headers, client)
    answer = await mirror.answer(request, mirror.meant(request))
    return Got(answer, await whole(answer.body))


def manifest(proxy: Inside, repository: str = OPEN, reference: str = "v1") -> str:
    return f"/v2/{repository}/manifests/{reference}?ns={proxy.registry.authority}"


def blob(proxy: Inside, repository: str = OPEN, content: bytes = LAYER) -> str:
    return f"/v2/{repository}/blobs/{digest_of(content)}?ns={proxy.registry.authority}"


async def test_the_first_question_of_a_mirrors_client(mirror: Mirror) -> None:
    for target in ("/v2/", "/v2", "/v2/?ns=registry.test"):
        got = await get(mirror, target)
        assert (got.status, got.body) == (200, b"{}")
        assert got.headers.get("docker-distribution-api-version") == "registry/2.0"


@pytest.mark.parametrize("style", ["/v2/{0}/manifests/v1?ns={1}", "/v2/{1}/{0}/manifests/v1"])
async def test_what_anybody_may_read(proxy: Inside, mirror: Mirror, image: FakeImage, style: str) -> None:
    place = proxy.registry.authority if "ns=" in style else proxy.registry.authority.replace(":", "_")
    target = style.format(OPEN, place)
    first = await get(mirror, target, accept=MANIFEST)
    assert (first.status, digest_of(first.body)) == (200, image.digest)
    assert (await get(mirror, blob(proxy))).body == LAYER
    await proxy.landed()
    proxy.fake.journal.clear()

    again = await get(mirror, target, accept=MANIFEST)
    assert (again.body, again.outcome) == (first.body, 'hit; detail="tag checked"')
    assert [request.method for request in proxy.fake.journal.requests()] == ["HEAD"]


async def test_a_range_and_a_head(proxy: Inside, mirror: Mirror, image: FakeImage) -> None:
    part = await get(mirror, blob(proxy), range="bytes=5-9")
    head = await get(mirror, manifest(proxy), "HEAD", accept=MANIFEST)

    assert (part.status, part.body) == (206, LAYER[5:10])
    assert (head.status, head.body, head.headers.get("docker-content-digest")) == (200, b"", image.digest)


async def test_a_login_serves_many_pulls(proxy: Inside, mirror: Mirror, image: FakeImage, tokens: TokenServer) -> None:
    for _ in range(3):
        assert (await get(mirror, manifest(proxy), accept=MANIFEST)).status == 200
        assert (await get(mirror, blob(proxy))).status == 200

    assert [asked.account for asked in tokens.asked] == [None]


@pytest.mark.parametrize("target", [manifest, blob])
async def test_what_only_some_may_read_is_not_there(
    proxy: Inside, mirror: Mirror, image: FakeImage, target: object
) -> None:
    """A client that hears so asks the registry itself, where it can log in."""
    assert callable(target)
    got = await get(mirror, target(proxy, PRIVATE), accept=MANIFEST)

    assert got.status == 404
    assert b"NAME_UNKNOWN" in got.body
    assert "www-authenticate" not in got.headers


async def test_a_clients_own_credentials_go_no_further(proxy: Inside, mirror: Mirror, image: FakeImage) -> None:
    got = await get(mirror, manifest(proxy, PRIVATE), accept=MANIFEST, authorization=ALICE, cookie="a=b", x_token="c")

    assert got.status == 404
    for request in proxy.fake.journal.requests():
        assert ALICE not in request.headers.values()
        assert not {"cookie", "x-token"} & request.headers.keys()


async def test_the_operators_credentials_are_for_those_who_are_let_in(
    proxy: Inside, alices: Mirror, image: FakeImage
) -> None:
    assert (await get(alices, manifest(proxy, PRIVATE), accept=MANIFEST)).status == 200
    assert (await get(alices, blob(proxy, PRIVATE))).body == LAYER

    for target in (manifest(proxy, PRIVATE), blob(proxy, PRIVATE), manifest(proxy), "/v2/"):
        got = await get(alices, target, client=ELSEWHERE, accept=MANIFEST)
        assert (got.status, b"DENIED" in got.body) == (403, True)


async def test_a_right_that_the_account_loses_is_lost_here(
    proxy: Inside, alices: Mirror, image: FakeImage, tokens: TokenServer
) -> None:
    assert (await get(alices, manifest(proxy, PRIVATE), accept=MANIFEST)).status == 200
    tokens.revoke("alice")
    proxy.fake.manners.accepts = lambda request: False
    proxy.clock.time += 61

    assert (await get(alices, manifest(proxy, PRIVATE), accept=MANIFEST)).status == 404


async def test_an_outage_is_bridged_as_for_others(
    proxy: Inside, alices: Mirror, image: FakeImage, tokens: TokenServer
) -> None:
    for repository in (PRIVATE, OPEN):
        assert (await get(alices, manifest(proxy, repository), accept=MANIFEST)).status == 200
        assert (await get(alices, blob(proxy, repository))).body == LAYER
    await proxy.landed()
    proxy.fake.stop()
    tokens.stop()
    proxy.clock.time += 600

    for repository in (PRIVATE, OPEN):
        got = await get(alices, manifest(proxy, repository), accept=MANIFEST)
        assert (got.status, digest_of(got.body)) == (200, image.digest)
        assert (await get(alices, blob(proxy, repository))).body == LAYER


async def test_what_is_not_cached_is_passed_on(proxy: Inside, mirror: Mirror, image: FakeImage) -> None:
    body = json.dumps({"name": OPEN, "tags": ["v1"]}).encode()
    proxy.fake.fault("/tags/list", Fault(status=200, body=body), times=None, method=None)
    got = await get(mirror, f"/v2/{OPEN}/tags/list?ns={proxy.registry.authority}")

    assert (got.status, json.loads(got.body)["tags"]) == (200, ["v1"])


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_a_mirror_is_for_pulling(proxy: Inside, mirror: Mirror, image: FakeImage, method: str) -> None:
    got = await get(mirror, manifest(proxy), method)

    assert (got.status, got.headers.get("allow")) == (405, "GET, HEAD")
    assert proxy.fake.journal.requests() == []


@pytest.mark.parametrize(
    "target",
    [
        "/v2/team/app/manifests/v1?ns=unknown.test",
        "/v2/unknown.test/team/app/manifests/v1",
        "/v2/_catalog",
        "/v2/team/app/other",
        "/v2/_pullthrough/token/0123456789abcdef?ns=registry.test",
    ],
)
async def test_a_registry_that_is_not_known_is_not_asked(proxy: Inside, mirror: Mirror, target: str) -> None:
    got = await get(mirror, target)

    assert got.status == 404
    assert proxy.fake.journal.requests() == []


@pytest.mark.parametrize(("scheme", "given"), [("https", True), ("http", False)])
async def test_credentials_are_for_registries_over_tls(proxy: Inside, tmp_path: Path, scheme: str, given: bool) -> None:
    config = tmp_path / "docker.json"
    config.write_text(json.dumps({"auths": {"basic.test": {"username": "alice", "password": "secret"}}}))
    config.chmod(0o600)
    logins = Logins(proxy.upstream, Keyring.load(config, None), proxy.clock, proxy.pulls.answer)
    repository = Repository(Registry(scheme, "basic.test", 443 if scheme == "https" else 80), "team/app")
    challenge = Headers((("WWW-Authenticate", 'Basic realm="basic"'),))

    assert (await logins.answered(repository, challenge, HERE) == ALICE) is given
    assert await logins.answered(repository, challenge, HERE) is None, "the same was refused just now"


@pytest.mark.parametrize("chosen", [Chosen(more={"deny": [f"fake.test/{OPEN}"]})], ids=["deny"])
async def test_what_the_operator_refuses_is_refused_in_words(proxy: Inside, mirror: Mirror, image: FakeImage) -> None:
    for target in (manifest(proxy), manifest(proxy, reference=image.digest), blob(proxy)):
        got = await get(mirror, target, accept=MANIFEST)
        assert (got.status, b"DENIED" in got.body, b"--deny" in got.body) == (403, True, True)


async def test_a_403_of_the_registry_is_not_found(proxy: Inside, mirror: Mirror, image: FakeImage) -> None:
    proxy.fake.fault(f"/v2/{OPEN}/", Fault(status=403), times=None, method=None)

    for target in (manifest(proxy), blob(proxy)):
        assert (await get(mirror, target, accept=MANIFEST)).status == 404


async def test_tokens_that_are_over_are_not_kept(proxy: Inside, tokens: TokenServer) -> None:
    logins = Logins(proxy.upstream, Keyring.load(None, None), proxy.clock, proxy.pulls.answer)
    got = await proxy.get("/v2/")
    for number in range(3):
        repository = proxy.repository(f"open/app{number}")
        assert await logins.answered(repository, got.headers, HERE)
        assert logins.known(repository)
        proxy.clock.time += 301

    assert len(logins) == 1
