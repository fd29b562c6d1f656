"""A registry that nobody named, and that anybody may have set up, lends nobody what others have."""

from collections.abc import Iterator

import pytest

from lab.fake_registry import MANIFEST, FakeImage, FakeRegistry
from lab.faults import Fault
from lab.inside import REPOSITORY, Inside, whole
from lab.logins import ALICE, bearer
from lab.names import NameMap
from lab.pki import Pki
from lab.web import served
from pullthrough.core.headers import Headers
from pullthrough.messages import Answer, Pass, Registry, Request

LAYER = b"private layer"


@pytest.fixture
def found(proxy: Inside, public: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    """Mallory's: says of everything that it has it."""
    proxy.found.add("storage.test")
    with served(FakeRegistry("storage.test", public.identity("storage.test")), names) as server:
        yield server


@pytest.fixture
async def image(proxy: Inside) -> FakeImage:
    """Alice's, in the cache."""
    made = proxy.fake.add_image(REPOSITORY, "1.0", [LAYER])
    token = await bearer(proxy, ALICE)
    for what in ("manifests/1.0", f"blobs/{made.layers[0]}"):
        assert (await proxy.get(f"/v2/{REPOSITORY}/{what}", authorization=token, accept=MANIFEST)).status == 200
    await proxy.landed()
    return made


async def ask(proxy: Inside, found: FakeRegistry, what: str, method: str = "GET") -> Answer | Pass:
    registry = Registry("https", found.name, found.public_port or 0)
    fields = Headers((("Accept", MANIFEST),))
    return await proxy.pulls.answer(Request(registry, method, f"/v2/mine/{what}", fields))


def claims(found: FakeRegistry, digest: str, *, media_type: str = "application/octet-stream") -> None:
    headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
    found.fault("/v2/mine/", Fault(status=200, headers=headers, body=b"?"), times=None, method=None)


async def test_its_word_that_it_has_a_blob_is_no_proof(proxy: Inside, found: FakeRegistry, image: FakeImage) -> None:
    claims(found, image.layers[0])

    for _ in range(2):
        assert isinstance(await ask(proxy, found, f"blobs/{image.layers[0]}"), Pass)
        assert isinstance(await ask(proxy, found, f"blobs/{image.layers[0]}", "HEAD"), Pass)


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_nor_that_it_has_a_manifest(proxy: Inside, found: FakeRegistry, image: FakeImage, by: str) -> None:
    claims(found, image.digest, media_type=MANIFEST)

    for _ in range(2):
        answer = await ask(proxy, found, f"manifests/{'1.0' if by == 'tag' else image.digest}")
        if isinstance(answer, Answer):
            assert LAYER not in (body := await whole(answer.body))
            assert image.layers[0].encode() not in body


async def test_what_it_sends_is_cached(proxy: Inside, found: FakeRegistry) -> None:
    mine = found.add_image("mine", "1.0", [b"mine"])

    for outcome in ("miss", "hit"):
        for what in ("manifests/1.0", f"manifests/{mine.digest}", f"blobs/{mine.layers[0]}"):
            answer = await ask(proxy, found, what)
            assert isinstance(answer, Answer)
            await whole(answer.body)
            first = outcome == "miss" and what != f"manifests/{mine.digest}"
            assert answer.cache.header().startswith("pullthrough; fwd=miss" if first else "pullthrough; hit"), what
        await proxy.landed()
