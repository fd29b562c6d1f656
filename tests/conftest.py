"""Fixtures of the laboratory (`lab`): services that a test asks for by name.

What is slow to start lives as long as the session and is as new for each test; a test's own
services, proxies and folders end with it. Repositories, not registries, keep tests apart: see
`repository`.
"""

import gc
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lab.cdn import Cdn
from lab.clients import Clients
from lab.engines import Engines
from lab.fake_registry import FakeRegistry
from lab.front import Front
from lab.hosts import PlainHost
from lab.images import Layout
from lab.inside import plain_registry
from lab.memory import Clock, Memory, remembering
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.proxy import Proxies
from lab.registry import Registry
from lab.tokens import TokenServer
from lab.web import served
from pullthrough import fetch, following

#: Characters of each proxy's log in the report of a failure.
_LOGGED = 6000

# How long an example takes says nothing: tests run side by side, on whatever else the machine does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# Whoever runs us in the background may have Ctrl-C ignored, and so would every program be that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what was imported and collected: it lives until the end anyway.

    `lab.inside` looks for errors in garbage after every test. To go through all of the heap for that took half of the
    time of those tests; what a test makes itself is gone through as before.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whoever reads of a failure reads the end of the proxies' logs, too: often it does not come again."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            for proxy in value.made if isinstance(value, Proxies) else ():
                report.sections.append((f"log of {name}: {proxy.folder.name}", proxy.log_text()[-_LOGGED:]))
    return report


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The upstream CA of registries and the CDN: the proxy is told of it, clients are not."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The public CA of hosts that are tunnelled: clients trust it beside the proxy's own."""
    return Pki(tmp_path_factory.mktemp("public"), "lab public CA")


@pytest.fixture(scope="session")
def session_tokens(pki: Pki, public: Pki) -> Iterator[TokenServer]:
    """The token server; tests take `tokens`."""
    server = TokenServer(public.identity("auth.test"), pki.signer())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def session_registry(
    pki: Pki, session_tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry as GitLab's; tests take `registry`."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(pki, folder, tokens=session_tokens, cdn_url="https://cdn.test")
    registry.start()
    yield registry
    registry.stop()
    shutil.rmtree(registry.storage, ignore_errors=True)


@pytest.fixture(scope="session")
def session_cdn(pki: Pki, session_registry: Registry) -> Iterator[Cdn]:
    """The CDN over that registry's storage; tests take `cdn`."""
    server = Cdn(pki.identity("cdn.test"), session_registry.storage)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def names() -> NameMap:
    """The names of this test's services; each service fixture adds its own."""
    return NameMap()


@pytest.fixture
def tokens(session_tokens: TokenServer, names: NameMap) -> Iterator[TokenServer]:
    """`https://auth.test/jwt/auth`, as new."""
    session_tokens.publish(names)
    yield session_tokens
    session_tokens.reset()
    session_tokens.start_if_stopped()


@pytest.fixture
def cdn(session_cdn: Cdn, names: NameMap) -> Iterator[Cdn]:
    """`https://cdn.test/` without faults and with an empty journal."""
    session_cdn.publish(names)
    session_cdn.reset()
    yield session_cdn
    session_cdn.reset()
    session_cdn.start_if_stopped()


@pytest.fixture
def registry(session_registry: Registry, tokens: TokenServer, cdn: Cdn, names: NameMap) -> Iterator[Registry]:
    """`registry.test:PORT` as GitLab has it: tokens from auth.test, blobs at cdn.test; an empty journal."""
    session_registry.publish(names)
    session_registry.journal.clear()
    yield session_registry
    session_registry.start_if_stopped()


@pytest.fixture
def front(registry: Registry, pki: Pki, names: NameMap) -> Iterator[Front]:
    """`front.test:PORT`: `registry` under another name, that fails and limits on command."""
    with served(Front(pki.identity("front.test"), registry, pki.client_context()), names) as server:
        yield server


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that is this test's alone, below `open/`, where anybody may pull."""
    name = request.node.name.lower()
    return f"open/{''.join(letter if letter.isalnum() else '-' for letter in name).strip('-')}"


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """An image layout to make images in; use tags and seeds of your own."""
    return Layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture
def fake(pki: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    """`fake.test:PORT` over TLS, empty."""
    with served(FakeRegistry("fake.test", pki.identity("fake.test")), names) as server:
        yield server


@pytest.fixture(scope="module")
def origin() -> Iterator[FakeRegistry]:
    """A fake registry over plain HTTP, for `lab.inside`; one for all tests of a file."""
    with plain_registry() as server:
        yield server


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries, and hardly between looks at what another process fetches."""
    monkeypatch.setattr(fetch, "BACK_OFF", (0.0,) * len(fetch.BACK_OFF))
    monkeypatch.setattr(following, "_SOON", 0.002)
    monkeypatch.setattr(following, "_LATER", 0.002)


@pytest.fixture
def plain(public: Pki, names: NameMap, tmp_path: Path) -> Iterator[PlainHost]:
    """`https://plain.test/`, a host that is no registry."""
    with served(PlainHost(public.identity("plain.test"), tmp_path / "plain"), names) as server:
        yield server


@pytest.fixture
def parent(names: NameMap) -> Iterator[ParentProxy]:
    """A forward proxy that only tunnels."""
    with served(ParentProxy(names), names) as server:
        yield server


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    """Makes skopeo and podman: `clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)`."""
    made = Clients(tmp_path)
    yield made
    made.end()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    """Starts dockerd and containerd: `engines.docker(proxy.url, proxy.ca_file, public.ca_file)`."""
    made = Engines(tmp_path)
    yield made
    made.end()


@pytest.fixture
def proxy_factory(tmp_path: Path, names: NameMap, pki: Pki, public: Pki) -> Iterator[Proxies]:
    """Starts proxies: `proxy_factory(registry, flags=["--size", "1GiB"])`."""
    proxies = Proxies(tmp_path, names, upstream_ca=pki.ca_file, system_ca=public.ca_file)
    yield proxies
    proxies.end()


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    """Facts on a store of their own, with a clock of their own: the time of day."""
    async with remembering(tmp_path / "store") as made:
        yield made


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For sockets: their names may have 107 bytes, and `tmp_path` is longer."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def clock() -> Clock:
    """The clock of this process, which has nothing to do with the time of day (`memory.clock`)."""
    return Clock(100.0)
