"""Who a request claims to be: only what is understood to the last field has a name."""

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.credentials import (
    FORM,
    MAX_AUTHORIZATION,
    MAX_FORM,
    MAX_FORM_FIELDS,
    MAX_REPOSITORIES,
    UNREAD,
    Claim,
    basic,
    bearer,
    claim,
    form,
    pullable,
)
from pullthrough.core.headers import Headers

ALICE = "Basic YWxpY2U6czNjcmV0"  # alice:s3cret


def authorized(*values: str) -> Headers:
    return Headers([("Accept", "x"), *(("Authorization", value) for value in values)])


def encoded(account: str | bytes) -> str:
    data = account.encode() if isinstance(account, str) else account
    return "Basic " + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("value", "account"),
    [
        (ALICE, ("alice", "s3cret")),
        ("bAsIc  YWxpY2U6czNjcmV0 ", ("alice", "s3cret")),
        (encoded("alice:"), ("alice", "")),
        (encoded(":token"), ("", "token")),
        (encoded(":"), ("", "")),
        (encoded("a:b:c"), ("a", "b:c")),
        (encoded("ä:ö€"), ("ä", "ö€")),
        (
            encoded('_json_key:{\n  "type": "service_account"\n}\n'),
            ("_json_key", '{\n  "type": "service_account"\n}\n'),
        ),
    ],
)
def test_user_and_password(value: str, account: tuple[str, str]) -> None:
    assert basic(authorized(value)) == account


@pytest.mark.parametrize(
    "headers",
    [
        Headers(),
        authorized(""),
        authorized("Basic"),
        authorized("Basic "),
        authorized("BasicYWxpY2U6czNjcmV0"),
        authorized("Basic\tYWxpY2U6czNjcmV0"),
        authorized("Bearer YWxpY2U6czNjcmV0"),
        authorized(ALICE + " x"),
        authorized(ALICE + "\n"),
        authorized(ALICE, ALICE),
        authorized(ALICE, "Bearer x"),
        authorized(f"{ALICE}, {ALICE}"),
        authorized(encoded("alice")),
        authorized(encoded(b"alice:\xff")),
        # other spellings of base64 for the same bytes
        authorized("Basic YTpiYw"),
        authorized("Basic YTpiYw="),
        authorized("Basic YTpiYx=="),
        authorized("Basic YTpiYw==="),
        authorized("Basic YTpiYw==YQ=="),
        authorized("Basic YTpi Yw=="),
        authorized("Basic YTpi_w=="),
        authorized("Basic YTpi\u0660w=="),
        authorized("Basic ="),
    ],
    ids=lambda headers: ",".join(headers.all("authorization")),
)
def test_anything_else_is_no_basic(headers: Headers) -> None:
    assert basic(headers) is None


def test_a_field_over_the_limit_is_not_read() -> None:
    assert bearer(authorized("Bearer ".ljust(MAX_AUTHORIZATION, "a"))) is not None
    assert bearer(authorized("Bearer ".ljust(MAX_AUTHORIZATION + 1, "a"))) is None
    assert basic(authorized(encoded("a:" + "b" * MAX_AUTHORIZATION))) is None


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc.d-e_f~g+h/i==", "abc.d-e_f~g+h/i=="),
        ("bEARER  abc ", "abc"),
        ("Bearer djE6bmFtZTo6aGFzaA==", "djE6bmFtZTo6aGFzaA=="),
        ("Bearer pullthrough.v1.x.y", "pullthrough.v1.x.y"),
        ("Bearer {odd}:token", "{odd}:token"),
    ],
)
def test_a_token(value: str, token: str) -> None:
    assert bearer(authorized(value)) == token


@pytest.mark.parametrize(
    "headers",
    [
        Headers(),
        authorized(ALICE),
        authorized("Bearer"),
        authorized("Bearer "),
        authorized("Bearer a b"),
        authorized("Bearer é"),
        authorized("Bearer a\n"),
        authorized("Bearer a", "Bearer b"),
        authorized("abc"),
    ],
)
def test_anything_else_is_no_token(headers: Headers) -> None:
    assert bearer(headers) is None


