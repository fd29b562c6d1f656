"""Tokens of our own: nothing is believed that was not signed with the key, whatever it looks like."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.credentials import MAX_REPOSITORIES, pullable
from pullthrough.core.localtoken import MAX_TOKEN, LocalToken, is_local, mint, read
from pullthrough.core.routes import MAX_REPOSITORY

KEY = b"k" * 32
TOKEN = LocalToken(b"\x00alice\xff", "registry.test:5000", frozenset({"library/alpine", "team/app"}), 1_000)
TEXT = mint(KEY, TOKEN)


def signed(payload: bytes, key: bytes = KEY) -> str:
    """A token by the same rules as ours, around any payload."""
    head = "pullthrough.v1." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    mac = hmac.digest(key, head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_a_token_is_read_back_until_it_expires() -> None:
    assert read(KEY, TEXT, 0) == TOKEN
    assert read(KEY, TEXT, 999.9) == TOKEN
    assert read(KEY, TEXT, 1_000) is None
    assert read(KEY, TEXT, 1e12) is None
    assert read(KEY, TEXT, float("nan")) is None


def test_a_token_fits_an_authorization_field() -> None:
    assert TEXT.startswith("pullthrough.v1.")
    assert set(TEXT) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_the_same_token_has_one_text() -> None:
    assert mint(KEY, LocalToken(TOKEN.account, TOKEN.registry, frozenset(sorted(TOKEN.repositories)), 1_000)) == TEXT


def test_another_key_signs_another_token() -> None:
    assert read(b"x" * 32, TEXT, 0) is None
    assert mint(b"x" * 32, TOKEN) != TEXT


@pytest.mark.parametrize("place", range(len(TEXT)))
def test_a_change_anywhere_is_noticed(place: int) -> None:
    for character in "A.b=\n \xe9":
        changed = TEXT[:place] + character + TEXT[place + 1 :]
        assert changed == TEXT or read(KEY, changed, 0) is None


@pytest.mark.parametrize(
    "text", [TEXT + "=", TEXT + "\n", " " + TEXT, TEXT[:-1], TEXT + "A", TEXT.upper(), TEXT + "." + TEXT]
)
def test_another_spelling_is_another_token(text: str) -> None:
    assert read(KEY, text, 0) is None


def test_the_last_character_has_one_spelling() -> None:
    """43 characters of base64 carry two bits more than a signature has; a lax decoder ignores them."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    assert [last for last in alphabet if read(KEY, TEXT[:-1] + last, 0)] == [TEXT[-1]]


def test_a_token_that_is_too_long_is_neither_made_nor_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        mint(KEY, LocalToken(b"", "registry.test", frozenset({"a" * MAX_TOKEN}), 1))

    assert read(KEY, signed(json.dumps(said(registry="a" * MAX_TOKEN)).encode()), 0) is None


def test_whatever_one_request_can_ask_for_fits() -> None:
    names = [f"{number:02}".ljust(MAX_REPOSITORY, "a") for number in range(MAX_REPOSITORIES)]
    repositories = pullable(f"repository:{name}:pull" for name in names)
    token = LocalToken(b"a" * 32, "r" * 260, repositories, 2**40)

    assert len(repositories) == MAX_REPOSITORIES
    assert read(KEY, mint(KEY, token), 0) == token


def said(**changes: object) -> dict[str, object]:
    return {"account": "00ff", "registry": "registry.test", "repositories": ["a"], "expires": 10} | changes


def test_the_shape_that_the_next_test_spoils_is_right() -> None:
    assert read(KEY, signed(json.dumps(said()).encode()), 0) == LocalToken(
        b"\x00\xff", "registry.test", frozenset({"a"}), 10
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"{",
        b"[" * 9_000,
        b"1",
        b"null",
        b"[]",
        b"{}",
        *[
            json.dumps(said(**changes)).encode()
            for changes in (
                {"account": "0"},
                {"account": "zz"},
                {"account": 1},
                {"account": None},
                {"registry": None},
                {"repositories": "a"},
                {"repositories": [1]},
                {"repositories": ["a", ["b"]]},
                {"repositories": {"a": 1}},
                {"expires": "10"},
                {"expires": 10.5},
                {"expires": None},
            )
        ],
    ],
)
def test_a_signed_payload_of_another_shape_is_no_token(payload: bytes) -> None:
    assert read(KEY, signed(payload), 0) is None


def test_a_signed_payload_that_is_no_base64_is_no_token() -> None:
    head = "pullthrough.v1.AAAAA"
    mac = base64.urlsafe_b64encode(hmac.digest(KEY, head.encode(), hashlib.sha256)).rstrip(b"=").decode()

    assert read(KEY, f"{head}.{mac}", 0) is None


@pytest.mark.parametrize("text", [TEXT, "pullthrough.v1.", "pullthrough.v1.x", "pullthrough.v2.later", TEXT[:-1]])
def test_a_token_of_ours_is_known_by_its_beginning(text: str) -> None:
    assert is_local(text)


@pytest.mark.parametrize("text", ["", "pullthrough", " " + TEXT, "eyJhbGciOi.eyJpc3Mi.c2ln", "Pullthrough.v1.x"])
def test_others_are_not_ours(text: str) -> None:
    assert not is_local(text)


def test_a_repr_shows_no_account() -> None:
    assert "alice" not in repr(TOKEN)


tokens = st.builds(
    LocalToken,
    st.binary(max_size=40),
    st.text(max_size=40),
    st.frozensets(st.text(max_size=20), max_size=6),
    st.integers(-(2**60), 2**60),
)


@given(st.binary(min_size=1, max_size=40), tokens, st.integers(-(2**60), 2**60))
def test_what_is_minted_is_read_while_it_lasts(key: bytes, token: LocalToken, now: int) -> None:
    text = mint(key, token)

    assert is_local(text)
    assert read(key, text, now) == (token if now < token.expires else None)


@given(st.binary(max_size=8), st.one_of(st.text(), st.text().map("pullthrough.v1.".__add__)), st.floats())
@example(b"", "pullthrough.v1.e30.", 0.0)
@example(b"", "pullthrough.v1.." + "A" * 43, 0.0)
def test_anything_else_is_no_token(key: bytes, text: str, now: float) -> None:
    assert read(key, text, now) is None


@given(st.binary(max_size=200))
def test_any_signed_payload_is_read_without_an_error(payload: bytes) -> None:
    read(KEY, signed(payload), 0)
