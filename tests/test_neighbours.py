"""Which end-points a registry names, by challenges and redirects."""

import pytest

from pullthrough import neighbours
from pullthrough.core.headers import Headers
from pullthrough.neighbours import Neighbours

BASE = "https://registry.test:5050/v2/team/app/manifests/latest"


def learnt(*fields: tuple[str, str], base: str = BASE) -> Neighbours:
    known = Neighbours()
    known.learn(base, Headers(fields))
    return known


@pytest.mark.parametrize(
    ("challenge", "host", "port"),
    [
        ('Bearer realm="https://auth.test:8443/token",service="r"', "auth.test", 8443),
        ('Bearer service="r", realm="https://auth.test/token"', "auth.test", 443),
        ('BEARER REALM="http://auth.test/token"', "auth.test", 80),
        ('Bearer realm = "https://auth.test/token"', "auth.test", 443),
        ('Bearer realm="https://AUTH.test./token"', "auth.test", 443),
        ('Bearer realm="/token"', "registry.test", 5050),
        ('Bearer realm="https://[fd00::1]:9/token"', "fd00::1", 9),
        ('Basic realm="x", Bearer realm="https://auth.test:1/token"', "auth.test", 1),
    ],
)
def test_the_realm_of_a_challenge(challenge: str, host: str, port: int) -> None:
    assert learnt(("WWW-Authenticate", challenge)).named(host, port)


@pytest.mark.parametrize(
    ("location", "host", "port"),
    [
        ("https://storage.test:9000/bucket/key?sig=1", "storage.test", 9000),
        ("//storage.test/key", "storage.test", 443),
        ("../blobs/x", "registry.test", 5050),
    ],
)
def test_the_target_of_a_redirect(location: str, host: str, port: int) -> None:
    assert learnt(("Location", location)).named(host, port)


def test_every_line_counts() -> None:
    known = learnt(
        ("WWW-Authenticate", 'Bearer realm="https://a.test/"'),
        ("WWW-Authenticate", 'Bearer realm="https://b.test/"'),
        ("Location", "https://c.test/"),
    )

    assert all(known.named(host, 443) for host in ("a.test", "b.test", "c.test"))


def test_host_and_port_have_to_be_the_ones_that_were_named() -> None:
    known = learnt(("Location", "https://storage.test:9000/"))

    assert known.named("STORAGE.test.", 9000)
    assert not known.named("storage.test", 443)
    assert not known.named("other.test", 9000)


@pytest.mark.parametrize(
    "location",
    ["ftp://storage.test/", "https://", "https://storage.test:99999/", "https://storage.test:x/", "https://[::1/", ""],
)
def test_what_names_no_end_point_is_left_out(location: str) -> None:
    known = learnt(("Location", location), base="file:///")

    assert not any(known.named("storage.test", port) for port in (21, 80, 443))


def test_the_oldest_are_forgotten_and_naming_again_makes_young(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_MAX", 2)
    known = Neighbours()
    for host in ("a", "b", "a", "c"):
        known.learn(BASE, Headers((("Location", f"https://{host}.test/"),)))

    assert [host for host in ("a", "b", "c") if known.named(f"{host}.test", 443)] == ["a", "c"]
