"""Clients that know nothing of a proxy are led to it by rules of the router, whatever address they go to."""

import ssl
from collections.abc import Iterator

import pytest

from lab.bare import BareClients
from lab.cdn import Cdn
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.firewall import KINDS, firewall
from lab.gateway import REDIRECTED, Gateway
from lab.hosts import PlainHost
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.netns import Network
from lab.pki import Pki
from lab.pulled import assert_pulled_twice, tunnels
from lab.registry import Registry
from lab.relay import addresses
from lab.wires import dialled, get, read_to_the_end, tls

FOUR, SIX, _ = Network.CACHE
NAMES_FOUR, NAMES_SIX = Network.NAMES
PLAIN = addresses("plain.test")
PAGE = addresses("fake.test")[0]


@pytest.fixture(scope="module", params=KINDS)
def rules(request: pytest.FixtureRequest, network: Network) -> Iterator[str]:
    """Rules of each kind, one after the other."""
    with firewall(request.param, network.cache):
        yield request.param


@pytest.fixture
def image(rules: str, registry: Registry, cdn: Cdn, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [300 * KIB, 5 * KIB], seed=f"{rules} {repository}")
    registry.seed(made, repository, "v1")
    registry.journal.clear()
    assert cdn.journal.requests() == []
    return made


# -- pulls

ENGINE = {"nft redirect": "docker", "nft tproxy": "podman", "iptables": "cri"}
#: What the client cannot reach, so that it takes the other way.
CUT_OFF = {"IPv4": "fd77:2::/64", "IPv6": "10.77.2.0/24"}


@pytest.mark.parametrize("way", ["IPv4", "IPv6"])
def test_skopeo_pulls_over_one_protocol_and_the_second_time_only_the_tag_is_asked_for(
    way: str, registry: Registry, cdn: Cdn, network: Network, bare: BareClients, image: Image, repository: str
) -> None:
    client = bare.puller("skopeo", NAMES_SIX if way == "IPv6" else NAMES_FOUR)

    with network.client.without(CUT_OFF[way]):
        assert_pulled_twice(client, registry, cdn, image, repository)


def test_an_engine_pulls_and_the_second_time_only_the_tag_is_asked_for(
    rules: str, registry: Registry, cdn: Cdn, bare: BareClients, image: Image, repository: str
) -> None:
    assert_pulled_twice(bare.puller(ENGINE[rules], NAMES_FOUR), registry, cdn, image, repository)


@pytest.mark.usefixtures("rules", "gateway")
def test_a_registry_without_tls_is_cached_on_port_80(
    insecure: FakeRegistry, bare: BareClients, layout: Layout, repository: str
) -> None:
    image = layout.image(None, [30 * KIB], seed=repository)
    add(insecure, image, repository)
    skopeo = bare.skopeo(NAMES_FOUR)
    reference = f"docker://{insecure.name}:80/{repository}:v1"

    first = skopeo.pull(reference, "--src-tls-verify=false")
    assert first.holds(image), first.result.err
    insecure.journal.clear()
    second = skopeo.pull(reference, "--src-tls-verify=false")

    assert second.holds(image), second.result.err
    assert {request.method for request in find(insecure.journal, "/manifests/")} == {"HEAD"}
    assert not find(insecure.journal, "/blobs/")


@pytest.mark.usefixtures("rules", "gateway")
def test_a_registry_that_has_no_name_is_cached_by_its_address(
    by_address: FakeRegistry, bare: BareClients, layout: Layout, repository: str
) -> None:
    image = layout.image(None, [30 * KIB], seed=repository)
    add(by_address, image, repository)
    skopeo = bare.skopeo(NAMES_FOUR)
    reference = f"docker://{addresses(by_address.name)[0]}:5050/{repository}:v1"

    first = skopeo.pull(reference)
    assert first.holds(image), first.result.err
    by_address.journal.clear()

    assert skopeo.pull(reference).holds(image)
    assert {request.method for request in find(by_address.journal, "/manifests/")} == {"HEAD"}
    assert not find(by_address.journal, "/blobs/")


