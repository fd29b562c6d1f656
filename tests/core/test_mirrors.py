"""What the operator says of a registry's mirrors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core import hub
from pullthrough.core.mirrors import MirrorOf, parse_mirror
from pullthrough.core.registries import Entry

GHCR = Entry("ghcr.io")


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("ghcr.io=https://mirror.test", MirrorOf(GHCR, "https", "mirror.test", 443, "")),
        ("ghcr.io=mirror.test", MirrorOf(GHCR, "https", "mirror.test", 443, "")),
        ("ghcr.io=http://mirror.test/", MirrorOf(GHCR, "http", "mirror.test", 80, "")),
        ("ghcr.io=http://mirror.test:443", MirrorOf(GHCR, "http", "mirror.test", 443, "")),
        ("GHCR.io=HTTPS.mirror.test", MirrorOf(GHCR, "https", "https.mirror.test", 443, "")),
        ("ghcr.io=cache:3128/ghcr.io", MirrorOf(GHCR, "https", "cache", 3128, "ghcr.io/")),
        ("ghcr.io=http://cache:3128/a/b_5050/", MirrorOf(GHCR, "http", "cache", 3128, "a/b_5050/")),
        ("ghcr.io=http://[fd00::5]:3128", MirrorOf(GHCR, "http", "fd00::5", 3128, "")),
        ("ghcr.io=http://[FD00:0::5]", MirrorOf(GHCR, "http", "fd00::5", 80, "")),
        ("r.test:5050=https://m.test", MirrorOf(Entry("r.test", 5050), "https", "m.test", 443, "")),
        ("docker.io=https://m.test/hub", MirrorOf(hub.REGISTRY, "https", "m.test", 443, "hub/")),
        ("registry-1.docker.io=m.test", MirrorOf(hub.REGISTRY, "https", "m.test", 443, "")),
    ],
)
def test_a_registry_and_the_url_of_its_mirror(text: str, mirror: MirrorOf) -> None:
    assert parse_mirror(text) == mirror


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "ghcr.io",
        "ghcr.io=",
        "=https://mirror.test",
        "https://mirror.test",
        "ghcr.io=ftp://mirror.test",
        "ghcr.io=https://user:secret@mirror.test",
        "ghcr.io=https://mirror.test/v2?ns=ghcr.io",
        "ghcr.io=https://mirror.test/#a",
        "ghcr.io=https://mirror.test/a/../b",
        "ghcr.io=https://mirror.test/./b",
        "ghcr.io=https://mirror.test//b",
        "ghcr.io=https://mirror.test:0",
        "ghcr.io=https://mirror.test:65536",
        "ghcr.io=https://*.mirror.test",
        "*.gcr.io=https://mirror.test",
        "ghcr.io=https://mirror.test\r\nX: y",
    ],
)
def test_what_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|must be"):
        parse_mirror(text)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="is not HOST=URL") as refused:
        parse_mirror("ghcr.io=https://user:se/cret@mirror.test")
    assert "cret" not in str(refused.value)


@given(st.text(st.sampled_from("a.:/=[]@?#%*-_ \n"), max_size=30) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        mirror = parse_mirror(text)
    except ValueError:
        return
    assert mirror.scheme in ("http", "https")
    assert mirror.prefix == "" or mirror.prefix.endswith("/")
