"""Globs of the operator's: what they mean, what is refused as one, and which of the lists wins."""

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.concerns import Concerns
from pullthrough.core.filters import MAX_GLOB, Filters, Verdict, parse_glob


def covers(glob: str, name: str) -> bool:
    """`name` is HOST[:PORT]/REPOSITORY, the host without colons."""
    authority, _, repository = name.partition("/")
    host, _, port = authority.partition(":")
    return parse_glob(glob).covers(host, int(port or 443), repository)


@pytest.mark.parametrize(
    ("glob", "meant", "not_meant"),
    [
        ("quay.io", ["quay.io/a", "quay.io/a/b/c", "quay.io:8443/a"], ["x.quay.io/a", "quay.io.test/a", "quayxio/a"]),
        ("quay.io:443", ["quay.io/a", "quay.io:443/a/b"], ["quay.io:8443/a"]),
        ("r.test:5050/group/app", ["r.test:5050/group/app"], ["r.test/group/app", "r.test:5050/group/app/x"]),
        ("quay.io/org", ["quay.io/org"], ["quay.io/org/app", "quay.io/orgs", "quay.io/x/org"]),
        ("quay.io/org/*", ["quay.io/org/app"], ["quay.io/org", "quay.io/org/app/x", "quay.io/x/app"]),
        ("quay.io/org/**", ["quay.io/org", "quay.io/org/app", "quay.io/org/a/b/c"], ["quay.io/orgs/app"]),
        ("quay.io/**", ["quay.io/a", "quay.io/a/b"], ["ghcr.io/a"]),
        ("quay.io/**/app", ["quay.io/app", "quay.io/a/app", "quay.io/a/b/app"], ["quay.io/app/x", "quay.io/myapp"]),
        (
            "quay.io/a/**/b/**/c",
            ["quay.io/a/b/c", "quay.io/a/x/b/y/z/c", "quay.io/a/b/b/c/c"],
            ["quay.io/a/c", "quay.io/a/b"],
        ),
        ("quay.io/**/a/b/**", ["quay.io/a/b", "quay.io/a/a/b", "quay.io/x/a/b/y"], ["quay.io/a/x/b"]),
        ("quay.io/**/**", ["quay.io/a", "quay.io/a/b"], []),
        ("quay.io/*/*", ["quay.io/a/b"], ["quay.io/a", "quay.io/a/b/c"]),
        ("quay.io/app-*", ["quay.io/app-", "quay.io/app-1"], ["quay.io/app", "quay.io/app-1/x"]),
        ("quay.io/*-app", ["quay.io/my-app", "quay.io/-app-app"], ["quay.io/my-apps"]),
        ("quay.io/a*b*c", ["quay.io/abc", "quay.io/axbxbxc"], ["quay.io/acb", "quay.io/ab"]),
        ("quay.io/*ab*b", ["quay.io/abb", "quay.io/aabab"], ["quay.io/ab"]),
        ("quay.io/ab*ba", ["quay.io/abba", "quay.io/abxba"], ["quay.io/aba"]),
        ("*.corp.test", ["a.corp.test/x", "a.b.corp.test:5000/x/y"], ["corp.test/x", "a.corp.test.evil.test/x"]),
        ("*.corp.test:5000/x", ["a.corp.test:5000/x"], ["a.corp.test/x"]),
        ("registry-*.test", ["registry-eu.test/x"], ["registry.test/x"]),
        ("*", ["a.test/x", "a.test:5000/x/y"], []),
        ("**", ["a.test/x", "a.test:5000/x/y"], []),
        ("*/app", ["a.test/app", "a.test:5000/app"], ["a.test/x/app"]),
        ("**/app", ["a.test/app", "b.test:5000/x/y/app"], ["a.test/app/x"]),
        ("**/secret/**", ["a.test/secret", "a.test/x/secret/y"], ["a.test/secrets/y", "secret/y"]),
        (" Quay.IO./org ", ["quay.io/org"], []),
    ],
)
def test_what_a_glob_means(glob: str, meant: list[str], not_meant: list[str]) -> None:
    assert [name for name in meant if not covers(glob, name)] == []
    assert [name for name in not_meant if covers(glob, name)] == []


