"""What counts as an outage, what is given from the cache then, and what the log says of it."""

from __future__ import annotations

import logging
import re
import socket

import pytest

from lab.fake_registry import MANIFEST, FakeImage, FakeRegistry, digest_of
from lab.inside import Chosen, Inside
from lab.logins import ALICE, BOB, ask_token, token_in
from lab.names import NameMap, resolver
from lab.outages import APP, BLOB, INDEX, LAYER, MOVED, OTHER, V1, asked, get
from lab.tokens import TokenServer


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
