"""How the text of a single setting is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.options import OPTIONS, Address, Option, parse_address, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("0.0.0.0:3128", ("0.0.0.0", 3128), "0.0.0.0:3128"),
        ("[::]:3128", ("::", 3128), "[::]:3128"),
        ("[0:0::1]:80", ("::1", 80), "[::1]:80"),
        (":3128", ("0.0.0.0", 3128), "0.0.0.0:3128"),
        ("3128", ("0.0.0.0", 3128), "0.0.0.0:3128"),
        ("cache.test:0", ("cache.test", 0), "cache.test:0"),
    ],
)
def test_addresses(text: str, expected: tuple[str, int], shown: str) -> None:
    assert parse_address(text) == expected
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "::1:3128",
        "cache.test",
        "cache.test:",
        "0.0.0.0:65536",
        "[::1]",
        "[1.2.3.4]:1",
        "a b:1",
        "-1",
        "٣",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50GiB", 50 * 1024**3),
        ("500MB", 500 * 1000**2),
        ("1.5TiB", 3 * 1024**4 // 2),
        ("1073741824", 1024**3),
        ("1 kib", 1024),
        ("0.1GB", 100_000_000),
        ("1B", 1),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.5",
        "-1GiB",
        "50G",
        "GiB",
        "50 Gi B",
        "1e9",
        "nan",
        "inf",
        "9223372036854775808",
        "1" * 5000,
        "٣GB",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10s", 10.0), ("500ms", 0.5), ("2m", 120.0), ("1.5", 1.5), ("24h", 86400.0), ("1 S", 1.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "0.1ms", "-1s", "1d", "25h", "inf", "s", "1e3", "10 s s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


def refusal(option: Option, text: str) -> str:
    try:
        option.parse(text)
    except ValueError as error:
        return str(error)
    return ""


@given(st.text())
def test_any_text_is_a_value_or_a_short_sentence(text: str) -> None:
    for option in OPTIONS.values():
        sentence = refusal(option, text)
        assert len(sentence) < len(text) * 12 + 200
        assert "\n" not in sentence


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match=r"^'9{60}\.\.\.' is not"):
        parse_size("9" * 10_000)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_each_option_has_help_and_a_hint_and_a_default_or_what_happens_without(option: Option) -> None:
    assert option.explained.endswith(".")
    assert option.hint
    assert (option.default is None) == bool(option.unset)


def test_an_address_is_a_pair() -> None:
    host, port = Address("::1", 3128)
    assert (host, port) == ("::1", 3128)
