"""With --discover, redirected clients find registries cached that nobody named."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from lab.bare import BareClients
from lab.cdn import Cdn
from lab.firewall import firewall
from lab.gateway import Gateway
from lab.hosts import PlainHost
from lab.images import KIB, Layout
from lab.netns import Network
from lab.pki import Pki
from lab.pulled import assert_pulled_twice, tunnels
from lab.registry import Registry
from lab.relay import addresses
from lab.wires import get, tls
from pullthrough.ca import Authority

DOOR: Final = 3139


@pytest.fixture
def gateway(network: Network, pki: Pki, public: Pki, tmp_path: Path) -> Iterator[Gateway]:
    """Knows none of the lab's registries."""
    made = Gateway(
        tmp_path / "gateway",
        network.cache,
        name_server=network.NAMES[0],
        port=3138,
        pki=pki,
        public=public,
        registries=[],
        flags=["--discover", "--transparent-listen", f"0.0.0.0:{DOOR}", "--transparent-listen", f"[::]:{DOOR}"],
    )
    Authority.load_or_create(made.data_dir / "ca", now=lambda: datetime.now(UTC))  # may sign for every host
    made.start()
    with firewall("nft redirect", network.cache, DOOR):
        yield made
    made.end_if_running()
    shutil.rmtree(made.data_dir, ignore_errors=True)


def test_a_registry_that_nobody_named_is_cached_and_another_host_is_not_opened(
    registry: Registry,
    cdn: Cdn,
    gateway: Gateway,
    plain: PlainHost,
    network: Network,
    public: Pki,
    bare: BareClients,
    layout: Layout,
    repository: str,
) -> None:
    image = layout.image(None, [300 * KIB, 5 * KIB], seed=repository)
    registry.seed(image, repository, "v1")

    assert_pulled_twice(bare.puller("skopeo", network.NAMES[0]), registry, cdn, image, repository)

    with tls(network.client, addresses(plain.name)[0], plain.name, public.ca_file) as wire:
        assert wire.getpeercert(binary_form=True) == public.identity(plain.name).leaf_der()
        assert get(wire, plain.name, "/here").endswith(b"plain.test itself")
    assert set(tunnels(gateway, registry.host)) == {"request"}
