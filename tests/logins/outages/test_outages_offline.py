"""Offline on purpose: all from the cache, nothing asked of anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeImage, FakeRegistry, digest_of
from lab.inside import Chosen, Inside
from lab.logins import ALICE, BOB, WRONG, ask_token, bearer, behind_tls
from lab.outages import APP, BLOB, LAYER, LOCAL, V1, get
from lab.pki import Pki
from lab.tokens import TokenServer


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