QUERY = {"service": ["registry.test"], "scope": ["repository:a:pull"], "client_id": ["docker"]}


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        (Headers(), {}, Claim("anonymous")),
        (Headers([("User-Agent", "docker/26"), ("Accept", "*/*")]), QUERY, Claim("anonymous")),
        (Headers(), {"grant_type": ["password"]}, Claim("anonymous")),
        (authorized(ALICE), {}, Claim("password", "alice", "s3cret")),
        (
            authorized(ALICE),
            {**QUERY, "account": ["alice"], "offline_token": ["true"]},
            Claim("password", "alice", "s3cret"),
        ),
        (authorized(encoded(":")), {}, Claim("password", "", "")),
        # containerd's form makes the same claim as the field of others
        (
            Headers([("Content-Type", FORM)]),
            {**QUERY, "grant_type": ["password"], "username": ["alice"], "password": ["s3cret"]},
            Claim("password", "alice", "s3cret"),
        ),
        (Headers(), {"username": ["a:b"], "password": [""]}, Claim("password", "a:b", "")),
        (
            Headers(),
            {**QUERY, "grant_type": ["refresh_token"], "refresh_token": ["r"], "access_type": ["offline"]},
            Claim("refresh", secret="r"),
        ),
        (Headers(), {"refresh_token": ["r"]}, Claim("refresh", secret="r")),
    ],
)
def test_who_is_named(headers: Headers, fields: Mapping[str, Sequence[str]], expected: Claim) -> None:
    assert claim(headers, fields) == expected


PASSWORD = {"username": ["alice"], "password": ["s3cret"]}


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (authorized("Bearer abc"), {}),
        (authorized("Negotiate YII="), {}),
        (authorized(""), {}),
        (authorized("Basic !"), {}),
        (authorized(ALICE, ALICE), {}),
        # more than one kind at once: nobody knows which of them the upstream believes
        (authorized(ALICE), PASSWORD),
        (authorized(ALICE), {"refresh_token": ["r"]}),
        (authorized("Bearer abc"), PASSWORD),
        (authorized(ALICE).adding("Cookie", "session=1"), {}),
        (Headers([("Cookie", "session=1")]), {}),
        (Headers([("Private-Token", "x")]), PASSWORD),
        (Headers(), {**PASSWORD, "refresh_token": ["r"]}),
        # what may say who asks
        (Headers(), {"private_token": ["x"]}),
        (Headers(), {**PASSWORD, "client_secret": ["x"]}),
        (Headers(), {"refresh_token": ["r"], "client_secret": ["x"]}),
        (authorized(ALICE), {"private_token": ["x"]}),
        (Headers(), {UNREAD: ["0"]}),
        # half an account, two accounts, another grant
        (Headers(), {"username": ["alice"]}),
        (Headers(), {"password": ["s3cret"]}),
        (Headers(), {"username": ["alice", "bob"], "password": ["s3cret"]}),
        (Headers(), {"username": ["alice"], "password": ["a", "b"]}),
        (Headers(), {"username": [], "password": ["a"]}),
        (Headers(), {"refresh_token": ["a", "b"]}),
        (Headers(), {**PASSWORD, "grant_type": ["refresh_token"]}),
        (Headers(), {**PASSWORD, "grant_type": ["password", "password"]}),
        (Headers(), {**PASSWORD, "grant_type": [""]}),
        (Headers(), {"refresh_token": ["r"], "grant_type": ["password"]}),
        (Headers(), {"code": ["c"], "grant_type": ["authorization_code"]}),
    ],
)
def test_doubt_has_no_name(headers: Headers, fields: Mapping[str, Sequence[str]]) -> None:
    doubtful = claim(headers, fields)

    assert (doubtful.kind, doubtful.user) == ("other", "")
    assert doubtful.secret