def add(registry: FakeRegistry, image: Image, repository: str) -> None:
    """Have it there as `v1`."""
    for blob in image.blobs:
        registry.add_blob(blob.path.read_bytes())
    registry.add_manifest(repository, "v1", image.manifest.path.read_bytes())


# -- what is no registry


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("address", PLAIN)
def test_tls_to_another_host_is_passed_on_unopened(
    address: str, network: Network, gateway: Gateway, plain: PlainHost, public: Pki
) -> None:
    told = len(tunnels(gateway, place(address)))
    with tls(network.client, address, plain.name, public.ca_file) as wire:
        certificate = wire.getpeercert(binary_form=True)
        answer = get(wire, plain.name, "/here")

    assert certificate == public.identity(plain.name).leaf_der()
    assert answer.endswith(b"plain.test itself")
    eventually(lambda: len(tunnels(gateway, place(address))) > told, "its line in the log")


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("address", PLAIN)
def test_tls_without_a_server_name_is_passed_on_to_where_it_was_going(
    address: str, network: Network, gateway: Gateway, plain: PlainHost, public: Pki
) -> None:
    assert gateway.port
    context = ssl.create_default_context(cafile=public.ca_file)
    context.check_hostname = False
    with dialled(network.client, address) as sock, context.wrap_socket(sock) as wire:
        assert wire.getpeercert(binary_form=True) == public.identity(plain.name).leaf_der()


@pytest.mark.usefixtures("rules")
def test_http_to_another_host_is_passed_on_as_it_is(network: Network, gateway: Gateway, webpage: FakeRegistry) -> None:
    assert gateway.port
    with dialled(network.client, PAGE, 80) as wire:
        answer = get(wire, webpage.name, "/page")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-Lab: itself\r\n")
    assert answer.endswith(b"\r\n\r\na page")


@pytest.fixture
def webpage(session_webpage: FakeRegistry) -> FakeRegistry:
    """`http://fake.test/page`, at a host that is no registry."""
    session_webpage.content.pages["/page"] = (200, {"X-Lab": "itself"}, b"a page")
    return session_webpage


@pytest.mark.usefixtures("rules")
def test_the_name_counts_and_not_the_address(
    network: Network, gateway: Gateway, registry: Registry, public: Pki
) -> None:
    with tls(network.client, PLAIN[0], registry.name, gateway.ca_file) as wire:
        assert get(wire, registry.name, "/v2/").startswith(b"HTTP/1.1 401")
    with pytest.raises(ssl.SSLError):
        tls(network.client, PLAIN[0], registry.name, public.ca_file)


@pytest.mark.usefixtures("rules", "webpage")
def test_another_protocol_is_passed_on_as_it_is(network: Network, gateway: Gateway) -> None:
    told = len(tunnels(gateway, f"{PAGE}:80"))
    with dialled(network.client, PAGE, 80) as wire:
        wire.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")  # begins as a method does; says no more until the server has spoken
        assert read_to_the_end(wire) == b""  # a server of HTTP hangs up

    eventually(lambda: len(tunnels(gateway, f"{PAGE}:80")) > told, "its line in the log")


# -- what nobody redirected


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("address", [FOUR, SIX])
@pytest.mark.parametrize(
    "said",
    [pytest.param(b"GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\n", id="HTTP"), pytest.param(b"\0\1\2\3", id="bytes")],
)
def test_a_connection_to_the_door_itself_leads_nowhere(address: str, said: bytes, network: Network) -> None:
    with dialled(network.client, address, REDIRECTED) as wire:
        wire.sendall(said)
        assert read_to_the_end(wire) == b""


@pytest.mark.usefixtures("gateway")
def test_tls_to_the_door_itself_leads_nowhere(network: Network, public: Pki, plain: PlainHost) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        tls(network.client, FOUR, plain.name, public.ca_file, REDIRECTED)


@pytest.mark.usefixtures("rules")
def test_the_routers_own_addresses_are_not_led_astray(network: Network, gateway: Gateway) -> None:
    with tls(network.client, FOUR, "cache.test", gateway.ca_file) as wire:
        assert get(wire, "cache.test", "/healthz").startswith(b"HTTP/1.1 200")


def place(address: str) -> str:
    """With the port of TLS, as the log has it."""
    return f"{address}:443"
