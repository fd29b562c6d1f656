"""A registry that nobody named, with --discover."""

import socket
from datetime import UTC, datetime

import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.images import KIB, Layout
from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import Proxies
from lab.raw import ask
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
    names: NameMap,
) -> None:
    names.publish(registry.name, 443, registry.address, registry.port)  # where tunnels lead, and nobody else looks
    image = layout.image(repository, [300 * KIB, 5 * KIB], seed=repository)
    registry.seed(image, repository, "v1")
    proxy = proxy_factory(flags=["--discover"] if discover else [], start=False)
    Authority.load_or_create(proxy.data_dir / "ca", now=lambda: datetime.now(UTC))  # may sign for every host
    proxy.start()
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file, pki.ca_file)

    for number in (1, 2):
        pulled = skopeo.pull(f"docker://{registry.name}/{repository}:v1")
        assert pulled.holds(image), pulled.result.err
        assert len(cdn.journal.requests()) == len(image.blobs) * (1 if discover else number)


def test_where_no_tunnel_leads_nobody_knocks(proxy_factory: Proxies) -> None:
    """Else clients could have the proxy try any port of any host that it can reach."""
    proxy = proxy_factory(flags=["--discover"], start=False)
    Authority.load_or_create(proxy.data_dir / "ca", now=lambda: datetime.now(UTC))
    proxy.start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        assert ask(proxy, "CONNECT", f"127.0.0.1:{port}").status == 403

        with pytest.raises(BlockingIOError):
            listening.accept()