def test_doubtful_claims_are_equal_for_equal_senders_whatever_they_ask_for() -> None:
    one = claim(authorized("Bearer a"), {"scope": ["repository:a:pull"]})

    assert claim(Headers([("authorization", "Bearer a"), ("Accept", "y")]), QUERY) == one
    assert claim(authorized("Bearer b"), {}) != one
    assert claim(authorized("Bearer a", "Bearer b"), {}) != claim(authorized("Bearer b", "Bearer a"), {})
    assert claim(authorized("Bearer a"), {"x": ["1"]}) != claim(authorized("Bearer a"), {"x": ["2"]})
    assert claim(authorized("Bearer a"), {"x": ["1"], "y": []}) == claim(authorized("Bearer a"), {"y": [], "x": ["1"]})


def test_a_repr_shows_the_kind_only() -> None:
    assert repr(Claim("password", "alice", "s3cret")) == "Claim(kind='password')"


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        ([], []),
        (["repository:library/alpine:pull"], ["library/alpine"]),
        (["repository:a/b:pull,push"], ["a/b"]),
        (["repository:a:push,pull,delete"], ["a"]),
        (["repository:a:*"], ["a"]),
        (["repository:a:pull repository:b:pull,push", "repository:c:pull"], ["a", "b", "c"]),
        (["repository:a:pull", "repository:a:pull"], ["a"]),
        (["", "  ", "repository:a:pull "], ["a"]),
        # nothing to pull, and what gives no right to the repository of this name upstream
        (["repository(plugin):a/b:pull"], []),
        (["repository:a:latest:pull"], []),
        (["repository:a:push"], []),
        (["repository:a:"], []),
        (["repository:a"], []),
        (["repository:a:pull:"], []),
        (["repository:a:pulls"], []),
        (["repository:a:PULL"], []),
        (["repository::pull"], []),
        (["registry:catalog:*"], []),
        (["repository:a:pull\nrepository:b:pull"], []),
        # no name of a repository
        (["repository:A:pull"], []),
        (["repository:../a:pull"], []),
        (["repository:*:pull"], []),
        ([f"repository:{'a' * 256}:pull"], []),
    ],
)
def test_what_scopes_ask_to_pull(scopes: list[str], names: list[str]) -> None:
    assert pullable(scopes) == frozenset(names)


def test_the_number_of_repositories_is_bounded() -> None:
    asked = [f"repository:a{number}:pull" for number in range(MAX_REPOSITORIES + 5)]

    assert pullable(asked) == pullable([" ".join(asked)]) == {f"a{number}" for number in range(MAX_REPOSITORIES)}


@pytest.mark.parametrize(
    ("body", "content_type", "fields"),
    [
        (b"", None, {}),
        (b"", "application/json", {}),
        (b"", FORM, {}),
        (b"a=1&b=2&a=3", FORM, {"a": ["1", "3"], "b": ["2"]}),
        (b"a=1", "Application/X-WWW-Form-Urlencoded ; charset=UTF-8", {"a": ["1"]}),
        (b"a=&b&&=c", FORM, {"a": [""], "b": [""], "": ["c"]}),
        (b"scope=x+y%20z&p=%2B%26%3D%c3%a9;", FORM, {"scope": ["x y z"], "p": ["+&=é;"]}),
    ],
)
def test_the_fields_of_a_form(body: bytes, content_type: str | None, fields: dict[str, list[str]]) -> None:
    assert form(body, content_type) == fields


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"username=alice&password=x", None),
        (b"username=alice&password=x", ""),
        (b"username=alice&password=x", "text/plain"),
        (b"username=alice&password=x", f"{FORM}, {FORM}"),
        (b'{"username": "alice"}', "application/json"),
        (b"a=\xff", FORM),
        (b"a=%ff", FORM),
        (b"a=%", FORM),
        (b"a=%4", FORM),
        (b"a=%zz", FORM),
        (b"a" * (MAX_FORM + 1), FORM),
        (b"&".join([b"a=1"] * (MAX_FORM_FIELDS + 1)), FORM),
    ],
)
def test_a_body_that_cannot_be_read_is_nobodys_and_not_anonymous(body: bytes, content_type: str | None) -> None:
    fields = form(body, content_type)

    assert list(fields) == [UNREAD]
    assert fields != form(body + b"x", "text/plain")
    assert claim(Headers(), fields).kind == "other"


