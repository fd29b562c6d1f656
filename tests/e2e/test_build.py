"""BuildKit, in dockerd, builds from an image that is in the cache."""

from pathlib import Path

import pytest

from lab.cdn import Cdn
from lab.engines import Engines
from lab.images import KIB, Image, Layout
from lab.journal import find
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry


@pytest.fixture
def image(registry: Registry, layout: Layout, repository: str) -> Image:
    made = layout.image(repository, [30 * KIB], seed=repository)
    registry.seed(made, repository, "v1")
    return made


@pytest.fixture
def proxy(registry: Registry, proxy_factory: Proxies) -> Proxy:
    return proxy_factory(registry)


@pytest.mark.parametrize("way", ["proxy", "directly"])
def test_a_build_takes_its_base_from_the_cache(
    registry: Registry,
    cdn: Cdn,
    proxy: Proxy,
    engines: Engines,
    public: Pki,
    image: Image,
    repository: str,
    tmp_path: Path,
    way: str,
) -> None:
    below = registry.host.replace(":", "_")
    base = (
        registry.image_name(repository, "v1") if way == "proxy" else f"127.0.0.1:{proxy.port}/{below}/{repository}:v1"
    )
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY Dockerfile /\n")

    for _ in range(2):
        cdn.journal.clear()
        registry.journal.clear()
        docker = engines.docker(proxy.url if way == "proxy" else None, proxy.ca_file, public.ca_file)
        built = docker.build(folder)
        assert built, built.err
        assert image.config.digest not in built.out
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/manifests/", method="GET", status=200) == []
