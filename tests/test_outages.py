"""Outages: what is given from the cache, to whom and for how long, and what nobody can tell from a refusal."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from lab.fake_registry import MANIFEST, FakeImage, FakeRegistry, basic, digest_of, only
from lab.faults import Fault
from lab.inside import GRACE, Chosen, Got, Inside, reached
from lab.journal import Request
from lab.logins import ask_token, bearer, behind_tls, challenge, token_in, token_path
from lab.names import NameMap, resolver
from lab.pki import Pki
from lab.tokens import TokenServer
from pullthrough.addon import PullthroughAddon
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.guard import Guard
from pullthrough.health import Health
from pullthrough.layers import Connections
from pullthrough.messages import Answer
from pullthrough.metrics import Metrics
from pullthrough.page import Page
from pullthrough.parent import ParentProxies
from pullthrough.sending import Sender

ALICE, BOB = basic("alice", "secret"), basic("bob", "hunter2")
STRANGE, LOCAL = "Bearer strange", re.compile(r"Bearer pullthrough\.v1\..+")
APP = "priv/app"
"""alice's alone, as the token server has it."""
LAYER, OTHER = b"layer" * 1000, b"other" * 1000
V1 = f"/v2/{APP}/manifests/v1"
BLOB = f"/v2/{APP}/blobs/{digest_of(LAYER)}"
MOVED = b'{"schemaVersion": 2, "layers": []}'
HOUR, DAY = 3600.0, 24 * 3600.0
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def chosen() -> Chosen:
    return Chosen()


@pytest.fixture
async def proxy(
    tmp_path: Path,
    fake: FakeRegistry,
    tokens: TokenServer,
    names: NameMap,
    pki: Pki,
    public: Pki,
    monkeypatch: pytest.MonkeyPatch,
    chosen: Chosen,
) -> AsyncIterator[Inside]:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    async with behind_tls(tmp_path, fake, tokens, pki, public, chosen=chosen) as it:
        yield it


@pytest.fixture
def image(proxy: Inside) -> FakeImage:
    return proxy.fake.add_image(APP, "v1", [LAYER])


@pytest.fixture
async def alice(proxy: Inside, image: FakeImage) -> str:
    """The token of somebody who pulled the image before; the grant is over, and nobody has been asked yet."""
    token = await bearer(proxy, ALICE, APP)
    await pulled(proxy, token)
    proxy.clock.time += 61
    return token


async def pulled(proxy: Inside, authorization: str | None) -> None:
    assert (await get(proxy, V1, authorization)).status == 200
    assert (await get(proxy, BLOB, authorization)).body == LAYER
    await proxy.landed()
    proxy.fake.journal.clear()


async def get(proxy: Inside, target: str, authorization: str | None, method: str = "GET", **more: str) -> Got:
    return await proxy.get(target, method, **{"authorization": authorization, "accept": MANIFEST, **more})


def asked(proxy: Inside) -> list[tuple[str, str]]:
    return [(request.method, request.target) for request in proxy.fake.journal.requests()]


