"""Classification of request targets, end-point by end-point of the OCI distribution spec 1.1."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.digest import Digest
from pullthrough.core.routes import MAX_TARGET, REALM_PATH, Kind, Route, classify, is_repository

DIGEST = Digest.of(b"layer")
DIGEST512 = Digest.of(b"layer", "sha512")
LONGEST = "a" * 255
REALM = "0123456789abcdef"


def manifest(repository: str, reference: str, digest: Digest | None = None) -> Route:
    return Route(Kind.MANIFEST, "GET", repository, reference, digest)


def by_digest(kind: Kind, repository: str, digest: Digest = DIGEST) -> Route:
    return Route(kind, "GET", repository, str(digest), digest)


KNOWN = [
    ("/v2/", Route(Kind.PING, "GET")),
    ("/v2", Route(Kind.PING, "GET")),
    ("/v2/?x=1", Route(Kind.PING, "GET")),
    ("/v2/_catalog", Route(Kind.CATALOG, "GET")),
    ("/v2/_catalog?n=10&last=a%2fb", Route(Kind.CATALOG, "GET")),
    # manifests by tag
    ("/v2/a/manifests/latest", manifest("a", "latest")),
    ("/v2/library/alpine/manifests/3.20", manifest("library/alpine", "3.20")),
    ("/v2/a/b/c/d/e/manifests/V1", manifest("a/b/c/d/e", "V1")),
    ("/v2/a.b/c_d/e__f/g---h/0/manifests/_", manifest("a.b/c_d/e__f/g---h/0", "_")),
    (f"/v2/{LONGEST}/manifests/x", manifest(LONGEST, "x")),
    (f"/v2/a/manifests/{'t' * 128}", manifest("a", "t" * 128)),
    (f"/v2/a/manifests/sha256-{DIGEST.hex}.sig", manifest("a", f"sha256-{DIGEST.hex}.sig")),
    (f"/v2/a/manifests/{DIGEST.hex}", manifest("a", DIGEST.hex)),
    ("/v2/a/manifests/sha256", manifest("a", "sha256")),
    ("/v2/a/manifests/uploads", manifest("a", "uploads")),
    # manifests by digest
    (f"/v2/a/manifests/{DIGEST}", by_digest(Kind.MANIFEST, "a")),
    (f"/v2/a/manifests/{DIGEST512}", by_digest(Kind.MANIFEST, "a", DIGEST512)),
    # blobs
    (f"/v2/a/blobs/{DIGEST}", by_digest(Kind.BLOB, "a")),
    (f"/v2/a/b/blobs/{DIGEST512}", by_digest(Kind.BLOB, "a/b", DIGEST512)),
    # uploads
    ("/v2/a/blobs/uploads", Route(Kind.UPLOAD, "GET", "a")),
    ("/v2/a/blobs/uploads/", Route(Kind.UPLOAD, "GET", "a")),
    (f"/v2/a/blobs/uploads/?mount={DIGEST}&from=b/c", Route(Kind.UPLOAD, "GET", "a")),
    ("/v2/a/blobs/uploads/6b3c-9.~_=:@!", Route(Kind.UPLOAD, "GET", "a", "6b3c-9.~_=:@!")),
    ("/v2/a/blobs/uploads/id?_state=x%2Fy==&digest=z", Route(Kind.UPLOAD, "GET", "a", "id")),
    ("/v2/a/blobs/uploads/latest", Route(Kind.UPLOAD, "GET", "a", "latest")),
    # referrers and tags
    (f"/v2/a/referrers/{DIGEST}", by_digest(Kind.REFERRERS, "a")),
    (f"/v2/a/referrers/{DIGEST}?artifactType=application/x", by_digest(Kind.REFERRERS, "a")),
    ("/v2/a/tags/list", Route(Kind.TAGS, "GET", "a")),
    ("/v2/a/tags/list?n=5&last=v1", Route(Kind.TAGS, "GET", "a")),
    # the rightmost marker wins
    ("/v2/a/blobs/manifests/latest", manifest("a/blobs", "latest")),
    ("/v2/a/blobs/uploads/manifests/latest", manifest("a/blobs/uploads", "latest")),
    ("/v2/manifests/manifests/manifests", manifest("manifests", "manifests")),
    (f"/v2/a/manifests/blobs/{DIGEST}", by_digest(Kind.BLOB, "a/manifests")),
    (f"/v2/a/blobs/blobs/{DIGEST}", by_digest(Kind.BLOB, "a/blobs")),
    ("/v2/a/manifests/tags/list", Route(Kind.TAGS, "GET", "a/manifests")),
    ("/v2/tags/list/tags/list", Route(Kind.TAGS, "GET", "tags/list")),
    ("/v2/a/tags/manifests/list", manifest("a/tags", "list")),
    ("/v2/uploads/blobs/uploads/", Route(Kind.UPLOAD, "GET", "uploads")),
    # escapes that mean nothing else decoded
    (f"/v2/a/manifests/sha256%3A{DIGEST.hex}", by_digest(Kind.MANIFEST, "a")),
    (f"/v2/a/blobs/sha256%3a{DIGEST.hex}", by_digest(Kind.BLOB, "a")),
    ("/v2/%61/manifests/l%61test", manifest("a", "latest")),
    # the only parameter that a read of content may carry
    (f"/v2/a/blobs/{DIGEST}?ns=docker.io", by_digest(Kind.BLOB, "a")),
    ("/v2/a/manifests/latest?ns=registry.test:5000", manifest("a", "latest")),
    ("/v2/a/manifests/latest?", manifest("a", "latest")),
    # our own
    (f"/v2/_pullthrough/token/{REALM}", Route(Kind.TOKEN, "GET", reference=REALM)),
    (f"/v2/_pullthrough/token/{REALM}?", Route(Kind.TOKEN, "GET", reference=REALM)),
    (
        f"/v2/_pullthrough/token/{REALM}?service=a%2fb&scope=repository:a:pull&scope=x",
        Route(Kind.TOKEN, "GET", reference=REALM),
    ),
]


@pytest.mark.parametrize(("target", "route"), KNOWN, ids=[target[:60] for target, _ in KNOWN])
def test_known_end_points(target: str, route: Route) -> None:
    assert classify("GET", target) == route
    assert classify("GET", target.encode()) == route


OTHER: list[str | bytes] = [
    "",
    "/",
    "*",
    "v2/",
    "/v1/",
    "/V2/",
    "//v2/",
    "/v2//",
    "/v2x/a/manifests/latest",
    "registry.test:443",
    "https://registry.test/v2/",
    "/x/v2/a/manifests/latest",
    "/v2/a",
    "/v2/a/",
    "/v2/_catalog/",
    "/v2/a/_catalog",
    "/v2/_private/token",
    # ours is one path to the letter
    "/v2/_pullthrough",
    "/v2/_pullthrough/",
    "/v2/_pullthrough/token",
    "/v2/_pullthrough/token/",
    f"/v2/_pullthrough/token/{REALM}/",
    f"/v2/_pullthrough/token/{REALM}0",
    f"/v2/_pullthrough/token/{REALM[:-1]}",
    f"/v2/_pullthrough/token/{REALM.upper()}",
    f"/v2/_pullthrough/token/{REALM[:-1]}g",
    f"/v2/_pullthrough/token/{REALM}%0a",
    f"/v2/_pullthrough/token/{REALM[:-1]}\u0660",
    f"/v2/_pullthrough/token/x/{REALM}",
    f"/v2/_pullthrough//token/{REALM}",
    f"/v2/_pullthrough/token%2f{REALM}",
    f"/v2/_pullthrough/other/{REALM}",
    f"/v2/_PULLTHROUGH/token/{REALM}",
    f"/v2/a/_pullthrough/token/{REALM}",
    f"/V2/_pullthrough/token/{REALM}",
    "/v2/_pullthrough/manifests/latest",
    "/v2/_pullthrough/token/manifests/latest",
    f"/v2/_pullthrough/blobs/{DIGEST}",
    "/v2/_pullthrough/token/tags/list",
    # no repository, or one outside the grammar
    "/v2/manifests/latest",
    "/v2/tags/list",
    "/v2/blobs/uploads/",
    f"/v2/blobs/{DIGEST}",
    "/v2/A/manifests/latest",
    "/v2/-a/manifests/latest",
    "/v2/a-/manifests/latest",
    "/v2/a..b/manifests/latest",
    "/v2/a___b/manifests/latest",
    "/v2/a._b/manifests/latest",
    f"/v2/{LONGEST}a/manifests/x",
    f"/v2/{'a/' * 128}a/manifests/x",
    # neither tag nor digest
    "/v2/a/manifests/",
    "/v2/a/manifests",
    "/v2/a/manifests/.x",
    "/v2/a/manifests/-x",
    "/v2/a/manifests/a+b",
    f"/v2/a/manifests/{'t' * 129}",
    "/v2/a/manifests/sha256:short",
    f"/v2/a/manifests/sha256:{DIGEST.hex.upper()}",
    f"/v2/a/manifests/blake3:{DIGEST.hex}",
    f"/v2/a/manifests/latest@{DIGEST}",
    "/v2/a/manifests/latest/",
    "/v2/a/blobs/latest",
    "/v2/a/blobs/",
    "/v2/a/blobs/sha256:short",
    "/v2/a/referrers/latest",
    "/v2/a/tags",
    "/v2/a/tags/",
    "/v2/a/tags/list/",
    "/v2/a/blobs/uploads/..",
    "/v2/a/blobs/uploads/.",
    "/v2/a/blobs/uploads/id/more",
    "/v2/a/blobs/uploads/i%00d",
    # paths that mean something else to somebody
    "/v2/../v2/a/manifests/latest",
    "/v2/a/../b/manifests/latest",
    "/v2/a/./manifests/latest",
    "/v2/a//manifests/latest",
    "/v2/a/manifests//latest",
    "/v2/a%2Fb/manifests/latest",
    "/v2/a%2fb/manifests/latest",
    "/v2%2fa/manifests/latest",
    "/v2/%2e%2e/manifests/latest",
    "/v2/a/manifests/..%2flatest",
    "/v2/a%5cb/manifests/latest",
    "/v2/a/manifests/latest%0a",
    "/v2/a/manifests/latest%00",
    "/v2/a/manifests/latest%3Fns=x",
    "/v2/a/manifests/latest%23",
    "/v2/a/manifests/latest#x",
    "/v2/a/manifests/%256catest",
    "/v2/a/manifests/%",
    "/v2/a/manifests/%zz",
    "/v2/a/manifests/%ff",
    "/v2/a/manifests/%c3%a9",
    "/v2/a/manifests/é",
    "/v2/a/manifests/\udcff",
    "/v2/a/manifests/la test",
    "/v2/a/manifests/latest\n",
    "/v2/a/manifests/latest\x00",
    "/v2/a/tags/list?last=\x7f",
    "/v2/a/tags/list?last=\r\nx",
    "/v2/_catalog?\x00",
    b"/v2/a/manifests/\xff",
    b"/v2/a/manifests/latest\x80",
    # parameters that may change what a read of content answers
    "/v2/a/manifests/latest?x=1",
    "/v2/a/manifests/latest?ns=a&x=1",
    "/v2/a/manifests/latest?ns=a&ns=b",
    "/v2/a/manifests/latest?ns=a;ns=b",
    "/v2/a/manifests/latest?ns",
    "/v2/a/manifests/latest?NS=a",
    "/v2/a/manifests/latest?%6es=a",
    "/v2/a/manifests/latest?ns=a?b&c",
    f"/v2/a/blobs/{DIGEST}?token=x",
]


@pytest.mark.parametrize("target", OTHER, ids=[repr(target)[:60] for target in OTHER])
def test_everything_else_is_other(target: str | bytes) -> None:
    assert classify("GET", target) == Route(Kind.OTHER, "GET")


def test_a_target_over_the_limit_is_other() -> None:
    within = "/v2/_catalog?last=".ljust(MAX_TARGET, "a")
    assert classify("GET", within).kind is Kind.CATALOG
    assert classify("GET", within + "a").kind is Kind.OTHER
    assert classify("GET", within.encode() + b"a").kind is Kind.OTHER


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW", ""])
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/v2/", Kind.PING),
        ("/v2/_catalog", Kind.CATALOG),
        ("/v2/a/manifests/latest", Kind.MANIFEST),
        (f"/v2/a/blobs/{DIGEST}", Kind.BLOB),
        ("/v2/a/blobs/uploads/1", Kind.UPLOAD),
        (f"{REALM_PATH}{REALM}", Kind.TOKEN),
        (f"{REALM_PATH}{REALM}?scope=a", Kind.TOKEN),
        ("/favicon.ico", Kind.OTHER),
    ],
)
def test_the_method_is_kept_and_does_not_change_the_kind(method: str, target: str, kind: Kind) -> None:
    route = classify(method, target)
    assert (route.kind, route.method) == (kind, method)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_write_with_parameters_keeps_its_kind_so_that_it_can_be_noticed(method: str) -> None:
    assert classify(method, "/v2/a/manifests/latest?x=1") == Route(Kind.MANIFEST, method, "a", "latest")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_with_foreign_parameters_is_other(method: str) -> None:
    assert classify(method, f"/v2/a/manifests/{DIGEST}?x=1").kind is Kind.OTHER


def test_only_a_manifest_named_by_tag_is_by_tag() -> None:
    assert classify("GET", "/v2/a/manifests/latest").by_tag
    assert not classify("GET", f"/v2/a/manifests/{DIGEST}").by_tag
    assert not classify("GET", f"/v2/a/blobs/{DIGEST}").by_tag
    assert not classify("GET", "/v2/").by_tag


@pytest.mark.parametrize("name", ["a", "library/alpine", "a.b/c_d/e__f/g---h/0", LONGEST])
def test_names_of_repositories(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "A", "a b", "a\n", "..", "a/../b", "_pullthrough", LONGEST + "a"]
)
def test_what_no_repository_is_called(name: str) -> None:
    assert not is_repository(name)


def check_route(route: Route, method: str) -> None:
    assert route.method == method
    if route.kind in (Kind.PING, Kind.CATALOG, Kind.OTHER):
        assert route == Route(route.kind, method)
    elif route.kind is Kind.TOKEN:
        assert route == Route(Kind.TOKEN, method, reference=route.reference)
        assert len(route.reference) == 16
        assert set(route.reference) <= set("0123456789abcdef")
    else:
        assert is_repository(route.repository)
        assert ".." not in route.repository
        assert set(route.repository) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
    if route.digest:
        assert route.reference == str(route.digest)


@given(st.text(), st.one_of(st.text(), st.binary()))
@example("GET", b"\xff\xfe")
def test_anything_at_all_gives_a_route(method: str, target: str | bytes) -> None:
    check_route(classify(method, target), method)


PIECES = st.sampled_from(
    [
        *["v2", "a", "library", "manifests", "blobs", "uploads", "tags", "list", "referrers", "_catalog"],
        *[
            "_pullthrough",
            "token",
            REALM,
            "latest",
            "",
            ".",
            "..",
            "%2f",
            "%2e",
            "%3a",
            "%",
            "?",
            "ns=x",
            "&",
            "\x00",
            "é",
            "\udc80",
        ],
        *[str(DIGEST), str(DIGEST512), "sha256:short", "sha256%3A" + DIGEST.hex],
    ]
)


@given(st.sampled_from(["GET", "PUT"]), st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "/".join(pieces)))
def test_anything_that_resembles_a_target_gives_a_sound_route(method: str, target: str) -> None:
    check_route(classify(method, target), method)


@given(st.lists(PIECES, max_size=8).map(lambda pieces: "/v2/" + "/".join(pieces)))
def test_bytes_and_text_agree(target: str) -> None:
    assert classify("GET", target) == classify("GET", target.encode("utf-8", "surrogateescape"))
