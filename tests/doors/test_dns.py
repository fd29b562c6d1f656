"""Clients that know nothing of a proxy are led to it by their name server, and by nothing else."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mitmproxy.net.dns import response_codes, types

from lab.bare import BareClients
from lab.cdn import Cdn
from lab.deadline import eventually
from lab.gateway import Gateway
from lab.hosts import PlainHost
from lab.images import KIB, Image, Layout
from lab.nameserver import Asker, LabNameServer, question
from lab.netns import Network
from lab.pki import Pki
from lab.pulled import assert_pulled_twice, tunnels
from lab.registry import Registry
from lab.relay import addresses
from lab.wires import dialled, get, read_to_the_end, tls

FOUR, SIX, SECOND = Network.CACHE
EVERY_WAY = [(FOUR, False), (FOUR, True), (SIX, False), (SIX, True)]


@pytest.fixture
def image(registry: Registry, cdn: Cdn, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [300 * KIB, 5 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    registry.journal.clear()
    assert cdn.journal.requests() == []
    return made


# -- pulls


@pytest.mark.parametrize("kind", ["skopeo", "podman", "docker", "cri"])
def test_an_image_is_pulled_and_the_second_time_only_its_tag_is_asked_for(
    kind: str, registry: Registry, cdn: Cdn, answers: LabNameServer, bare: BareClients, image: Image, repository: str
) -> None:
    assert_pulled_twice(bare.puller(kind, FOUR), registry, cdn, image, repository)

    assert answers.asked(registry.name, types.A)  # by the proxy, whose own name server is itself
    assert not answers.asked(registry.name, types.HTTPS)


def test_an_image_is_pulled_over_ipv6_alone(
    registry: Registry, network: Network, bare: BareClients, image: Image, repository: str
) -> None:
    skopeo = bare.skopeo(SIX)

    with network.client.without(f"{FOUR}/32", "10.77.2.0/24"):
        pulled = skopeo.pull(registry.reference(repository, "v1"))

    assert pulled.holds(image), pulled.result.err


# -- names


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(("server", "tcp"), EVERY_WAY)
def test_a_registry_is_at_the_advertised_addresses_and_has_no_other_record(
    server: str, tcp: bool, network: Network, answers: LabNameServer
) -> None:
    asked = answers.asked("registry.test", types.HTTPS)
    with network.client.entered(), Asker(server, tcp=tcp) as asker:
        four, six, https, mixed = (
            asker.ask(question(name, kind))
            for name, kind in [
                ("registry.test", types.A),
                ("registry.test", types.AAAA),
                ("registry.test", types.HTTPS),
                ("Registry.TEST", types.A),
            ]
        )

    assert [str(record) for record in four.answers] == [str(record) for record in mixed.answers] == [FOUR]
    assert [str(record) for record in six.answers] == [SIX]
    assert (https.response_code, https.answers) == (response_codes.NOERROR, [])
    assert mixed.question == question("Registry.TEST", types.A).question  # resolvers compare the letters
    assert answers.asked("registry.test", types.HTTPS) == asked


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("tcp", [False, True])
def test_a_registry_on_another_port_has_no_other_record_either(
    network: Network, answers: LabNameServer, *, tcp: bool
) -> None:
    """RFC 9460 section 2.3."""
    name = "_5050._https.registry.test"
    with network.client.entered(), Asker(FOUR, tcp=tcp) as asker:
        https, other = (asker.ask(question(each, types.HTTPS)) for each in (name, name.replace("registry", "plain")))

    assert (https.response_code, https.answers) == (response_codes.NOERROR, [])
    assert other.response_code == response_codes.NXDOMAIN
    assert not answers.asked(name)


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(("server", "tcp"), EVERY_WAY)
def test_any_other_name_is_as_the_resolver_says(
    server: str, tcp: bool, network: Network, answers: LabNameServer
) -> None:
    asked = [
        question(name, kind)
        for name, kind in [
            ("plain.test", types.A),
            ("plain.test", types.AAAA),
            ("plain.test", types.HTTPS),
            ("plain.test", types.MX),
            ("alias.test", types.CNAME),
            ("nowhere.test", types.A),
        ]
    ]
    with network.client.entered(), Asker(server, tcp=tcp) as asker:
        got = [asker.ask(each) for each in asked]

    assert [answer.packed for answer in got] == [answers.answer(each.packed) for each in asked]


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("tcp", [False, True])
def test_a_message_id_that_comes_again_is_another_question(network: Network, *, tcp: bool) -> None:
    names = ["registry.test", "plain.test", "registry.test", "nowhere.test", "plain.test"]
    with network.client.entered(), Asker(FOUR, tcp=tcp) as asker:
        got = [asker.ask(question(name, types.A, identity=7)) for name in names]

    plain = addresses("plain.test")[0]
    assert [[str(record) for record in answer.answers] for answer in got] == [[FOUR], [plain], [FOUR], [], [plain]]


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\0", id="one byte"),
        pytest.param(b"\xff" * 40, id="a pointer to nowhere"),
        pytest.param(question("registry.test", types.A).packed[:-3], id="half a question"),
        pytest.param(question("abc.test", types.A).packed.replace(b"abc", b"\xff\xfe\xfd"), id="no letters"),
        pytest.param(question("abc", types.A).packed.replace(b"\x03abc\0", b"\xc0\x0c"), id="a pointer to itself"),
    ],
)
def test_what_is_no_question_harms_nobody(network: Network, junk: bytes) -> None:
    with network.client.entered(), Asker(FOUR) as other:
        other.send(junk)
    with network.client.entered(), Asker(FOUR) as asker:
        assert asker.ask(question("registry.test", types.A)).answers


def test_a_question_that_was_answered_keeps_nothing_open_and_its_port_can_be_used_again(
    network: Network, gateway: Gateway
) -> None:
    asked = question("plain.test", types.A)
    descriptors = Path(f"/proc/{gateway.pid}/fd")
    before = len(list(descriptors.iterdir()))
    with network.client.entered(), Asker(FOUR) as same:
        assert same.ask(asked).answers
        for _ in range(100):
            with Asker(FOUR) as asker:  # on a port of its own, as resolvers ask
                assert asker.ask(asked).answers

        eventually(lambda: len(list(descriptors.iterdir())) < before + 20, "the end of their connections")
        assert same.ask(asked).answers


# -- the TLS door by itself


def test_a_host_that_is_no_registry_is_passed_on_unopened(
    network: Network, gateway: Gateway, plain: PlainHost, public: Pki
) -> None:
    with tls(network.client, FOUR, "plain.test", public.ca_file) as wire:
        certificate = wire.getpeercert(binary_form=True)
        answer = get(wire, "plain.test", "/here")

    assert certificate == public.identity("plain.test").leaf_der()
    assert answer.endswith(b"plain.test itself")
    assert eventually(lambda: tunnels(gateway, "plain.test:443"), "a line of the log")


@pytest.mark.parametrize("address", [FOUR, SIX])
def test_the_proxy_itself_is_there_by_its_name(network: Network, gateway: Gateway, address: str) -> None:
    for path, said in (("/healthz", b"HTTP/1.1 200"), ("/setup.sh", b"\ncache='http://cache.test:3128'\n")):
        with tls(network.client, address, "cache.test", gateway.ca_file) as wire:
            assert said in get(wire, "cache.test", path)


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n", id="plain HTTP"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", id="a hello that is none"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
    ],
)
def test_what_names_nobody_is_closed(network: Network, said: bytes) -> None:
    with dialled(network.client, FOUR) as wire:
        wire.sendall(said)
        assert read_to_the_end(wire) == b""


@pytest.mark.usefixtures("gateway")
def test_tls_without_a_server_name_is_closed(network: Network) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with dialled(network.client, FOUR) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)


@pytest.mark.usefixtures("gateway")
def test_a_name_that_nobody_has_is_closed(network: Network, public: Pki) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)), tls(network.client, FOUR, "nowhere.test", public.ca_file):
        pass


def test_a_hello_in_pieces_is_understood(network: Network, gateway: Gateway) -> None:
    context = ssl.create_default_context(cafile=gateway.ca_file)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="registry.test")
    with dialled(network.client, FOUR) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not shaken(session):
            said = outgoing.read()
            for start in range(0, len(said), 100):
                sock.sendall(said[start : start + 100])
            incoming.write(sock.recv(65536))

    assert "registry.test" in str(session.getpeercert())


def shaken(session: ssl.SSLObject) -> bool:
    """Go on with a handshake; whether it is over."""
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
        return True
    return False


# -- the cache's own look-ups


@pytest.fixture
def astray(
    network: Network, registry: Registry, pki: Pki, public: Pki, gateway: Gateway, tmp_path: Path
) -> Iterator[Gateway]:
    """A second proxy, without --resolver, whose machine's name server is itself."""
    made = Gateway(
        tmp_path / "astray",
        network.cache,
        name_server=SECOND,
        port=3140,
        pki=pki,
        public=public,
        registries=[registry.host],
        flags=["--tls-listen", f"{SECOND}:443", "--dns-listen", f"{SECOND}:53"],
    )
    made.start()
    assert made.port != gateway.port
    yield made
    made.end_if_running()


def test_without_a_resolver_a_proxy_that_is_its_own_name_server_says_so_and_does_not_go_round(
    network: Network, registry: Registry, astray: Gateway, tmp_path: Path
) -> None:
    clients = BareClients(tmp_path, network.client, astray.ca_file)

    pulled = clients.skopeo(SECOND).pull(registry.reference("open/nothing", "v1"))

    assert not pulled
    assert "502" in pulled.result.err
    with tls(network.client, SECOND, "registry.test", astray.ca_file) as wire:
        assert f"{SECOND}:443 is this proxy itself".encode() in get(wire, "registry.test", "/v2/")
    assert len([line for line in astray.log_lines() if "status" in line]) < 20
    with network.client.entered(), Asker(SECOND) as asker:
        assert asker.ask(question("plain.test", types.A)).response_code == response_codes.SERVFAIL