def test_a_form_may_fill_its_limits() -> None:
    assert form(b"&".join([b"a=1"] * MAX_FORM_FIELDS), FORM) == {"a": ["1"] * MAX_FORM_FIELDS}
    assert form(b"a=".ljust(MAX_FORM, b"b"), FORM) == {"a": ["b" * (MAX_FORM - 2)]}


users = st.text().filter(lambda user: ":" not in user)


@given(users, st.text())
def test_field_and_form_name_the_same_account(user: str, password: str) -> None:
    account = Claim("password", user, password)
    body = urlencode({"grant_type": "password", "username": user, "password": password}).encode()

    assert claim(authorized(encoded(f"{user}:{password}")), QUERY) == account
    assert claim(Headers(), form(body, FORM)) == account


@given(st.dictionaries(st.text(), st.lists(st.text(), min_size=1, max_size=3), max_size=8))
def test_a_form_is_read_back(fields: dict[str, list[str]]) -> None:
    assert form(urlencode(fields, doseq=True).encode(), FORM) == fields


names = st.sampled_from(["Authorization", "authorization", "Cookie", "Accept", "X-Thing", "Connection"])
credentials = st.one_of(st.text(), st.sampled_from([ALICE, "Bearer a", "Basic", "Negotiate YII="]))
keys = st.sampled_from(["username", "password", "refresh_token", "grant_type", "scope", "client_secret", "", "x"])
forms = st.dictionaries(keys, st.lists(st.text(max_size=5) | st.just("password"), max_size=2), max_size=5)
senders = st.tuples(st.lists(st.tuples(names, credentials), max_size=3).map(Headers), forms)


@given(senders)
@example((authorized("Basic \udcff"), {}))
def test_anything_gives_a_claim_and_anonymous_only_where_nothing_tells(
    sender: tuple[Headers, dict[str, list[str]]],
) -> None:
    headers, fields = sender
    asked = claim(headers, fields)

    if asked.kind == "anonymous":
        assert not headers.credentials()
        assert set(fields) <= {"grant_type", "scope"}
    if asked.kind == "password":
        assert basic(headers) == (asked.user, asked.secret) or (
            fields["username"] == [asked.user] and fields["password"] == [asked.secret]
        )


@given(senders, senders)
def test_equal_claims_come_from_equal_senders(
    one: tuple[Headers, dict[str, list[str]]], other: tuple[Headers, dict[str, list[str]]]
) -> None:
    if claim(*one).kind == "other" and claim(*one) == claim(*other):
        assert one[0].credentials() == other[0].credentials()


@given(st.text() | st.text("Basicerx =YWxpY2U6\t").map("Basic ".__add__), st.text())
def test_any_field_is_read_without_an_error(value: str, second: str) -> None:
    for headers in (authorized(value), authorized(value, second)):
        account, token = basic(headers), bearer(headers)
        assert account is None or ":" not in account[0]
        assert token is None or " " not in token


@given(st.binary() | st.text("a=&%+;2fé").map(str.encode), st.none() | st.just(FORM) | st.text())
def test_any_body_is_read_without_an_error(body: bytes, content_type: str | None) -> None:
    fields = form(body, content_type)

    assert not body or fields or not body.strip(b"&")


@given(st.lists(st.one_of(st.text(), st.text("repository:a/ pull,*").map("repository:".__add__)), max_size=5))
def test_any_scopes_give_names_of_repositories(scopes: list[str]) -> None:
    assert all(pullable([f"repository:{name}:pull"]) == {name} for name in pullable(scopes))
