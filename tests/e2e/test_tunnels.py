"""Hosts that are no registries are tunnelled unopened, and tunnels lead only where a build machine needs them."""

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.asking import Asking
from lab.clients import Clients
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry, Redirect
from lab.hosts import PACKAGE, README, WHEEL, PlainHost
from lab.http import Client, ConnectRefused
from lab.names import NameMap
from lab.pki import Pki
from lab.programs import environment, need
from lab.proxy import Proxies, Proxy
from lab.raw import ask
from lab.web import served

METADATA = "169.254.169.254"


@pytest.fixture
def proxy(fake: FakeRegistry, plain: PlainHost, proxy_factory: Proxies) -> Proxy:
    assert plain.port  # so its name is known to the proxy
    return proxy_factory(fake)


@pytest.fixture(scope="module")
def refusing(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Proxy:
    """One for all that is not to be reached."""
    session_fake.publish(session_names)
    session_names.publish("metadata.test", 443, METADATA, 443)
    session_names.publish("metadata.test", 80, METADATA, 80)
    return session_proxies(session_fake)


@pytest.fixture
def odd(public: Pki, names: NameMap, tmp_path: Path) -> Iterator[PlainHost]:
    """A host that is no registry on a port of its own: `https://storage.test:PORT/`."""
    server = PlainHost(public.identity("storage.test"), tmp_path / "odd")
    server.fixed_port = None
    server.start()
    server.publish(names)
    yield server
    server.stop()


# -- what passes


def test_pip_downloads_through_a_tunnel(plain: PlainHost, proxy: Proxy, public: Pki, tmp_path: Path) -> None:
    wheel = plain.add_package_index()
    usual = ["-m", "pip", "--isolated", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir"]
    place = ["--index-url", plain.index_url, "--proxy", proxy.url, "--cert", str(public.ca_file)]
    command = [sys.executable, *usual, *place, "--dest", str(tmp_path / "out"), PACKAGE]

    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / WHEEL).read_bytes() == wheel.read_bytes()


def test_git_clones_through_a_tunnel(plain: PlainHost, proxy: Proxy, public: Pki, tmp_path: Path) -> None:
    plain.add_git_repository()
    env = environment(tmp_path, GIT_CONFIG_NOSYSTEM="1", GIT_SSL_CAINFO=str(public.ca_file))
    command = [need("git"), "-c", f"http.proxy={proxy.url}", "clone", plain.git_url, str(tmp_path / "out")]

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "README").read_bytes() == README


async def test_the_certificate_that_the_client_sees_is_the_hosts_own(
    fake: FakeRegistry, plain: PlainHost, proxy: Proxy, public: Pki, pki: Pki
) -> None:
    client = Client(public.ca_file, proxy.ca_file, proxy=proxy.address)

    async with client.connect(plain.url) as tunnelled, client.connect(fake.url) as opened:
        assert tunnelled.peer_certificate == public.identity("plain.test").leaf_der()
        assert opened.peer_certificate != pki.identity("fake.test").leaf_der()


async def test_of_a_tunnel_only_the_host_and_the_bytes_are_logged(plain: PlainHost, proxy: Proxy, public: Pki) -> None:
    await Client(public.ca_file, proxy=proxy.address).fetch(f"{plain.url}/secret-path?key=secret-value")
    await asyncio.to_thread(eventually, lambda: tunnels(proxy), "the tunnel is logged")
    (line,) = tunnels(proxy)

    assert (line["host"], line["bytes"] > 0) == ("plain.test:443", True)
    assert "secret" not in proxy.log_text()


async def test_plain_http_to_a_host_that_is_no_registry_is_relayed_on_port_80_only(
    names: NameMap, proxy_factory: Proxies, fake: FakeRegistry
) -> None:
    with served(FakeRegistry("storage.test", None, public_port=80), names) as web:
        names.publish("storage.test", 8080, web.address, web.port)
        web.content.pages["/hello"] = (200, {"Content-Type": "text/plain"}, b"hello")
        client = Client(proxy=proxy_factory(fake).address)
        relayed = await client.fetch("http://storage.test/hello")
        refused = await client.fetch("http://storage.test:8080/hello")

    assert (relayed.status, relayed.body) == (200, b"hello")
    assert (refused.status, b"NO_PROXY" in refused.body) == (403, True)


# -- what does not


def test_a_tunnel_to_another_port_is_refused_with_the_flag_that_would_open_it(refusing: Proxy) -> None:
    refused = ask(refusing, "CONNECT", "plain.test:8443")

    assert refused.status == 403
    assert "--registry plain.test:8443" in refused.message
    assert "NO_PROXY" in refused.message


@pytest.mark.parametrize("port", [22, 25, 80, 2375, 6379])
def test_a_tunnel_to_a_service_that_is_not_https_is_refused(refusing: Proxy, port: int) -> None:
    assert ask(refusing, "CONNECT", f"plain.test:{port}").status == 403


