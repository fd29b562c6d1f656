"""Tokens of ours: good in an outage for what was asked, worth nothing after it, never sent upstream."""

from __future__ import annotations

import pytest

from lab.fake_registry import FakeImage, digest_of
from lab.inside import Inside
from lab.journal import Request
from lab.logins import ALICE, ask_token, bearer
from lab.outages import APP, BLOB, LAYER, LOCAL, OTHER, V1, asked, get
from lab.tokens import TokenServer


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
