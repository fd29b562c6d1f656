"""The one port answers for itself, and never asks itself for anything."""

import asyncio
import json

import pytest

from lab.asking import Asking
from lab.fake_registry import FakeRegistry
from lab.http import Client
from lab.names import NameMap
from lab.partials import wait_until_landed
from lab.ports import free_port
from lab.proxy import Proxies, Proxy
from lab.raw import ask


@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        ("/", "text/html; charset=utf-8", b"export HTTPS_PROXY=http://127.0.0.1:"),
        ("/ca.pem", "application/x-pem-file", b"-----BEGIN CERTIFICATE-----"),
        ("/healthz", "application/json", b'"status": "ok"'),
        ("/readyz", "application/json", b'"status": "ok"'),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", b"# TYPE pullthrough_requests_total counter"),
    ],
)
def test_what_it_says_of_itself(fake_proxy: Proxy, path: str, kind: str, holds: bytes) -> None:
    answer = ask(fake_proxy, "GET", path)
    head = ask(fake_proxy, "HEAD", path)

    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert holds in answer.body
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", kind)


def test_the_first_page_names_the_address_that_was_asked(fake_proxy: Proxy) -> None:
    page = ask(fake_proxy, "GET", "/", Host="cache.corp.test:3128").body

    assert b"http://cache.corp.test:3128/ca.pem" in page
    assert b"<script>" not in ask(fake_proxy, "GET", "/", Host="<script>").body


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/", 405)])
def test_what_it_does_not_know_is_an_oci_error(fake_proxy: Proxy, method: str, path: str, status: int) -> None:
    answer = ask(fake_proxy, method, path)

    assert (answer.status, answer.message.startswith("pullthrough: ")) == (status, True)


async def test_the_metrics_count_hits_misses_and_bytes(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake)
    digest = fake.add_blob(data)
    for _ in range(3):
        await Asking.through(proxy, fake).blob(repository, digest)
        await asyncio.to_thread(wait_until_landed, proxy)

    lines = set(proxy.get("/metrics")[1].decode().splitlines())

    assert 'pullthrough_requests_total{outcome="miss",route="blob"} 1.0' in lines
    assert 'pullthrough_requests_total{outcome="hit",route="blob"} 2.0' in lines
    sent = {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
    assert sent['pullthrough_sent_bytes_total{outcome="hit"}'] == 2 * len(data)
    assert "pullthrough_store_blobs 1.0" in lines


# -- loops


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.0.0.99"])
def test_a_tunnel_to_itself_is_refused(fake_proxy: Proxy, host: str) -> None:
    answer = ask(fake_proxy, "CONNECT", f"{host}:{fake_proxy.port}")

    assert (answer.status, answer.message.startswith("pullthrough: ")) == (403, True)


def test_plain_http_to_itself_through_itself_is_refused(fake_proxy: Proxy) -> None:
    answer = ask(fake_proxy, "GET", f"{fake_proxy.url}/healthz")

    assert (answer.status, answer.message.startswith("pullthrough: ")) == (403, True)


def test_a_registrys_name_in_the_host_field_of_a_request_to_itself_does_not_lead_there(
    fake: FakeRegistry, fake_proxy: Proxy
) -> None:
    """The mirror goes by the path and `ns` alone."""
    answers = [ask(fake_proxy, "GET", path, Host=fake.host).status for path in ("/v2/", "/v2/_catalog", "/other")]

    assert answers == [200, 404, 404]
    assert fake.journal.requests() == []


async def test_its_own_address_named_as_a_registry_does_not_loop(names: NameMap, proxy_factory: Proxies) -> None:
    port = free_port()
    names.publish("self.test", port, "127.0.0.1", port)
    hosts = [f"127.0.0.1:{port}", f"self.test:{port}"]
    proxy = proxy_factory(flags=[f"--registry={host}" for host in hosts], start=False)
    proxy.port = port
    proxy.start()
    client = Client(proxy.ca_file, proxy=proxy.address)

    for host in hosts:
        for method, target in [("GET", "/v2/a/manifests/b"), ("GET", "/v2/"), ("PUT", "/v2/a/manifests/b")]:
            answer = await client.fetch(f"https://{host}{target}", method=method)
            assert (answer.status, b"this proxy itself" in answer.body) == (502, True)
            answer = await client.fetch(f"http://{host}{target}", method=method)
            assert (answer.status, b"this proxy itself" in answer.body) == (502, True)


async def test_a_parent_proxy_that_is_itself_is_ignored_with_a_warning(
    fake: FakeRegistry, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    port = free_port()
    environ = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "http_proxy": f"http://127.0.0.1:{port}"}
    proxy = proxy_factory(fake, env=environ, start=False)
    proxy.port = port
    proxy.start()
    digest = fake.add_blob(data)

    assert (await Asking.through(proxy, fake).blob(repository, digest)).digest == digest
    assert (await Asking.through(proxy, fake).fetch("/v2/")).status == 200
    warnings = [line for line in proxy.log_lines() if line.get("level") == "warning"]
    assert [("names this proxy itself" in line["message"]) for line in warnings] == [True]


def test_health_is_json_that_machines_read(fake_proxy: Proxy) -> None:
    status, body = fake_proxy.get("/readyz")

    ready = json.loads(body)
    assert (status, ready["status"], ready["reasons"]) == (200, "ok", {})
    assert set(ready["store"]) == {"bytes", "blobs", "size"}
