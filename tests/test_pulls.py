"""The crossing: what is answered, what passes, and what is learnt from what passes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeRegistry, basic, digest_of, only
from lab.faults import Fault
from lab.inside import Inside, inside
from pullthrough.core.headers import Headers
from pullthrough.messages import Answer, Pass, Registry

DATA = b"layer" * 1000
DIGEST = digest_of(DATA)
BLOB = f"/v2/team/app/blobs/{DIGEST}"
ALICE = basic("alice", "a")


@pytest.fixture
async def proxy(tmp_path: Path, origin: FakeRegistry) -> AsyncIterator[Inside]:
    async with inside(tmp_path, origin, eager=True) as it:
        it.fake.add_blob(DATA)
        it.fake.add_manifest("team/app", "v1", b"{}")
        yield it


@pytest.mark.parametrize(
    ("method", "target", "cache"),
    [
        ("GET", "/v2/_catalog", 'fwd=bypass; detail="catalog"'),
        ("GET", "/v2/team/app/tags/list", 'fwd=bypass; detail="tags"'),
        ("GET", f"/v2/team/app/referrers/{DIGEST}", 'fwd=bypass; detail="referrers"'),
        ("POST", "/v2/team/app/blobs/uploads/", 'fwd=bypass; detail="upload"'),
        ("GET", "/", 'fwd=bypass; detail="other"'),
        ("GET", "/v2/../etc/passwd", 'fwd=bypass; detail="other"'),
        ("PUT", "/v2/team/app/manifests/v1", "fwd=method"),
        ("DELETE", BLOB, "fwd=method"),
        ("OPTIONS", BLOB, "fwd=method"),
    ],
)
async def test_what_passes_untouched(proxy: Inside, method: str, target: str, cache: str) -> None:
    answer = await proxy.ask(target, method)

    assert isinstance(answer, Pass)
    assert answer.cache.header() == f"pullthrough; {cache}"
    assert proxy.fake.journal.requests() == []


async def test_manifests_and_blobs_are_answered(proxy: Inside) -> None:
    assert (await proxy.get(BLOB)).body == DATA
    assert (await proxy.get("/v2/team/app/manifests/v1")).body == b"{}"


@pytest.mark.parametrize("host", ["other.test", "127.0.0.7", "127.0.0.7:1", "127.0.0.7.", "user@127.0.0.7"])
async def test_a_host_field_that_names_another_host_passes(proxy: Inside, host: str) -> None:
    """What such a request gets from upstream may be another's: nothing of ours is given for it."""
    answer = await proxy.ask(BLOB, host=host)

    assert isinstance(answer, Pass)
    assert "Host field" in (answer.cache.detail or "")
    assert proxy.fake.journal.requests() == []


async def test_a_host_field_that_names_the_registry(proxy: Inside) -> None:
    for host in (proxy.registry.authority, "", None):
        assert (await proxy.get(BLOB, host=host)).body == DATA


def test_a_default_port_may_be_spelled_out() -> None:
    registry = Registry("https", "registry.test", 443)

    assert str(registry) == "https://registry.test"
    assert str(Registry("http", "fd00::1", 443)) == "http://[fd00::1]:443"


async def test_a_refused_upstream_is_explained_without_secrets(proxy: Inside) -> None:
    proxy.fake.stop()
    got = await proxy.get("/v2/team/app/manifests/v1", authorization=ALICE)
    proxy.fake.start()

    assert got.status == 503
    assert b"unreachable since" in got.body
    assert got.headers.get("content-type") == "application/json"
    assert ALICE.encode() not in got.body
    assert got.outcome.startswith("fwd=miss; detail=")


