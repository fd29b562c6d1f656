"""Registries of one name on two ports, with the same repository and tag and different content: they never mix."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from lab.bare import BareClients
from lab.fake_registry import FakeRegistry
from lab.firewall import firewall
from lab.gateway import Gateway
from lab.images import KIB, Layout
from lab.netns import Network
from lab.pki import Pki
from lab.registry import Registry
from lab.wires import get, tls

DOORS = {"by name": Network.CACHE[0], "redirected": Network.NAMES[0]}


@pytest.fixture(params=DOORS)
def name_server(request: pytest.FixtureRequest, network: Network) -> Iterator[str]:
    """The one that leads clients to this door, or past it into the rules of the router."""
    redirected = request.param == "redirected"
    with firewall("nft redirect", network.cache) if redirected else nullcontext():
        yield DOORS[request.param]


def test_the_same_repository_and_tag_on_two_ports(
    name_server: str,
    registry: Registry,
    other_registry: Registry,
    bare: BareClients,
    layout: Layout,
    repository: str,
) -> None:
    images = {
        registry.image_name(repository, "v1"): layout.image(None, [40 * KIB], seed=f"{repository} 443"),
        other_registry.image_name(repository, "v1"): layout.image(None, [40 * KIB], seed=f"{repository} 5050"),
    }
    for where, image in zip((registry, other_registry), images.values(), strict=True):
        where.seed(image, repository, "v1")
    skopeo = bare.skopeo(name_server)

    for _ in ("from the registries", "from the cache"):
        for name, image in images.items():
            pulled = skopeo.pull(f"docker://{name}")
            assert pulled.holds(image), f"{name}: {pulled.result.err}"


def test_what_one_of_them_has_the_other_has_not(
    name_server: str,
    registry: Registry,
    other_registry: Registry,
    bare: BareClients,
    layout: Layout,
    repository: str,
) -> None:
    image = layout.image(None, [KIB], seed=repository)
    registry.seed(image, repository, "v1")
    skopeo = bare.skopeo(name_server)
    assert skopeo.pull(registry.reference(repository, "v1")).holds(image)

    for reference in ("v1", image.digest):
        refused = skopeo.pull(other_registry.reference(repository, reference))
        assert not refused
        assert "manifest unknown" in refused.result.err


@pytest.mark.parametrize("port", [443, 5050])
def test_a_port_that_the_proxy_was_not_told_of_is_not_taken_for_the_one_that_it_knows(
    port: int, network: Network, gateway: Gateway, halves: tuple[FakeRegistry, FakeRegistry], pki: Pki, tmp_path: Path
) -> None:
    for half in halves:
        half.content.pages["/v2/which"] = (200, {}, f"port {half.public_port}".encode())
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(gateway.ca_file.read_text() + pki.ca_file.read_text())

    with tls(network.client, Network.CACHE[0], "registry2.test", trusted, port) as wire:
        answer = get(wire, f"registry2.test:{port}", "/v2/which")

    assert answer.endswith(f"port {port}".encode())
