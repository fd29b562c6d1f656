"""Error bodies of the OCI distribution spec."""

import json
import re

import pytest

from pullthrough.core import ocierrors


def test_a_body_names_code_and_message() -> None:
    assert json.loads(ocierrors.body(ocierrors.DENIED, "not yours")) == {
        "errors": [{"code": "DENIED", "message": "not yours"}]
    }


@pytest.mark.parametrize("detail", ["", "upstream answered 403"])
def test_detail_is_there_when_it_is_given(detail: str) -> None:
    [error] = json.loads(ocierrors.body(ocierrors.UNAVAILABLE, "no answer", detail))["errors"]
    assert error == {"code": "UNAVAILABLE", "message": "no answer", "detail": detail}


def test_any_text_makes_ascii_that_reads_back() -> None:
    body = ocierrors.body(ocierrors.UNKNOWN, 'naïve "\n\x00', "lone \ud800")
    assert body.isascii()
    [error] = json.loads(body)["errors"]
    assert (error["message"], error["detail"]) == ('naïve "\n\x00', "lone \ud800")


def test_a_code_has_the_alphabet_of_the_spec_and_its_own_name() -> None:
    codes = {name: value for name, value in vars(ocierrors).items() if name.isupper() and name != "CONTENT_TYPE"}
    assert len(codes) >= 14
    for name, value in codes.items():
        assert name == value
        assert re.fullmatch(r"[A-Z_]+", value)
    assert ocierrors.CONTENT_TYPE == "application/json"


def test_codes_are_read_back() -> None:
    assert ocierrors.codes(ocierrors.body(ocierrors.NAME_UNKNOWN, "gone")) == {"NAME_UNKNOWN"}
    assert ocierrors.codes(b'{"errors": [{"code": "A"}, {"code": "B", "x": 1}]}') == {"A", "B"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"<html>",
        b'{"errors": {}}',
        b'{"errors": [1, {}, {"code": 7}, {"code": null}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_error_body_has_no_codes(body: bytes) -> None:
    assert ocierrors.codes(body) == set()
