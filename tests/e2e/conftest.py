"""Fixtures of the end-to-end tests: proxies that many tests share, and raw requests through them.

A proxy takes a second to start, so tests that need no flags of their own share one; blobs and
repositories keep them apart (`data`, `repository`).
"""

import functools
import random
from collections.abc import Callable, Iterator

import pytest

from lab.asking import Asking
from lab.cdn import Cdn
from lab.clients import Clients
from lab.engines import Engines
from lab.fake_registry import Content, FakeRegistry, Manners
from lab.front import Front
from lab.http import Client
from lab.images import KIB
from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.pullers import Puller, puller
from lab.registry import Registry
from lab.token_path import basic
from lab.tokens import TokenServer

#: Rights are asked for anew after a moment, and nobody is waited for very long.
BRISK = ("--grant-ttl", "1s", "--connect-timeout", "3s", "--first-byte-timeout", "3s", "--log-level", "debug")
IMPATIENT = ("--stall-timeout", "1s", "--first-byte-timeout", "4s", "--connect-timeout", "5s")


@pytest.fixture(scope="session")
def session_fake(pki: Pki) -> Iterator[FakeRegistry]:
    """A registry in this process; tests take `fake`."""
    server = FakeRegistry("fake.test", pki.identity("fake.test"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def fake(session_fake: FakeRegistry, names: NameMap) -> Iterator[FakeRegistry]:
    """`fake.test:PORT` over TLS, as new."""
    session_fake.publish(names)
    session_fake.manners, session_fake.content = Manners(), Content()
    session_fake.reset()
    yield session_fake
    session_fake.reset()


@pytest.fixture(scope="session")
def session_names() -> NameMap:
    """The names of services that live as long as the session."""
    return NameMap()


@pytest.fixture(scope="session")
def session_proxies(
    pki: Pki, public: Pki, session_names: NameMap, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxies]:
    """Proxies that live as long as the session."""
    folder = tmp_path_factory.mktemp("proxies")
    proxies = Proxies(folder, session_names, upstream_ca=pki.ca_file, system_ca=public.ca_file)
    yield proxies
    proxies.end()


@pytest.fixture(scope="session")
def fake_proxy(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Proxy:
    """A proxy with short time-outs in front of `fake`."""
    session_fake.publish(session_names)
    return session_proxies(session_fake, flags=IMPATIENT)


@pytest.fixture(scope="session")
def site_proxy(
    session_proxies: Proxies,
    session_names: NameMap,
    session_registry: Registry,
    session_tokens: TokenServer,
    session_cdn: Cdn,
) -> Proxy:
    """A proxy in front of `registry`; its token server is tunnelled."""
    for service in (session_registry, session_tokens, session_cdn):
        service.publish(session_names)
    return session_proxies(session_registry)


@pytest.fixture(scope="session")
def session_front(pki: Pki, session_registry: Registry) -> Iterator[Front]:
    """`registry` behind something that limits and hangs; tests take `front`."""
    server = Front(pki.identity("front.test"), session_registry, pki.client_context())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def front(session_front: Front, registry: Registry, names: NameMap) -> Iterator[Front]:
    """`front.test:PORT`, as new."""
    session_front.publish(names)
    session_front.reset()
    yield session_front
    session_front.reset()


@pytest.fixture(scope="session")
def session_brisk_proxy(
    session_proxies: Proxies,
    session_names: NameMap,
    session_registry: Registry,
    session_front: Front,
    session_tokens: TokenServer,
    session_cdn: Cdn,
) -> Proxy:
    """A proxy for outages; tests take `brisk_proxy`."""
    for service in (session_registry, session_front, session_tokens, session_cdn):
        service.publish(session_names)
    return session_proxies(session_registry, session_front, flags=BRISK)


@pytest.fixture
def brisk_proxy(session_brisk_proxy: Proxy, tokens: TokenServer) -> Iterator[Proxy]:
    """A proxy in front of `registry` and `front` that soon asks again. Nothing that a test says is in its log."""
    tokens.ttl = 60  # so short a life is not remembered by the proxy: every pull asks for a token
    told = len(session_brisk_proxy.log_text())
    yield session_brisk_proxy
    session_brisk_proxy.regain_names()
    text = session_brisk_proxy.log_text()[told:]
    assert not [secret for secret in secrets(tokens) if secret in text]


@pytest.fixture(scope="module")
def make(
    session_brisk_proxy: Proxy, public: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Puller]]:
    """Gives a client of a kind (`lab.pullers`) behind `brisk_proxy`: the same one to all tests of a module.

    To start an engine costs as much as all that a test does with it. Whatever it still has of another test is of a
    repository that is no other's.
    """
    folder, proxy = tmp_path_factory.mktemp("pullers"), session_brisk_proxy
    clients, engines = Clients(folder), Engines(folder)
    yield functools.cache(lambda kind: puller(kind, clients, engines, proxy.url, proxy.ca_file, public.ca_file))
    engines.end()
    clients.end()


def secrets(tokens: TokenServer) -> list[str]:
    """The passwords, in clear and as they are sent, and the beginnings of all tokens: the registry's and our own."""
    accounts = [f"{account}:{password}" for account, password in tokens.passwords.items()]
    return ["eyJ", "pullthrough.v1.", *tokens.passwords.values(), *(basic(creds).split()[1] for creds in accounts)]


@pytest.fixture
def asking(fake: FakeRegistry, fake_proxy: Proxy) -> Asking:
    """Requests to `fake` through a proxy."""
    return Asking.through(fake_proxy, fake)


@pytest.fixture
def anybody(registry: Registry, site_proxy: Proxy) -> Asking:
    """Requests to `registry` through a proxy, without credentials."""
    return Asking.through(site_proxy, registry)


@pytest.fixture
def directly(registry: Registry, pki: Pki, names: NameMap) -> Asking:
    """Requests to `registry` itself, without credentials."""
    return Asking(Client(pki.ca_file, names=names), registry)


@pytest.fixture
def private(repository: str) -> str:
    """A repository name that is this test's alone, where only alice may pull."""
    return repository.replace("open/", "priv/")


@pytest.fixture
def data(request: pytest.FixtureRequest) -> bytes:
    """A blob that is this test's alone."""
    return random.Random(request.node.nodeid).randbytes(700 * KIB)
