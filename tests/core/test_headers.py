"""Fields without case, which of them cross a proxy, and which of them say who is asking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.headers import HOP_BY_HOP, Headers

FIELDS = Headers((("Accept", "a"), ("X-One", "1"), ("accept", "b")))


def test_names_compare_without_case_and_order_is_kept() -> None:
    assert FIELDS.get("ACCEPT") == "a"
    assert FIELDS.all("aCCept") == ("a", "b")
    assert list(FIELDS) == [("Accept", "a"), ("X-One", "1"), ("accept", "b")]
    assert len(FIELDS) == 3


def test_what_is_not_there() -> None:
    assert FIELDS.get("x-two") is None
    assert FIELDS.all("x-two") == ()
    assert "x-two" not in FIELDS
    assert "x-one" in FIELDS


def test_changes_are_copies() -> None:
    assert list(FIELDS.without("accept")) == [("X-One", "1")]
    assert list(FIELDS.only("X-ONE")) == [("X-One", "1")]
    assert list(FIELDS.having("Accept", "c")) == [("X-One", "1"), ("Accept", "c")]
    assert FIELDS.adding("Accept", "c").all("accept") == ("a", "b", "c")
    assert len(FIELDS) == 3


def test_equal_fields_are_equal_and_hash_alike() -> None:
    same = Headers(list(FIELDS))

    assert same == FIELDS
    assert hash(same) == hash(FIELDS)
    assert FIELDS.without("x-one") != FIELDS
    assert list(FIELDS) != FIELDS


def test_a_repr_shows_no_values() -> None:
    assert repr(Headers((("Authorization", "Bearer s3cret"), ("Accept", "x")))) == "Headers(Authorization, Accept)"


def test_hop_by_hop_fields_stay_behind() -> None:
    fields = Headers([(name.title(), "x") for name in HOP_BY_HOP] + [("Accept", "a")])

    assert list(fields.end_to_end()) == [("Accept", "a")]


def test_fields_that_connection_names_stay_behind() -> None:
    fields = Headers((("Connection", "close, X-One ,"), ("X-One", "1"), ("connection", "x-two"), ("X-Two", "2")))

    assert list(fields.end_to_end()) == []


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Cookie",
        "X-Auth-Token",
        "Private-Token",
        "JOB-TOKEN",
        "X-Api-Key",
        "X-JFrog-Art-Api",
        "X-Remote-User",
        "X-Forwarded-Email",
        "X-Amz-Security-Token",
        "X-Never-Heard-Of",
        "Forwarded",
        "Accepted-By",
        "Hosts",
    ],
)
def test_whatever_may_say_who_asks_is_a_credential(name: str) -> None:
    assert Headers(((name, "v"),)).credentials() == ((name.lower(), "v"),)


@pytest.mark.parametrize(
    "name",
    ["Accept", "ACCEPT-Encoding", "User-Agent", "Host", "Range", "If-None-Match", "traceparent", "Proxy-Authorization"],
)
def test_what_says_nothing_about_the_sender_is_none(name: str) -> None:
    assert Headers(((name, "v"),)).credentials() == ()


def test_equal_senders_compare_equal_in_any_order_of_names() -> None:
    one = Headers((("Cookie", "c"), ("Accept", "x"), ("Authorization", "a")))
    other = Headers((("AUTHORIZATION", "a"), ("cookie", "c"), ("Accept", "y")))

    assert one.credentials() == other.credentials()


def test_the_order_of_lines_of_one_name_counts() -> None:
    """Servers differ in which of two they believe, so that one sender may not pass for the other."""
    one = Headers((("Authorization", "a"), ("Authorization", "b")))
    other = Headers((("Authorization", "b"), ("Authorization", "a")))

    assert one.credentials() != other.credentials()


names = st.sampled_from(["Accept", "Authorization", "cookie", "X-Thing", "Connection", "Host", "TE"])


@given(st.lists(st.tuples(names, st.text(max_size=5))))
def test_a_field_either_stays_behind_or_is_harmless_or_tells_the_sender(fields: list[tuple[str, str]]) -> None:
    headers = Headers(fields)
    telling = headers.credentials()

    for name, value in headers.without(*HOP_BY_HOP, "accept", "host"):
        assert (name.lower(), value) in telling
    assert len(telling) == len(headers.without(*HOP_BY_HOP, "accept", "host"))