async def test_a_token_server_on_an_odd_port_is_reached_once_a_registry_named_it(
    fake: FakeRegistry, odd: PlainHost, public: Pki, proxy: Proxy
) -> None:
    client = Client(public.ca_file, proxy=proxy.address)
    fake.manners.accepts = lambda request: False
    fake.manners.challenge = f'Bearer realm="{odd.url}/token",service="lab"'
    with pytest.raises(ConnectRefused):
        await client.fetch(f"{odd.url}/token")

    await Asking.through(proxy, fake).fetch("/v2/")
    async with client.connect(odd.url) as connection:
        assert connection.peer_certificate == public.identity("storage.test").leaf_der()
        assert (await connection.ask("/token")).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_challenge_of_a_pull_names_it_too(
    fake: FakeRegistry, odd: PlainHost, public: Pki, proxy: Proxy, repository: str, method: str
) -> None:
    fake.manners.accepts = lambda request: False
    fake.manners.challenge = f'Bearer realm="{odd.url}/token",service="lab"'

    await Asking.through(proxy, fake).manifest(repository, "v1", method=method)

    assert (await Client(public.ca_file, proxy=proxy.address).fetch(f"{odd.url}/token")).status == 404


async def test_a_storage_host_on_an_odd_port_is_reached_once_a_registry_redirected_there(
    fake: FakeRegistry, odd: PlainHost, public: Pki, proxy: Proxy, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    fake.manners.redirect = Redirect(307, f"{odd.url}/{{digest}}")

    head = await Asking.through(proxy, fake).blob(repository, digest, method="HEAD")

    assert (head.status, head.headers["location"]) == (307, f"{odd.url}/{digest}")
    assert (await Client(public.ca_file, proxy=proxy.address).fetch(head.headers["location"])).status == 404


# -- addresses that are never reached


@pytest.mark.parametrize("host", [METADATA, "metadata.test", "[::ffff:169.254.169.254]", "[fe80::1]", "0.0.0.0"])
def test_a_tunnel_to_the_cloud_metadata_is_refused(refusing: Proxy, host: str) -> None:
    refused = ask(refusing, "CONNECT", f"{host}:443")

    assert refused.status in {403, 502}
    assert "metadata" in refused.message or host == "0.0.0.0"


@pytest.mark.parametrize("host", [METADATA, "metadata.test", "0xa9fea9fe", "2852039166"])
def test_plain_http_to_the_cloud_metadata_is_refused(refusing: Proxy, host: str) -> None:
    refused = ask(refusing, "GET", f"http://{host}/latest/meta-data/")

    assert refused.status in {403, 502}
    assert refused.message


@pytest.mark.parametrize("host", [METADATA, "metadata.test"])
async def test_a_redirect_of_a_registry_to_the_cloud_metadata_is_not_followed(
    fake: FakeRegistry, refusing: Proxy, data: bytes, repository: str, host: str
) -> None:
    fake.manners.redirect = Redirect(307, f"https://{host}/{{digest}}")

    answer = await Asking.through(refusing, fake).blob(repository, fake.add_blob(data))

    assert answer.status == 502
    assert b"metadata address" in answer.body


async def test_a_registry_that_resolves_to_the_cloud_metadata_is_not_asked(
    names: NameMap, proxy_factory: Proxies, fake: FakeRegistry
) -> None:
    names.publish("metadata.test", 443, METADATA, 443)
    proxy = proxy_factory(fake, flags=["--registry", "metadata.test"])
    client = Client(proxy.ca_file, proxy=proxy.address)

    for method, target in [("GET", "/v2/a/manifests/b"), ("GET", "/v2/"), ("PUT", "/v2/a/manifests/b")]:
        answer = await client.fetch(f"https://metadata.test{target}", method=method)
        assert (answer.status, b"metadata address" in answer.body) == (502, True)


# -- hints


async def test_a_client_that_does_not_trust_us_is_hinted_at_once_in_the_log(
    fake: FakeRegistry, proxy: Proxy, public: Pki, clients: Clients
) -> None:
    stranger = clients.skopeo(proxy.url, public.ca_file)

    for _ in range(2):
        assert not stranger.pull(f"docker://{fake.host}/app:v1")

    hints = [line for line in proxy.log_lines() if "does not trust our CA" in line.get("message", "")]
    assert len(hints) == 1
    assert "/ca.pem" in hints[0]["message"]


async def test_a_tunnelled_host_that_looks_like_a_registry_is_named_once_with_the_flag(
    names: NameMap, plain: PlainHost, proxy_factory: Proxies, fake: FakeRegistry, public: Pki
) -> None:
    names.publish("registry.test", 443, plain.address, plain.port)
    proxy = proxy_factory(fake)

    for host in ["registry.test", "registry.test", "plain.test"]:
        assert ask(proxy, "CONNECT", f"{host}:443").status == 200

    hints = [line["message"] for line in proxy.log_lines() if "--registry" in line.get("message", "")]
    assert len(hints) == 1
    assert "--registry registry.test" in hints[0]


def tunnels(proxy: Proxy) -> list[dict[str, Any]]:
    return [line for line in proxy.log_lines() if line.get("message") == "tunnel"]


def test_tls_to_the_proxy_itself_is_for_names_that_are_its_own(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.ca_file))

    def handshake(name: str) -> None:
        with socket.create_connection(proxy.address, 20) as sock, context.wrap_socket(sock, server_hostname=name):
            pass

    for name in ("localhost", "127.0.0.1"):
        handshake(name)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        handshake("other.test")
    assert proxy.get("/healthz")[0] == 200
