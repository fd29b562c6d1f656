"""Which repositories a request could concern: every spelling of one, and those between the lines."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.concerns import Concerns, concerns
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.routes import MAX_TARGET, classify

DIGEST = Digest.of(b"layer")
MOUNT = f"/v2/team/other/blobs/uploads/?mount={DIGEST}"
UNKNOWN = Concerns(unknown=True)


def of(target: str, method: str = "GET", **fields: str) -> Concerns:
    return concerns(method, target, Headers((name.replace("_", "-"), value) for name, value in fields.items()))


def only(*repositories: str) -> Concerns:
    return Concerns(frozenset(repositories))


@pytest.mark.parametrize(
    "target",
    [
        "/v2/team/app/manifests/1.0",
        "/v2/team/app/manifests/1.0?x=1",
        "/v2/team/app/manifests/1.0?ns=a&ns=b",
        "/v2/team%2fapp/manifests/1.0",
        "/v2/team%2Fapp%2Fmanifests%2F1.0",
        "/v2/team%252fapp/manifests/1.0",
        "/v2/te%2561m/app/manifests/1.0",
        "%2fv2/team/app/manifests/1.0",
        "//v2/team/app/manifests/1.0",
        "/v2//team//app/manifests/1.0",
        "/V2/team/app/manifests/1.0",
        "/v2\\team/app\\manifests/1.0",
        "/v2;x=1/team/app/manifests/1.0",
        "/v2/team/app/manifests/1.0/",
        "/v2/team/app/manifests/",
        f"/v2/team/app/blobs/{DIGEST}?x=1",
        f"/v2/team/app/blobs//{DIGEST}",
        "/v2/team/app/blobs/no-digest",
        f"/v2/team/app/referrers/{DIGEST}?x",
        "/v2/team/app/tags/list",
        "/v2/team/app/tags",
        "/v2/team/app/blobs/uploads/",
        "/v2/team/app/blobs/uploads/id?_state=x",
        "/v2/team/app/blobs/upload/1-2-3",
        "/v2/team/app/blobs/uploads/?from=",
    ],
)
def test_every_spelling_of_one_repository(target: str) -> None:
    assert of(target) == only("team/app")


@pytest.mark.parametrize(
    "target",
    [
        *("", "*", "/", "/v2", "/v2/", "//v2//", "/v2/?from=a", "/v2/_catalog", "/v2/_catalog?n=1", "/v2/_catalog/"),
        *("/v2/token?scope=repository:a:pull", "/v2/auth?account=a", "/v2/_pullthrough/token/0123456789abcdef"),
        *("/token", "/service/token?from=a", "/artifactory/api/docker/hub/v2/token", "/api/v2.0/projects", "/../x"),
    ],
)
def test_what_concerns_no_repository(target: str) -> None:
    assert of(target) == Concerns()


@pytest.mark.parametrize(
    "target",
    [
        *("/v2/x/../team/app/manifests/1.0", "/v2/./team/app/manifests/1.0", "/v2/x%2f%2e%2e/team/app/tags/list"),
        *("/x/../v2/team/app/tags/list", "/v2/x/..;a/team/app/tags/list", "/v2/;a/team/app/tags/list", "/v2/.."),
        *("/v2/team;x/app/manifests/1.0", "/v2/Team/app/manifests/1.0", "/v2/team/app/manifests/1.0#x", "/v2/a#/b"),
        *(
            "/v2/team%00/app/manifests/1.0",
            "/v2/t\u00e9am/manifests/1.0",
            "/v2/team/app/manifests/1.0%3fx",
            "/v2/team%zz",
        ),
        *("/v2/team/app", "/v2/_catalog/x", "/v2/_oci/ext/discover", "/v2/manifests/1.0", "/v2/te%c0%afam/tags/list"),
        *("/hub/v2/team/app/manifests/1.0", "/artifactory/api/docker/hub/v2/a%2fmanifests%2f1.0"),
        *("/v2/te%" + "25" * 20 + "2fam/tags/list", "/" + "a" * MAX_TARGET),
    ],
)
def test_what_could_concern_any(target: str) -> None:
    assert of(target) == UNKNOWN


def test_an_end_point_that_is_not_known_may_be_of_each_repository_in_its_path() -> None:
    assert of("/v2/a/blobs/b/manifests/c/d") == only("a", "a/blobs/b")


@pytest.mark.parametrize(
    "source",
    ["from=team/app", "from=team%2Fapp", "%66rom=team/app", "FROM=team/app", "x=;from=team/app", "from&from=team/app"],
)
def test_an_upload_concerns_the_repository_that_it_mounts_from(source: str) -> None:
    assert of(f"{MOUNT}&{source}", "POST") == only("team/other", "team/app")
    assert of(f"/v2/team/other//blobs/uploads?{source}", "POST") == only("team/other", "team/app")


def test_it_may_mount_from_several_or_from_what_is_no_name() -> None:
    assert of(f"{MOUNT}&from=a&from=b", "POST") == only("team/other", "a", "b")
    assert of(f"{MOUNT}&from=team%252fapp", "POST").unknown
    assert of(f"{MOUNT}&from=Team", "POST").unknown


@pytest.mark.parametrize("form", ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=x"])
def test_a_form_may_say_what_the_query_could(form: str) -> None:
    assert of(MOUNT, "POST", content_type=form).unknown
    assert of(MOUNT, "POST", content_type=form, content_length="9").unknown
    assert of(MOUNT, "POST", content_type=form, content_length="0", transfer_encoding="chunked").unknown
    assert of(MOUNT, "POST", content_type=form, content_length="0") == only("team/other")
    assert of(MOUNT, "PATCH", content_type=form) == only("team/other")
    assert of(MOUNT, "POST", content_type="application/octet-stream") == only("team/other")


_MARKS = ["/", "?", "=", "&", ";", "#", "%", "%2f", "25", "\\", ".", ".."]
_WORDS = ["v2", "a", "A", "manifests", "blobs", "uploads", "tags", "list", "from", "_catalog", "token", str(DIGEST)]
_PIECES = st.sampled_from([*_MARKS, *_WORDS])


@given(st.one_of(st.text(), st.lists(_PIECES).map("".join), st.lists(_PIECES).map(lambda some: "/v2/" + "".join(some))))
@example("/v2/a/blobs/uploads/..;")
def test_what_is_classified_is_always_among_what_is_concerned(target: str) -> None:
    named = classify("GET", target).repository
    found = of(target)

    assert not named or found.unknown or named in found.repositories


@given(
    st.lists(st.sampled_from(["a", "b-c", "d.e"]), min_size=1, max_size=3).map("/".join),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.integers(1, 4),
)
def test_no_escaping_hides_a_repository(repository: str, escaped: list[bool], rounds: int) -> None:
    path = f"{repository}/manifests/x"
    for _ in range(rounds):
        path = "".join(
            f"%{ord(letter):02x}" if hidden else quote(letter, safe="/")
            for letter, hidden in zip(path, escaped + [False] * len(path), strict=False)
        )

    assert of(f"/v2/{path}") == only(repository)
