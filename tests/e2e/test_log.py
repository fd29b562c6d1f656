"""Each exchange says the same in Cache-Status, in one log line and nowhere more than may be said."""

import asyncio
from typing import Any

import pytest

from lab.asking import Asking, cache_status
from lab.clients import Clients
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry, Redirect, basic
from lab.faults import Fault
from lab.http import Fetched
from lab.images import KIB, Layout
from lab.partials import wait_until_landed
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry
from lab.tokens import TokenServer
from pullthrough.logs import FIELDS

DIGEST = f"sha256:{'0' * 64}"


def requests(proxy: Proxy) -> list[dict[str, Any]]:
    return [line for line in proxy.log_lines() if line.get("message") == "request"]


def lines_about(proxy: Proxy, repository: str, count: int) -> list[dict[str, Any]]:
    """The lines of that repository as soon as there are `count`: a line comes when its exchange is over."""

    def found() -> list[dict[str, Any]]:
        lines = [line for line in requests(proxy) if line.get("repository") == repository]
        return lines if len(lines) >= count else []

    return eventually(found, f"{count} lines about {repository}")


# -- Cache-Status


async def test_a_blob_is_a_miss_then_a_hit(
    fake: FakeRegistry, fake_proxy: Proxy, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)

    assert cache_status(await asking.blob(repository, digest)) == "pullthrough; fwd=miss; stored"
    await asyncio.to_thread(wait_until_landed, fake_proxy)
    assert cache_status(await asking.blob(repository, digest)) == "pullthrough; hit"


async def test_manifests_tell_what_was_asked(fake: FakeRegistry, asking: Asking, data: bytes, repository: str) -> None:
    image = fake.add_image(repository, "v1", [data])

    async def said(reference: str, **more: Any) -> str:
        return cache_status(await asking.manifest(repository, reference, **more))

    assert await said("v1") == "pullthrough; fwd=miss; fwd-status=200; stored"
    assert await said("v1") == 'pullthrough; hit; detail="tag checked"'
    assert await said(image.digest) == "pullthrough; hit"
    head = await said("v1", method="HEAD")
    assert head == 'pullthrough; fwd=request; fwd-status=200; detail="tags are always checked"'
    assert await said("v2") == "pullthrough; fwd=miss; fwd-status=404"


@pytest.mark.parametrize(
    ("method", "target", "words"),
    [
        ("GET", "/v2/", "fwd=bypass"),
        ("GET", "/v2/a/tags/list", "fwd=bypass"),
        ("GET", f"/v2/a/referrers/{DIGEST}", "fwd=bypass"),
        ("GET", "/somewhere/else", "fwd=bypass"),
        ("POST", "/v2/a/blobs/uploads/", "fwd=bypass"),
        ("PUT", "/v2/a/manifests/v1", "fwd=method"),
        ("DELETE", f"/v2/a/blobs/{DIGEST}", "fwd=method"),
        ("OPTIONS", "/v2/a/manifests/v1", "fwd=method"),
        ("HEAD", f"/v2/a/blobs/{DIGEST}", "fwd=miss"),
        ("GET", f"/v2/a/blobs/{DIGEST}", "fwd=miss"),
        ("GET", "/v2/a/manifests/v1?x=y", "fwd=bypass"),
    ],
)
async def test_every_answer_has_a_cache_status(asking: Asking, method: str, target: str, words: str) -> None:
    answer = await asking.fetch(target, method=method)

    assert cache_status(answer).startswith(f"pullthrough; {words}")


@pytest.mark.parametrize(
    ("target", "status"),
    [("/v2/", 503), ("/v2/a/manifests/v1", 503), (f"/v2/a/blobs/{DIGEST}", 503), ("/v2/a/tags/list", 502)],
)
async def test_even_our_own_errors_have_a_cache_status(
    fake: FakeRegistry, asking: Asking, target: str, status: int
) -> None:
    stranger = asking.as_account(basic("who", "was never seen"))
    fake.stop()
    try:
        answer = await stranger.fetch(target)
    finally:
        fake.start()

    assert (answer.status, cache_status(answer).startswith("pullthrough; fwd=")) == (status, True)


async def test_an_upstreams_own_cache_status_is_kept(fake: FakeRegistry, asking: Asking) -> None:
    fake.content.pages["/v2/a/tags/list"] = (200, {"Cache-Status": "edge; hit"}, b"{}")

    answer = await asking.fetch("/v2/a/tags/list")

    assert cache_status(answer).startswith("edge; hit, pullthrough; fwd=bypass")


# -- the log


