"""Started with --offline, the proxy pulls from the cache and lets nothing out."""

from typing import Protocol

import pytest

from lab.asking import Asking
from lab.cdn import Cdn
from lab.clients import Clients
from lab.engines import Engines
from lab.hosts import PlainHost
from lab.images import KIB, Image, Layout
from lab.journal import Journal
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.pullers import KINDS, puller
from lab.raw import ask
from lab.registry import Registry
from lab.token_path import login
from lab.tokens import TokenServer


class Service(Protocol):
    """Somebody who may be asked."""

    @property
    def journal(self) -> Journal: ...


ALICE, BOB = "alice:secret", "bob:hunter2"


@pytest.fixture
def proxy(registry: Registry, proxy_factory: Proxies) -> Proxy:
    """Online; `go_offline` starts it anew."""
    return proxy_factory(registry)


def go_offline(proxy: Proxy, *services: Service) -> None:
    """From now on; none of the services has been asked yet."""
    proxy.flags.append("--offline")
    proxy.restart()
    for service in services:
        service.journal.clear()


def assert_nobody_was_asked(*services: Service) -> None:
    for service in services:
        assert service.journal.requests() == []


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str, private: str) -> Image:
    """Alice's as `private`, and everybody's as `repository`."""
    made = layout.image(repository, [30 * KIB], seed=private)
    for name in (private, repository):
        registry.seed(made, name, "v1")
    return made


def test_what_is_cached_is_pulled_by_those_who_pulled_it(
    registry: Registry,
    tokens: TokenServer,
    cdn: Cdn,
    proxy: Proxy,
    clients: Clients,
    engines: Engines,
    public: Pki,
    image: Image,
    private: str,
    repository: str,
) -> None:
    pullers = [puller(kind, clients, engines, proxy.url, proxy.ca_file, public.ca_file) for kind in KINDS]
    name = registry.image_name
    pulls = [(name(private, "v1"), ALICE), (name(private, image.digest), ALICE), (name(repository, "v1"), None)]
    for client in pullers:
        for reference, creds in pulls[::2]:
            assert client.pull(reference, creds=creds)
            client.clean()
    go_offline(proxy, registry, tokens, cdn)

    for client in pullers:
        for reference, creds in pulls:
            pulled = client.pull(reference, creds=creds)
            assert pulled, pulled.err
            assert client.holds(reference, image)
            client.clean()
        for reference, creds in [(pulls[0][0], BOB), (pulls[1][0], None), (name(repository, "other"), ALICE)]:
            assert not client.pull(reference, creds=creds)
    assert_nobody_was_asked(registry, tokens, cdn)


async def test_pushes_tunnels_and_whatever_else_leads_out_are_refused_in_words(
    registry: Registry,
    tokens: TokenServer,
    cdn: Cdn,
    proxy: Proxy,
    clients: Clients,
    public: Pki,
    plain: PlainHost,
    layout: Layout,
    image: Image,
    repository: str,
) -> None:
    anybody = Asking.through(proxy, registry)
    alice = await login(anybody, ALICE, repository)
    assert (await alice.manifest(repository, "v1")).digest == image.digest
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)
    assert skopeo.run("login", "--username", "alice", "--password", "secret", registry.host)
    go_offline(proxy, registry, tokens, cdn)

    tunnel = ask(proxy, "CONNECT", "plain.test:443")
    relayed = ask(proxy, "GET", "http://plain.test/")
    pushed = skopeo.push(layout.reference(repository), registry.reference(f"{repository}-new", "v1"), creds=ALICE)
    alice = await login(anybody, ALICE, repository)
    written = [
        await alice.fetch(f"/v2/{repository}/blobs/uploads/", method="POST", body=b""),
        await alice.manifest(repository, "v2", method="PUT", body=b"{}"),
        await alice.manifest(repository, image.digest, method="DELETE"),
    ]
    listed = await anybody.fetch(f"/v2/{repository}/tags/list")

    for refused in (tunnel, relayed):
        assert (refused.status, "--offline" in refused.message) == (503, True)
    assert not pushed
    assert "503" in pushed.err or "--offline" in pushed.err, pushed.err
    assert {answer.status for answer in written} <= {401, 503}
    assert (listed.status, b"--offline" in listed.body) == (503, True)
    assert_nobody_was_asked(registry, tokens, cdn, plain)
