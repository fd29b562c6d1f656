"""A site's own parent proxy, named by the environment, is used for all that leaves: fills, passes and tunnels."""

import base64
from collections.abc import Iterator

import pytest

from lab.asking import Asking
from lab.fake_registry import FakeRegistry
from lab.hosts import PlainHost
from lab.http import Client, Cut
from lab.journal import find
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.web import served

USER, PASSWORD = "builder", "p@ss word"
CREDENTIAL = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture
def parent(names: NameMap) -> Iterator[ParentProxy]:
    with served(ParentProxy(names, authorization=CREDENTIAL), names) as server:
        yield server


@pytest.fixture
def url(parent: ParentProxy) -> str:
    return f"http://{USER}:p%40ss%20word@{parent.address}:{parent.port}"


@pytest.fixture
def proxy(fake: FakeRegistry, plain: PlainHost, url: str, proxy_factory: Proxies) -> Proxy:
    return proxy_factory(fake, env={"HTTPS_PROXY": url})


def targets(parent: ParentProxy) -> set[str]:
    return {request.target for request in find(parent.journal, method="CONNECT", status=200)}


async def test_fills_and_checks_go_through_the_parent(
    fake: FakeRegistry, parent: ParentProxy, proxy: Proxy, data: bytes, repository: str
) -> None:
    image = fake.add_image(repository, "v1", [data])
    asking = Asking.through(proxy, fake)

    assert (await asking.manifest(repository, "v1")).digest == image.digest
    assert (await asking.blob(repository, image.layers[0])).digest == image.layers[0]
    assert targets(parent) == {fake.host}


@pytest.mark.parametrize(("method", "target"), [("GET", "/v2/"), ("HEAD", "/v2/"), ("POST", "/v2/a/blobs/uploads/")])
async def test_what_passes_goes_through_the_parent(
    fake: FakeRegistry, parent: ParentProxy, proxy: Proxy, method: str, target: str
) -> None:
    answer = await Asking.through(proxy, fake).fetch(target, method=method)

    assert answer.status == (404 if method == "POST" else 200)
    assert targets(parent) == {fake.host}
    assert not any("proxy-authorization" in request.headers for request in fake.journal.requests())


async def test_tunnels_go_through_the_parent(plain: PlainHost, parent: ParentProxy, proxy: Proxy, public: Pki) -> None:
    plain.folder.joinpath("hello").write_bytes(b"hello")

    answer = await Client(public.ca_file, proxy=proxy.address).fetch(f"{plain.url}/hello")

    assert answer.body == b"hello"
    assert targets(parent) == {"plain.test:443"}


async def test_hosts_of_no_proxy_are_reached_directly(
    fake: FakeRegistry, parent: ParentProxy, url: str, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, env={"HTTPS_PROXY": url, "NO_PROXY": ".test"})
    digest = fake.add_blob(data)

    assert (await Asking.through(proxy, fake).blob(repository, digest)).digest == digest
    assert (await Asking.through(proxy, fake).fetch("/v2/")).status == 200
    assert parent.journal.requests() == []


async def test_a_parent_that_refuses_is_an_oci_error(
    fake: FakeRegistry, plain: PlainHost, parent: ParentProxy, proxy_factory: Proxies, repository: str
) -> None:
    proxy = proxy_factory(fake, env={"HTTPS_PROXY": f"http://{USER}:wrong@{parent.address}:{parent.port}"})
    asking = Asking.through(proxy, fake)

    for answer in [await asking.manifest(repository, "v1"), await asking.fetch("/v2/")]:
        assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
    with pytest.raises((OSError, Cut)):  # told 200 at once, as the parent is asked when the client speaks
        await Client(proxy.ca_file, proxy=proxy.address).fetch(plain.index_url)


async def test_the_parents_password_is_in_no_log(
    fake: FakeRegistry, parent: ParentProxy, url: str, proxy_factory: Proxies, data: bytes, repository: str
) -> None:
    proxy = proxy_factory(fake, env={"HTTPS_PROXY": url}, flags=["--log-level", "debug"])
    await Asking.through(proxy, fake).blob(repository, fake.add_blob(data))
    await Asking.through(proxy, fake).fetch("/v2/")
    parent.stop()
    await Asking.through(proxy, fake).fetch("/v2/")
    await Asking.through(proxy, fake).manifest(repository, "v1")
    parent.start()

    for secret in (PASSWORD, "p%40ss", CREDENTIAL.split()[1]):
        assert secret not in proxy.log_text()
