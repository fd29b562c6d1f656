"""Accept values and media types."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.media import (
    DOCKER_LIST,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    accept_key,
    is_plain,
    lists,
    media_type,
)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (OCI_MANIFEST, OCI_MANIFEST),
        ("Application/JSON; charset=utf-8", "application/json"),
        (" text/plain ;x=1;y=2", "text/plain"),
        ("", ""),
        (";", ""),
    ],
)
def test_the_media_type_of_a_content_type(content_type: str, expected: str) -> None:
    assert media_type(content_type) == expected


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([], ()),
        (["", " , ,", ";q=1"], ()),
        (["b/b, a/a"], ("a/a", "b/b")),
        (["b/b", "a/a"], ("a/a", "b/b")),
        (["a/a,a/a", "A/A"], ("a/a",)),
        (["a/a ;  q=0.5;v = X;"], ("a/a;q=0.5;v = X;",)),
        (["a/a;q=0.5, a/a"], ("a/a", "a/a;q=0.5")),
        (["*/*"], ("*/*",)),
    ],
)
def test_an_accept_key(values: list[str], key: tuple[str, ...]) -> None:
    assert accept_key(values) == key


def test_the_order_and_the_spread_over_lines_make_no_other_key() -> None:
    kinds = sorted(MANIFEST_TYPES)
    shuffled = random.Random(7).sample(kinds, len(kinds))
    assert accept_key(kinds) == accept_key(shuffled) == accept_key([", ".join(shuffled)])


def test_a_malformed_list_is_another_key() -> None:
    """A registry may answer 404 to it: that must not count for the tag as well-behaved clients ask for it."""
    assert len({accept_key([text]) for text in ("a/a", "a/a;", "a/a;;", "a/a;q")}) == 4


@given(st.lists(st.text()))
def test_an_accept_key_is_its_own_key(values: list[str]) -> None:
    key = accept_key(values)
    assert accept_key(key) == key
    assert list(key) == sorted(set(key))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([OCI_INDEX], True),
        ([OCI_INDEX.upper()], True),
        ([f"{DOCKER_LIST}, {OCI_INDEX}"], True),
        ([DOCKER_LIST, OCI_INDEX], True),
        ([f"{OCI_INDEX};q=0.1"], True),
        ([f"{OCI_INDEX}; q=1.000"], True),
        ([f"{OCI_INDEX};v=0"], True),
        ([f"{OCI_INDEX};q=0", OCI_INDEX], True),
        ([], False),
        ([DOCKER_LIST], False),
        (["*/*"], False),
        (["application/*"], False),
        ([f"{OCI_INDEX};q=0"], False),
        ([f"{OCI_INDEX} ; Q=0.000"], False),
        ([f"{OCI_INDEX};v=1;q=0."], False),
        ([f"{OCI_INDEX}x"], False),
    ],
)
def test_whether_a_type_is_named(values: list[str], named: bool) -> None:
    assert lists(values, OCI_INDEX) is named
    assert lists(values, OCI_INDEX.upper()) is named


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        ([], True),
        (["*/*"], True),
        ([f"{OCI_MANIFEST}, {OCI_INDEX};q=0.5", "application/json"], True),
        ([OCI_MANIFEST.upper()], True),
        ([f"{OCI_MANIFEST}, text/html"], False),
        (["x" * 5000], False),
        (["application/vnd.oci.image.manifest.v1"], False),
    ],
)
def test_registry_clients_accept_manifests_and_nothing_else(values: list[str], plain: bool) -> None:
    assert is_plain(values) is plain
