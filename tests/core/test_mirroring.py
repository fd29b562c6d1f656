"""Requests made to the proxy itself: which registry is meant, in the spelling of each client."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.digest import Digest
from pullthrough.core.mirroring import Mirrored, mirrored
from pullthrough.core.routes import MAX_TARGET, Kind, classify

DIGEST = Digest.of(b"layer")
HUB = "registry-1.docker.io"


@pytest.mark.parametrize(
    ("target", "host", "port", "asked"),
    [
        ("/v2/team/app/manifests/1.0?ns=ghcr.io", "ghcr.io", 443, "/v2/team/app/manifests/1.0"),
        # Go escapes the colon of a port
        ("/v2/team/app/manifests/1.0?ns=registry.test%3A5050", "registry.test", 5050, "/v2/team/app/manifests/1.0"),
        ("/v2/app/manifests/1.0?ns=registry.test:5050", "registry.test", 5050, "/v2/app/manifests/1.0"),
        (f"/v2/app/blobs/{DIGEST}?ns=Registry.TEST.", "registry.test", 443, f"/v2/app/blobs/{DIGEST}"),
        ("/v2/app/manifests/1.0?ns=%5B2001%3ADB8%3A0%3A%3A7%5D%3A5000", "2001:db8::7", 5000, "/v2/app/manifests/1.0"),
        ("/v2/app/manifests/1.0?ns=localhost:5000", "localhost", 5000, "/v2/app/manifests/1.0"),
        ("/v2/app/manifests/1.0?ns=registry", "registry", 443, "/v2/app/manifests/1.0"),
        ("/v2/library/alpine/manifests/3?ns=docker.io", HUB, 443, "/v2/library/alpine/manifests/3"),
        ("/v2/library/alpine/manifests/3?ns=registry-1.docker.io", HUB, 443, "/v2/library/alpine/manifests/3"),
        ("/v2/app/manifests/1.0?ns=docker.io:5000", "docker.io", 5000, "/v2/app/manifests/1.0"),
        # what looks like a host belongs to the repository of the registry that was named
        ("/v2/ghcr.io/app/manifests/1?ns=harbor.test", "harbor.test", 443, "/v2/ghcr.io/app/manifests/1"),
        ("/v2/a.b/app/manifests/1?ns=harbor.test", "harbor.test", 443, "/v2/a.b/app/manifests/1"),
        ("/v2/a.test_1/app/manifests/1?ns=a.test", "a.test", 443, "/v2/a.test_1/app/manifests/1"),
    ],
)
def test_containerd_names_it_in_the_query(target: str, host: str, port: int, asked: str) -> None:
    assert mirrored(target) == Mirrored(host, port, asked)


@pytest.mark.parametrize(
    ("target", "host", "port", "repository"),
    [
        ("/v2/ghcr.io/team/app/manifests/1?ns=ghcr.io", "ghcr.io", 443, "team/app"),
        ("/v2/docker.io/library/alpine/manifests/1?ns=docker.io", HUB, 443, "library/alpine"),
        ("/v2/docker.io/library/alpine/manifests/1?ns=registry-1.docker.io", HUB, 443, "library/alpine"),
        ("/v2/registry.test:5050/app/manifests/1?ns=registry.test%3A5050", "registry.test", 5050, "app"),
        ("/v2/registry.test_5050/app/manifests/1?ns=registry.test%3A5050", "registry.test", 5050, "app"),
    ],
)
def test_buildkit_with_a_path_names_it_twice(target: str, host: str, port: int, repository: str) -> None:
    assert mirrored(target) == Mirrored(host, port, f"/v2/{repository}/manifests/1")


@pytest.mark.parametrize(
    ("named", "host", "port"),
    [
        ("registry.gitlab.com", "registry.gitlab.com", 443),
        ("registry.test_5050", "registry.test", 5050),
        ("registry.test:5050", "registry.test", 5050),
        ("registry.test%3A5050", "registry.test", 5050),
        ("registry%2Etest", "registry.test", 443),
        ("my_registry.corp.test_5050", "my_registry.corp.test", 5050),
        ("registry:5000", "registry", 5000),
        ("localhost", "localhost", 443),
        ("localhost_5000", "localhost", 5000),
        ("10.0.0.7_5000", "10.0.0.7", 5000),
        ("[::1]:5000", "::1", 5000),
        ("[::1]_5000", "::1", 5000),
        ("REGISTRY.test.", "registry.test", 443),
    ],
)
def test_others_name_it_first_in_the_path(named: str, host: str, port: int) -> None:
    for rest in ("group/image/manifests/tag", f"a/blobs/{DIGEST}", "a/tags/list?n=5&last=x", f"a/referrers/{DIGEST}"):
        assert mirrored(f"/v2/{named}/{rest}") == Mirrored(host, port, f"/v2/{rest}")


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io", "docker.io:443"])
def test_docker_hub_has_its_library(name: str) -> None:
    assert mirrored(f"/v2/{name}/alpine/manifests/3") == Mirrored(HUB, 443, "/v2/library/alpine/manifests/3")
    assert mirrored(f"/v2/{name}/team/app/manifests/3") == Mirrored(HUB, 443, "/v2/team/app/manifests/3")
    assert mirrored(f"/v2/alpine/manifests/3?ns={name}") == Mirrored(HUB, 443, "/v2/library/alpine/manifests/3")


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/v2/library/alpine/manifests/3", "/v2/library/alpine/manifests/3"),
        ("/v2/team/app/tags/list?n=5", "/v2/team/app/tags/list?n=5"),
        ("/v2/alpine/manifests/3", "/v2/library/alpine/manifests/3"),
        ("/v2/my_team/app/manifests/3", "/v2/my_team/app/manifests/3"),
        ("/v2/registry_5000/app/manifests/3", "/v2/registry_5000/app/manifests/3"),
        ("/v2/localhosts/app/manifests/3", "/v2/localhosts/app/manifests/3"),
    ],
)
def test_without_a_name_docker_hub_is_meant(target: str, asked: str) -> None:
    assert mirrored(target) == Mirrored(HUB, 443, asked)


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("ns=a.test&artifactType=a%2Fb", "?artifactType=a%2Fb"),
        ("artifactType=a%2fb+c&ns=a.test", "?artifactType=a%2fb+c"),
        ("x=%6e&ns=a.test&&y", "?x=%6e&&y"),
        ("%6Es=a.test", ""),
        ("ns=a.test", ""),
        ("ns=a.test&", ""),
    ],
)
def test_the_rest_of_the_query_stays_as_it_was_sent(query: str, rest: str) -> None:
    assert mirrored(f"/v2/app/referrers/{DIGEST}?{query}") == Mirrored(
        "a.test", 443, f"/v2/app/referrers/{DIGEST}{rest}"
    )


def test_escapes_of_the_path_stay_too() -> None:
    asked = f"/v2/%61pp/blobs/sha256%3a{DIGEST.hex}"
    assert mirrored(f"/v2/a.test/{asked.removeprefix('/v2/')}") == Mirrored("a.test", 443, asked)


@pytest.mark.parametrize(
    "target",
    [
        *["", "/", "*", "/v2", "/v2/", "/v2/?ns=ghcr.io", "/v1/a.test/app/manifests/1", "https://a.test/v2/"],
        *["/v2/_catalog", "/v2/_catalog?ns=a.test", "/v2/a.test/_catalog", "/v2/a.test/app/blobs/uploads/"],
        *["/ghcr.io/v2/app/manifests/1", "/v2/_pullthrough/token/0123456789abcdef"],
        "/v2/a.test/_pullthrough/token/0123456789abcdef",
    ],
)
def test_a_mirror_is_asked_for_nothing_else(target: str) -> None:
    assert mirrored(target) is None


@pytest.mark.parametrize(
    "target",
    [
        *["/v2/a.test", "/v2/a.test/", "/v2/a.test?ns=a.test", "/v2/a.test/manifests/1", "/v2/a.test/tags/list"],
        *["/v2/a.test/manifests/1?ns=a.test", "/v2//app/manifests/1", "/v2/a.test//app/manifests/1"],
        *["/v2/a.test/../manifests/1", "/v2/a.test/./b/manifests/1", "/v2/a.test/%2e%2e/manifests/1"],
        *["/v2/a.test/b%2fc/manifests/1", "/v2/a.test/App/manifests/1", "/v2/a.test/b/manifests/ü"],
        *["/v2/a.test/b/manifests/1#x", "/v2/a.test/b/manifests/1 x", "/v2/a.test/b/manifests/1?x=1"],
        *["/v2/app/manifests/1?ns=a.test&x=1", f"/v2/app/blobs/{DIGEST}?x"],
    ],
)
def test_what_is_left_must_be_a_path_of_a_registry(target: str) -> None:
    assert mirrored(target) is None


@pytest.mark.parametrize(
    "query",
    [
        *["ns", "ns=", "ns=%20a.test", "ns=a.test/", "ns=a.test%2Fx", "ns=*.a.test", "ns=a..test", "ns=a%00"],
        *["ns=a.test:0", "ns=a.test:65536", "ns=a.test:x", "ns=u@a.test", "ns=::1", "ns=https://a.test"],
        *["ns=a.test%0d%0ab.test", "ns=b%C3%BCcher.test", "ns=quay.%C4%B0o"],
        *["ns=a.test&ns=a.test", "ns=a.test&%6es=b.test", "ns=a.test;ns=b.test", "ns=a.test;x=1"],
    ],
)
def test_a_namespace_is_one_clear_host(query: str) -> None:
    assert mirrored(f"/v2/app/manifests/1?{query}") is None
    assert mirrored(f"/v2/a.test/app/manifests/1?{query}") is None


@pytest.mark.parametrize(
    "host",
    [
        *[
            ".",
            "..",
            "%2e%2e",
            ".a",
            "a..b",
            "*.a.test",
            "u@a.test",
            "a.test%2Fx",
            "a.test%00",
            "a.test%0a",
            "a.test%20",
        ],
        *["a.test:", "a.test:x", "a.test:0", "a.test_65536", "a.test:50_50", ":5000", "[::1", "quay.%C4%B0o"],
    ],
)
def test_what_looks_like_a_host_must_be_one(host: str) -> None:
    assert mirrored(f"/v2/{host}/app/manifests/1") is None


def test_what_is_asked_is_no_longer_than_a_target_may_be() -> None:
    query = "?last=" + "x" * (MAX_TARGET - len("/v2/app/tags/list?last="))
    assert mirrored(f"/v2/app/tags/list{query}") is None, "with library/ it is too long"
    assert mirrored(f"/v2/a/b/tags/list?ns=a.test&last={'x' * MAX_TARGET}") is None
    assert mirrored(f"/v2/a/p/tags/list{query}x") is None
    assert mirrored(f"/v2/a/p/tags/list{query}") == Mirrored(HUB, 443, f"/v2/a/p/tags/list{query}")


_HOSTS = ["a.test", "docker.io", "b.test:5000", "b.test_5000", "localhost", "[::1]:1", "a%2Etest", "..", "*.test"]
_FIRST = st.sampled_from([*_HOSTS, "app", "registry_1", ""])
_COMPONENTS = st.sampled_from([*["app", "library", "tags", "list", "manifests"] * 2, "%2f", "_x", ".", "", "a.test"])
_ENDS = st.sampled_from(["manifests/1.0", f"blobs/{DIGEST}", "tags/list", f"referrers/sha256%3a{DIGEST.hex}", ""])
_PARAMETERS = st.one_of(
    st.sampled_from(_HOSTS).map(lambda host: f"ns={host}"),
    st.sampled_from(["ns=", "n=5", "", "last=%2f", "%6es=c.test"]),
    st.text(max_size=8),
)


@st.composite
def targets(draw: st.DrawFn) -> str:
    """Targets of all kinds, most of them nearly right."""
    components = [draw(_FIRST), *draw(st.lists(_COMPONENTS, max_size=2))]
    query = "&".join(draw(st.lists(_PARAMETERS, max_size=2)))
    return "/".join(["", "v2", *components, draw(_ENDS)]) + (f"?{query}" if query else "")


@given(st.one_of(st.text(), targets()))
@example("/v2/a.test/app/manifests/1.0?ns=docker.io")
@example("/v2/localhost/manifests/manifests/1.0")
def test_only_content_of_a_host_that_was_named_is_asked_for(target: str) -> None:
    found = mirrored(target)
    if found is None:
        return
    path, _, query = found.target.partition("?")
    assert classify("GET", found.target).kind in {Kind.MANIFEST, Kind.BLOB, Kind.TAGS, Kind.REFERRERS}
    assert path.startswith("/v2/")
    assert not {"", ".", ".."} & set(unquote(path).removeprefix("/v2/").split("/"))
    assert "ns" not in {unquote(part.partition("=")[0]) for part in query.split("&")}
    if found.host != HUB:
        named = unquote(target)
        assert found.host in named.lower()
        assert found.port == 443 or f"{found.port}" in named
        assert not {"docker.io", "index.docker.io"} & {found.host}


@given(targets())
def test_whatever_is_asked_was_sent(target: str) -> None:
    found = mirrored(target)
    if found is not None:
        path, _, query = found.target.partition("?")
        assert path.removeprefix("/v2/").removeprefix("library/") in target
        assert set(query.split("&")) <= {*target.partition("?")[2].split("&"), ""}
