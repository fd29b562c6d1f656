"""How the text of a single setting is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.options import (
    OPTIONS,
    Address,
    Option,
    Size,
    duration,
    parse_address,
    parse_count,
    parse_size,
    parse_switch,
)


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
    assert parse_size(text) == Size(expected)
    assert parse_size(text).of(1) == expected


@pytest.mark.parametrize(("text", "of_a_thousand"), [("10%", 100), ("0.1%", 1), ("100%", 1000), ("0.001 %", 1)])
def test_shares_of_a_disk(text: str, of_a_thousand: int) -> None:
    assert parse_size(text).of(1000) == of_a_thousand


@pytest.mark.parametrize("text", ["%", "0%", "101%", "-1%", "a%", "10%%", "10GB%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        parse_size(text)


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
    [
        ("10s", 10.0),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1.5", 1.5),
        ("24h", 86400.0),
        ("1 S", 1.0),
        ("1d", 86400.0),
        ("7D", 604800.0),
        ("0.5d", 43200.0),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert duration("1ms", "7d")(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "0.1ms", "-1s", "8d", "169h", "1w", "inf", "s", "1e3", "10 s s", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        duration("1ms", "7d")(text)


@pytest.mark.parametrize("text", ["0", "0s", "0d", "0.0"])
def test_a_duration_may_be_nothing_where_that_is_allowed(text: str) -> None:
    assert duration("0", "1h")(text) == 0.0
    with pytest.raises(ValueError, match=r"is not between 1s and 1h$"):
        duration("1s", "1h")(text)


@pytest.mark.parametrize(
    ("name", "least", "most", "beyond"),
    [
        ("grant_ttl", "1s", "10m", ["0", "999ms", "601s"]),
        ("max_stale", "0", "3650d", ["3651d"]),
        ("offline_grace", "0", "3650d", ["3651d"]),
        ("stall_timeout", "1ms", "24h", ["0", "24.1h", "2d"]),
    ],
)
def test_the_bounds_of_a_duration_are_values_and_what_is_beyond_is_told_them(
    name: str, least: str, most: str, beyond: list[str]
) -> None:
    parse = OPTIONS[name].parse
    assert parse(least) < parse(most)
    for text in beyond:
        with pytest.raises(ValueError, match=rf"^'{text}' is not between {least} and {most}$"):
            parse(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("1", 1), ("007", 7), ("999999999", 999_999_999)])
def test_counts(text: str, expected: int) -> None:
    assert parse_count(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", "1_000", " 1", "one", "1000000000", "9" * 5000, "٣"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a whole number from 0 to 999999999$"):
        parse_count(text)


@pytest.mark.parametrize("words", ["true false", "yes no", "on off", "1 0", "TRUE False"])
def test_switches(words: str) -> None:
    on, off = words.split()
    assert parse_switch(on) is True
    assert parse_switch(off) is False


@pytest.mark.parametrize(
    "text", ["", "maybe", "t", "2", "-1", "true!", "true false", "01", "none", "\N{FULLWIDTH DIGIT ONE}"]
)
def test_what_is_no_switch(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not true or false, yes or no, on or off, 1 or 0$"):
        parse_switch(text)


@pytest.mark.parametrize("option", [each for each in OPTIONS.values() if each.switch], ids=lambda option: option.name)
def test_a_switch_shows_both_its_flags_and_hints_at_the_value_that_is_not_the_default(option: Option) -> None:
    assert (option.metavar, option.opposite) == (f"/ {option.opposite}", option.flag.replace("--", "--no-", 1))
    assert option.parse(option.hint) is not option.initial()


def test_what_is_no_switch_has_no_opposite() -> None:
    assert {option.opposite for option in OPTIONS.values() if not option.switch} == {""}


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
