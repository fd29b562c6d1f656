"""What a hostile client inside of a connection to a registry may not do, seen by the real process."""

import socket

import pytest

from lab.fake_registry import MANIFEST, FakeRegistry, basic, only
from lab.journal import find
from lab.proxy import Proxies, Proxy
from lab.raw import say

ALICE = basic("alice", "a")


def inside(proxy: Proxy, registry: FakeRegistry, method: str, target: str, *lines: str) -> tuple[int, str]:
    """Status and head of the answer to a request as it is written, through CONNECT and TLS."""
    where = f"{registry.name}:{registry.public_port}"
    data = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {where}", *lines, "", ""]).encode("latin-1")
    answer = say(proxy, data, inside=where, method=method)
    return answer.status, str(answer.headers)


@pytest.mark.parametrize("authority", ["evil.test", "registry.test"])
def test_a_request_inside_of_a_tunnel_names_no_other_server(
    fake: FakeRegistry, fake_proxy: Proxy, authority: str
) -> None:
    """Servers believe an absolute target more than the Host field, and build realms and redirects from it."""
    status, _ = inside(fake_proxy, fake, "GET", f"https://{authority}/v2/team/app/tags/list")

    assert status == 400
    assert find(fake.journal, "/v2/team/app/tags/list") == []


def test_a_revoked_account_cannot_make_an_outage_of_its_own(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(fake, flags=["--grant-ttl", "1s"])
    fake.add_image("priv/app", "v1", [b"layer" * 1000])
    fake.manners.accepts = only(ALICE)
    fields = (f"Authorization: {ALICE}", f"Accept: {MANIFEST}")
    target = "/v2/priv/app/manifests/v1"
    assert inside(proxy, fake, "GET", target, *fields)[0] == 200
    fake.manners.accepts = only("nobody")

    for agent in ("a\x01b", "\x7f", "x" * 50000):
        assert inside(proxy, fake, "GET", target, *fields, f"User-Agent: {agent}")[0] in (400, 401)


def test_offline_nothing_leaves_through_a_registrys_tunnel(proxy_factory: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.0)
        port = listening.getsockname()[1]
        proxy = proxy_factory(flags=["--offline", "--registry", f"127.0.0.1:{port}"])
        with socket.create_connection(proxy.address, timeout=10) as client:
            client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b" 200 " in client.recv(999)
            client.sendall(b"\x00secret bytes\n")
            assert client.recv(999) == b""
        with pytest.raises(BlockingIOError):
            listening.accept()

    assert '"offline"' in proxy.get("/readyz")[1].decode()


def test_no_spelling_of_a_refused_repository_reaches_its_registry(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    image = fake.add_image("team/app", "v1", [b"layer" * 1000])
    proxy = proxy_factory(fake, flags=["--deny", "**/app"])
    for target in (
        "/v2/team/app/manifests/v1",
        "/v2/team/app/manifests/v1?x=1",
        "/v2/team%2fapp/manifests/v1",
        "//v2//team/app/manifests/v1/",
        "/v2/x/../team/app/manifests/v1",
        f"/v2/team/app/blobs/{image.layers[0]}?a",
    ):
        assert inside(proxy, fake, "GET", target)[0] == 403, target
    upload = "/v2/team/other/blobs/uploads/"
    assert inside(proxy, fake, "POST", f"{upload}?mount={image.layers[0]}&from=team/app", "Content-Length: 0")[0] == 403
    form = ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 13", "", "from=team/app")
    assert inside(proxy, fake, "POST", upload, *form)[0] == 403

    assert find(fake.journal, "") == []
