"""What each request costs in the core: what is done once for every one of them, on what clients really send.

Each also looks at the result once, so that nothing is measured that does not do its work.
"""

import json
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pullthrough.core import cachestatus, children, media, policy, ranges, routes
from pullthrough.core.digest import Digest

HEX: Final = "31dbde3e9cc6df8ffa941c67ae119f4b353acadf725d702006a455722b52c1c1"
SHA256: Final = f"sha256:{HEX}"
TARGETS: Final = {
    "ping": "/v2/",
    "tag": "/v2/team/project/app/manifests/1.27-alpine",
    "manifest": f"/v2/team/project/app/manifests/{SHA256}",
    "blob": f"/v2/team/project/app/blobs/{SHA256}",
    "mirror": f"/v2/library/nginx/blobs/{SHA256}?ns=docker.io",
    "other": "/v2/team/project/app/tags/list?n=100",
}
#: As dockerd sends them.
ACCEPT: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json, */*",
)
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
SIZE: Final = 1 << 30


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_classify(benchmark: BenchmarkFixture, target: str) -> None:
    assert benchmark(routes.classify, "GET", target).kind


@pytest.mark.parametrize("text", [SHA256, f"sha512:{HEX}{HEX}"], ids=["sha256", "sha512"])
def test_parse_a_digest(benchmark: BenchmarkFixture, text: str) -> None:
    assert str(benchmark(Digest.parse, text)) == text


@pytest.mark.parametrize("header", ["bytes=1048576-", "bytes=0-99,200-299,-500"], ids=["one", "several"])
def test_ranges(benchmark: BenchmarkFixture, header: str) -> None:
    def spans() -> tuple[ranges.Span, ...]:
        return ranges.resolve(ranges.parse(header) or (), SIZE)

    assert benchmark(spans)


@pytest.mark.parametrize("facts", [(True, True, True), (False, False, True), (False, False, False)], ids=str)
def test_plan(benchmark: BenchmarkFixture, facts: tuple[bool, bool, bool]) -> None:
    granted, linked, held = facts

    assert benchmark(policy.plan, policy.Facts(granted, linked, held)).reason


@pytest.mark.parametrize("layers", [1, 12, 127])
def test_descriptors_of_a_manifest(benchmark: BenchmarkFixture, layers: int) -> None:
    config, *entries = (
        {"mediaType": LAYER, "digest": str(Digest.of(str(number).encode())), "size": SIZE}
        for number in range(layers + 1)
    )
    manifest = {"schemaVersion": 2, "config": config, "layers": entries}

    assert len(benchmark(children.descriptors, json.dumps(manifest).encode())) == layers + 1


@pytest.mark.parametrize(
    "status",
    [
        cachestatus.CacheStatus(hit=True, detail="tag checked"),
        cachestatus.CacheStatus(fwd="miss", stored=True, fwd_status=200),
    ],
    ids=["hit", "miss"],
)
def test_cache_status(benchmark: BenchmarkFixture, status: cachestatus.CacheStatus) -> None:
    assert benchmark(status.header).startswith("pullthrough")


def test_accept_as_a_key(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(media.accept_key, ACCEPT)) == 5


def test_accept_lists_a_type(benchmark: BenchmarkFixture) -> None:
    assert benchmark(media.lists, ACCEPT, "application/vnd.oci.image.manifest.v1+json")
