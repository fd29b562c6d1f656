"""Which hosts name constraints permit, and those that suit our registries."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.constraints import Constraints, Subtrees, subtree, subtrees, usual
from pullthrough.core.registries import BUILTIN, Known


def permitting(*texts: str) -> Constraints:
    return Constraints(subtrees(map(subtree, texts)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ghcr.io", "ghcr.io"),
        ("Registry.Corp.TEST.", "registry.corp.test"),
        ("localhost", "localhost"),
        ("my_registry.test", "my_registry.test"),
        ("*.corp.test", "corp.test"),
        ("*-docker.pkg.dev", "pkg.dev"),
        ("*.dkr.ecr.*.amazonaws.com", "amazonaws.com"),
        ("private.*.icr.io", "icr.io"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("::1", "::1/128"),
        ("[2001:DB8::1]", "2001:db8::1/128"),
        (" fc00::/7 ", "fc00::/7"),
    ],
)
def test_subtrees(text: str, found: str) -> None:
    assert str(subtree(text)) == found


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "https://a.test", "a.test:443", "a.test:5000", "a b", "10.1.2.3/16", "*.com", "b\u00fccher.test"],
)
def test_what_is_no_subtree(text: str) -> None:
    with pytest.raises(ValueError, match="is not a domain, an IP address or a network"):
        subtree(text)


@pytest.mark.parametrize(
    ("host", "permitted"),
    [
        ("corp.test", True),
        ("registry.corp.test", True),
        ("a.registry.CORP.test.", True),
        ("*.corp.test", True),
        ("x-*.corp.test", True),
        ("notcorp.test", False),
        ("corp.test.example", False),
        ("*.test", False),
        ("test", False),
        ("10.255.0.1", True),
        ("10.1.0.0/16", True),
        ("10.0.0.0/7", False),
        ("11.0.0.1", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_a_domain_permits_itself_and_what_is_below_and_a_network_its_addresses(host: str, permitted: bool) -> None:
    assert permitting("corp.test", "10.0.0.0/8").permits(host) is permitted


def test_names_and_addresses_are_constrained_apart() -> None:
    assert permitting("corp.test").permits("203.0.113.7")
    assert permitting("10.0.0.0/8").permits("example.com")


def test_a_leading_dot_stands_for_names_below_only_and_nothing_for_every_name() -> None:
    below = Constraints(Subtrees((".corp.test",)))
    assert below.permits("a.corp.test")
    assert not below.permits("corp.test")
    assert not Constraints(Subtrees(), Subtrees(("",))).permits("corp.test")


def test_what_is_excluded_is_not_permitted() -> None:
    excluded = subtrees((subtree("secret.corp.test"), subtree("10.9.0.0/16")))
    constraints = Constraints(permitting("corp.test", "10.0.0.0/8").permitted, excluded)
    assert constraints.permits("r.corp.test")
    assert not constraints.permits("r.secret.corp.test")
    assert not constraints.permits("10.9.1.1")
    assert not constraints.permits("10.0.0.0/8"), "a part of it is excluded"


def test_what_lies_below_another_is_left_out() -> None:
    found = subtrees(
        map(subtree, ["b.corp.test", "corp.test", "a.test", "10.0.0.0/9", "10.128.0.0/9", "10.1.1.1", "::1"])
    )
    assert str(found) == "a.test, corp.test, 10.0.0.0/8, ::1/128"
    assert found | subtrees([subtree("test")]) == Subtrees(
        ("test",), (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    )


@pytest.mark.parametrize("known", BUILTIN, ids=lambda known: known.pattern)
def test_the_usual_ones_permit_every_well_known_registry(known: Known) -> None:
    assert usual([]).permits(known.pattern)
    assert usual([]).permits(known.pattern.replace("*", "x"))


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"]
)
def test_the_usual_ones_permit_what_the_proxy_itself_may_be_called(host: str) -> None:
    assert usual([]).permits(host)


@pytest.mark.parametrize(
    "host", ["example.com", "docker.io", "auth.docker.io", "github.com", "8.8.8.8", "172.32.0.1", "2001:db8::1", "com"]
)
def test_the_usual_ones_permit_no_other(host: str) -> None:
    assert not usual([]).permits(host)


def test_the_usual_ones_permit_what_is_named() -> None:
    constraints = usual(["*.corp.test", "203.0.113.7", "cache"])
    for host in ("r.corp.test", "203.0.113.7", "cache"):
        assert constraints.permits(host)


LABELS = st.lists(st.sampled_from(["a", "b", "test", "*", "x-*"]), min_size=1, max_size=5).map(".".join)


@given(LABELS.map(lambda name: f"{name}.corp.test"))
def test_a_pattern_is_permitted_by_its_own_subtree_and_so_is_all_that_it_matches(pattern: str) -> None:
    constraints = permitting(pattern)
    assert constraints.permits(pattern)
    assert constraints.permits(pattern.replace("*", "anything"))
    assert "*" not in str(constraints.permitted)


def test_no_subtrees_are_none() -> None:
    assert not Subtrees()
    assert subtrees(map(subtree, ["corp.test"]))
    assert subtrees(map(subtree, ["10.0.0.0/8"]))
