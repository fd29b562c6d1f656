"""A registry that nobody named, with --discover."""

from datetime import UTC, datetime

import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.images import KIB, Layout
from lab.pki import Pki
from lab.proxy import Proxies
from lab.registry import Registry
from pullthrough.ca import Authority


@pytest.mark.parametrize("discover", [True, False])
def test_a_registry_that_nobody_named_is_cached_only_if_it_may_be_discovered(
    discover: bool,
    registry: Registry,
    cdn: Cdn,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    pki: Pki,
    layout: Layout,
    repository: str,
) -> None:
    image = layout.image(repository, [300 * KIB, 5 * KIB], seed=repository)
    registry.seed(image, repository, "v1")
    proxy = proxy_factory(flags=["--discover"] if discover else [], start=False)
    Authority.load_or_create(proxy.data_dir / "ca", now=lambda: datetime.now(UTC))  # may sign for every host
    proxy.start()
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file, pki.ca_file)

    for _ in range(2):
        pulled = skopeo.pull(registry.reference(repository, "v1"))
        assert pulled.holds(image) is discover, pulled.result.err
        journal, found = [request.path for request in cdn.journal.requests()], len(image.blobs) if discover else 0
        assert len(journal) == found
