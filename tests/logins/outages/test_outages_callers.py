"""To whom the cache is given in an outage, and who hears that there is one."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from lab.fake_registry import MANIFEST, FakeImage, only
from lab.faults import Fault
from lab.inside import Inside, reached
from lab.logins import ALICE, BOB, WRONG, bearer, challenge, token_path
from lab.outages import APP, BLOB, LAYER, STRANGE, V1, get, pulled

# -- to whom


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
    assert (await get(proxy, V1, WRONG)).status == 503
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
