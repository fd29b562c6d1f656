"""What must have come of a pull."""

from lab.cdn import Cdn
from lab.gateway import Gateway
from lab.images import Image
from lab.journal import body_bytes, find
from lab.pullers import Puller
from lab.registry import Registry


def assert_pulled_twice(client: Puller, registry: Registry, cdn: Cdn, image: Image, repository: str) -> None:
    """The first pull of `repository:v1` brings every blob from the CDN, the second one asks for the tag alone.

    Refusals do not count: some clients ask for everything without credentials first.
    """
    name = registry.image_name(repository, "v1")
    first = client.pull(name)
    assert first, first.err
    assert client.holds(name, image)
    assert body_bytes(cdn.journal) == sum(blob.size for blob in image.blobs)

    client.clean()
    registry.journal.clear()
    cdn.journal.clear()
    second = client.pull(name)

    assert second, second.err
    assert client.holds(name, image)
    given = [request for request in find(registry.journal, f"/{repository}/") if request.status != 401]
    assert {(request.method, request.path) for request in given} == {("HEAD", f"/v2/{repository}/manifests/v1")}
    assert cdn.journal.requests() == []


def tunnels(gateway: Gateway, host: str) -> list[str]:
    """Messages of log lines about tunnels to this HOST:PORT."""
    return [line["message"] for line in gateway.log_lines() if line.get("host") == host]