async def test_a_fault_of_ours_lets_it_pass(
    proxy: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.store.failure = ZeroDivisionError()
    proxy.store.failing["look"] = 1
    answer = await proxy.ask(BLOB, authorization=ALICE)

    assert isinstance(answer, Pass)
    assert answer.cache.detail == "internal fault: ZeroDivisionError"
    assert "ZeroDivisionError" in caplog.text
    assert ALICE not in caplog.text


# -- what passes is watched


async def test_a_refusal_of_what_passed_ends_a_grant(proxy: Inside) -> None:
    assert (await proxy.get(BLOB, authorization=ALICE)).body == DATA
    await proxy.landed()
    proxy.fake.manners.accepts = only("nobody")
    assert (await proxy.get(BLOB, authorization=ALICE)).outcome == "hit"
    await proxy.observe("/v2/team/app/manifests/v1", "GET", 403, authorization=ALICE)

    assert (await proxy.get(BLOB, authorization=ALICE)).status == 401


@pytest.mark.parametrize("target", ["/v2/", "/v2/other/app/tags/list", "/"])
async def test_a_refusal_elsewhere_does_not(proxy: Inside, target: str) -> None:
    assert (await proxy.get(BLOB, authorization=ALICE)).body == DATA
    await proxy.landed()
    proxy.fake.journal.clear()
    await proxy.observe(target, "GET", 401, authorization=ALICE)

    assert (await proxy.get(BLOB, authorization=ALICE)).outcome == "hit"
    assert proxy.fake.journal.requests() == []


@pytest.mark.parametrize("target", [BLOB, f"/v2/team/app/manifests/{DIGEST}"])
async def test_a_store_that_cannot_take_note_is_not_the_clients_trouble(
    proxy: Inside, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.store.failing["unlink"] = 1
    await proxy.observe(target, "DELETE", 202)

    assert "cannot take note" in caplog.text


async def test_a_deletion_that_the_store_could_not_note_still_counts(proxy: Inside) -> None:
    assert (await proxy.get(BLOB)).body == DATA
    await proxy.landed()
    proxy.store.failing["unlink"] = 1
    await proxy.observe(BLOB, "DELETE", 202)
    proxy.fake.content.blobs.clear()
    proxy.store.failing.clear()

    assert (await proxy.get(BLOB)).status == 404


# -- neighbours


CHALLENGE = ("WWW-Authenticate", 'Bearer realm="https://auth.test:8443/token"')
REDIRECT = ("Location", "https://storage.test:9000/up")


def named(proxy: Inside) -> set[str]:
    ends = (("auth.test", 8443), ("storage.test", 9000))
    return {host for host, port in ends if proxy.neighbours.named(host, port)}


async def test_the_realm_of_a_trusted_registry_is_learnt_from_an_answer(proxy: Inside) -> None:
    proxy.fake.manners.challenge = CHALLENGE[1]
    proxy.fake.manners.accepts = only(ALICE)
    await proxy.get(BLOB)

    assert named(proxy) == {"auth.test"}


@pytest.mark.parametrize(
    ("method", "status", "names"),
    [
        ("GET", 401, {"auth.test"}),
        ("HEAD", 307, {"storage.test"}),
        ("GET", 200, set()),
        ("GET", 403, set()),
        ("POST", 202, set()),
        ("POST", 307, set()),
    ],
)
async def test_what_passes_names_them_too(proxy: Inside, method: str, status: int, names: set[str]) -> None:
    request = proxy.request("/v2/team/app/tags/list", method)
    await proxy.pulls.observe(request, status, Headers((CHALLENGE, REDIRECT)))

    assert named(proxy) == names


@pytest.mark.parametrize(
    "field",
    ["Host", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Port", "X-Original-URL", "X-Rewrite-URL", "X-Scheme"],
)
async def test_a_client_has_no_say_in_what_is_named(proxy: Inside, field: str) -> None:
    """Registries build addresses from such fields."""
    request = proxy.request("/v2/", **{field: "storage.test:9000"})
    await proxy.pulls.observe(request, 307, Headers((REDIRECT,)))
    await proxy.pulls.observe(request, 401, Headers((CHALLENGE,)))

    assert named(proxy) == set()


async def test_others_name_nobody(origin: FakeRegistry, tmp_path: Path) -> None:
    async with inside(tmp_path, origin, trusted=False) as proxy:
        await proxy.pulls.observe(proxy.request("/v2/"), 401, Headers((CHALLENGE,)))
        await proxy.pulls.observe(proxy.request("/v2/"), 307, Headers((REDIRECT,)))

        assert named(proxy) == set()


async def test_the_same_name_over_plain_http_and_over_tls_is_another_registry(proxy: Inside) -> None:
    """What somebody on the wire could have made up must not stand in for what TLS vouches for."""
    proxy.fake.fault("", Fault(headers={"X-Lab": "1"}), method=None)
    assert (await proxy.get(BLOB)).body == DATA
    await proxy.landed()
    secure = replace(proxy.request(BLOB), registry=replace(proxy.registry, scheme="https"))
    answer = await proxy.pulls.answer(secure)

    assert isinstance(answer, Answer)
    assert answer.status == 503  # it was asked, and speaks no TLS


async def test_a_manifest_may_be_asked_for_as_a_mirror_does(proxy: Inside) -> None:
    got = await proxy.get("/v2/team/app/manifests/v1?ns=registry.test", accept=MANIFEST)

    assert got.body == b"{}"
    assert "?" not in proxy.fake.journal.requests()[0].target
