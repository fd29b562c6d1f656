"""Images carried from one cache to another as OCI image layouts, with real clients at every end."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.cdn import Cdn
from lab.clients import Clients
from lab.engines import Engines
from lab.images import KIB, Image, Layout
from lab.pki import Pki
from lab.proxy import Proxies
from lab.pullers import puller
from lab.registry import Registry
from lab.tokens import TokenServer
from pullthrough.cli import main
from pullthrough.core import media

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

type Pullthrough = Callable[..., str]


@pytest.fixture
def pullthrough(capsys: pytest.CaptureFixture[str]) -> Pullthrough:
    """A command in this process, which has to succeed; what it printed."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert not left.value.code, printed.err
        return printed.out

    return run


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(repository, [300 * KIB, 20 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


@pytest.fixture
def archive(
    registry: Registry,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    image: Image,
    repository: str,
    pullthrough: Pullthrough,
    tmp_path: Path,
) -> Path:
    """`image`, exported beside a running proxy through which it was pulled."""
    proxy = proxy_factory(registry)
    pulled = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file).pull(registry.reference(repository, "v1"))
    assert pulled.holds(image), pulled.result.err
    file = tmp_path / "usb.tar"
    pullthrough("export", name_of(registry, repository), "-o", file, "--data-dir", proxy.data_dir)
    return file


def name_of(registry: Registry, repository: str) -> str:
    return registry.image_name(repository, "v1")


def test_after_an_import_a_pull_costs_questions_and_no_blob(
    registry: Registry,
    cdn: Cdn,
    proxy_factory: Proxies,
    clients: Clients,
    public: Pki,
    archive: Path,
    image: Image,
    repository: str,
    pullthrough: Pullthrough,
) -> None:
    proxy = proxy_factory(registry)
    pullthrough("import", archive, "--data-dir", proxy.data_dir)
    registry.journal.clear()
    cdn.journal.clear()

    skopeo = clients.skopeo(proxy.url, proxy.ca_file, public.ca_file)
    pulled = skopeo.pull(registry.reference(repository, "v1"))

    assert pulled.holds(image), pulled.result.err
    asked = [request for request in registry.journal.requests() if request.status != 401]
    assert {request.method for request in asked if request.path != "/v2/"} == {"HEAD"}
    assert cdn.journal.requests() == []


@pytest.mark.parametrize("kind", ["skopeo", "podman"])
def test_in_an_air_gap_everybody_pulls_what_was_imported_as_public(
    kind: str,
    registry: Registry,
    tokens: TokenServer,
    cdn: Cdn,
    proxy_factory: Proxies,
    clients: Clients,
    engines: Engines,
    public: Pki,
    archive: Path,
    image: Image,
    repository: str,
    pullthrough: Pullthrough,
) -> None:
    proxy = proxy_factory(registry, flags=["--offline"])
    client = puller(kind, clients, engines, proxy.url, proxy.ca_file, public.ca_file)
    pullthrough("import", archive, "--data-dir", proxy.data_dir)
    assert not client.pull(name_of(registry, repository)), "nobody has proved anything"
    told = pullthrough("import", archive, "--public", "--data-dir", proxy.data_dir)
    for service in (registry, tokens, cdn):
        service.journal.clear()

    assert repository in told
    for reference in (name_of(registry, repository), registry.image_name(repository, image.digest)):
        for creds in (None, "alice:secret"):
            pulled = client.pull(reference, creds=creds)
            assert pulled, pulled.err
            assert client.holds(reference, image)
            client.clean()
    assert not client.pull(registry.image_name(f"{repository}-other", "v1"))
    assert [service.journal.requests() for service in (registry, tokens, cdn)] == [[], [], []]

    pullthrough("purge", name_of(registry, repository).removesuffix(":v1"), "--data-dir", proxy.data_dir)
    pullthrough("import", archive, "--data-dir", proxy.data_dir)
    assert not client.pull(name_of(registry, repository)), "a purge takes back what somebody vouched for"


def docker_index(folder: Path, layout: Layout, images: list[tuple[str, Image]]) -> str:
    """An image layout in which docker's own manifests lie; the digest of their list."""

    def put(body: object) -> dict[str, Any]:
        content = json.dumps(body).encode()
        name = hashlib.sha256(content).hexdigest()
        (folder / "blobs" / "sha256" / name).write_bytes(content)
        return {"digest": f"sha256:{name}", "size": len(content)}

    shutil.copytree(layout.folder, folder)
    entries = []
    for arch, image in images:
        body = {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST,
            "config": {**image.config.descriptor(), "mediaType": DOCKER_CONFIG},
            "layers": [{**layer.descriptor(), "mediaType": DOCKER_LAYER} for layer in image.layers],
        }
        platform = {"os": "linux", "architecture": arch}
        entries.append({**put(body), "mediaType": media.DOCKER_MANIFEST, "platform": platform})
    listed = put({"schemaVersion": 2, "mediaType": media.DOCKER_LIST, "manifests": entries})
    index = {"schemaVersion": 2, "manifests": [{**listed, "mediaType": media.DOCKER_LIST}]}
    (folder / "index.json").write_text(json.dumps(index))
    return str(listed["digest"])


@pytest.fixture
def images(layout: Layout, repository: str) -> list[tuple[str, Image]]:
    return [(arch, layout.image(None, [20 * KIB], seed=repository, arch=arch)) for arch in ("amd64", "arm64")]


def test_clients_read_an_export_of_several_images_by_their_full_names(
    clients: Clients, pullthrough: Pullthrough, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "made")
    amd, arm = (layout.image(None, [20 * KIB], seed=arch, arch=arch) for arch in ("amd64", "arm64"))
    index = layout.index("ghcr.io/team/app:1.0", [("amd64", amd), ("arm64", arm)])
    other = layout.image("docker.io/library/alpine:3", [20 * KIB], seed="alpine")
    data = "--data-dir", tmp_path / "data"
    archive = tmp_path / "usb.tar"
    pullthrough("import", layout.folder, *data)
    pullthrough("export", "alpine:3", "ghcr.io/team/*", "-o", archive, *data)

    skopeo, podman = clients.skopeo(None), clients.podman(None)
    alpine, app = (f"oci-archive:{archive}:{name}" for name in ("docker.io/library/alpine:3", "ghcr.io/team/app:1.0"))
    assert skopeo.pull(alpine).holds(other)
    assert skopeo.pull(app).holds(amd)
    assert skopeo.pull(app, "--all").digest == index.digest
    for reference in (alpine, app):
        ran = podman.run("pull", reference)
        assert ran, ran.err
    shown = podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
    assert {"docker.io/library/alpine:3", "ghcr.io/team/app:1.0"} <= set(shown)


def test_an_image_with_docker_s_own_manifests_is_read_from_an_archive_of_its_own(
    clients: Clients, pullthrough: Pullthrough, layout: Layout, images: list[tuple[str, Image]], tmp_path: Path
) -> None:
    digest = docker_index(tmp_path / "docker", layout, images)
    data, archive = ("--data-dir", tmp_path / "data"), tmp_path / "usb.tar"
    pullthrough("import", tmp_path / "docker", "--as", "docker.io/library/alpine:3", *data)
    pullthrough("export", "alpine:3", "-o", archive, *data)

    listed = clients.skopeo(None).pull(f"oci-archive:{archive}", "--all")
    assert listed, listed.result.err
    assert listed.digest == digest
    podman = clients.podman(None)
    loaded = podman.run("load", "-i", str(archive))
    assert loaded, loaded.err
    assert "docker.io/library/alpine:3" in podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").out


@pytest.mark.parametrize("command", ["skopeo", "podman"])
def test_what_clients_export_is_imported(
    command: str, clients: Clients, pullthrough: Pullthrough, layout: Layout, repository: str, tmp_path: Path
) -> None:
    image = layout.image(repository, [20 * KIB], seed=repository)
    skopeo, podman = clients.skopeo(None), clients.podman(None)
    name, archive, again = f"docker.io/{repository}:v1", tmp_path / "theirs.tar", tmp_path / "ours.tar"
    packing = tmp_path / "packing.tar"
    if command == "skopeo":
        ran = skopeo.copy(layout.reference(repository), f"oci-archive:{archive}:v1")
    else:
        # Taken from a folder it would be named after that, which may have capitals.
        assert (packed := skopeo.copy(layout.reference(repository), f"oci-archive:{packing}:{name}")), packed.err
        assert (loaded := podman.run("load", "-i", str(packing))), loaded.err
        ran = podman.run("save", "--format", "oci-archive", "-o", str(archive), name)
    assert ran, ran.err

    data = "--data-dir", tmp_path / "data"
    pullthrough("import", archive, *(("--as", name) if command == "skopeo" else ()), *data)
    pullthrough("export", name, "-o", again, *data)
    pulled = skopeo.pull(f"oci-archive:{again}:{name}")
    assert pulled, pulled.result.err
    if command == "skopeo":  # podman packs layers anew
        assert pulled.holds(image)
