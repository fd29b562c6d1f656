"""Real clients that name the proxy as a mirror, or pull from it directly. They can reach no registry by themselves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.engines import Engines
from lab.front import Front
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.mirrors import below
from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.raw import ask
from lab.registry import Registry
from lab.token_path import basic

HUB = "registry-1.docker.io"


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str, private: str) -> Image:
    made = layout.image(repository, [30 * KIB], seed=repository)
    for name in (private, repository):
        registry.seed(made, name, "v1")
    return made


@pytest.fixture
def proxy(registry: Registry, proxy_factory: Proxies) -> Proxy:
    return proxy_factory(registry)


@pytest.fixture
def hub(registry: Registry, pki: Pki, names: NameMap) -> Iterator[None]:
    """The registry, as Docker Hub."""
    front = Front(pki.identity(HUB), registry, pki.client_context())
    front.start()
    names.publish(HUB, 443, front.address, front.port)
    yield
    front.stop()


def forget(registry: Registry, cdn: Cdn) -> None:
    registry.journal.clear()
    cdn.journal.clear()


def assert_only_tags_were_checked(registry: Registry, cdn: Cdn) -> None:
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/blobs/") == []
    assert find(registry.journal, "/manifests/", method="GET") == []


def without_tls(kind: str, clients: Clients, engines: Engines) -> Callable[[str, Image], bool]:
    """One client that has nothing, pulls a name without TLS, and tells whether the image came."""
    if kind == "skopeo":
        skopeo = clients.skopeo(None)
        return lambda name, image: skopeo.pull(f"docker://{name}", "--src-tls-verify=false").holds(image)
    if kind == "docker":
        docker = engines.docker(None)  # which needs no TLS for 127.0.0.0/8

        def by_docker(name: str, image: Image) -> bool:
            docker.clean()
            return bool(docker.pull(name)) and docker.holds(name, image)

        return by_docker
    podman = clients.podman(None)

    def by_podman(name: str, image: Image) -> bool:
        podman.remove("--all")
        return bool(podman.pull(name, "--tls-verify=false")) and podman.digest(name) == image.digest

    return by_podman


@pytest.mark.parametrize("kind", ["skopeo", "podman", "docker"])
def test_an_image_is_pulled_from_the_cache_by_its_own_name(
    registry: Registry,
    cdn: Cdn,
    proxy: Proxy,
    clients: Clients,
    engines: Engines,
    image: Image,
    repository: str,
    private: str,
    kind: str,
) -> None:
    fetched = without_tls(kind, clients, engines)

    def pulled(repository: str) -> bool:
        return fetched(f"127.0.0.1:{proxy.port}/{below(registry)}/{repository}:v1", image)

    assert pulled(repository)
    forget(registry, cdn)
    assert pulled(repository)
    assert_only_tags_were_checked(registry, cdn)
    assert not pulled(private)


def test_podman_takes_a_mirror_by_its_path(
    registry: Registry, cdn: Cdn, proxy: Proxy, clients: Clients, image: Image, repository: str
) -> None:
    mirror = f'[[registry.mirror]]\nlocation = "127.0.0.1:{proxy.port}/{below(registry)}"\ninsecure = true\n'
    for _ in range(2):
        forget(registry, cdn)
        podman = clients.podman(None)
        lines = ["unqualified-search-registries = []", "[[registry]]", f'location = "{registry.host}"', mirror]
        podman.home.registries.write_text("\n".join(lines))
        pulled = podman.pull(registry.image_name(repository, "v1"))
        assert pulled, pulled.err
        assert podman.digest(registry.image_name(repository, "v1")) == image.digest
    assert_only_tags_were_checked(registry, cdn)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_containerd_takes_a_mirror_from_hosts_toml(
    registry: Registry,
    cdn: Cdn,
    proxy: Proxy,
    engines: Engines,
    image: Image,
    repository: str,
    private: str,
    tmp_path: Path,
    tls: bool,
) -> None:
    folder = tmp_path / "certs.d" / registry.host
    folder.mkdir(parents=True)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{proxy.port}"
    lines = [f'[host."{url}"]', 'capabilities = ["pull", "resolve"]', *([f'ca = "{proxy.ca_file}"'] if tls else [])]
    (folder / "hosts.toml").write_text("\n".join([f'server = "https://{registry.host}"', *lines, ""]))
    daemon = engines.containerd(None, hosts=folder.parent)
    name = registry.image_name(repository, "v1")

    for _ in range(2):
        forget(registry, cdn)
        daemon.clean()
        by_cri = daemon.cri.pull(name)
        assert by_cri, by_cri.err
        assert daemon.cri.holds(name, image)
        daemon.clean()
        by_ctr = daemon.ctr.pull(name, "--hosts-dir", str(folder.parent))
        assert by_ctr, by_ctr.err
        assert daemon.ctr.holds(name, image)
    assert_only_tags_were_checked(registry, cdn)
    assert not daemon.cri.pull(registry.image_name(private, "v1"))


@pytest.mark.usefixtures("hub")
def test_docker_takes_it_as_a_registry_mirror_of_docker_hub(
    registry: Registry, cdn: Cdn, proxy: Proxy, engines: Engines, image: Image, repository: str, tmp_path: Path
) -> None:
    """Its BuildKit as well, for the base of a build."""
    docker = engines.docker(None, mirrors=[proxy.url])
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {repository}:v1\nCOPY Dockerfile /\n")

    for _ in range(2):
        forget(registry, cdn)
        pulled = docker.pull(f"{repository}:v1")
        assert pulled, pulled.err
        assert docker.holds(f"{repository}:v1", image)
        docker.clean()
    assert_only_tags_were_checked(registry, cdn)
    forget(registry, cdn)
    built = docker.build(folder)
    assert built, built.err
    assert_only_tags_were_checked(registry, cdn)


def test_what_one_door_cached_is_a_hit_at_the_other(
    registry: Registry, cdn: Cdn, proxy: Proxy, clients: Clients, public: Pki, image: Image, repository: str
) -> None:
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)
    assert skopeo.pull(registry.reference(repository, "v1")).holds(image)
    forget(registry, cdn)

    name = f"127.0.0.1:{proxy.port}/{below(registry)}/{repository}:v1"
    assert clients.skopeo(None).pull(f"docker://{name}", "--src-tls-verify=false").holds(image)
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/manifests/", method="GET", status=200) == []


def test_a_mirror_with_credentials_is_for_those_with_a_password(
    registry: Registry,
    proxy_factory: Proxies,
    clients: Clients,
    image: Image,
    private: str,
    tmp_path: Path,
) -> None:
    """The password is the mirror's; the registry's is the operator's, in a docker config.json."""
    users = tmp_path / "htpasswd"
    users.write_text(f"builder:{bcrypt.hashpw(b'let me in', bcrypt.gensalt(4)).decode()}\n")
    config = tmp_path / "docker.json"
    auth = basic("alice:secret").removeprefix("Basic ")
    config.write_text(f'{{"auths": {{"{registry.host}": {{"auth": "{auth}"}}}}}}')
    config.chmod(0o600)
    proxy = proxy_factory(registry, flags=["--mirror-htpasswd", str(users), "--mirror-credentials", str(config)])
    name = f"docker://127.0.0.1:{proxy.port}/{below(registry)}/{private}:v1"
    skopeo = clients.skopeo(None)

    assert skopeo.pull(name, "--src-tls-verify=false", creds="builder:let me in").holds(image)
    assert not skopeo.pull(name, "--src-tls-verify=false", creds="builder:guessed").result
    assert not skopeo.pull(name, "--src-tls-verify=false").result
    assert ask(proxy, "GET", "/v2/").status == 401
    page = proxy.get("/")[1].decode()
    assert "own accounts at registries may read to clients with a name and a password" in page
    for secret in ("let me in", "secret"):
        assert secret not in proxy.log_text()
        assert secret not in page
