"""What the operator refuses is refused to everybody, by every name that it has; what is not to be cached is not."""

from __future__ import annotations

import pytest

from lab.fake_registry import MANIFEST, FakeImage, digest_of
from lab.inside import Chosen, Inside
from lab.logins import ALICE, bearer
from pullthrough.messages import Answer, Pass

LAYER = b"layer" * 1000


@pytest.fixture
def image(proxy: Inside) -> FakeImage:
    proxy.fake.add_image("priv/app", "v1", [LAYER])
    return proxy.fake.add_image("team/app", "v1", [LAYER])


def targets(repository: str, image: FakeImage) -> list[str]:
    return [
        f"/v2/{repository}/manifests/v1",
        f"/v2/{repository}/manifests/{image.digest}",
        f"/v2/{repository}/blobs/{digest_of(LAYER)}",
    ]


async def allowed(proxy: Inside, token: str, image: FakeImage) -> None:
    """What another repository has of the same content is in the cache, and given."""
    for target in targets("priv/app", image):
        assert (await proxy.get(target, authorization=token, accept=MANIFEST)).status == 200
    await proxy.landed()


@pytest.mark.parametrize(
    "chosen",
    [Chosen(more={"deny": ["fake.test/team/*"]}), Chosen(more={"allow": ["fake.test/priv/**"]})],
    ids=["deny", "allow"],
)
async def test_what_is_refused_is_refused_by_tag_by_digest_and_its_blobs(proxy: Inside, image: FakeImage) -> None:
    token = await bearer(proxy, ALICE, "priv/app")
    await allowed(proxy, token, image)
    proxy.fake.journal.clear()

    for target in [*targets("team/app", image), "/v2/team/app/tags/list", "/v2/team/app/blobs/uploads/"]:
        for method in ("GET", "HEAD", "PUT", "POST"):
            got = await proxy.get(target, method, authorization=token, accept=MANIFEST)
            assert (got.status, b"DENIED" in got.body, b"--deny" in got.body) == (403, True, True)
    assert proxy.fake.journal.requests() == []


@pytest.mark.parametrize("chosen", [Chosen(more={"deny": ["fake.test/team/*"]})], ids=["deny"])
async def test_an_outage_does_not_lift_a_refusal(proxy: Inside, image: FakeImage) -> None:
    await allowed(proxy, await bearer(proxy, ALICE, "priv/app"), image)
    proxy.fake.stop()

    for target in targets("team/app", image):
        assert (await proxy.get(target, authorization=ALICE, accept=MANIFEST)).status == 403


@pytest.mark.parametrize(
    "chosen",
    [Chosen(more={"bypass": ["fake.test/team/app"]}), Chosen(more={"cache_only": ["fake.test/priv/**"]})],
    ids=["bypass", "cache_only"],
)
async def test_what_is_not_to_be_cached_passes(proxy: Inside, image: FakeImage) -> None:
    await allowed(proxy, await bearer(proxy, ALICE, "priv/app"), image)

    for target in targets("team/app", image):
        answer = await proxy.ask(target, accept=MANIFEST)
        assert isinstance(answer, Pass)
        assert "--bypass" in (answer.cache.detail or "")
    assert isinstance(await proxy.ask("/v2/"), Answer)


# -- however it is spelled

SPELLINGS = [
    "/v2/team/app/manifests/v1?x=1",
    "/v2/team/app/manifests/v1?ns=a&ns=b",
    "/v2/team%2fapp/manifests/v1",
    "/v2/team%252fapp/manifests/v1",
    "/v2//team/app/manifests/v1",
    "//v2/team/app/manifests/v1",
    "/v2/team/app/manifests/v1/",
    "/v2/team/app/manifests/v1#x",
    "/v2/./team/app/manifests/v1",
    "/v2/x/../team/app/manifests/v1",
    "/x/%2e%2e/v2/team/app/manifests/v1",
    "/v2/team\\app/manifests/v1",
    "/v2/team;x/app/manifests/v1",
    "/hub/v2/team/app/manifests/v1",
    f"/v2/team/app/blobs/{digest_of(LAYER)}?a",
    f"/v2/team/app/blobs//{digest_of(LAYER)}",
    f"/v2/team/app/referrers/{digest_of(LAYER)}?x",
    f"/v2/priv/app/blobs/uploads/?mount={digest_of(LAYER)}&from=team/app",
    f"/v2/priv/app/blobs/uploads/?mount={digest_of(LAYER)}&from=team%2Fapp",
]
REFUSING = [Chosen(more={"deny": ["fake.test/team/*"]}), Chosen(more={"allow": ["fake.test/priv/**"]})]


@pytest.mark.parametrize("chosen", REFUSING, ids=["deny", "allow"])
async def test_no_spelling_evades_a_refusal(proxy: Inside, image: FakeImage) -> None:
    await allowed(proxy, await bearer(proxy, ALICE, "priv/app"), image)
    proxy.fake.journal.clear()

    for target in SPELLINGS:
        for method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"):
            got = await proxy.get(target, method, accept=MANIFEST)
            assert (got.status, b"DENIED" in got.body, b"--deny" in got.body) == (403, True, True), (method, target)
    assert proxy.fake.journal.requests() == []


@pytest.mark.parametrize("chosen", REFUSING, ids=["deny", "allow"])
async def test_a_request_for_another_host_is_refused_whoever_that_is(proxy: Inside, image: FakeImage) -> None:
    for target in ["/", "/v2/", *targets("priv/app", image)]:
        assert (await proxy.get(target, host="other.test")).status == 403


@pytest.mark.parametrize("chosen", REFUSING, ids=["deny", "allow"])
async def test_a_refusal_says_what_is_refused(proxy: Inside) -> None:
    mounted = await proxy.get("/v2/priv/app/blobs/uploads/?from=team/app", "POST")
    assert b"/team/app is not served" in mounted.body
    assert b"may concern" in (await proxy.get("/v2/x/../priv/app/manifests/v1")).body


@pytest.mark.parametrize("chosen", REFUSING, ids=["deny", "allow"])
async def test_what_is_not_refused_passes_in_its_own_words(proxy: Inside) -> None:
    for method, target in [
        ("GET", "/v2/priv/app/manifests/v1?x=1"),
        ("GET", "/v2/_catalog"),
        ("GET", "/service/token?scope=repository:team/app:pull"),
        ("POST", "/v2/priv/app/blobs/uploads/?mount=x&from=priv/other"),
        ("PATCH", "/v2/priv/app/blobs/upload/1-2-3"),
        ("PUT", "/v2/priv/app/manifests/v1"),
    ]:
        assert isinstance(await proxy.ask(target, method), Pass), target


@pytest.mark.parametrize(
    "chosen",
    [Chosen(), Chosen(more={"deny": ["other.test/team/*"]}), Chosen(more={"allow": ["fake.test"], "bypass": ["**"]})],
    ids=["none", "of another", "not of this"],
)
async def test_where_nothing_of_a_registry_is_refused_every_spelling_passes_as_before(proxy: Inside) -> None:
    for target in SPELLINGS:
        assert isinstance(await proxy.ask(target), Pass), target