@pytest.mark.parametrize("asked", ["docker.io", "index.docker.io", "registry-1.docker.io", "Registry-1.Docker.io."])
@pytest.mark.parametrize("glob", ["docker.io", "index.docker.io", "registry-1.docker.io", "docker.*", "*.docker.io"])
def test_docker_hub_goes_by_each_of_its_names(glob: str, asked: str) -> None:
    assert parse_glob(glob).covers(asked, 443, "team/app")
    assert not parse_glob(glob).covers("auth.docker.io.test", 443, "team/app")


@pytest.mark.parametrize(
    ("glob", "meant", "not_meant"),
    [
        ("docker.io/alpine", "library/alpine", "team/alpine"),
        ("docker.io/library/alpine", "library/alpine", "library/alpine2"),
        ("docker.io/*", "library/alpine", "team/app"),
        ("docker.io/*/*", "team/app", "team/app/x"),
        ("registry-1.docker.io:443/alpine", "library/alpine", "alpine"),
    ],
)
def test_official_images_are_in_the_library(glob: str, meant: str, not_meant: str) -> None:
    assert parse_glob(glob).covers("registry-1.docker.io", 443, meant)
    assert not parse_glob(glob).covers("registry-1.docker.io", 443, not_meant)


def test_all_of_docker_hub_is_more_than_its_library() -> None:
    assert parse_glob("docker.io/**").covers("registry-1.docker.io", 443, "team/app")


@pytest.mark.parametrize("host", ["2001:db8::7", "[2001:db8::7]", "2001:DB8:0:0::7"])
def test_an_ipv6_address_is_the_same_in_every_spelling(host: str) -> None:
    for glob in ("[2001:db8::7]", "[2001:DB8:0::7]:5000/a", "*"):
        assert parse_glob(glob).covers(host, 5000, "a")
    assert not parse_glob("[2001:db8::8]").covers(host, 5000, "a")
    assert not parse_glob("[2001:db8::7]:443").covers(host, 5000, "a")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a host"),
        ("/a", "not a host"),
        ("user@a.test", "not a host"),
        ("a b.test", "not a host"),
        ("bücher.test", "not a host"),
        ("::1", "not a host"),
        ("[::1", "not a host"),
        ("a.test:", "not a host"),
        ("a.test:*", "not a host"),
        ("a.test:50*/x", "not a host"),
        ("[]", "not an IPv6 address"),
        ("[a:b]", "not an IPv6 address"),
        ("[a.test]:5000", "not an IPv6 address"),
        (".", "whole components"),
        ("**.test", "whole components"),
        ("***", "whole components"),
        ("a.test:0", "from 1 to 65535"),
        ("a.test:65536/x", "from 1 to 65535"),
        ("https://a.test", "leave the scheme out"),
        ("a.test/", "between two slashes"),
        ("a.test//b", "between two slashes"),
        ("a.test/b/", "between two slashes"),
        ("a.test/b:1.0", "without a tag or a digest"),
        ("a.test/b@sha256", "without a tag or a digest"),
        ("a.test/App", "lower case"),
        ("a.test/a**", "whole components"),
        ("a.test/***", "whole components"),
        ("a.test/a?", "in no repository's name"),
        ("a.test/[ab]", "in no repository's name"),
        ("a.test/a b", "in no repository's name"),
        ("a.test/ü", "in no repository's name"),
    ],
)
def test_a_bad_glob_is_refused_in_a_sentence_that_repeats_it(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        parse_glob(text)
    assert repr(text) in str(refusal.value)


def test_a_glob_has_a_longest_length() -> None:
    parse_glob("a.test/" + "a" * (MAX_GLOB - len("a.test/")))
    with pytest.raises(ValueError, match=f"at most {MAX_GLOB} characters"):
        parse_glob("a.test/" + "a" * (MAX_GLOB + 1 - len("a.test/")))


@given(st.one_of(st.text(), st.text("ab.*:/[]1", max_size=12)), st.text(), st.text())
def test_any_text_is_a_glob_or_refused_and_any_name_gets_an_answer(text: str, host: str, repository: str) -> None:
    try:
        glob = parse_glob(text)
    except ValueError:
        return
    assert glob.covers(host, 443, repository) in (True, False)


def _expression(glob: str) -> re.Pattern[str]:
    """The same as a regular expression, on what it is slow for: `/` before each component, `//` never comes."""
    parts = ["(?:/[^/]+)*" if part == "**" else "/" + part.replace("*", "[^/]*") for part in glob.split("/")]
    return re.compile("".join(parts))


@given(
    st.lists(st.one_of(st.just("**"), st.text("ab*", min_size=1, max_size=4)), min_size=1, max_size=5),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5),
)
def test_a_path_fits_exactly_if_its_regular_expression_does(components: list[str], names: list[str]) -> None:
    glob = "/".join("**" if part == "**" else re.sub(r"\*+", "*", part) for part in components)
    repository = "/".join(names)
    expected = _expression(glob).fullmatch(f"/{repository}") is not None
    assert parse_glob(f"a.test/{glob}").covers("a.test", 443, repository) is expected


