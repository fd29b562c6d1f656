"""Which hosts are registries: the built-in list, the operator's entries, and the hint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.registries import (
    BUILTIN,
    MAX_FOUND,
    Entry,
    Known,
    Registries,
    looks_like_registry,
    parse_entry,
)


@pytest.mark.parametrize(
    "host",
    [
        *[
            "registry-1.docker.io",
            "index.docker.io",
            "dhi.io",
            "ghcr.io",
            "containers.octo.ghe.com",
            "quay.io",
        ],
        *["registry.gitlab.com", "gcr.io", "us.gcr.io", "k8s.gcr.io", "europe-west1-docker.pkg.dev"],
        *["public.ecr.aws", "ecr-public.aws.com", "123456789012.dkr.ecr.eu-west-1.amazonaws.com"],
        *["123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "123456789012.dkr-ecr.us-east-1.on.aws"],
        *["123456789012.dkr-ecr-fips.us-east-1.on.aws", "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"],
        *["mcr.microsoft.com", "corp.azurecr.io", "corp.azurecr.cn", "corp.azurecr.us", "registry.k8s.io"],
        *["nvcr.io", "registry.access.redhat.com", "registry.redhat.io", "registry.connect.redhat.com"],
        *["fra.ocir.io", "ocir.us-ashburn-1.oci.oraclecloud.com", "icr.io", "us.icr.io", "private.us.icr.io"],
        *["rg.fr-par.scw.cloud", "crpi-x1-vpc.cn-hangzhou.personal.cr.aliyuncs.com"],
    ],
)
def test_well_known_registries_are_covered_on_443_only(host: str) -> None:
    registries = Registries()
    assert registries.covers(host, 443)
    assert registries.covers(host.upper() + ".", 443)
    assert not registries.covers(host, 5000)
    assert not registries.named_by_operator(host, 443)


@pytest.mark.parametrize(
    "host",
    [
        *[
            "azurecr.io",
            "evil-azurecr.io",
            "x.azurecr.io.evil.test",
            "a.b.azurecr.io",
            ".azurecr.io",
            "azurecr.io.",
        ],
        *["ghcr.io.evil.test", "evilghcr.io", "x.ghcr.io", "ghcr.io..", "ghcr.io ", "[ghcr.io]", "ghcr.io\n"],
        *["docker.pkg.dev", "-docker.pkg.dev", "us-python.pkg.dev", "us-docker.pkg.dev.evil.test"],
        *["dkr.ecr.eu-west-1.amazonaws.com", "1.dkr.ecr.a.b.amazonaws.com", "1.dkr.ecr.amazonaws.com"],
        *["api.ecr.eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com"],
        *["docker.io", "auth.docker.io", "hub.docker.com", "gitlab.com", "corp.jfrog.io"],
        *[
            "",
            ".",
            "..",
            "*",
            "*.azurecr.io",
            "io",
            "::1",
            "[::1]",
            "nonsense:",
            "127.0.0.1",
            "örg.azurecr.io",
        ],
        "icr\u0131.io",
        "quay.\u0130o",
        "doc\u212aer.azurecr.io",
        "\u212a8s.gcr.io",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert not Registries().covers(host, 443)


@given(st.text(), st.integers())
def test_any_host_gets_an_answer(host: str, port: int) -> None:
    registries = Registries([parse_entry("[::1]:5000")])
    assert registries.covers(host, port) in (True, False)
    assert looks_like_registry(host) in (True, False)


def test_every_built_in_pattern_is_well_formed_unique_and_has_a_source() -> None:
    patterns = [known.pattern for known in BUILTIN]
    assert len(set(patterns)) == len(patterns)
    for known in BUILTIN:
        assert parse_entry(known.pattern) == Entry(known.pattern)
        assert known.source.startswith("https://")


def test_no_built_in_pattern_repeats_another() -> None:
    for known in BUILTIN:
        others = Registries(builtin=[other for other in BUILTIN if other != known])
        assert not others.covers(known.pattern.replace("*", "x"), 443), known.pattern


@pytest.mark.parametrize(
    ("text", "entry", "written"),
    [
        ("registry.corp.test", Entry("registry.corp.test"), "registry.corp.test:443"),
        ("registry.corp.test:5050", Entry("registry.corp.test", 5050), "registry.corp.test:5050"),
        (" Registry.CORP.test.:5050\n", Entry("registry.corp.test", 5050), "registry.corp.test:5050"),
        ("registry", Entry("registry"), "registry:443"),
        ("my_host:1", Entry("my_host", 1), "my_host:1"),
        ("10.0.0.7:65535", Entry("10.0.0.7", 65535), "10.0.0.7:65535"),
        ("[::1]", Entry("::1"), "[::1]:443"),
        ("[2001:DB8:0:0::7]:5000", Entry("2001:db8::7", 5000), "[2001:db8::7]:5000"),
        ("*.corp.test:5000", Entry("*.corp.test", 5000), "*.corp.test:5000"),
        ("*-docker.*.corp.test", Entry("*-docker.*.corp.test"), "*-docker.*.corp.test:443"),
        ("xn--bcher-kva.test", Entry("xn--bcher-kva.test"), "xn--bcher-kva.test:443"),
    ],
)
def test_an_entry_reads_back_as_it_is_written(text: str, entry: Entry, written: str) -> None:
    assert parse_entry(text) == entry
    assert str(entry) == written
    assert parse_entry(written) == entry


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a host name"),
        (":5000", "not a host name"),
        ("a..test", "not a host name"),
        ("-a.test", "not a host name"),
        ("user@a.test", "not a host name"),
        ("a b.test", "not a host name"),
        ("a.test..", "not a host name"),
        (f"{'a' * 64}.test", "not a host name"),
        (".".join(["a" * 60] * 5), "not a host name"),
        ("https://a.test", "without a scheme or a path"),
        ("a.test/team", "without a scheme or a path"),
        ("a.test:", "from 1 to 65535"),
        ("a.test:0", "from 1 to 65535"),
        ("a.test:65536", "from 1 to 65535"),
        ("a.test:x", "from 1 to 65535"),
        ("a.test:-1", "from 1 to 65535"),
        ("a.test:0000443", "from 1 to 65535"),
        ("[::1]5000", "from 1 to 65535"),
        ("[::1]:", "from 1 to 65535"),
        ("::1", "goes in brackets"),
        ("[::1", "goes in brackets"),
        ("[]", "not an IPv6 address"),
        ("[a.test]:5000", "not an IPv6 address"),
        ("*", "two plain labels"),
        ("*.test", "two plain labels"),
        ("a.*.test", "two plain labels"),
        ("*.*", "two plain labels"),
        ("bücher.test", "xn-- form"),
    ],
)
def test_a_bad_entry_is_refused_in_a_sentence_that_repeats_it(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refusal:
        parse_entry(text)
    assert repr(text) in str(refusal.value)


@given(st.text())
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    try:
        entry = parse_entry(text)
    except ValueError:
        return
    assert parse_entry(str(entry)) == entry


def test_entries_of_the_operator_cover_their_own_port() -> None:
    registries = Registries([parse_entry("registry.corp.test:5050"), parse_entry("[2001:db8::7]:5000")])
    assert registries.covers("registry.corp.test", 5050)
    assert registries.covers("REGISTRY.corp.test.", 5050)
    assert registries.named_by_operator("registry.corp.test", 5050)
    assert not registries.covers("registry.corp.test", 443)
    assert not registries.covers("x.registry.corp.test", 5050)
    for host in ("2001:db8::7", "[2001:db8::7]", "[2001:DB8:0::7]"):
        assert registries.covers(host, 5000)
    assert registries.covers("ghcr.io", 443)


def test_a_pattern_of_the_operator_matches_within_one_label() -> None:
    registries = Registries([parse_entry("*.corp.test:5000"), parse_entry("hub-*.corp.test:5000")])
    assert registries.named_by_operator("a.corp.test", 5000)
    assert registries.named_by_operator("hub-eu.corp.test", 5000)
    for host in ("corp.test", "a.b.corp.test", "acorp.test", "a.corp.test.evil.test"):
        assert not registries.covers(host, 5000)
    assert not registries.covers("a.corp.test", 443)


def test_a_built_in_host_can_be_named_by_the_operator_too() -> None:
    registries = Registries([parse_entry("ghcr.io")])
    assert registries.named_by_operator("ghcr.io", 443)


def test_the_built_in_list_can_be_another() -> None:
    registries = Registries(builtin=[Known("only.test", "https://only.test/")])
    assert registries.covers("only.test", 443)
    assert not registries.covers("ghcr.io", 443)


@pytest.mark.parametrize(
    "host",
    [
        *[
            "registry",
            "registry.test",
            "registry.corp.test",
            "Docker.Corp.TEST.",
            "cr.corp.test",
            "harbor.corp.test",
        ],
        *["my-registry.corp.test", "docker-mirror.corp.test", "eu.registry.corp.test", "hub.corp.test"],
        *["docker.internal.corp.test", "containers.corp.test"],
    ],
)
def test_hosts_that_sound_like_a_registry(host: str) -> None:
    assert looks_like_registry(host)


@pytest.mark.parametrize(
    "host",
    [
        *["", "pypi.org", "files.pythonhosted.org", "github.com", "www.docker.com", "download.docker.com"],
        *["auth.docker.io", "production.cloudflare.docker.com", "registry.npmjs.org", "Registry.NPMJS.org."],
        *[
            "registry.terraform.io",
            "hub.docker.com",
            "container.googleapis.com",
            "dockerize.test",
            "10.0.0.1",
        ],
        *["::1", "scr.corp.test", "subregistry.corp.test"],
    ],
)
def test_hosts_that_do_not(host: str) -> None:
    assert not looks_like_registry(host)


OWN = Registries([parse_entry("registry.corp.test:5050"), parse_entry("*.cr.corp.test:5000")])


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("registry.corp.test", True),
        ("Registry.Corp.TEST.", True),
        ("a.cr.corp.test", True),
        ("cr.corp.test", False),
        ("a.b.cr.corp.test", False),
        ("ghcr.io", True),
        ("other.corp.test", False),
        ("", False),
    ],
)
def test_a_name_is_a_registrys_on_whatever_port(host: str, named: bool) -> None:
    assert OWN.names(host) is named


@pytest.mark.parametrize(("port", "there"), [(443, True), (5050, True), (5000, True), (5001, False)])
def test_ports_that_registries_have(port: int, there: bool) -> None:
    assert OWN.on_port(port) is there


def test_what_is_found_is_covered_but_is_not_the_operators_word() -> None:
    registries = Registries()
    registries.found("found.test", 5000)

    assert registries.covers("found.test", 5000)
    assert not registries.covers("found.test", 443)
    assert not registries.named_by_operator("found.test", 5000)


def test_of_too_many_that_are_found_the_least_recently_used_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pullthrough.core.registries.MAX_FOUND", 2)
    registries = Registries()
    assert registries.found("a.test", 443) is None
    assert registries.found("b.test", 443) is None
    assert registries.found("a.test", 443) is None
    assert registries.found("c.test", 443) == ("b.test", 443)
    assert registries.covers("a.test", 443)  # and so it is used
    assert registries.found("d.test", 443) == ("c.test", 443)

    assert [registries.covers(f"{name}.test", 443) for name in "abcd"] == [True, False, False, True]


def test_strangers_cannot_keep_others_from_being_found() -> None:
    registries = Registries()
    for number in range(MAX_FOUND):
        registries.found(f"h{number}.strange.test", 443)
    registries.found("registry.test", 443)

    assert registries.covers("registry.test", 443)


def test_what_is_listed_is_answered_for_and_what_is_found_is_not() -> None:
    registries = Registries([parse_entry("own.test"), parse_entry("*.corp.test:5050")])
    for place in [("found.test", 5000), ("own.test", 443), ("a.corp.test", 5050), ("ghcr.io", 443)]:
        registries.found(*place)

    for place in [("own.test", 443), ("a.corp.test", 5050), ("ghcr.io", 443), ("quay.io", 443)]:
        assert registries.is_listed(*place)
    for place in [("found.test", 5000), ("found.test", 443), ("own.test", 5000)]:
        assert not registries.is_listed(*place)
