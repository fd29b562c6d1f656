"""Real clients pull through HTTPS_PROXY with only the proxy's CA: the first time a miss, the second time a hit."""

import hashlib
from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.clients import Clients, Podman, Skopeo
from lab.images import KIB, Image, Index, Layout
from lab.journal import body_bytes, find
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry
from lab.tokens import TokenServer


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [300 * KIB, 5 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


@pytest.fixture
def skopeo(clients: Clients, site_proxy: Proxy, public: Pki) -> Skopeo:
    return clients.skopeo(site_proxy.url, site_proxy.ca_file, public.ca_file)


@pytest.fixture
def podmen(clients: Clients, site_proxy: Proxy, public: Pki) -> tuple[Podman, Podman]:
    """Two machines."""
    trusted = site_proxy.ca_file, public.ca_file
    return clients.podman(site_proxy.url, *trusted), clients.podman(site_proxy.url, *trusted)


def sizes(image: Image) -> int:
    return sum(blob.size for blob in image.blobs)


def forget(registry: Registry, cdn: Cdn) -> None:
    registry.journal.clear()
    cdn.journal.clear()


def assert_no_content_was_asked_for(registry: Registry, cdn: Cdn) -> None:
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/blobs/") == []
    assert find(registry.journal, "/manifests/", method="GET") == []


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_skopeo_pulls_the_second_time_without_upstream_content(
    registry: Registry, cdn: Cdn, skopeo: Skopeo, image: Image, repository: str, by: str
) -> None:
    reference = registry.reference(repository, "v1" if by == "tag" else image.digest)

    first = skopeo.pull(reference)
    assert first.holds(image), first.result.err
    assert body_bytes(cdn.journal) == sizes(image)

    forget(registry, cdn)
    second = skopeo.pull(reference)

    assert second.holds(image), second.result.err
    assert_no_content_was_asked_for(registry, cdn)


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_podman_pulls_what_another_machine_pulled_without_upstream_content(
    registry: Registry, cdn: Cdn, podmen: tuple[Podman, Podman], image: Image, repository: str, by: str
) -> None:
    name = registry.image_name(repository, "v1" if by == "tag" else image.digest)
    one, other = podmen

    first = one.pull(name)
    assert first, first.err
    assert body_bytes(cdn.journal) == sizes(image)

    forget(registry, cdn)
    second = other.pull(name)

    assert second, second.err
    assert one.digest(name) == other.digest(name) == image.digest
    assert_no_content_was_asked_for(registry, cdn)


def test_with_the_token_host_intercepted_the_proxys_ca_is_all_that_a_client_trusts(
    registry: Registry,
    tokens: TokenServer,
    cdn: Cdn,
    clients: Clients,
    image: Image,
    proxy_factory: Proxies,
    repository: str,
) -> None:
    proxy = proxy_factory(registry, tokens)
    skopeo, podman = (make(proxy.url, proxy.ca_file) for make in (clients.skopeo, clients.podman))
    assert isinstance(skopeo, Skopeo)
    assert isinstance(podman, Podman)

    first = skopeo.pull(registry.reference(repository, "v1"))
    assert first.holds(image), first.result.err
    forget(registry, cdn)
    second = podman.pull(registry.image_name(repository, "v1"))

    assert second, second.err
    assert podman.digest(registry.image_name(repository, "v1")) == image.digest
    assert_no_content_was_asked_for(registry, cdn)


def test_the_tag_is_asked_for_on_every_pull(registry: Registry, skopeo: Skopeo, image: Image, repository: str) -> None:
    skopeo.pull(registry.reference(repository, "v1"))
    registry.journal.clear()
    assert skopeo.pull(registry.reference(repository, "v1")).holds(image)

    assert len(find(registry.journal, "/manifests/v1", method="HEAD", status=200)) == 1


def test_a_tag_that_moved_upstream_brings_the_new_image_at_once(
    registry: Registry, cdn: Cdn, skopeo: Skopeo, layout: Layout, image: Image, repository: str
) -> None:
    reference = registry.reference(repository, "v1")
    assert skopeo.pull(reference).holds(image)
    moved = layout.image(None, [70 * KIB], seed=f"{repository} moved")
    registry.seed(moved, repository, "v1")

    assert skopeo.pull(reference).holds(moved)
    assert skopeo.pull(registry.reference(repository, image.digest)).holds(image)
    assert body_bytes(cdn.journal) == sizes(image) + sizes(moved)


def test_every_platform_of_a_multi_arch_image_is_cached(
    registry: Registry, cdn: Cdn, skopeo: Skopeo, layout: Layout, repository: str
) -> None:
    images = [(arch, layout.image(None, [20 * KIB], seed=repository, arch=arch)) for arch in ("amd64", "arm64")]
    index = layout.index(repository, images)
    registry.seed(index, repository, "multi")
    reference = registry.reference(repository, "multi")

    first = skopeo.pull(reference, "--all")
    assert first, first.result.err
    forget(registry, cdn)
    second = skopeo.pull(reference, "--all")

    assert second.digest == index.digest
    assert missing(second.folder, index) == []
    assert_no_content_was_asked_for(registry, cdn)


def test_one_platform_of_a_multi_arch_image_is_pulled_alone(
    registry: Registry, cdn: Cdn, skopeo: Skopeo, layout: Layout, repository: str
) -> None:
    mine = layout.image(None, [20 * KIB], seed=repository, arch="amd64")
    other = layout.image(None, [20 * KIB], seed=repository, arch="arm64")
    registry.seed(layout.index(repository, [("arm64", other), ("amd64", mine)]), repository, "multi")
    registry.journal.clear()

    pulled = skopeo.pull(registry.reference(repository, "multi"))

    assert pulled.holds(mine), pulled.result.err
    assert body_bytes(cdn.journal) == sizes(mine)


def missing(folder: Path, index: Index) -> list[str]:
    """Blobs of the index's images that are not in the folder as they should be."""
    blobs = {blob.hex for image in index.images for blob in image.blobs}
    return [name for name in blobs if hashlib.sha256((folder / name).read_bytes()).hexdigest() != name]