@pytest.mark.parametrize(
    "glob",
    [
        "*a" * 250 + "b",
        "a.test/" + "*a" * 250 + "b",
        "a.test/" + "**/a*/" * 80 + "b",
        "a.test/" + "**/*a*a/" * 60 + "b",
    ],
)
def test_no_glob_takes_long(glob: str) -> None:
    compiled = parse_glob(glob)
    begun = perf_counter()
    assert not compiled.covers("a" * 253, 443, "a" * 255)
    assert not compiled.covers("a.test", 443, "a" * 255)
    assert not compiled.covers("a.test", 443, "/".join("a" * 128))
    assert perf_counter() - begun < 1, "a backtracking matcher needs longer than anybody lives"


def filters(**lists: str) -> Filters:
    return Filters(**{name: tuple(parse_glob(text) for text in globs.split()) for name, globs in lists.items()})


REFUSE, PASS, CACHE = Verdict.REFUSE, Verdict.PASS, Verdict.CACHE


@pytest.mark.parametrize(
    ("chosen", "verdicts"),
    [
        (filters(), {"ghcr.io": CACHE, "quay.io": CACHE}),
        (filters(allow="ghcr.io"), {"ghcr.io": CACHE, "quay.io": REFUSE}),
        (filters(deny="ghcr.io"), {"ghcr.io": REFUSE, "quay.io": CACHE}),
        (filters(allow="ghcr.io", deny="ghcr.io"), {"ghcr.io": REFUSE, "quay.io": REFUSE}),
        (filters(allow="*", deny="ghcr.io"), {"ghcr.io": REFUSE, "quay.io": CACHE}),
        (filters(cache="ghcr.io"), {"ghcr.io": CACHE, "quay.io": PASS}),
        (filters(bypass="ghcr.io"), {"ghcr.io": PASS, "quay.io": CACHE}),
        (filters(cache="ghcr.io", bypass="ghcr.io"), {"ghcr.io": PASS, "quay.io": PASS}),
        (filters(cache="*.io", bypass="ghcr.io"), {"ghcr.io": PASS, "quay.io": CACHE, "a.test": PASS}),
        (filters(deny="ghcr.io", cache="ghcr.io"), {"ghcr.io": REFUSE, "quay.io": PASS}),
        (filters(allow="ghcr.io", cache="quay.io"), {"ghcr.io": PASS, "quay.io": REFUSE}),
        (filters(allow="quay.io ghcr.io"), {"ghcr.io": CACHE, "quay.io": CACHE, "a.test": REFUSE}),
    ],
)
def test_which_list_wins(chosen: Filters, verdicts: dict[str, Verdict]) -> None:
    assert {host: chosen.verdict(host, 443, "team/app") for host in verdicts} == verdicts


