"""Two proxies in a row, an office behind a region: bytes cross the far network once, and rights stay the registry's."""

from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.images import KIB, Image, Layout
from lab.journal import body_bytes, find
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry

ALICE, BOB = "alice:secret", "bob:hunter2"


@pytest.fixture
def region(registry: Registry, proxy_factory: Proxies) -> Proxy:
    return proxy_factory(registry)


@pytest.fixture
def office(registry: Registry, region: Proxy, proxy_factory: Proxies, pki: Pki, tmp_path: Path) -> Proxy:
    """Trusts the region's CA as that of upstreams, for that is whom it meets in place of registries."""
    trusted = tmp_path / "region.pem"
    trusted.write_bytes(region.ca_file.read_bytes() + pki.ca_file.read_bytes())
    return proxy_factory(registry, flags=["--upstream-ca", str(trusted)], env={"HTTPS_PROXY": region.url})


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str, private: str) -> Image:
    made = layout.image(repository, [300 * KIB, 5 * KIB], seed=private)
    for name in (private, repository):
        registry.seed(made, name, "v1")
    return made


@pytest.mark.parametrize("account", [None, ALICE], ids=["anybody", "alice"])
def test_what_one_office_pulled_costs_neither_it_nor_another_the_far_network(
    registry: Registry,
    cdn: Cdn,
    region: Proxy,
    office: Proxy,
    clients: Clients,
    public: Pki,
    image: Image,
    private: str,
    repository: str,
    account: str | None,
) -> None:
    reference = registry.reference(private if account else repository, "v1")
    here, elsewhere = (clients.skopeo(proxy.url, proxy.ca_file, public.ca_file) for proxy in (office, region))

    first = here.pull(reference, creds=account)
    assert first.holds(image), first.result.err
    assert body_bytes(cdn.journal) == sum(blob.size for blob in image.blobs)
    cdn.journal.clear()
    registry.journal.clear()

    for client in (here, elsewhere):
        again = client.pull(reference, creds=account)
        assert again.holds(image), again.result.err
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/manifests/", method="GET") == []


def test_behind_two_proxies_others_are_refused_as_by_the_registry(
    registry: Registry, office: Proxy, clients: Clients, public: Pki, image: Image, private: str
) -> None:
    skopeo = clients.skopeo(office.url, office.ca_file, public.ca_file)
    assert skopeo.pull(registry.reference(private, "v1"), creds=ALICE).holds(image)

    for account in (BOB, None):
        assert not skopeo.pull(registry.reference(private, "v1"), creds=account).result
