"""What nobody can tell from a refusal: neither its words nor what it costs say what we hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from lab.fake_registry import MANIFEST, FakeImage, digest_of
from lab.faults import Fault
from lab.inside import Got, Inside
from lab.journal import Request
from lab.logins import BOB, WRONG, bearer
from lab.mirrors import mirror_of
from lab.outages import APP, BLOB, OTHER, STRANGE, V1, get, seen
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
from pullthrough.visits import Allowance

# -- what a refusal says


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("login", ["bob", BOB, WRONG, STRANGE, None])
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
    page = Page(ca_pem=bytes, fingerprint=str, health=Health(), metrics=metrics, store=proxy.store)
    registries = Registries([parse_entry(proxy.registry.authority)])
    addon = PullthroughAddon(
        registries=registries,
        pulls=proxy.pulls,
        mirror=mirror_of(proxy, registries),
        page=page,
        sender=Sender(connections.writer, Allowance()),
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