def seen(got: Got) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client sees of an answer, but for the time of day."""
    fields = [*((name.lower(), value) for name, value in got.headers), ("cache-status", got.outcome)]
    return got.status, sorted(fields), got.body


def hung_up(fake: FakeRegistry) -> None:
    """Have no connection open, so that the next request needs a new one."""
    fake.stop()
    fake.start()


# -- what counts as an outage


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507])
async def test_a_registry_in_trouble(proxy: Inside, alice: str, status: int) -> None:
    proxy.fake.refuse(status)
    got = await get(proxy, V1, alice)

    assert got.status == 200
    assert got.outcome == f'fwd=stale; detail="https://{proxy.registry.authority} answers {status}"'
    assert (await get(proxy, BLOB, alice)).body == LAYER


async def test_a_registry_that_is_not_there(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()
    got = await get(proxy, V1, alice)

    assert (got.status, digest_of(got.body)) == (200, image.digest)
    assert got.outcome.startswith(f'fwd=stale; detail="cannot connect to https://{proxy.registry.authority}')
    assert got.headers.get("content-type") == MANIFEST
    assert got.headers.get("docker-content-digest") == image.digest
    assert got.headers.get("etag") == f'"{image.digest}"'


async def test_a_name_that_nobody_knows(
    proxy: Inside, alice: str, names: NameMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung_up(proxy.fake)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names.without("fake.test")))
    got = await get(proxy, V1, alice)

    assert got.outcome.startswith("fwd=stale")
    assert "is not in the lab" in got.outcome
    assert asked(proxy) == []


async def test_a_certificate_that_nobody_trusts(proxy: Inside, alice: str, names: NameMap, tokens: TokenServer) -> None:
    hung_up(proxy.fake)
    names.publish("fake.test", proxy.fake.public_port, tokens.address, tokens.port)
    got = await get(proxy, V1, alice)

    assert got.outcome.startswith("fwd=stale")
    assert "is not trusted" in got.outcome


async def test_a_registry_that_hangs_up(proxy: Inside, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.fake, "answer", lambda exchange: exchange.cut())
    got = await get(proxy, V1, alice)

    assert got.outcome.startswith("fwd=stale")
    assert "hung up without an answer" in got.outcome


@pytest.mark.parametrize("chosen", [Chosen(patience=1.0)], ids=["a second"])
async def test_a_registry_that_says_nothing(proxy: Inside, alice: str) -> None:
    proxy.fake.hang()
    got = await get(proxy, V1, alice)

    assert got.outcome.startswith("fwd=stale")
    assert "did not answer in time" in got.outcome


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 501])
async def test_what_the_upstream_refuses_is_no_outage(proxy: Inside, alice: str, status: int) -> None:
    proxy.fake.refuse(status)
    got = await get(proxy, V1, alice)

    assert got.status == status
    assert b"the lab says" in got.body


# -- what is given


async def test_everything_that_was_pulled(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()
    by_digest = await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice)
    blob = await get(proxy, BLOB, alice)

    assert digest_of(by_digest.body) == image.digest
    assert blob.body == LAYER
    for got in (by_digest, blob):
        assert got.status == 200
        assert got.outcome.startswith('hit; detail="cannot connect to ')


@pytest.mark.parametrize("target", [V1, BLOB])
async def test_head(proxy: Inside, alice: str, target: str) -> None:
    proxy.fake.stop()
    whole, head = await get(proxy, target, alice), await get(proxy, target, alice, "HEAD")

    assert (head.status, head.headers, head.body) == (200, whole.headers, b"")
    assert head.answer.length == len(whole.body)


async def test_conditions_and_ranges(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()
    part = await get(proxy, BLOB, alice, range="bytes=10-19")

    assert (part.status, part.body) == (206, LAYER[10:20])
    assert (await get(proxy, V1, alice, if_none_match=f'"{image.digest}"')).status == 304
    assert (await get(proxy, BLOB, alice, if_none_match=f'"{digest_of(LAYER)}"')).status == 304


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/{APP}/manifests/v2",
        f"/v2/{APP}/manifests/{digest_of(OTHER)}",
        f"/v2/{APP}/blobs/{digest_of(OTHER)}",
        "/v2/priv/other/manifests/v1",
        BLOB.replace(APP, "priv/other"),
    ],
)
async def test_what_was_never_pulled_there(proxy: Inside, alice: str, target: str) -> None:
    scope = f"repository:{APP}:pull repository:priv/other:pull"
    token = token_in(await ask_token(proxy, ALICE, scope=scope))
    proxy.fake.stop()
    got = await get(proxy, target, f"Bearer {token}")

    assert got.status == 503
    assert got.headers.get("content-type") == "application/json"
    assert re.search(rb"unreachable since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", got.body)


async def test_other_media_types_are_another_answer(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()

    assert (await get(proxy, V1, alice, accept=INDEX)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice, accept=INDEX)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice, accept=f"{INDEX}, {MANIFEST}")).status == 200


async def test_the_registry_is_asked_each_time(proxy: Inside, alice: str) -> None:
    """That it is back is seen at once, and the tag that moved meanwhile."""
    proxy.fake.stop()
    assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")
    proxy.fake.add_manifest(APP, "v1", MOVED)
    proxy.fake.start()
    got = await get(proxy, V1, alice)

    assert got.body == MOVED
    assert got.outcome == "fwd=miss; fwd-status=200; stored"


async def test_the_last_digest_counts(proxy: Inside, alice: str) -> None:
    proxy.fake.add_manifest(APP, "v1", MOVED)
    assert (await get(proxy, V1, alice)).body == MOVED
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).body == MOVED


async def test_a_store_that_cannot_be_read_stands_in_for_nobody(
    proxy: Inside, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.fake.stop()
    proxy.store.failing["linked"] = 1
    got = await get(proxy, V1, alice)
    proxy.store.failing.clear()

    assert got.status == 503
    assert "the cache cannot stand in for" in caplog.text


# -- to whom


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("login", ["bob", BOB, basic("alice", "guessed"), STRANGE, None])
@pytest.mark.parametrize("status", [None, 429, 500, 503])
async def test_a_refusal_does_not_tell_what_we_hold(
    proxy: Inside, alice: str, image: FakeImage, login: str | None, method: str, status: int | None
) -> None:
    authorization = await bearer(proxy, BOB, APP) if login == "bob" else login
    if status is None:
        proxy.fake.stop()
    else:
        proxy.fake.refuse(status)
    for known, unknown in (
        (BLOB, f"/v2/{APP}/blobs/{digest_of(OTHER)}"),
        (f"/v2/{APP}/manifests/{image.digest}", f"/v2/{APP}/manifests/{digest_of(OTHER)}"),
        (V1, f"/v2/{APP}/manifests/v2"),
    ):
        held, absent = await get(proxy, known, authorization, method), await get(proxy, unknown, authorization, method)

        assert held.status == (401 if authorization in (None, STRANGE) else status or 503)
        assert seen(held) == seen(absent)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
@pytest.mark.parametrize("kind", ["blobs", "manifests"])
async def test_a_refusal_asks_as_much_whether_we_hold_it_or_not(
    proxy: Inside, alice: str, image: FakeImage, kind: str, status: int
) -> None:
    """How long it takes would tell."""
    stranger, held = await bearer(proxy, BOB, APP), image.digest if kind == "manifests" else BLOB.rpartition("/")[2]
    proxy.fake.refuse(status)
    asked = []
    for digest in (held, digest_of(OTHER)):
        proxy.fake.journal.clear()
        await get(proxy, f"/v2/{APP}/{kind}/{digest}", stranger)
        asked.append(len(proxy.fake.journal.requests()))

    assert asked[0] == asked[1]


@pytest.mark.parametrize("agent", ["a\x01b", "a\x7f", "x" * 60000, "sqlmap/1.0"])
async def test_no_client_can_choose_an_outage(proxy: Inside, alice: str, agent: str) -> None:
    """By a field that decides nothing about access, but with which the upstream does not answer."""
    proxy.fake.manners.accepts = lambda request: (
        "x" * 50 not in str(request.headers) and "sqlmap" not in str(request.headers) and False
    )
    proxy.clock.time += 61
    for target in (V1, BLOB):
        got = await proxy.get(target, authorization=alice, accept=MANIFEST, user_agent=agent, x_request_id="x" * 5000)
        assert got.status == 401
    sent = [request.headers for request in proxy.fake.journal.requests()]
    assert not any("sqlmap" in str(fields) or "x" * 50 in str(fields) for fields in sent)


async def test_who_accepts_strange_types_gets_nothing_in_an_outage(proxy: Inside, alice: str) -> None:
    """They could be what the upstream chokes on."""
    proxy.fake.refuse(500)

    assert (await proxy.get(V1, authorization=alice, accept=f"{MANIFEST}, text/x-choke")).status == 500
    assert (await proxy.get(V1, authorization=alice, accept=MANIFEST)).status == 200


async def test_a_404_to_a_stranger_ends_nothing_for_others(proxy: Inside, alice: str) -> None:
    proxy.fake.fault(V1, Fault(status=404), times=2, method=None)
    assert (await get(proxy, V1, STRANGE)).status == 404
    proxy.fake.release()
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_write_to_another_host_behind_the_same_address_ends_nothing(proxy: Inside, alice: str) -> None:
    await proxy.observe(V1, "PUT", 201, host="my-app.test")
    await proxy.observe(f"/v2/{APP}/blobs/{BLOB.rpartition('/')[2]}", "DELETE", 202, host="my-app.test")
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200
    assert (await get(proxy, BLOB, alice)).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_check_from_before_a_write_does_not_bring_the_tag_back(proxy: Inside, alice: str, method: str) -> None:
    armed = proxy.fake.fault(V1, Fault(hold_headers=True), times=1, method="HEAD")
    checking = asyncio.create_task(get(proxy, V1, alice))
    await reached(armed)
    await proxy.observe(V1, method, 201, authorization=alice)
    armed.release()
    await checking
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status != 200


async def test_an_account_that_was_never_seen_hears_since_when(proxy: Inside, alice: str) -> None:
    proxy.fake.stop()
    got = await get(proxy, V1, BOB)

    assert got.status == 503
    assert b"cannot connect to https://fake.test" in got.body
    assert b"unreachable since" in got.body
    assert got.headers.get("cache-control") == "no-store"
    assert BOB.encode() not in got.body


@pytest.mark.parametrize("target", [V1, BLOB])
async def test_nobody_is_sent_to_log_in(proxy: Inside, alice: str, target: str) -> None:
    proxy.fake.stop()
    got = await get(proxy, target, None)
    realm = f"{proxy.registry}{await token_path(proxy)}"

    assert got.status == 401
    assert got.headers.all("www-authenticate") == (challenge(realm, APP),)
    assert got.headers.get("docker-distribution-api-version") == "registry/2.0"


async def test_a_token_that_nobody_knows_is_called_invalid(proxy: Inside, alice: str) -> None:
    """Or BuildKit repeats it."""
    proxy.fake.stop()
    got = await get(proxy, V1, STRANGE)

    assert got.status == 401
    assert f'scope="repository:{APP}:pull",error="invalid_token"' in (got.headers.get("www-authenticate") or "")


async def test_where_no_challenge_was_ever_heard(tmp_path: Path, proxy: Inside, alice: str) -> None:
    proxy.fake.stop()
    elsewhere = dataclasses.replace(proxy.registry, host="registry2.test")
    for target in ("/v2/", V1):
        request = dataclasses.replace(proxy.request(target), registry=elsewhere)
        assert (await proxy.send(request)).status in (502, 503)


async def test_a_public_image_needs_no_login(proxy: Inside, image: FakeImage) -> None:
    proxy.fake.manners.accepts = lambda request: True
    await pulled(proxy, None)
    assert (await proxy.get("/v2/")).status == 200
    proxy.clock.time += 61
    proxy.fake.stop()

    assert (await proxy.get("/v2/")).status == 200
    assert (await get(proxy, V1, None)).outcome.startswith("fwd=stale")
    assert (await get(proxy, BLOB, None)).body == LAYER
    assert (await get(proxy, BLOB, BOB)).status == 200, "what anybody may have, somebody may have as well"


async def test_a_registry_that_knows_passwords_only(proxy: Inside, image: FakeImage) -> None:
    proxy.fake.manners.challenge, proxy.fake.manners.accepts = 'Basic realm="lab"', only(ALICE)
    assert (await proxy.get("/v2/", authorization=ALICE)).status == 200
    await pulled(proxy, ALICE)
    await proxy.get("/v2/")
    proxy.clock.time += 61
    proxy.fake.stop()

    assert (await proxy.get("/v2/", authorization=ALICE)).status == 200
    assert (await get(proxy, V1, ALICE)).outcome.startswith("fwd=stale")
    assert (await get(proxy, V1, basic("alice", "guessed"))).status == 503
    assert (await get(proxy, V1, None)).headers.all("www-authenticate") == ('Basic realm="lab"',)


async def test_other_accounts_have_their_own(proxy: Inside, alice: str, image: FakeImage) -> None:
    """One who pulled from the repository has what was pulled there."""
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.manners.accepts = lambda request: True
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", bob)).status == 200
    proxy.clock.time += 61
    proxy.fake.stop()

    assert (await get(proxy, V1, bob)).outcome.startswith("fwd=stale")


# -- /v2/


async def test_the_way_in_for_who_was_here_before(proxy: Inside, alice: str) -> None:
    proxy.fake.stop()
    got = await proxy.get("/v2/", authorization=alice)

    assert got.status == 200
    assert got.headers.get("docker-distribution-api-version") == "registry/2.0"
    assert got.outcome.startswith("fwd=stale")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_way_in_for_all_others(proxy: Inside, alice: str, method: str) -> None:
    proxy.fake.stop()
    nobody, strange = await proxy.get("/v2/", method), await proxy.get("/v2/", method, authorization=STRANGE)

    assert (nobody.status, strange.status) == (401, 401)
    assert "scope" not in (nobody.headers.get("www-authenticate") or "scope")
    assert 'error="invalid_token"' in (strange.headers.get("www-authenticate") or "")
    assert (await proxy.get("/v2/", method, authorization=BOB)).status == 503


async def test_a_password_that_the_registry_refused_is_no_way_in(proxy: Inside) -> None:
    proxy.fake.manners.accepts = only(ALICE)
    assert (await proxy.get("/v2/", authorization=ALICE)).status == 200
    proxy.fake.manners.accepts = only("nobody")
    assert (await proxy.get("/v2/", authorization=ALICE)).status == 401
    proxy.fake.stop()

    assert (await proxy.get("/v2/", authorization=ALICE)).status == 503


# -- what ends it


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("method", "target"), [("GET", V1), ("HEAD", V1), ("GET", BLOB)])
async def test_a_refusal_ends_it_for_who_was_refused(
    proxy: Inside, alice: str, image: FakeImage, method: str, target: str, status: int
) -> None:
    proxy.fake.refuse(status)
    assert (await get(proxy, target, alice, method)).status == status
    proxy.fake.stop()

    for wanted in (V1, BLOB, f"/v2/{APP}/manifests/{image.digest}"):
        assert (await get(proxy, wanted, alice)).status == 503


async def test_a_refusal_ends_it_for_nobody_else(proxy: Inside, alice: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.manners.accepts = lambda request: True
    await pulled(proxy, bob)
    proxy.clock.time += 61
    proxy.fake.manners.accepts = only(alice)
    assert (await get(proxy, V1, bob)).status == 401
    proxy.fake.stop()

    assert (await get(proxy, V1, bob)).status == 503
    assert (await get(proxy, V1, alice)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_tag_that_is_gone(proxy: Inside, alice: str, image: FakeImage, method: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.manners.accepts = lambda request: True
    await pulled(proxy, bob)
    del proxy.fake.content.manifests[APP, "v1"]
    assert (await get(proxy, V1, alice, method)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, BLOB, alice)).status == 503, "it may be the repository that is hidden from alice now"
    assert (await get(proxy, V1, bob)).status == 503, "the tag is gone for all"
    assert (await get(proxy, BLOB, bob)).status == 200


async def test_a_tag_that_nobody_knew(proxy: Inside, alice: str) -> None:
    assert (await get(proxy, f"/v2/{APP}/manifests/typo", alice)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_404_to_other_media_types_says_nothing(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.refuse(404)
    for target in (V1, f"/v2/{APP}/manifests/{image.digest}"):
        assert (await get(proxy, target, alice, accept=INDEX)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_manifest_that_is_gone(proxy: Inside, alice: str, image: FakeImage) -> None:
    by_digest = f"/v2/{APP}/manifests/{image.digest}"
    del proxy.fake.content.manifests[APP, image.digest]
    assert (await get(proxy, by_digest, alice)).status == 404
    proxy.fake.stop()

    assert (await get(proxy, by_digest, alice)).status == 503


@pytest.mark.parametrize(("method", "status"), [("PUT", 201), ("DELETE", 202)])
async def test_a_push_or_a_deletion_of_a_tag(
    proxy: Inside, alice: str, image: FakeImage, method: str, status: int
) -> None:
    await proxy.observe(V1, method, status, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice)).status == 200


@pytest.mark.parametrize(("method", "status"), [("PUT", 401), ("DELETE", 405), ("DELETE", 500)])
async def test_one_that_was_refused(proxy: Inside, alice: str, method: str, status: int) -> None:
    await proxy.observe(V1, method, status, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 200


async def test_a_tag_that_was_pulled_again_after_a_push(proxy: Inside, alice: str) -> None:
    await proxy.observe(V1, "PUT", 201, authorization=alice)
    proxy.fake.add_manifest(APP, "v1", MOVED)
    assert (await get(proxy, V1, alice)).body == MOVED
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).body == MOVED


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_digest_that_was_deleted(proxy: Inside, alice: str, image: FakeImage, kind: str) -> None:
    target = f"/v2/{APP}/{kind}/{image.digest if kind == 'manifests' else image.layers[0]}"
    await proxy.observe(target, "DELETE", 202, authorization=alice)
    proxy.fake.stop()

    assert (await get(proxy, target, alice)).status == 503


# -- for how long


@pytest.mark.parametrize("chosen", [Chosen(max_stale=HOUR)], ids=["an hour"])
@pytest.mark.parametrize(("seconds", "status"), [(HOUR - 120, 200), (HOUR + 60, 503)])
async def test_a_tag_counts_for_max_stale(proxy: Inside, alice: str, seconds: float, status: int) -> None:
    proxy.fake.stop()
    proxy.clock.time += seconds
    token = await bearer(proxy, ALICE, APP)

    assert (await get(proxy, V1, token)).status == status
    assert (await get(proxy, BLOB, token)).status == 200, "content by digest does not age"


@pytest.mark.parametrize("chosen", [Chosen(max_stale=HOUR)], ids=["an hour"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_since_it_was_last_checked(proxy: Inside, alice: str, method: str) -> None:
    proxy.clock.time += HOUR / 2
    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP), method)).status == 200
    proxy.clock.time += HOUR - 120
    proxy.fake.stop()

    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP))).status == 200


@pytest.mark.parametrize("chosen", [Chosen(max_stale=0)], ids=["never"])
async def test_a_tag_that_may_never_be_stale(proxy: Inside, alice: str, image: FakeImage) -> None:
    proxy.fake.stop()

    assert (await get(proxy, V1, alice)).status == 503
    assert (await get(proxy, f"/v2/{APP}/manifests/{image.digest}", alice)).status == 200


@pytest.mark.parametrize(("seconds", "status"), [(GRACE - 120, 200), (GRACE + 60, 503)])
async def test_a_principal_counts_for_the_grace(proxy: Inside, alice: str, seconds: float, status: int) -> None:
    proxy.fake.stop()
    proxy.clock.time += seconds
    token = f"Bearer {token_in(await ask_token(proxy, ALICE, APP))}"

    assert (await get(proxy, V1, token)).status == status
    assert (await get(proxy, BLOB, token)).status == status


@pytest.mark.parametrize("chosen", [Chosen(grace=0)], ids=["none"])
async def test_without_a_grace_a_grant_counts_and_no_more(proxy: Inside, image: FakeImage) -> None:
    token = await bearer(proxy, ALICE, APP)
    await pulled(proxy, token)
    proxy.fake.stop()
    assert (await get(proxy, V1, token)).outcome.startswith("fwd=stale")
    proxy.clock.time += 61

    assert (await get(proxy, V1, token)).status == 503


# -- tokens of ours


@pytest.fixture
async def local(proxy: Inside, alice: str, tokens: TokenServer) -> str:
    """A token of ours, in an outage of the registry and of its token server."""
    tokens.stop()
    proxy.fake.stop()
    token = await bearer(proxy, ALICE, APP)
    assert LOCAL.fullmatch(token)
    for forget in (proxy.fake.journal.clear, tokens.journal.clear, tokens.asked.clear):
        forget()
    return token


def back(proxy: Inside, tokens: TokenServer) -> None:
    """The outage is over, and what was heard in it too old to count."""
    tokens.start()
    proxy.fake.start()
    tokens.journal.clear()
    proxy.fake.journal.clear()
    proxy.clock.time += 6


def went_up(proxy: Inside, tokens: TokenServer) -> list[Request]:
    """Requests upstream that show a token of ours, or any credential."""
    requests = [*proxy.fake.journal.requests(), *tokens.journal.requests()]
    texts = [str((request.target, dict(request.headers))) for request in requests]
    texts += [str((asked.query, asked.body)) for asked in tokens.asked]
    assert not any("pullthrough.v1" in text for text in texts)
    return [request for request in requests if request.authorized]


async def test_with_a_token_of_ours_everything_is_as_before(
    proxy: Inside, local: str, image: FakeImage, tokens: TokenServer
) -> None:
    assert (await proxy.get("/v2/", authorization=local)).status == 200
    tag, by_digest = await get(proxy, V1, local), await get(proxy, f"/v2/{APP}/manifests/{image.digest}", local)

    assert digest_of(tag.body) == digest_of(by_digest.body) == image.digest
    assert (await get(proxy, BLOB, local)).body == LAYER
    assert "or its token server does not answer" in tag.outcome
    assert went_up(proxy, tokens) == []


async def test_a_token_of_ours_is_for_what_was_asked(proxy: Inside, local: str) -> None:
    got = await get(proxy, "/v2/team/app/manifests/v1", local)

    assert got.status == 401
    assert 'scope="repository:team/app:pull",error="invalid_token"' in (got.headers.get("www-authenticate") or "")


async def test_what_was_never_pulled_is_not_there_with_a_token_of_ours_either(proxy: Inside, local: str) -> None:
    got = await get(proxy, f"/v2/{APP}/manifests/v2", local)

    assert got.status == 503
    assert b"does not answer" in got.body


@pytest.mark.parametrize("down", ["registry", "token server"])
async def test_it_is_good_while_either_is_away(proxy: Inside, local: str, tokens: TokenServer, down: str) -> None:
    back(proxy, tokens)
    (proxy.fake if down == "registry" else tokens).stop()

    assert (await get(proxy, V1, local)).outcome.startswith("fwd=stale")
    assert went_up(proxy, tokens) == []


EVERYTHING = (
    ("GET", "/v2/"),
    ("HEAD", "/v2/"),
    ("GET", "/v2/_catalog"),
    ("GET", "/"),
    ("GET", V1),
    ("HEAD", V1),
    ("PUT", V1),
    ("DELETE", V1),
    ("GET", f"/v2/{APP}/manifests/{digest_of(OTHER)}"),
    ("GET", BLOB),
    ("HEAD", BLOB),
    ("DELETE", BLOB),
    ("GET", f"{BLOB}?unknown=parameter"),
    ("GET", f"/v2/{APP}/tags/list"),
    ("GET", f"/v2/{APP}/referrers/{digest_of(OTHER)}"),
    ("POST", f"/v2/{APP}/blobs/uploads/"),
    ("PATCH", f"/v2/{APP}/blobs/uploads/session"),
    ("PUT", f"/v2/{APP}/blobs/uploads/session?digest={digest_of(OTHER)}"),
)


@pytest.mark.parametrize(("method", "target"), EVERYTHING)
async def test_after_the_outage_a_token_of_ours_is_worth_nothing(
    proxy: Inside, local: str, tokens: TokenServer, method: str, target: str
) -> None:
    back(proxy, tokens)
    got = await get(proxy, target, local, method)

    assert got.status == 401
    assert 'error="invalid_token"' in (got.headers.get("www-authenticate") or "")
    assert ("scope=" in (got.headers.get("www-authenticate") or "")) == (
        f"/{APP}/" in target and "unknown" not in target
    )
    assert went_up(proxy, tokens) == []


@pytest.mark.parametrize(("method", "target"), EVERYTHING)
@pytest.mark.parametrize(
    "token", ["Bearer pullthrough.v1.e30.forged", "bearer pullthrough.v9.of-tomorrow", "Bearer pullthrough."]
)
async def test_nor_does_a_forged_one_go_upstream(
    proxy: Inside, alice: str, tokens: TokenServer, token: str, method: str, target: str
) -> None:
    proxy.fake.journal.clear()
    tokens.journal.clear()

    assert (await get(proxy, target, token, method)).status == 401
    assert asked(proxy) == []
    assert tokens.journal.requests() == []


@pytest.mark.parametrize(("method", "target"), EVERYTHING)
async def test_in_the_outage_it_is_answered_by_us_alone(
    proxy: Inside, local: str, method: str, target: str, tokens: TokenServer
) -> None:
    back(proxy, tokens)
    proxy.fake.refuse(503)
    got = await get(proxy, target, local, method)
    pulls = method in ("GET", "HEAD") and target in ("/v2/", V1, BLOB)

    assert got.status == (200 if pulls else 503)
    assert went_up(proxy, tokens) == []


async def test_a_token_of_ours_does_not_go_to_the_token_server(proxy: Inside, local: str, tokens: TokenServer) -> None:
    assert (await ask_token(proxy, local, APP)).status == 503
    back(proxy, tokens)
    assert (await ask_token(proxy, local, APP)).status == 200

    assert tokens.asked[-1].account is None
    assert went_up(proxy, tokens) == []


async def test_the_client_gets_a_real_one_and_goes_on(proxy: Inside, local: str, tokens: TokenServer) -> None:
    back(proxy, tokens)
    assert (await get(proxy, V1, local)).status == 401
    token = await bearer(proxy, ALICE, APP)

    assert not LOCAL.fullmatch(token)
    assert (await get(proxy, V1, token)).outcome == 'hit; detail="tag checked"'


async def test_whether_the_outage_is_over_is_not_asked_for_each_request(
    proxy: Inside, local: str, tokens: TokenServer
) -> None:
    back(proxy, tokens)
    for _ in range(10):
        assert (await get(proxy, V1, local)).status == 401

    assert asked(proxy) == [("HEAD", "/v2/")]
    assert [request.method for request in tokens.journal.requests()] == ["HEAD"]


async def test_the_right_of_an_account_ends_in_the_outage_too(proxy: Inside, alice: str, tokens: TokenServer) -> None:
    """A token of ours opens what the account's grants do, not more."""
    proxy.fake.refuse(403)
    assert (await get(proxy, V1, alice)).status == 403
    tokens.stop()
    proxy.fake.stop()

    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP))).status == 503


