"""What the proxy answers when it is asked itself."""

from __future__ import annotations

import hashlib
import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.inside import whole
from lab.stores import blob
from pullthrough import __version__
from pullthrough.core.digest import Digest
from pullthrough.core.ratelimit import Budget
from pullthrough.health import Health
from pullthrough.messages import Answer
from pullthrough.metrics import Metrics
from pullthrough.page import Page
from pullthrough.store import Store

CA = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PATHS = ("/", "/ca.pem", "/healthz", "/readyz", "/metrics")
EVERY_HOST = ["10.0.0.1", "10.0.0.1:80", "[::1]:3128", "[fe80::1]", "my_cache-1.test."]
HOSTILE = [
    *("", "<script>", '"><img src=x>', "a;rm -rf /", "$(id)", "a b", "a/b", "a\nb", "a:999999", "user@a", "a'b"),
    *("a`id`", "a\\b", "a\n", "a%b"),
]


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def store(tmp_path: Path, health: Health) -> AsyncIterator[Store]:
    made = Store(tmp_path / "store", 10_000, health)
    yield made
    await made.aclose()


@pytest.fixture
def page(store: Store, health: Health) -> Page:
    metrics = Metrics()
    metrics.watch(degraded=lambda: float(health.status != "ok"), flights=lambda: 0.0, size=store.size)
    return Page(ca_pem=lambda: CA, fingerprint=lambda: "AA:BB", health=health, metrics=metrics, store=store)


def text(answer: Answer) -> str:
    assert isinstance(answer.body, bytes)
    return answer.body.decode()


