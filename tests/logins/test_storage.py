"""What a host says to which a registry, or a mirror of it, led us: nobody else's word, and nobody's password."""

import base64
import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lab.fake_registry import FakeRegistry, Redirect
from lab.faults import Fault
from lab.inside import REPOSITORY, Chosen, Inside, inside
from lab.logins import ALICE, OUR_REALM, bearer
from lab.mirrors import mirror_of
from lab.names import NameMap, resolver
from lab.pki import Pki
from lab.web import served
from pullthrough.core.headers import Headers
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.messages import Registry, Request
from pullthrough.trust import client_context

LAYER = b"layer"


@pytest.fixture
def storage(public: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    """Answers 401 to everything, and would like to see passwords at /evil."""
    with served(FakeRegistry("storage.test", public.identity("storage.test")), names) as server:
        realm = f"https://storage.test:{server.public_port}/evil"
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry", Basic realm="x"'}
        server.fault("/x/", Fault(status=401, headers=challenge), times=None, method=None)
        server.content.pages["/evil"] = (200, {"Content-Type": "application/json"}, b'{"token":"x"}')
        yield server


def led_to(storage: FakeRegistry) -> Redirect:
    return Redirect(307, f"https://storage.test:{storage.public_port}/x/{{digest}}")


def accounts(file: Path, host: str) -> Path:
    file.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"alice:secret").decode()}}}))
    file.chmod(0o600)
    return file


def credentials_seen(storage: FakeRegistry) -> list[str]:
    return [request.path for request in storage.journal.requests() if "authorization" in request.headers]


async def test_it_names_no_realm_and_takes_no_right_away(proxy: Inside, storage: FakeRegistry) -> None:
    image = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])
    token = await bearer(proxy, ALICE)
    assert (await proxy.get(f"/v2/{REPOSITORY}/manifests/1.0", authorization=token)).status == 200
    proxy.fake.manners = replace(proxy.fake.manners, redirect=led_to(storage))

    refused = await proxy.get(f"/v2/{REPOSITORY}/blobs/{image.layers[0]}", authorization=token)
    assert refused.status == 502
    assert b"storage.test" in refused.body
    assert "www-authenticate" not in refused.headers

    challenge = (await proxy.get("/v2/")).headers.get("www-authenticate") or ""
    realm = OUR_REALM.search(challenge)
    assert realm, challenge
    scope = urlencode({"service": "registry", "scope": f"repository:{REPOSITORY}:pull"})
    assert (await proxy.get(f"{realm['path']}?{scope}", authorization=ALICE)).status == 200
    assert credentials_seen(storage) == []
    principal = proxy.source(token).principal
    assert proxy.access.granted(principal, proxy.repository())


async def test_its_challenges_come_no_further(proxy: Inside, storage: FakeRegistry) -> None:
    image = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])
    token = await bearer(proxy, ALICE)
    proxy.fake.manners.redirect = led_to(storage)
    url = f"{proxy.registry}/v2/{REPOSITORY}/blobs/{image.layers[0]}"

    reply = await proxy.upstream.ask("GET", url, Headers((("Authorization", token),)), follow=True)
    reply.close()

    assert (reply.status, reply.foreign, "www-authenticate" in reply.headers) == (401, True, False)


async def test_a_mirrors_client_gets_nothing_by_it(proxy: Inside, storage: FakeRegistry, tmp_path: Path) -> None:
    """The account of --mirror-credentials is for the registry and its token server."""
    image = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])
    host = f"fake.test:{proxy.fake.public_port}"
    registries = Registries([parse_entry(host)])
    file = accounts(tmp_path / "config.json", host)
    mirror = mirror_of(proxy, registries, networks=[ipaddress.ip_network("127.0.0.0/8")], credentials=file)
    proxy.fake.manners.redirect = led_to(storage)

    for what in (f"blobs/{image.layers[0]}", "referrers/" + image.digest):
        path = f"/v2/{host.replace(':', '_')}/{REPOSITORY}/{what}"
        request = Request(Registry("http", "cache.test", 3128), "GET", path, Headers(()), "127.0.0.1")
        answer = await mirror.answer(request, mirror.meant(request))
        assert answer.status >= 400
        if not isinstance(answer.body, bytes):
            await answer.body.aclose()
    assert credentials_seen(storage) == []


@pytest.fixture
def far(public: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    with served(FakeRegistry("front.test", public.identity("front.test")), names) as server:
        yield server


async def test_an_account_at_a_mirror_is_for_the_mirror(
    fake: FakeRegistry,
    far: FakeRegistry,
    storage: FakeRegistry,
    names: NameMap,
    pki: Pki,
    public: Pki,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    mirror, registry = (f"{server.name}:{server.public_port}" for server in (far, fake))
    more = {
        "registry": [registry],
        "upstream_mirror": [f"{registry}=https://{mirror}/hub"],
        "upstream_credentials": str(accounts(tmp_path / "config.json", mirror)),
    }
    tls = client_context(pki.ca_file.read_bytes() + public.ca_file.read_bytes())
    async with inside(tmp_path, fake, eager=True, tls=tls, chosen=Chosen(more=more)) as proxy:
        image = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])
        far.add_blob(LAYER)
        far.manners.redirect = led_to(storage)

        assert (await proxy.get(f"/v2/{REPOSITORY}/blobs/{image.layers[0]}")).body == LAYER
        assert storage.journal.requests()
        assert credentials_seen(storage) == []
        assert proxy.mirrors.of(proxy.repository()) == [], "its storage is out of order"


async def test_tokens_that_no_request_could_carry_are_not_kept(
    fake: FakeRegistry,
    far: FakeRegistry,
    names: NameMap,
    pki: Pki,
    public: Pki,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    mirror, registry = (f"{server.name}:{server.public_port}" for server in (far, fake))
    far.manners.accepts = lambda request: request.path == "/token"
    far.manners.challenge = f'Bearer realm="https://{mirror}/token"'
    far.content.pages["/token"] = (200, {}, json.dumps({"token": "a" * 60_000, "expires_in": 3600}).encode())
    more = {"registry": [registry], "upstream_mirror": [f"{registry}=https://{mirror}"]}
    tls = client_context(pki.ca_file.read_bytes() + public.ca_file.read_bytes())
    async with inside(tmp_path, fake, eager=True, tls=tls, chosen=Chosen(more=more)) as proxy:
        image = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])

        assert (await proxy.get(f"/v2/{REPOSITORY}/blobs/{image.layers[0]}")).body == LAYER
        assert [request.path for request in far.journal.requests()][-1] == "/token"