# -- what is written to the log


async def test_one_warning_a_minute(proxy: Inside, alice: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pullthrough.outages")
    proxy.fake.stop()
    counts = []
    for pause in (0, 10, 45, 10, 50, 10):
        proxy.clock.time += pause
        for target in (V1, BLOB):
            assert (await get(proxy, target, alice)).status == 200
        counts.append(len([record for record in caplog.records if record.name == "pullthrough.outages"]))

    assert counts == [1, 1, 1, 2, 2, 3]
    assert f"{proxy.registry.authority}: answered from the cache, unchecked: cannot connect" in caplog.text
    assert alice not in caplog.text


async def test_no_warning_for_a_refusal(proxy: Inside, alice: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy.fake.stop()
    assert (await get(proxy, V1, BOB)).status == 503

    assert "answered from the cache" not in caplog.text


# -- rate limits


async def test_a_registry_that_said_when_is_not_asked_before(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="30")
    assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")
    assert asked(proxy) == [("HEAD", V1)]
    proxy.clock.time += 10
    again, blob, ping = [await get(proxy, target, alice) for target in (V1, BLOB, "/v2/")]
    unknown = await get(proxy, f"/v2/{APP}/manifests/v2", alice)

    assert asked(proxy) == [("HEAD", V1)]
    assert again.outcome.startswith("fwd=stale")
    assert "asked to wait 20 s more" in again.outcome
    assert (blob.body, ping.status) == (LAYER, 200)
    assert (unknown.status, unknown.headers.get("retry-after")) == (429, "20")
    assert b"TOOMANYREQUESTS" in unknown.body
    proxy.fake.release()
    assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")
    proxy.clock.time += 21
    assert (await get(proxy, V1, alice)).outcome == 'hit; detail="tag checked"'


async def test_others_are_not_made_to_wait(proxy: Inside, alice: str) -> None:
    bob = await bearer(proxy, BOB, APP)
    proxy.fake.journal.clear()
    proxy.fake.refuse(429, retry_after="30")
    await get(proxy, V1, alice)
    before = len(asked(proxy))
    await get(proxy, V1, bob)

    assert len(asked(proxy)) > before


@pytest.mark.parametrize("retry_after", [None, "0", "soon"])
async def test_a_registry_that_did_not_say_when_is_asked_again(
    proxy: Inside, alice: str, retry_after: str | None
) -> None:
    proxy.fake.refuse(429, retry_after=retry_after)
    for _ in range(2):
        assert (await get(proxy, V1, alice)).outcome.startswith("fwd=stale")

    assert asked(proxy) == [("HEAD", V1)] * 2


async def test_nobody_waits_for_days(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="864000")
    await get(proxy, V1, alice)
    proxy.fake.release()
    proxy.clock.time += HOUR + 1

    assert (await get(proxy, V1, await bearer(proxy, ALICE, APP))).outcome == 'hit; detail="tag checked"'


async def test_what_is_not_cached_gets_the_429(proxy: Inside, alice: str) -> None:
    proxy.fake.refuse(429, retry_after="30")
    got = await get(proxy, f"/v2/{APP}/blobs/{digest_of(OTHER)}", alice)

    assert (got.status, got.headers.get("retry-after")) == (429, "30")


def left(proxy: Inside, remaining: int, body: bytes = MOVED, tag: str = "v1") -> None:
    """Let the tag name `body` now, and each HEAD say so, and how many pulls are left."""
    digest = proxy.fake.add_manifest(APP, tag, body)
    fields = {
        "Content-Type": MANIFEST,
        "Docker-Content-Digest": digest,
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": f"{remaining};w=21600",
    }
    proxy.fake.fault(f"/manifests/{tag}", Fault(status=200, headers=fields, body=body), times=None, method="HEAD")


@pytest.mark.parametrize(
    ("chosen", "remaining", "spared"),
    [(Chosen(), 0, True), (Chosen(), 1, False), (Chosen(floor=10), 9, True), (Chosen(floor=0), 0, False)],
    ids=["none", "one", "nine of ten", "no floor"],
)
async def test_the_last_pulls_are_not_spent_on_a_tag_that_moved(
    proxy: Inside, alice: str, image: FakeImage, remaining: int, spared: bool
) -> None:
    left(proxy, remaining)
    got = await get(proxy, V1, alice)

    assert digest_of(got.body) == (image.digest if spared else digest_of(MOVED))
    assert asked(proxy) == [("HEAD", V1)] if spared else [("HEAD", V1), ("GET", V1)]
    if spared:
        assert got.outcome == (
            f'fwd=stale; detail="the registry\'s rate limit has {remaining} pulls left; the tag moved"'
        )


async def test_a_tag_that_did_not_move_costs_nothing(proxy: Inside, alice: str) -> None:
    (body,) = {body for (_, reference), (_, body) in proxy.fake.content.manifests.items() if reference == "v1"}
    left(proxy, 0, body)

    assert (await get(proxy, V1, alice)).outcome == 'hit; detail="tag checked"'
    assert asked(proxy) == [("HEAD", V1)]


async def test_a_pull_is_spent_where_nothing_can_stand_in(proxy: Inside, alice: str) -> None:
    left(proxy, 0, tag="v2")
    got = await get(proxy, f"/v2/{APP}/manifests/v2", alice)

    assert (got.status, got.body) == (200, MOVED)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_the_upstreams_word_is_not_spared(proxy: Inside, alice: str, status: int) -> None:
    fields = {"RateLimit-Remaining": "0;w=21600"}
    proxy.fake.fault("", Fault(status=status, headers=fields, body=b"no"), times=None, method=None)

    assert (await get(proxy, V1, alice)).status == status


# -- offline on purpose


@pytest.fixture
async def offline(
    tmp_path: Path, proxy: Inside, alice: str, fake: FakeRegistry, tokens: TokenServer, pki: Pki, public: Pki
) -> AsyncIterator[Inside]:
    """Another process over what the first one stored; both servers are there."""
    await proxy.facts.flush()
    async with behind_tls(tmp_path, fake, tokens, pki, public, chosen=Chosen(offline=True)) as it:
        it.clock.time = proxy.clock.time
        tokens.journal.clear()
        yield it
        assert fake.journal.requests() == []
        assert tokens.journal.requests() == []


async def test_offline_everything_comes_from_the_cache(offline: Inside, image: FakeImage) -> None:
    token = await bearer(offline, ALICE, APP)
    tag = await get(offline, V1, token)

    assert LOCAL.fullmatch(token)
    assert (await offline.get("/v2/", authorization=token)).status == 200
    assert digest_of(tag.body) == image.digest
    assert (await get(offline, BLOB, token)).body == LAYER


async def test_offline_a_token_from_before_is_a_stranger(offline: Inside, alice: str) -> None:
    assert 'error="invalid_token"' in ((await get(offline, V1, alice)).headers.get("www-authenticate") or "")


@pytest.mark.parametrize("login", [BOB, basic("alice", "guessed"), None])
async def test_offline_nobody_else_gets_in(offline: Inside, login: str | None) -> None:
    got = await ask_token(offline, login, APP)

    assert got.status == 503
    assert b"--offline" in got.body


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"/v2/{APP}/tags/list"),
        ("POST", f"/v2/{APP}/blobs/uploads/"),
        ("PUT", V1),
        ("DELETE", BLOB),
        ("GET", "/"),
        ("GET", f"/v2/{APP}/manifests/v2"),
    ],
)
async def test_offline_nothing_passes(offline: Inside, method: str, target: str) -> None:
    for login in (ALICE, await bearer(offline, ALICE, APP)):
        got = await get(offline, target, login, method)

        assert got.status == 503