def test_only_two_lists_refuse() -> None:
    chosen = [filters(), filters(cache="a.test"), filters(bypass="a.test"), filters(allow="*"), filters(deny="a.test")]
    assert [each.refuses for each in chosen] == [False, False, False, True, True]


def some(*repositories: str, unknown: bool = False) -> Concerns:
    return Concerns(frozenset(repositories), unknown)


@pytest.mark.parametrize(
    ("chosen", "concerned", "verdict"),
    [
        (filters(), some("a", unknown=True), CACHE),
        (filters(deny="r.test/a"), some(), CACHE),
        (filters(deny="r.test/a"), some("b"), CACHE),
        (filters(deny="r.test/a"), some("b", "a"), REFUSE),
        (filters(deny="r.test/a"), some("b", unknown=True), REFUSE),
        (filters(deny="r.test:5050/a"), some("b", unknown=True), CACHE),
        (filters(deny="other.test/a"), some("b", unknown=True), CACHE),
        (filters(deny="**/a"), some(unknown=True), REFUSE),
        (filters(allow="r.test/a"), some("a"), CACHE),
        (filters(allow="r.test/a"), some("a", "b"), REFUSE),
        (filters(allow="r.test/a"), some("a", unknown=True), REFUSE),
        (filters(allow="r.test/**"), some("a", unknown=True), CACHE),
        (filters(allow="r.test/a r.test"), some("a", unknown=True), CACHE),
        (filters(allow="r.test:5050"), some(unknown=True), REFUSE),
        (filters(allow="other.test"), some(unknown=True), REFUSE),
        (filters(allow="r.test", deny="r.test/a"), some(unknown=True), REFUSE),
        (filters(bypass="r.test/a"), some("b", "a"), PASS),
        (filters(bypass="r.test/a"), some("b", unknown=True), PASS),
        (filters(bypass="other.test"), some("b", unknown=True), CACHE),
        (filters(cache="r.test/a"), some("a", unknown=True), PASS),
        (filters(cache="r.test"), some("a", unknown=True), CACHE),
        (filters(deny="r.test/a", bypass="r.test/b"), some("a", "b"), REFUSE),
    ],
)
def test_a_request_gets_the_strictest_verdict_of_all_that_it_could_concern(
    chosen: Filters, concerned: Concerns, verdict: Verdict
) -> None:
    assert chosen.judged("r.test", 443, concerned) is verdict


@pytest.mark.parametrize(
    "glob", ["docker.io/alpine", "docker.io/library/**", "docker.io/*/alpine", "**/alpine", "docker.io"]
)
def test_an_official_image_goes_by_its_short_name_too(glob: str) -> None:
    for host in ("docker.io", "Registry-1.docker.io."):
        for repository in ("alpine", "library/alpine"):
            assert filters(deny=glob).verdict(host, 443, repository) is REFUSE
            assert filters(bypass=glob).verdict(host, 443, repository) is PASS
    assert filters(deny="quay.io/library/alpine").verdict("quay.io", 443, "alpine") is CACHE


def test_repositories_of_one_registry_are_judged_apart() -> None:
    chosen = filters(deny="r.test/secret/**", bypass="r.test:5050/team/*")
    assert chosen.verdict("r.test", 443, "secret/app") is REFUSE
    assert chosen.verdict("r.test", 5050, "secret/app") is REFUSE
    assert chosen.verdict("r.test", 443, "team/app") is CACHE
    assert chosen.verdict("r.test", 5050, "team/app") is PASS
