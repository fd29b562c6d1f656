"""A pull through HTTPS_PROXY: real registry, real clients, only our CA trusted."""

from lab.cdn import Cdn
from lab.clients import Clients
from lab.images import KIB, Layout
from lab.journal import body_bytes, find
from lab.proxy import Proxies
from lab.registry import Registry
from lab.tokens import TokenServer


def test_the_second_pull_costs_the_upstream_no_blob_byte(
    registry: Registry, tokens: TokenServer, cdn: Cdn, layout: Layout, clients: Clients, proxy_factory: Proxies, repository: str
) -> None:
    image = layout.image("pull", [300 * KIB, 5 * KIB], seed="pull")
    registry.seed(image, repository, "v1")
    proxy = proxy_factory(registry, tokens)
    skopeo = clients.skopeo(proxy.url, proxy.ca_file)

    first = skopeo.pull(registry.reference(repository, "v1"))
    assert first, first.result.err + proxy.log_text()
    assert body_bytes(cdn.journal) == sum(blob.size for blob in image.blobs)

    cdn.journal.clear()
    registry.journal.clear()
    second = skopeo.pull(registry.reference(repository, "v1"))

    assert second.holds(image), second.result.err + proxy.log_text()
    assert cdn.journal.requests() == []
    assert find(registry.journal, "/blobs/") == []
    assert find(registry.journal, "/manifests/", method="GET") == []
    print(proxy.log_text())
