"""Real clients reach the lab through a proxy, with the CAs they are given and no file of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.clients import Clients, Podman, Skopeo
from lab.fake_registry import FakeRegistry, basic, only
from lab.hosts import PACKAGE, README, WHEEL, PlainHost
from lab.images import KIB, Image, Layout
from lab.journal import body_bytes, find
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.programs import environment, need
from lab.registry import Registry


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image("clients", [200 * KIB, 3 * KIB], seed="clients")
    registry.seed(made, repository, "v1")
    return made


@pytest.fixture
def skopeo(clients: Clients, parent: ParentProxy, pki: Pki, public: Pki) -> Skopeo:
    return clients.skopeo(parent.proxy_url, pki.ca_file, public.ca_file)


@pytest.fixture
def podman(clients: Clients, parent: ParentProxy, pki: Pki, public: Pki) -> Podman:
    return clients.podman(parent.proxy_url, pki.ca_file, public.ca_file)


def test_skopeo_pulls_by_tag_and_by_digest(
    registry: Registry, cdn: Cdn, skopeo: Skopeo, image: Image, repository: str
) -> None:
    by_tag = skopeo.pull(registry.reference(repository, "v1"))
    by_digest = skopeo.pull(registry.reference(repository, image.digest))

    assert by_tag, by_tag.result.err
    assert by_tag.holds(image)
    assert by_digest.holds(image)
    assert body_bytes(cdn.journal) == 2 * sum(blob.size for blob in image.blobs)
    assert not any(request.authorized for request in cdn.journal.requests())


def test_a_pull_with_one_wrong_byte_does_not_hold_the_image(
    registry: Registry, skopeo: Skopeo, image: Image, layout: Layout, repository: str
) -> None:
    pulled = skopeo.pull(registry.reference(repository, "v1"))
    assert pulled.holds(image)
    layer = pulled.folder / image.layers[0].hex
    layer.write_bytes(b"x" + layer.read_bytes()[1:])

    assert not pulled.holds(image)
    assert not pulled.holds(layout.image("another", [KIB], seed="another"))


def test_skopeo_is_refused_without_the_right_credentials(registry: Registry, skopeo: Skopeo, layout: Layout) -> None:
    image = layout.image("private-clients", [KIB], seed="private-clients")
    registry.seed(image, "priv/clients", "v1")
    reference = registry.reference("priv/clients", "v1")

    assert not skopeo.pull(reference)
    assert not skopeo.pull(reference, creds="bob:hunter2")
    assert skopeo.pull(reference, creds="alice:secret").holds(image)


def test_skopeo_pushes_and_inspects(registry: Registry, skopeo: Skopeo, layout: Layout, repository: str) -> None:
    image = layout.image("pushed", [20 * KIB], seed="pushed")
    reference = registry.reference(repository, "pushed")

    pushed = skopeo.push(layout.reference("pushed"), reference, creds="alice:secret")

    assert pushed, pushed.err
    assert image.digest in skopeo.inspect(reference).out
    assert find(registry.journal, "/blobs/uploads/", method="PATCH")


def test_skopeo_trusts_only_the_cas_it_is_given(
    registry: Registry, clients: Clients, parent: ParentProxy, public: Pki, repository: str
) -> None:
    stranger = clients.skopeo(parent.proxy_url, public.ca_file)

    refused = stranger.pull(registry.reference(repository, "v1"))

    assert "certificate signed by unknown authority" in refused.result.err


def test_podman_pulls_and_forgets(registry: Registry, podman: Podman, image: Image, repository: str) -> None:
    name = registry.image_name(repository, "v1")

    pulled = podman.pull(name)

    assert pulled, pulled.err
    assert podman.digest(name) == image.digest
    assert podman.remove(name)
    assert not podman.digest(name)


def test_podman_is_refused_without_the_right_credentials(registry: Registry, podman: Podman, layout: Layout) -> None:
    image = layout.image("private-podman", [KIB], seed="private-podman")
    registry.seed(image, "priv/podman", "v1")
    name = registry.image_name("priv/podman", "v1")

    assert not podman.pull(name, creds="bob:hunter2")
    assert podman.pull(name, creds="alice:secret")


def test_pip_downloads_from_the_plain_host(plain: PlainHost, parent: ParentProxy, public: Pki, tmp_path: Path) -> None:
    wheel = plain.add_package_index()
    usual = [
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "download",
        "--no-deps",
        "--no-cache-dir",
    ]
    place = ["--index-url", plain.index_url, "--proxy", parent.proxy_url, "--cert", str(public.ca_file)]
    command = [sys.executable, *usual, *place, "--dest", str(tmp_path / "out"), PACKAGE]

    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / WHEEL).read_bytes() == wheel.read_bytes()
    assert {request.target for request in parent.journal.requests()} == {"plain.test:443"}


def test_git_clones_from_the_plain_host(plain: PlainHost, parent: ParentProxy, public: Pki, tmp_path: Path) -> None:
    plain.add_git_repository()
    env = environment(tmp_path, GIT_CONFIG_NOSYSTEM="1", GIT_SSL_CAINFO=str(public.ca_file))
    command = [
        need("git"),
        "-c",
        f"http.proxy={parent.proxy_url}",
        "clone",
        plain.git_url,
        str(tmp_path / "out"),
    ]

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "README").read_bytes() == README


def test_a_missing_program_skips_and_is_named() -> None:
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        need("no-such-program")


def test_skopeo_survives_basic_authentication_alone(fake: FakeRegistry, skopeo: Skopeo, layout: Layout) -> None:
    image = layout.image("basic", [KIB], seed="basic")
    for blob in image.blobs:
        fake.add_blob(blob.path.read_bytes())
    fake.add_manifest("app", "v1", image.manifest.path.read_bytes())
    fake.manners.accepts = only(basic("a", "b"))

    assert not skopeo.pull(f"docker://{fake.host}/app:v1")
    assert skopeo.pull(f"docker://{fake.host}/app:v1", creds="a:b").holds(image)
