"""What is not ours to keep or to open passes as it is: long manifests, coded bodies, digests of other algorithms."""

import gzip
import hashlib
import json
from collections.abc import Iterator

import pytest

from lab.asking import Asking, cache_status, from_cache
from lab.fake_registry import MANIFEST, FakeRegistry, digest_of
from lab.faults import Fault
from lab.images import MIB
from lab.journal import find
from lab.names import NameMap
from lab.proxy import Proxies, Proxy
from lab.web import Exchange
from pullthrough.core.children import MAX_MANIFEST

#: 50 KiB that would be 50 MiB.
BOMB = gzip.compress(bytes(50 * MIB), 9)
CODED = {"Content-Encoding": "gzip"}
HEX = hashlib.sha512(b"").hexdigest()
OTHERS = [
    f"sha384:{HEX[:96]}",
    f"blake3:{HEX[:64]}",
    f"md5:{HEX[:32]}",
    f"SHA256:{HEX[:64]}",
    f"sha256:{HEX[:64].upper()}",
    f"sha256:{HEX[:63]}",
    f"sha512:{HEX[:64]}",
    f"sha256+b64:{HEX[:43]}",
]


@pytest.fixture(scope="module")
def proxy(session_proxies: Proxies, session_names: NameMap, session_fake: FakeRegistry) -> Proxy:
    """One of this module's own: what it learns here of a bad registry is no other test's."""
    session_fake.publish(session_names)
    return session_proxies(session_fake)


@pytest.fixture
def asking(proxy: Proxy, fake: FakeRegistry) -> Asking:
    return Asking.through(proxy, fake)


@pytest.fixture
def noise(request: pytest.FixtureRequest) -> bytes:
    """A manifest beyond the bound, which is this test's alone."""
    head = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"test": request.node.nodeid}}
    ).encode()
    return head.ljust(MAX_MANIFEST + 1)


# -- manifests


@pytest.mark.parametrize("by_tag", [True, False], ids=["by tag", "by digest"])
async def test_a_manifest_beyond_the_bound_passes(
    fake: FakeRegistry, asking: Asking, repository: str, noise: bytes, by_tag: bool
) -> None:
    digest = fake.add_manifest(repository, "long", noise)

    for _ in range(2):
        answer = await asking.manifest(repository, "long" if by_tag else digest)
        assert (answer.status, answer.digest, from_cache(answer)) == (200, digest, False)


async def test_one_whose_length_nobody_said_passes_too(
    fake: FakeRegistry, asking: Asking, repository: str, noise: bytes
) -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.begin(200, {"Content-Type": MANIFEST, "Transfer-Encoding": "chunked"})
        if exchange.request.method != "HEAD":
            for at in range(0, len(noise), MIB):
                exchange.frame(noise[at : at + MIB])
            exchange.frame(b"")

    fake.answer = chunked  # type: ignore[method-assign]
    try:
        answers = [await asking.manifest(repository, "long") for _ in range(2)]
    finally:
        del fake.answer

    for answer in answers:
        assert (answer.status, answer.digest, from_cache(answer)) == (200, digest_of(noise), False)


async def test_a_push_of_one_passes(fake: FakeRegistry, asking: Asking, repository: str, noise: bytes) -> None:
    pushed = hashlib.sha256()

    def take(exchange: Exchange) -> None:
        for piece in exchange.body():
            pushed.update(piece)
        exchange.reply(201)

    fake.answer = take  # type: ignore[method-assign]
    try:
        answer = await asking.fetch(
            f"/v2/{repository}/manifests/long", method="PUT", body=noise, headers={"Content-Type": MANIFEST}
        )
    finally:
        del fake.answer

    assert (answer.status, f"sha256:{pushed.hexdigest()}") == (201, digest_of(noise))


# -- coded bodies


@pytest.fixture
def unmoved(proxy: Proxy) -> Iterator[None]:
    """The proxy's memory stays as it is."""
    proxy.reset_peak_rss()
    before = proxy.peak_rss()
    yield
    assert proxy.peak_rss() - before < 24 * MIB


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    ["manifests/v1", f"manifests/sha256:{HEX[:64]}", f"blobs/sha256:{HEX[:64]}", "tags/list", f"blobs/{OTHERS[0]}"],
)
async def test_what_is_coded_is_not_decoded(
    fake: FakeRegistry, asking: Asking, repository: str, path: str, method: str
) -> None:
    fake.fault(path, Fault(status=200, headers={"Content-Type": MANIFEST, **CODED}, body=BOMB), times=None, method=None)

    for _ in range(2):
        answer = await asking.fetch(f"/v2/{repository}/{path}", method=method)
        assert (answer.status, from_cache(answer)) == (200, False)
        assert answer.body == (BOMB if method == "GET" else b"")


@pytest.mark.usefixtures("unmoved")
async def test_nor_is_a_token_or_a_refusal(fake: FakeRegistry, asking: Asking) -> None:
    fake.manners.accepts = lambda request: False
    fake.manners.challenge = f'Bearer realm="{fake.url}/token",service="lab"'
    realm = (await asking.fetch("/v2/")).headers["www-authenticate"].partition('realm="')[2].partition('"')[0]
    fake.fault("/token", Fault(status=200, headers=CODED, body=BOMB), times=None)
    fake.fault("/v2/", Fault(status=403, headers=CODED, body=BOMB), times=None, method=None)

    token = await asking.fetch(f"/{realm.partition('://')[2].partition('/')[2]}?service=lab")
    refused = await asking.blob("team/app", f"sha256:{HEX[:64]}")

    assert (token.status, token.headers["content-encoding"], token.body) == (200, "gzip", BOMB)
    assert refused.status == 403
    assert len(refused.body) <= len(BOMB)


# -- digests


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
@pytest.mark.parametrize("digest", OTHERS)
async def test_content_by_another_digest_passes_and_is_asked_for_each_time(
    fake: FakeRegistry, asking: Asking, repository: str, digest: str, kind: str
) -> None:
    path = f"/v2/{repository}/{kind}/{digest}"
    fake.content.pages[path] = 200, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}, b"{}"

    for number in (1, 2):
        answer = await asking.fetch(path)
        assert (answer.status, answer.body, answer.headers["docker-content-digest"]) == (200, b"{}", digest)
        assert "fwd=bypass" in cache_status(answer)
        assert len(find(fake.journal, path)) == number


@pytest.mark.parametrize("digest", OTHERS)
async def test_a_tag_that_is_named_by_another_digest_keeps_that_and_is_not_stored(
    fake: FakeRegistry, asking: Asking, repository: str, noise: bytes, digest: str
) -> None:
    body = noise.rstrip()
    fake.add_manifest(repository, "v1", body)
    fake.manners.digest_header = digest

    for method in ("GET", "HEAD", "GET"):
        answer = await asking.manifest(repository, "v1", method=method)
        assert (answer.status, answer.headers["docker-content-digest"]) == (200, digest)
        assert (from_cache(answer), "stored" in cache_status(answer)) == (False, False)
        assert answer.body == (body if method == "GET" else b"")
