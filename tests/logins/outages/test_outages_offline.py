"""Offline on purpose: all from the cache, nothing asked of anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeImage, FakeRegistry, digest_of
from lab.inside import Chosen, Inside, digest_in
from lab.logins import ALICE, BOB, WRONG, ask_token, bearer, behind_tls
from lab.outages import APP, BLOB, HOUR, INDEX, LAYER, LOCAL, V1, get
from lab.pki import Pki
from lab.tokens import TokenServer
from pullthrough import access, accounts, tags


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


@pytest.mark.parametrize("login", [BOB, WRONG, None])
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


async def imported(proxy: Inside, image: FakeImage) -> None:
    """As `pullthrough import --public` notes it: the operator says that anybody may pull from `APP`."""
    repository, now = proxy.repository(APP), proxy.clock()
    digest = digest_in(image.digest)
    principal = accounts.anonymous(b"secret", proxy.registry)
    facts = {**tags.brought(repository, "imported", digest, now), **access.vouched(principal, repository, now)}
    await proxy.store.note({**facts, **accounts.vouched(b"secret", proxy.registry, now)})


async def test_offline_what_was_imported_for_anybody_is_anybody_s(offline: Inside, image: FakeImage) -> None:
    assert (await ask_token(offline, None, APP)).status == 503
    await imported(offline, image)
    offline.clock.time += 30 * 24 * HOUR

    assert (await offline.get("/v2/")).status == 401, "others have to log in"
    token = await bearer(offline, None, APP)
    for authorization in (token, None, "Bearer strange", ALICE):
        tag = await get(offline, f"/v2/{APP}/manifests/imported", authorization)
        assert digest_of(tag.body) == image.digest
        assert (await get(offline, BLOB, authorization)).body == LAYER
    assert (await get(offline, "/v2/priv/other/manifests/v1", token)).status != 200


async def test_offline_a_tag_that_was_imported_is_for_who_accepts_what_it_is(offline: Inside, image: FakeImage) -> None:
    await imported(offline, image)
    target = f"/v2/{APP}/manifests/imported"

    assert (await get(offline, target, None)).status == 200
    assert (await get(offline, target, None, accept=INDEX)).status != 200


async def test_offline_a_registry_that_was_never_asked_needs_no_login(
    tmp_path: Path, fake: FakeRegistry, tokens: TokenServer, pki: Pki, public: Pki, image: FakeImage
) -> None:
    async with behind_tls(tmp_path / "new", fake, tokens, pki, public, chosen=Chosen(offline=True)) as proxy:
        assert (await proxy.get("/v2/")).status == 503
        await imported(proxy, image)

        assert (await proxy.get("/v2/")).status == 200
        assert (await proxy.get("/v2/", authorization=ALICE)).status == 503, "nobody knows whether that is right"
    assert fake.journal.requests() == []