async def test_each_request_is_one_line_with_all_that_is_known_of_it(
    fake: FakeRegistry, fake_proxy: Proxy, asking: Asking, data: bytes, repository: str
) -> None:
    image = fake.add_image(repository, "v1", [data])
    digest = image.layers[0]
    await asking.manifest(repository, "v1")
    await asking.blob(repository, digest)
    await asyncio.to_thread(wait_until_landed, fake_proxy)
    await asking.blob(repository, digest, headers={"Range": "bytes=0-9"})
    await asking.manifest(repository, "v2", method="PUT", body=b"{}")

    lines = await asyncio.to_thread(lines_about, fake_proxy, repository, 4)

    told = [(line["method"], line["reference"], line["status"], line["outcome"], line["bytes"]) for line in lines]
    manifest = len(fake.content.manifests[repository, "v1"][1])
    assert told[:3] == [
        ("GET", "v1", 200, "miss", manifest),
        ("GET", digest, 200, "miss", len(data)),
        ("GET", digest, 206, "hit", 10),
    ]
    assert told[3][:4] == ("PUT", "v2", 404, "method")
    assert {line["host"] for line in lines} == {fake.host}
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert all(line["ms"] >= 0 for line in lines)
    assert {*lines[0]} >= {*FIELDS} - {"detail"}


async def test_a_client_that_leaves_is_one_line_with_what_it_got(
    fake: FakeRegistry, fake_proxy: Proxy, asking: Asking, data: bytes, repository: str
) -> None:
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=200 * KIB))

    async with asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(100 * KIB)
    (line,) = await asyncio.to_thread(lines_about, fake_proxy, repository, 1)
    stalled.release()

    assert (line["outcome"], line["status"], 0 < line["bytes"] < len(data)) == ("miss", 200, True)


async def test_our_own_errors_are_lines_with_a_status(
    fake: FakeRegistry, fake_proxy: Proxy, asking: Asking, repository: str
) -> None:
    stranger = asking.as_account(basic("who", "was never seen"))
    fake.stop()
    try:
        await stranger.manifest(repository, "v1")
        await stranger.fetch(f"/v2/{repository}/tags/list")
    finally:
        fake.start()
    lines = await asyncio.to_thread(lines_about, fake_proxy, repository, 2)

    assert [line.get("status") for line in lines] == [503, 502]


# -- secrets


async def test_no_password_token_or_signature_is_in_the_log(
    registry: Registry,
    tokens: TokenServer,
    layout: Layout,
    clients: Clients,
    pki: Pki,
    proxy_factory: Proxies,
    repository: str,
) -> None:
    private = repository.replace("open/", "priv/")
    registry.seed(layout.image(repository, [20 * KIB], seed=repository), private, "v1")
    proxy = proxy_factory(registry, tokens, flags=["--log-level", "debug"])
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, pki.ca_file)  # for the CDN: a push looks there itself
    name = registry.reference(private, "v1")
    token = tokens.mint("alice", [f"repository:{private}:pull,push"])

    assert skopeo.pull(name, creds="alice:secret")
    assert not skopeo.pull(name, creds="alice:wrong-password")
    assert skopeo.push(layout.reference(repository), registry.reference(private, "v2"), creds="alice:secret")
    asking = Asking.through(proxy, registry, f"Bearer {token}")
    await asking.manifest(private, "v1")
    await asking.fetch("/v2/", headers={"Cookie": "session=cookie-value"})
    await Asking.through(proxy, tokens).fetch("/jwt/auth?account=alice&password=query-secret")
    form = b"grant_type=password&username=alice&password=form-secret"
    await Asking.through(proxy, tokens).fetch(
        "/jwt/auth", method="POST", body=form, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    text = proxy.log_text()
    assert private in text
    for secret in secrets("alice:secret", "alice:wrong-password", token):
        assert secret not in text
    for secret in ("wrong-password", "cookie-value", "query-secret", "form-secret"):
        assert secret not in text
    assert "eyJ" not in text  # how every token begins


async def test_no_signed_query_string_is_in_the_log(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, flags=["--log-level", "debug"])
    asking = Asking.through(proxy, fake, basic("robot", "robot-password"))
    digest = fake.add_blob(data)
    places = [
        "/storage/{digest}?X-Amz-Signature=signature-one",
        "https://storage.test/{digest}?sig=signature-two",
        f"https://{fake.host}:1/{{digest}}?sig=signature-three",
        "https://user:signature-four@storage.test/",
        "/hop/9/{digest}?sig=signature-five",
    ]

    for place in places:
        fake.manners.redirect = Redirect(307, place)
        for method in ("HEAD", "GET"):
            answer: Fetched = await asking.blob(repository, digest, method=method)
            assert method == "HEAD" or b"signature" not in answer.body
        digest = fake.add_blob(data + place.encode())

    text = proxy.log_text()
    assert repository in text
    for secret in ("signature-", *secrets("robot:robot-password")):
        assert secret not in text


def secrets(*values: str) -> list[str]:
    """The values and their Basic form; a token is long enough to be looked for by its parts."""
    forms = [basic(*value.split(":", 1)).split()[1] for value in values if ":" in value]
    parts = [part for value in values if ":" not in value for part in value.split(".")]
    return [*forms, *parts]
