"""dockerd and containerd are the real ones, reach the lab through a proxy alone, and leave nothing behind."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from lab.cdn import Cdn
from lab.clients import Result
from lab.containerd import Containerd
from lab.cri import pull_image_request
from lab.dockerd import Docker
from lab.engine import Engine
from lab.engines import Engines
from lab.images import KIB, Image, Layout
from lab.journal import body_bytes, find
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.registry import Registry


class Puller(Protocol):
    """What the clients of the engines have in common."""

    def pull(self, name: str, *, creds: str | None = None) -> Result: ...

    def holds(self, name: str, image: Image) -> bool: ...

    def clean(self) -> None: ...


@dataclass(frozen=True)
class Site:
    """How engines are started in these tests."""

    engines: Engines
    parent: ParentProxy
    trusted: tuple[Path, ...]

    def docker(self) -> Docker:
        return self.engines.docker(self.parent.proxy_url, *self.trusted)

    def containerd(self) -> Containerd:
        return self.engines.containerd(self.parent.proxy_url, *self.trusted)


KINDS: dict[str, Callable[[Site], Puller]] = {
    "docker": Site.docker,
    "ctr": lambda site: site.containerd().ctr,
    "cri": lambda site: site.containerd().cri,
}


@pytest.fixture
def site(engines: Engines, parent: ParentProxy, pki: Pki, public: Pki) -> Site:
    return Site(engines, parent, (pki.ca_file, public.ca_file))


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, site: Site) -> Puller:
    return KINDS[request.param](site)


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(None, [200 * KIB, 3 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


def test_an_image_is_pulled_by_tag_and_by_digest_and_fetched_again_after_a_clean(
    registry: Registry, cdn: Cdn, client: Puller, image: Image, layout: Layout, repository: str
) -> None:
    another = layout.image(None, [KIB], seed="another")
    for reference in ("v1", image.digest):
        name = registry.image_name(repository, reference)
        assert not client.holds(name, image)
        pulled = client.pull(name)
        assert pulled, pulled.err
        assert client.holds(name, image)
        assert not client.holds(name, another)
        client.clean()

    assert not client.holds(registry.image_name(repository, "v1"), image)
    assert body_bytes(cdn.journal) == 2 * sum(blob.size for blob in image.blobs)
    assert not any(request.authorized for request in cdn.journal.requests())


def test_only_the_given_cas_are_trusted(
    registry: Registry, engines: Engines, parent: ParentProxy, public: Pki, repository: str
) -> None:
    site = Site(engines, parent, (public.ca_file,))
    containerd = site.containerd()

    for client in (site.docker(), containerd.ctr, containerd.cri):
        refused = client.pull(registry.image_name(repository, "v1"))
        assert "certificate signed by unknown authority" in refused.err


def test_docker_logs_in_tags_pushes_and_removes(registry: Registry, site: Site, image: Image, repository: str) -> None:
    docker = site.docker()
    name, new = (registry.image_name(repository, tag) for tag in ("v1", "pushed"))
    assert docker.pull(name)
    assert docker.tag(name, new)

    assert not docker.push(new)
    assert not docker.login(registry.host, "alice:wrong")
    assert docker.login(registry.host, "alice:secret")
    pushed = docker.push(new)
    assert docker.logout(registry.host)
    assert not docker.push(registry.image_name(repository, "more"))

    assert pushed, pushed.err
    assert find(registry.journal, f"/v2/{repository}/manifests/pushed", method="PUT")
    assert docker.remove(name)
    assert docker.remove(new)
    assert not docker.holds(name, image)


def test_ctr_tags_and_pushes(registry: Registry, site: Site, image: Image, repository: str) -> None:
    ctr = site.containerd().ctr
    name, new = (registry.image_name(repository, tag) for tag in ("v1", "pushed"))
    assert ctr.pull(name)
    assert ctr.tag(name, new)

    assert not ctr.push(new, creds="bob:hunter2")
    pushed = ctr.push(new, creds="alice:secret")

    assert pushed, pushed.err
    assert ctr.holds(new, image)
    assert find(registry.journal, f"/v2/{repository}/manifests/pushed", method="PUT")


@pytest.mark.parametrize("kind", [Site.docker, Site.containerd])
def test_nothing_is_left_of_an_engine(kind: Callable[[Site], Engine], site: Site) -> None:
    engine = kind(site)
    running = engine.processes()
    place = str(engine.place)

    site.engines.end()

    assert engine.pid in running
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []
    assert place not in Path("/proc/self/mountinfo").read_text()
    assert not engine.place.exists()


def test_an_engine_that_crashed_leaves_nothing_either(site: Site) -> None:
    docker = site.docker()
    running = docker.processes()

    os.kill(docker.pid, 9)
    site.engines.end()

    assert len(running) > 1
    assert docker.processes() == []


def test_what_is_no_daemon_of_ours_is_not_ended(site: Site) -> None:
    docker, containerd = site.docker(), site.containerd()

    docker.end()

    assert os.getpid() not in containerd.processes()
    assert containerd.probe()


def test_an_engine_that_cannot_start_says_why(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Containerd, "_flags", lambda self: ["--config", "/nowhere"])

    with pytest.raises(RuntimeError, match=r"containerd ended with 1: .*no such file"):
        site.containerd()


def test_an_ordinary_user_is_told_who_could(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(pytest.skip.Exception, match="containerd has to run as root"):
        site.containerd()


def test_a_pull_request_of_the_cri_is_encoded_as_protobuf_says() -> None:
    name = "n" * 200

    assert pull_image_request("a/b", "me:it") == b"\x0a\x05\x0a\x03a/b\x12\x08\x0a\x02me\x12\x02it"
    assert pull_image_request(name, None) == b"\x0a\xcb\x01\x0a\xc8\x01" + name.encode()