async def test_offline_a_host_field_that_names_another_host(offline: Inside) -> None:
    assert (await offline.get(V1, host="other.test")).status == 503


# -- what a refusal costs


def refusing(status: int, token: str) -> tuple[Callable[[Request], bool], Fault]:
    """How to refuse the bearer of `token` alone."""
    body = b'{"errors":[{"code":"DENIED"}]}'
    return lambda request: request.headers.get("authorization") == token, Fault(status=status, body=body)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("kind", ["blobs", "manifests"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_refusal_costs_the_same_whether_we_hold_it_or_not(
    proxy: Inside, alice: str, image: FakeImage, method: str, kind: str, status: int
) -> None:
    """By its answer, and by the requests upstream for which its client waits."""
    bob = await bearer(proxy, BOB, APP)
    match, fault = refusing(status, bob)
    proxy.fake.fault(match, fault, times=None, method=None)
    outcomes = []
    for digest in (image.layers[0] if kind == "blobs" else image.digest, digest_of(OTHER)):
        proxy.fake.journal.clear()
        answer = await proxy.ask(f"/v2/{APP}/{kind}/{digest}", method, authorization=bob, accept=MANIFEST)
        said = (
            seen(Got(answer, answer.body)) if isinstance(answer, Answer) and isinstance(answer.body, bytes) else answer
        )
        outcomes.append((said, sorted(request.method for request in proxy.fake.journal.requests())))

    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] == (["HEAD"] if (method, kind) == ("HEAD", "manifests") else ["GET", "HEAD"])


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
async def test_so_it_does_through_another_repository(proxy: Inside, alice: str, image: FakeImage, kind: str) -> None:
    """Where the client may pull, and what it asks for is not."""
    bob = await bearer(proxy, BOB, "team/app")
    proxy.fake.fault("/v2/team/app/", Fault(status=404), times=None, method=None)
    outcomes = []
    for digest in (image.layers[0] if kind == "blobs" else image.digest, digest_of(OTHER)):
        proxy.fake.journal.clear()
        got = await get(proxy, f"/v2/team/app/{kind}/{digest}", bob)
        outcomes.append((seen(got), sorted(request.method for request in proxy.fake.journal.requests())))

    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] == ["GET", "HEAD"]


# -- through the front door


async def test_a_401_to_head_has_no_body(proxy: Inside, alice: str) -> None:
    """Otherwise containerd and BuildKit take what follows for the next answer."""
    proxy.fake.stop()
    guard, parents, metrics = Guard(), ParentProxies({}), Metrics()
    connections = Connections(dict)
    page = Page(ca_pem=b"", fingerprint="", health=Health(), metrics=metrics, store=proxy.store)
    addon = PullthroughAddon(
        registries=Registries([parse_entry(proxy.registry.authority)]),
        pulls=proxy.pulls,
        page=page,
        sender=Sender(connections.writer),
        connections=connections,
        patience=1.0,
        guard=guard,
        parents=parents,
        metrics=metrics,
        offline=False,
    )
    request = tutils.treq(
        method=b"HEAD",
        scheme=b"https",
        host="fake.test",
        port=proxy.registry.port,
        path=V1.encode(),
        headers=http.Headers(),
    )
    flow = tflow.tflow(req=request)
    await addon.requestheaders(flow)

    assert flow.response is not None
    assert flow.response.status_code == 401
    assert "www-authenticate" in flow.response.headers
    assert flow.response.raw_content == b""
