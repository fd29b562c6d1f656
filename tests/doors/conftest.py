"""A network in which nobody is told of a proxy: `lab.netns` with services upstream and one proxy between.

Everything that is slow to start is shared by all tests of this folder; repositories keep them apart (`repository`).
The proxy's machine has the proxy itself for its name server, as it is where a whole site has.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy.dns import ResourceRecord
from mitmproxy.net.dns.https_records import HTTPSRecord

from lab.bare import BareClients
from lab.cdn import Cdn
from lab.fake_registry import FakeRegistry
from lab.gateway import REDIRECTED, Gateway
from lab.hosts import PlainHost
from lab.nameserver import LabNameServer
from lab.netns import Network
from lab.pki import Pki
from lab.registry import Registry
from lab.relay import Relays, addresses
from lab.tokens import TokenServer

FOUR, SIX, _ = Network.CACHE


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Client, cache and upstream."""
    made = Network()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def relays(network: Network) -> Iterator[Relays]:
    """Offers services upstream."""
    made = Relays(network.upstream)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def answers(network: Network) -> Iterator[LabNameServer]:
    """The upstream's name server, which tells the truth."""
    made = LabNameServer()
    with network.upstream.entered():
        for address in network.NAMES:
            made.listen(address)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def registry(
    pki: Pki,
    session_tokens: TokenServer,
    relays: Relays,
    answers: LabNameServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Registry]:
    """`registry.test` as GitLab has it: tokens from auth.test, blobs at cdn.test."""
    folder = tmp_path_factory.mktemp("registry")
    made = Registry(pki, folder, tokens=session_tokens, cdn_url="https://cdn.test", public_port=443)
    made.start()
    relays.offer(made, session_tokens)
    for name in (made.name, session_tokens.name):
        answers.host(name, *addresses(name))
    answers.add(ResourceRecord.HTTPS(made.name, HTTPSRecord(1, "cdn.test", {})))
    yield made
    made.stop()
    shutil.rmtree(made.storage, ignore_errors=True)


@pytest.fixture(scope="session")
def other_registry(
    pki: Pki, session_tokens: TokenServer, relays: Relays, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """`registry.test:5050`, another one of the same name."""
    folder = tmp_path_factory.mktemp("other-registry")
    made = Registry(pki, folder, tokens=session_tokens, public_port=5050)
    made.start()
    relays.offer(made)
    yield made
    made.stop()
    shutil.rmtree(made.storage, ignore_errors=True)


@pytest.fixture(scope="session")
def session_cdn(pki: Pki, registry: Registry, relays: Relays, answers: LabNameServer) -> Iterator[Cdn]:
    """`https://cdn.test/` over the storage of `registry`; tests take `cdn`."""
    made = Cdn(pki.identity("cdn.test"), registry.storage)
    made.start()
    relays.offer(made)
    answers.host(made.name, *addresses(made.name))
    yield made
    made.stop()


@pytest.fixture
def cdn(session_cdn: Cdn) -> Cdn:
    """With an empty journal."""
    session_cdn.reset()
    return session_cdn


@pytest.fixture(scope="session")
def plain(
    public: Pki, relays: Relays, answers: LabNameServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlainHost]:
    """`https://plain.test/`, no registry."""
    made = PlainHost(public.identity("plain.test"), tmp_path_factory.mktemp("plain"))
    (made.folder / "here").write_text("plain.test itself")
    made.start()
    relays.offer(made)
    answers.host(made.name, *addresses(made.name))
    answers.add(
        ResourceRecord.HTTPS(made.name, HTTPSRecord(1, "front.test", {})),
        ResourceRecord.CNAME("alias.test", made.name),
    )
    yield made
    made.stop()


@pytest.fixture(scope="session")
def insecure(relays: Relays, answers: LabNameServer) -> Iterator[FakeRegistry]:
    """`http://storage.test/`, a registry without TLS."""
    made = FakeRegistry("storage.test", None, public_port=80)
    made.start()
    relays.offer(made)
    answers.host(made.name, *addresses(made.name))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def by_address(pki: Pki, relays: Relays) -> Iterator[FakeRegistry]:
    """A registry that has an address and no name: port 5050 of `addresses("front.test")`."""
    made = FakeRegistry("front.test", pki.identity(addresses("front.test")[0]), public_port=5050)
    made.start()
    relays.offer(made)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def halves(pki: Pki, relays: Relays, answers: LabNameServer) -> Iterator[tuple[FakeRegistry, FakeRegistry]]:
    """`registry2.test` on ports 443 and 5050, of which the proxy knows the first alone."""
    made = [FakeRegistry("registry2.test", pki.identity("registry2.test"), public_port=port) for port in (443, 5050)]
    for half in made:
        half.start()
    relays.offer(*made)
    answers.host("registry2.test", *addresses("registry2.test"))
    yield made[0], made[1]
    for half in made:
        half.stop()


@pytest.fixture(scope="session")
def session_webpage(relays: Relays) -> Iterator[FakeRegistry]:
    """`http://fake.test/`, which the proxy does not know for a registry."""
    made = FakeRegistry("fake.test", None, public_port=80)
    made.start()
    relays.offer(made)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def gateway(
    network: Network,
    registry: Registry,
    other_registry: Registry,
    session_cdn: Cdn,
    plain: PlainHost,
    insecure: FakeRegistry,
    by_address: FakeRegistry,
    halves: tuple[FakeRegistry, FakeRegistry],
    pki: Pki,
    public: Pki,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """The proxy, with every door open."""
    assert session_cdn.port
    assert plain.port
    flags = {
        "--tls-listen": [f"{FOUR}:443", f"[{SIX}]:443", f"{FOUR}:5050", f"[{SIX}]:5050"],
        "--transparent-listen": [f"0.0.0.0:{REDIRECTED}", f"[::]:{REDIRECTED}"],
        "--dns-listen": [f"{FOUR}:53", f"[{SIX}]:53"],
        "--resolver": [network.NAMES[0]],
        "--name": ["cache.test"],
    }
    made = Gateway(
        tmp_path_factory.mktemp("gateway"),
        network.cache,
        name_server=FOUR,
        port=3128,
        pki=pki,
        public=public,
        registries=[
            registry.host,
            other_registry.host,
            f"{insecure.name}:80",
            f"{addresses(by_address.name)[0]}:{by_address.public_port}",
            halves[0].host,
        ],
        flags=[word for flag, values in flags.items() for value in values for word in (flag, value)],
    )
    made.start()
    yield made
    made.end_if_running()
    shutil.rmtree(made.data_dir, ignore_errors=True)


@pytest.fixture
def bare(network: Network, gateway: Gateway, tmp_path: Path) -> Iterator[BareClients]:
    """Makes clients on the client machine that trust the proxy's CA alone."""
    made = BareClients(tmp_path, network.client, gateway.ca_file)
    yield made
    made.end()
