"""What a person means by a name."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection, parse_selection

DIGEST = f"sha256:{7:064x}"
HUB = ("registry-1.docker.io", 443)


def means(text: str, host: str, port: int, repository: str, tag: str | None = None) -> bool:
    selection = parse_selection(text)
    return selection.covers(host, port, repository) and (tag is None or selection.names(tag))


@pytest.mark.parametrize(
    ("text", "host", "port", "repository", "tag"),
    [
        ("alpine:3", *HUB, "library/alpine", "3"),
        ("alpine", *HUB, "library/alpine", "3"),
        ("docker.io/library/alpine:3", *HUB, "library/alpine", "3"),
        ("team/app:1", *HUB, "team/app", "1"),
        ("ghcr.io/team/app:1.2", "ghcr.io", 443, "team/app", "1.2"),
        ("ghcr.io/team/app:1.*", "ghcr.io", 443, "team/app", "1.9"),
        ("ghcr.io/team/*", "ghcr.io", 443, "team/app", "1"),
        ("ghcr.io/**:stable", "ghcr.io", 443, "a/b/c", "stable"),
        ("ghcr.io", "ghcr.io", 443, "a/b/c", "1"),
        ("registry.test:5000", "registry.test", 5000, "app", "1"),
        ("registry.test:5000/app:1", "registry.test", 5000, "app", "1"),
        ("registry.test/app", "registry.test", 5000, "app", "1"),
        ("localhost", "localhost", 5000, "app", "1"),
        ("localhost:5000", "localhost", 5000, "app", "1"),
        ("localhost:5000/app", "localhost", 5000, "app", "1"),
        ("registry:5000/app", "registry", 5000, "app", "1"),
        ("[::1]:5000/app:1", "::1", 5000, "app", "1"),
        ("[::1]", "::1", 5000, "app", "1"),
        ("*.corp.test", "hub.corp.test", 443, "app", "1"),
        ("*/app", "ghcr.io", 443, "app", "1"),
        ("*", "ghcr.io", 443, "app", "1"),
        ("**", "ghcr.io", 443, "a/b", "1"),
        (DIGEST, "ghcr.io", 443, "app", None),
        (f"ghcr.io/app@{DIGEST}", "ghcr.io", 443, "app", None),
        (f"ghcr.io/app:1@{DIGEST}", "ghcr.io", 443, "app", None),
    ],
)
def test_what_is_meant(text: str, host: str, port: int, repository: str, tag: str | None) -> None:
    assert means(text, host, port, repository, tag)


@pytest.mark.parametrize(
    ("text", "host", "port", "repository", "tag"),
    [
        ("alpine:3", *HUB, "library/alpine", "3.1"),
        ("alpine:3", *HUB, "other/alpine", "3"),
        ("alpine:3", "ghcr.io", 443, "library/alpine", "3"),
        ("ghcr.io/team/*", "ghcr.io", 443, "team/a/b", "1"),
        ("registry.test:5000", "registry.test", 443, "app", "1"),
        (f"ghcr.io/app@{DIGEST}", "ghcr.io", 443, "app", "1"),
    ],
)
def test_what_is_not(text: str, host: str, port: int, repository: str, tag: str) -> None:
    assert not means(text, host, port, repository, tag)


def test_a_digest_is_read() -> None:
    digest = Digest.parse(DIGEST)

    assert (parse_selection(DIGEST).glob, parse_selection(DIGEST).digest) == (None, digest)
    assert parse_selection(f"alpine@{DIGEST}").digest == digest


@pytest.mark.parametrize(
    ("text", "whole", "single"),
    [
        ("alpine:3", False, True),
        (DIGEST, False, True),
        ("alpine", True, False),
        ("ghcr.io", True, False),
        ("alpine:3*", False, False),
        ("ghcr.io/*:3", False, False),
    ],
)
def test_how_much_is_meant(text: str, whole: bool, single: bool) -> None:
    selection = parse_selection(text)

    assert (selection.whole, selection.single, str(selection)) == (whole, single, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "ghcr.io/",
        "ghcr.io/Team/app",
        "ghcr.io/app:",
        "ghcr.io/app:a b",
        "ghcr.io/app@sha256:7",
        "@",
        "https://ghcr.io/app",
        "registry.test:99999",
        "a" * 600,
    ],
)
def test_nothing_is_meant(text: str) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        parse_selection(text)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_selection(text), Selection)