class Tags(HTMLParser):
    """Which elements a page has, and what its `pre` says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.commands = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        if self.names[-1:] == ["pre"]:
            self.commands += data


async def test_the_first_page_says_what_to_do(page: Page) -> None:
    answer = await page.answer("GET", "/", "cache.test:3128")
    assert (answer.status, answer.headers.get("content-type")) == (200, "text/html; charset=utf-8")
    tags = Tags(text(answer))
    assert "curl -fsS http://cache.test:3128/ca.pem" in tags.commands
    assert "export HTTPS_PROXY=http://cache.test:3128\n" in tags.commands
    for said in (__version__, "AA:BB", "ok"):
        assert said in text(answer)


@pytest.mark.parametrize("host", EVERY_HOST)
async def test_every_kind_of_host_is_taken(page: Page, host: str) -> None:
    assert f"HTTPS_PROXY=http://{host}\n" in Tags(text(await page.answer("GET", "/", host))).commands


@pytest.mark.parametrize("host", HOSTILE)
async def test_nothing_else_gets_into_a_command(page: Page, host: str) -> None:
    answer = text(await page.answer("GET", "/", host))
    assert "HTTPS_PROXY=http://CACHE:3128\n" in Tags(answer).commands


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(host=st.text())
async def test_no_host_makes_an_element(page: Page, host: str) -> None:
    plain, strange = await page.answer("GET", "/", "a.test"), await page.answer("GET", "/", host)
    assert Tags(text(strange)).names == Tags(text(plain)).names


async def test_a_trouble_is_shown_as_text(page: Page, health: Health) -> None:
    health.degraded("store", "<b>full</b>")
    answer = text(await page.answer("GET", "/", "a.test"))
    assert "degraded" in answer
    assert "&lt;b&gt;full&lt;/b&gt;" in answer


async def test_a_folder_with_a_strange_name_can_be_shown(
    page: Page, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # what is captured is sent between processes, as text that UTF-8 has
    health.degraded("store", "full (in /data/caf\udce9)")
    for path in PATHS:
        assert (await page.answer("GET", path, "a.test")).status == 200


async def test_the_first_page_has_the_one_line_for_clients(page: Page) -> None:
    commands = Tags(text(await page.answer("GET", "/", "cache.test:3128"))).commands
    assert "curl -fsS http://cache.test:3128/setup.sh | sh -s -- docker\n" in f"{commands}\n"


@pytest.mark.parametrize("host", EVERY_HOST)
async def test_the_script_for_clients_is_filled_in(page: Page, host: str) -> None:
    answer = await page.answer("GET", "/setup.sh", host)
    assert (answer.status, answer.headers.get("content-type")) == (200, "text/x-shellscript; charset=utf-8")
    lines = text(answer).splitlines()
    assert lines[0] == "#!/bin/sh"
    assert {f"cache='http://{host}'", f"announced='{hashlib.sha256(b64decode('MIIB')).hexdigest().upper()}'"} <= set(
        lines
    )
    assert (await page.answer("HEAD", "/setup.sh?x=1", host)).headers == answer.headers


@pytest.mark.parametrize("host", HOSTILE)
async def test_a_host_that_is_none_gets_no_script(page: Page, host: str) -> None:
    answer = await page.answer("GET", "/setup.sh", host)
    assert answer.status == 400
    assert json.loads(text(answer))["errors"][0]["message"].startswith("pullthrough: the Host field")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(host=st.text())
async def test_no_host_changes_another_line_of_the_script(page: Page, host: str) -> None:
    plain, strange = await page.answer("GET", "/setup.sh", "a.test"), await page.answer("GET", "/setup.sh", host)
    if strange.status == 200:
        pairs = zip(text(plain).splitlines(), text(strange).splitlines(), strict=True)
        assert {one for one, other in pairs if one != other} <= {"cache='http://a.test'"}


async def test_the_ca_is_given_as_it_is(page: Page) -> None:
    answer = await page.answer("GET", "/ca.pem", "a.test")
    assert (answer.body, answer.headers.get("content-type")) == (CA, "application/x-pem-file")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_said_with_its_reasons(page: Page, health: Health, path: str) -> None:
    well = await page.answer("GET", path, "")
    assert json.loads(text(well)).items() >= {"status": "ok", "reasons": {}}.items()
    health.degraded("index", "locked")
    ill = await page.answer("GET", path, "")
    assert ill.status == 200, "pulls still pass through: whoever balances the load must not take us out"
    assert json.loads(text(ill)).items() >= {"status": "degraded", "reasons": {"index": "locked"}}.items()
    health.recovered("index")
    assert json.loads(text(await page.answer("GET", path, "")))["status"] == "ok"


async def test_readiness_tells_what_is_stored(page: Page, store: Store) -> None:
    await store.put(Digest.of(blob("one")), blob("one"))
    assert json.loads(text(await page.answer("GET", "/readyz", "")))["store"] == {
        "bytes": 1000,
        "blobs": 1,
        "size": 10_000,
    }
    assert "pullthrough_store_bytes 1000.0" in text(await page.answer("GET", "/metrics", ""))


async def test_readiness_tells_nothing_of_upstreams_while_there_is_nothing_to_tell(page: Page) -> None:
    ready = json.loads(text(await page.answer("GET", "/readyz", "")))
    assert (ready["ratelimit"], ready["unreachable"]) == ({}, [])


async def test_readiness_tells_of_rate_limits_and_unreachable_upstreams_as_they_are_now(
    store: Store, health: Health
) -> None:
    budgets: dict[str, Budget] = {}
    silent: dict[str, datetime] = {}
    page = Page(
        ca_pem=lambda: CA,
        fingerprint=lambda: "AA:BB",
        health=health,
        metrics=Metrics(),
        store=store,
        ratelimit=lambda: budgets,
        unreachable=lambda: silent,
    )
    budgets |= {"hub.test:443": Budget(limit=100, remaining=76), "b.test:5050": Budget(limit=None, remaining=0)}
    silent["https://a.test:443"] = datetime(2026, 11, 22, 1, 58, 5, 166_000, UTC)
    silent["https://b.test:443"] = datetime(2026, 11, 22, 1, 58, 5, tzinfo=timezone(timedelta(hours=2)))
    ready = json.loads(text(await page.answer("GET", "/readyz", "")))
    assert ready["ratelimit"] == {
        "hub.test:443": {"remaining": 76, "limit": 100},
        "b.test:5050": {"remaining": 0, "limit": None},
    }
    assert ready["unreachable"] == [
        {"upstream": "https://a.test:443", "since": "2026-11-22T01:58:05Z"},
        {"upstream": "https://b.test:443", "since": "2026-11-21T23:58:05Z"},
    ]
    assert ready["status"] == "ok", "an upstream that is away is no fault of ours"
    assert "ratelimit" not in json.loads(text(await page.answer("GET", "/healthz", "")))
    silent.clear()
    assert json.loads(text(await page.answer("GET", "/readyz", "")))["unreachable"] == []


async def test_readiness_tells_of_a_fault_that_it_finds_itself(tmp_path: Path, page: Page) -> None:
    (tmp_path / "store").write_bytes(b"")
    assert json.loads(text(await page.answer("GET", "/readyz", "")))["status"] == "degraded"


async def test_a_store_that_does_not_work_is_no_reason_to_be_silent(tmp_path: Path, page: Page) -> None:
    (tmp_path / "store").write_bytes(b"")
    for path in PATHS:
        assert (await page.answer("GET", path, "")).status == 200
    ready = json.loads(text(await page.answer("GET", "/readyz", "")))
    assert (ready["status"], ready["store"]["bytes"]) == ("degraded", 0)
    assert "pullthrough_degraded 1.0" in text(await page.answer("GET", "/metrics", ""))


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_answered_like_get(page: Page, path: str) -> None:
    got, head = await page.answer("GET", path, ""), await page.answer("HEAD", path, "")
    assert (head.status, head.headers) == (got.status, got.headers)


@pytest.mark.parametrize("path", PATHS)
async def test_a_query_changes_nothing(page: Page, path: str) -> None:
    assert (await page.answer("GET", f"{path}?a=b", "")).headers == (await page.answer("GET", path, "")).headers


@pytest.mark.parametrize("path", ["/nothing", "/v2/", "", "//", "/ca.pem/", "/healthz/..", "*", "/%2e"])
async def test_nothing_else_is_here(page: Page, path: str) -> None:
    answer = await page.answer("GET", path, "")
    assert answer.status == 404
    assert json.loads(text(answer))["errors"][0]["message"].startswith("pullthrough: ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "FOO"])
async def test_only_reading_is_possible(page: Page, method: str) -> None:
    answer = await page.answer(method, "/", "")
    assert (answer.status, answer.headers.get("allow")) == (405, "GET, HEAD")
    assert json.loads(text(answer))["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize(("method", "path"), [*(("GET", path) for path in PATHS), ("GET", "/nothing"), ("PUT", "/")])
async def test_a_browser_may_do_nothing_with_it(page: Page, method: str, path: str) -> None:
    headers = (await page.answer(method, path, "")).headers
    assert headers.get("cache-control") == "no-store"
    assert headers.get("x-content-type-options") == "nosniff"
    policy = headers.get("content-security-policy") or ""
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy


async def test_the_first_page_says_what_the_mirror_exposes(store: Store) -> None:
    page = Page(
        ca_pem=lambda: CA,
        fingerprint=lambda: "AA:BB",
        health=Health(),
        metrics=Metrics(),
        store=store,
        exposed="to <clients>",
    )

    assert "<p>to &lt;clients&gt;</p>" in text(await page.answer("GET", "/", "cache.test"))


@pytest.mark.parametrize("host", ["cache.test", "cache.test:443", "[fd00::5]", "[fd00::5]:443", "10.0.0.5:5050"])
async def test_where_we_are_taken_for_registries_the_page_names_the_main_port(page: Page, host: str) -> None:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    answer = await page.answer("GET", "/setup.sh", host, by_name=True)

    assert f"\ncache='http://{name}:3128'\n".encode() in await whole(answer.body)
