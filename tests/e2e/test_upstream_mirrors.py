"""A region's cache as a mirror of registries for an office: bytes from there, tags and rights from the registry."""

from pathlib import Path

import bcrypt
import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.fake_registry import basic
from lab.images import KIB, Image, Layout
from lab.journal import body_bytes, find
from lab.mirrors import below
from lab.pki import Pki
from lab.ports import free_port
from lab.proxy import Proxies, Proxy
from lab.registry import Registry

ALICE, BOB = "alice:secret", "bob:hunter2"


@pytest.fixture
def region(registry: Registry, proxy_factory: Proxies) -> Proxy:
    """Has what anybody may read."""
    return proxy_factory(registry)


@pytest.fixture
def closed_region(registry: Registry, proxy_factory: Proxies, tmp_path: Path) -> Proxy:
    """Has what alice may read, for those who know its own password."""
    users = tmp_path / "htpasswd"
    users.write_text(f"office:{bcrypt.hashpw(b'let me in', bcrypt.gensalt(4)).decode()}\n")
    accounts = logins(tmp_path / "region.json", registry.host, ALICE)
    return proxy_factory(registry, flags=["--mirror-htpasswd", str(users), "--mirror-credentials", str(accounts)])


def logins(file: Path, host: str, account: str) -> Path:
    """A docker config.json."""
    file.write_text(f'{{"auths": {{"{host}": {{"auth": "{basic(*account.split(":")).removeprefix("Basic ")}"}}}}}}')
    file.chmod(0o600)
    return file


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str, private: str) -> Image:
    made = layout.image(repository, [300 * KIB, 5 * KIB], seed=private)
    for name in (private, repository):
        registry.seed(made, name, "v1")
    return made


def test_two_offices_cost_the_far_network_one_download(
    registry: Registry,
    cdn: Cdn,
    region: Proxy,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    image: Image,
    repository: str,
) -> None:
    mirror = f"{registry.host}=http://127.0.0.1:{region.port}/{below(registry)}"
    offices = [proxy_factory(registry, flags=["--upstream-mirror", mirror]) for _ in range(2)]

    for office in offices:
        pulled = clients.skopeo(office.url, office.ca_file, public.ca_file).pull(registry.reference(repository, "v1"))
        assert pulled.holds(image), pulled.result.err

    assert body_bytes(cdn.journal) == sum(blob.size for blob in image.blobs)
    assert [got.status for got in find(registry.journal, "/manifests/", method="GET")] == [401, 200]


def test_a_region_that_is_gone_is_done_without(
    registry: Registry,
    region: Proxy,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    image: Image,
    repository: str,
) -> None:
    mirror = f"{registry.host}=http://127.0.0.1:{region.port}/{below(registry)}"
    office = proxy_factory(registry, flags=["--upstream-mirror", mirror])
    region.stop()

    pulled = clients.skopeo(office.url, office.ca_file, public.ca_file).pull(registry.reference(repository, "v1"))

    assert pulled.holds(image), pulled.result.err
    assert f"mirror http://127.0.0.1:{region.port} is not asked for 10 s: cannot connect" in office.log_text()


def test_what_a_mirror_gives_to_the_office_is_not_for_everybody_in_it(
    registry: Registry,
    cdn: Cdn,
    closed_region: Proxy,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    pki: Pki,
    image: Image,
    private: str,
    tmp_path: Path,
) -> None:
    authority = f"127.0.0.1:{closed_region.port}"
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(closed_region.ca_file.read_bytes() + pki.ca_file.read_bytes())
    accounts = logins(tmp_path / "office.json", authority, "office:let me in")
    mirror = f"{registry.host}=https://{authority}/{below(registry)}"
    office = proxy_factory(
        registry,
        flags=[
            *("--upstream-mirror", mirror),
            *("--upstream-credentials", str(accounts)),
            *("--upstream-ca", str(trusted)),
        ],
    )
    skopeo = clients.skopeo(office.url, office.ca_file, public.ca_file)
    reference = registry.reference(private, "v1")

    assert skopeo.pull(reference, creds=ALICE).holds(image)
    assert office.log_text().count(f'"detail": "from mirror {authority}"') == len(image.blobs) + 1
    for account in (BOB, None):
        assert not skopeo.pull(reference, creds=account).result
    for secret in ("let me in", "secret", "hunter2"):
        assert secret not in office.log_text()


def test_two_that_name_each_other_wait_for_a_while_and_then_do_without(
    registry: Registry, proxy_factory: Proxies, clients: Clients, public: Pki, image: Image, repository: str
) -> None:
    two = [proxy_factory(registry, flags=["--first-byte-timeout", "1s"], start=False) for _ in range(2)]
    for proxy, other in zip(two, reversed(two), strict=True):
        proxy.port = proxy.port or free_port()
        other.port = other.port or free_port()
        proxy.flags += ["--upstream-mirror", f"{registry.host}=http://127.0.0.1:{other.port}/{below(registry)}"]
        proxy.start()

    for proxy in two:
        pulled = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file).pull(registry.reference(repository, "v1"))
        assert pulled.holds(image), pulled.result.err
