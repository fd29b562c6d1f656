"""WWW-Authenticate as registries send it and clients read it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pullthrough.core.challenges import MAX_FIELD, Challenge, parse

HUB = (
    ("realm", "https://auth.test/token"),
    ("service", "registry.test"),
    ("scope", "repository:library/alpine:pull"),
)


@pytest.mark.parametrize(
    ("field", "challenges"),
    [
        (
            'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:library/alpine:pull"',
            [Challenge("Bearer", HUB)],
        ),
        (
            'Bearer realm="https://a.test/b?x=1,2",service="s",scope="repository:x:pull,push"',
            [
                Challenge(
                    "Bearer",
                    (("realm", "https://a.test/b?x=1,2"), ("service", "s"), ("scope", "repository:x:pull,push")),
                )
            ],
        ),
        ('Basic realm="x"', [Challenge("Basic", (("realm", "x"),))]),
        ('Basic realm=""', [Challenge("Basic", (("realm", ""),))]),
        ("Basic", [Challenge("Basic")]),
        ("bAsIc ReAlM=x", [Challenge("bAsIc", (("ReAlM", "x"),))]),
        # several, in either order, glued or not separated at all
        (
            'Basic realm="x", Bearer realm="y"',
            [Challenge("Basic", (("realm", "x"),)), Challenge("Bearer", (("realm", "y"),))],
        ),
        (
            'Bearer realm="y",service="s",Basic realm="x"',
            [Challenge("Bearer", (("realm", "y"), ("service", "s"))), Challenge("Basic", (("realm", "x"),))],
        ),
        (
            'Bearer realm="y" Basic realm="x"',
            [Challenge("Bearer", (("realm", "y"),)), Challenge("Basic", (("realm", "x"),))],
        ),
        (
            'Basic realm="x"Bearer realm="y"service="s"',
            [Challenge("Basic", (("realm", "x"),)), Challenge("Bearer", (("realm", "y"), ("service", "s")))],
        ),
        # token68
        ("Negotiate", [Challenge("Negotiate")]),
        ("NTLM TlRMTVNTUAAC==", [Challenge("NTLM", token68="TlRMTVNTUAAC==")]),
        (
            'Negotiate, NTLM TlRM/+._~-== , Basic realm="x"',
            [
                Challenge("Negotiate"),
                Challenge("NTLM", token68="TlRM/+._~-=="),
                Challenge("Basic", (("realm", "x"),)),
            ],
        ),
        ('Negotiate Basic realm="x"', [Challenge("Negotiate"), Challenge("Basic", (("realm", "x"),))]),
        ('Basic realm="x", NTLM TlRM==', [Challenge("Basic", (("realm", "x"),)), Challenge("NTLM", token68="TlRM==")]),
        ("Bearer realm=", [Challenge("Bearer", token68="realm=")]),
        # no quotes
        (
            "Bearer realm=https://a.test/b?x=1&y=2,service=s",
            [Challenge("Bearer", (("realm", "https://a.test/b?x=1&y=2"), ("service", "s")))],
        ),
        ("Bearer realm=a service=b", [Challenge("Bearer", (("realm", "a"), ("service", "b")))]),
        ("Bearer realm='a'", [Challenge("Bearer", (("realm", "'a'"),))]),
        # blanks and commas wherever they do no harm
        (
            ' ,Bearer\t realm = "a" ,, service= b, ,',
            [Challenge("Bearer", (("realm", "a"), ("service", "b")))],
        ),
        ('Bearer, realm="a"', [Challenge("Bearer", (("realm", "a"),))]),
        # escapes
        (r'Basic realm="a \"b\" \\c\d"', [Challenge("Basic", (("realm", r'a "b" \cd'),))]),
        (r'Basic realm="\\"', [Challenge("Basic", (("realm", "\\"),))]),
        ('Basic realm="é\tü"', [Challenge("Basic", (("realm", "é\tü"),))]),
        # what a value holds is nobody's syntax
        ('Basic realm="Bearer realm=x, y"', [Challenge("Basic", (("realm", "Bearer realm=x, y"),))]),
        ('Bearer realm="a",REALM="b"', [Challenge("Bearer", (("realm", "a"), ("REALM", "b")))]),
    ],
)
def test_challenges_as_they_are_sent(field: str, challenges: list[Challenge]) -> None:
    assert parse(field) == tuple(challenges)


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        ",",
        "=",
        '"',
        'realm="x"',
        'realm = "x"',
        '"Bearer" realm="x"',
        'Bearer realm="x',
        'Bearer realm="x\\"',
        'Bearer realm="x\\',
        "Bearer realm=a,service=",
        'Bearer realm="a",="b"',
        'Bearer ="b"',
        'Bearer realm=a"b"',
        'Bearer abc=, service="x"',
        "Bearer;realm=x",
        "Be@rer",
        'Bearer realm="a\nb"',
        'Bearer realm="a\r\nX-Evil: 1"',
        'Bearer realm="a\\\nb"',
        'Bearer realm="\x00"',
        'Bearer realm="a\x7f"',
        'Bearer realm="a"\n',
        'Bearer\nrealm="a"',
        "Bearer realm=a\x00b",
        'Bärer realm="a"',
        "<html>",
    ],
)
def test_what_cannot_be_understood(field: str) -> None:
    assert parse(field) is None


def test_a_field_over_the_limit_is_not_read() -> None:
    longest = f'Basic realm="{"a" * (MAX_FIELD - 14)}"'

    assert len(longest) == MAX_FIELD
    assert parse(longest) is not None
    assert parse(longest + ",") is None


def test_parameters_are_found_without_case() -> None:
    challenge = Challenge("Bearer", (("Realm", "a"), ("realm", "b"), ("service", "")))

    assert challenge.get("REALM") == "a"
    assert challenge.get("service") == ""
    assert challenge.get("scope") is None


def test_a_changed_parameter_keeps_its_place_and_has_no_second() -> None:
    challenge = Challenge("Bearer", (("a", "1"), ("Realm", "x"), ("b", "2"), ("realm", "y")))

    assert challenge.having("realm", "z") == Challenge("Bearer", (("a", "1"), ("realm", "z"), ("b", "2")))
    assert challenge.having("error", "e").params[-1] == ("error", "e")
    assert challenge.get("realm") == "x", "a change is a copy"


def test_a_parameter_replaces_a_token68() -> None:
    assert Challenge("Bearer", token68="realm=").having("realm", "z") == Challenge("Bearer", (("realm", "z"),))


def test_parameters_can_be_taken_away() -> None:
    challenge = Challenge("Bearer", (("Realm", "a"), ("scope", "b"), ("error", "c")))

    assert challenge.without("SCOPE", "error", "absent") == Challenge("Bearer", (("Realm", "a"),))
    assert Challenge("NTLM", token68="a==").without("realm") == Challenge("NTLM", token68="a==")


@pytest.mark.parametrize(
    ("challenge", "field"),
    [
        (Challenge("Negotiate"), "Negotiate"),
        (Challenge("NTLM", token68="TlRM=="), "NTLM TlRM=="),
        (Challenge("Basic", (("realm", "x"),)), 'Basic realm="x"'),
        (Challenge("Bearer", (("realm", 'a"\\b'), ("service", "s"))), r'Bearer realm="a\"\\b",service="s"'),
    ],
)
def test_a_challenge_as_text(challenge: Challenge, field: str) -> None:
    assert str(challenge) == field


@pytest.mark.parametrize(
    ("scheme", "params", "token68"),
    [
        ("", (), ""),
        ("Bea rer", (), ""),
        ("Bearer\r\nX-Evil: 1", (), ""),
        ("Bearer", (("", "x"),), ""),
        ("Bearer", (("re alm", "x"),), ""),
        ("Bearer", (("realm", "x\r\nX-Evil: 1"),), ""),
        ("Bearer", (("realm", "x\n"),), ""),
        ("Bearer", (("realm", "\x00"),), ""),
        ("Bearer", (), "a b"),
        ("Bearer", (), "="),
        ("Bearer", (), "a\n"),
        ("Bearer", (("realm", "x"),), "a="),
    ],
)
def test_what_would_break_a_field_is_no_challenge(
    scheme: str, params: tuple[tuple[str, str], ...], token68: str
) -> None:
    with pytest.raises(ValueError, match=r"scheme|token68|parameter"):
        Challenge(scheme, params, token68)


def test_a_change_cannot_break_a_field_either() -> None:
    with pytest.raises(ValueError, match="parameter"):
        Challenge("Bearer").having("realm", "x\r\nX-Evil: 1")


words = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cc"]) | st.just("\t"), max_size=12)
challenges = st.one_of(
    st.builds(Challenge, words, st.lists(st.tuples(words, texts), max_size=4).map(tuple)),
    st.builds(Challenge, words, st.just(()), st.from_regex(r"[A-Za-z0-9._~+/-]{1,9}={0,3}", fullmatch=True)),
)


@given(st.lists(challenges, min_size=1, max_size=4))
def test_what_is_written_is_read_back(written: list[Challenge]) -> None:
    assert parse(", ".join(map(str, written))) == tuple(written)


PIECES = st.sampled_from(
    [
        "Bearer",
        "Basic",
        " ",
        ",",
        "=",
        '"',
        "\\",
        "realm",
        'realm="x"',
        "TlRM==",
        "\t",
        "\n",
        "é",
        "\x00",
        "\ud800",
        "'",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=14).map("".join)))
@example("=" * 100)
def test_anything_gives_challenges_that_can_be_written_and_read_again(field: str) -> None:
    found = parse(field)

    assert found is None or found
    for challenge in found or ():
        text = str(challenge)
        assert parse(text) == (challenge,)
        assert not set(text) & {"\r", "\n", "\x00"}


@pytest.mark.parametrize("piece", ["a", "a ", "a,", "a=", 'a="', "\\", ' a=b\\"', "=", ", ", '"'])
def test_no_field_takes_long(piece: str) -> None:
    """Matching in more than linear time would hang here, up to the limit of the whole run."""
    parse(('Bearer a="' + piece * MAX_FIELD)[:MAX_FIELD])
    parse((piece * MAX_FIELD)[:MAX_FIELD])
