"""The front passes everything to the real registry and back, unless it was told to limit, refuse or hang."""

import asyncio
import json

import pytest

from lab.cdn import Cdn
from lab.clients import Clients, Skopeo
from lab.front import Budget, Front
from lab.http import Client, Fetched
from lab.images import KIB, MANIFEST, Image, Layout
from lab.journal import find
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.registry import Registry
from lab.tokens import TokenServer


@pytest.fixture
def client(pki: Pki, public: Pki, names: NameMap) -> Client:
    return Client(pki.ca_file, public.ca_file, names=names)


@pytest.fixture
def skopeo(clients: Clients, parent: ParentProxy, pki: Pki, public: Pki) -> Skopeo:
    return clients.skopeo(parent.proxy_url, pki.ca_file, public.ca_file)


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(f"front-{repository}", [20 * KIB, 3 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


class Asker:
    """Manifest requests with a token of alice's."""

    def __init__(self, client: Client, front: Front, tokens: TokenServer, repository: str) -> None:
        self._client = client
        self._url = f"{front.url}/v2/{repository}/manifests/"
        self._token = tokens.mint("alice", [f"repository:{repository}:pull"])

    async def __call__(self, method: str = "GET", reference: str = "v1", *, login: bool = True) -> Fetched:
        headers = {"Accept": MANIFEST, **({"Authorization": f"Bearer {self._token}"} if login else {})}
        return await self._client.fetch(self._url + reference, method=method, headers=headers)


@pytest.fixture
def ask(client: Client, front: Front, tokens: TokenServer, repository: str) -> Asker:
    return Asker(client, front, tokens, repository)


def test_skopeo_pulls_and_pushes_through_it(
    front: Front, registry: Registry, cdn: Cdn, skopeo: Skopeo, image: Image, layout: Layout, repository: str
) -> None:
    pulled = skopeo.pull(front.reference(repository, "v1"))
    pushed = skopeo.push(
        layout.reference(f"front-{repository}"), front.reference(f"{repository}-new", "v2"), creds="alice:secret"
    )

    assert pulled.holds(image), pulled.result.err
    assert pushed, pushed.err
    assert find(registry.journal, f"/v2/{repository}-new/manifests/v2", method="PUT")
    assert len(find(cdn.journal, method="GET")) == len(image.blobs)


async def test_what_it_passes_on_is_what_the_registry_says(
    front: Front, registry: Registry, client: Client, image: Image, ask: Asker, repository: str
) -> None:
    there = await ask()
    plainly = await client.fetch(f"{registry.url}/v2/{repository}/manifests/v1")
    challenged = await ask(login=False)

    assert there.digest == image.digest
    assert there.headers["docker-content-digest"] == image.digest
    assert (challenged.status, challenged.body) == (plainly.status, plainly.body)
    assert challenged.headers["www-authenticate"] == plainly.headers["www-authenticate"]
    assert (await ask("HEAD")).headers["content-length"] == str(image.manifest.size)
    assert "ratelimit-limit" not in there.headers


async def test_fetches_of_manifests_spend_the_budget_and_heads_do_not(
    front: Front, registry: Registry, image: Image, ask: Asker
) -> None:
    front.budget = Budget(100, 2)

    told = [(await ask(method, login=login)).headers.get("ratelimit-remaining") for method, login in STEPS]
    limited = await ask(reference=image.digest)
    head = await ask("HEAD")

    assert told == ["2;w=21600", "2;w=21600", "1;w=21600", "0;w=21600"]
    assert (limited.status, limited.headers["ratelimit-limit"]) == (429, "100;w=21600")
    assert json.loads(limited.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert (head.status, head.headers["ratelimit-remaining"]) == (200, "0;w=21600")
    assert len(find(registry.journal, "/manifests/", method="GET")) == 3
    front.reset()
    assert (await ask()).status == 200


STEPS = [("HEAD", True), ("GET", False), ("GET", True), ("GET", True)]


async def test_it_refuses_what_it_was_told_to_until_released(
    front: Front, registry: Registry, client: Client, image: Image, ask: Asker
) -> None:
    front.refuse(429, "/manifests/", method="GET", retry_after="7")
    refused, head, ping = await ask(), await ask("HEAD"), await client.fetch(f"{front.url}/v2/")
    assert (refused.status, refused.headers["retry-after"]) == (429, "7")
    assert (head.status, ping.status) == (200, 401)
    front.release()
    front.refuse(503)

    assert [(await ask(method)).status for method in ("GET", "HEAD")] == [503, 503]
    assert "retry-after" not in (await ask()).headers
    front.release()
    assert (await ask()).digest == image.digest
    assert {request.method for request in registry.journal.requests()[:2]} == {"HEAD", "GET"}


async def test_it_hangs_until_released(front: Front, image: Image, ask: Asker) -> None:
    armed = front.hang("/manifests/", method="HEAD")
    hanging = asyncio.ensure_future(ask("HEAD"))
    await asyncio.to_thread(armed.reached.wait, 10)

    assert (await ask()).digest == image.digest
    assert not hanging.done()
    armed.release()
    assert (await hanging).status == 200


async def test_a_stopped_registry_is_a_bad_gateway_and_comes_back(
    front: Front, registry: Registry, image: Image, ask: Asker
) -> None:
    registry.stop()
    gone = await ask()
    registry.start_if_stopped()

    assert gone.status == 502
    assert (await ask()).digest == image.digest
