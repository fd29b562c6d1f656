"""Full names of images."""

import pytest

from pullthrough.core.digest import Digest
from pullthrough.core.references import Reference, parse_reference

DIGEST = Digest.of(b"image")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("ghcr.io/team/app:1.0", Reference("ghcr.io", None, "team/app", "1.0")),
        ("ghcr.io/team/app", Reference("ghcr.io", None, "team/app")),
        (f"ghcr.io/team/app@{DIGEST}", Reference("ghcr.io", None, "team/app", "", DIGEST)),
        (f"ghcr.io/team/app:1.0@{DIGEST}", Reference("ghcr.io", None, "team/app", "1.0", DIGEST)),
        ("Registry.Corp.Test:5000/app:v1", Reference("registry.corp.test", 5000, "app", "v1")),
        ("registry.corp.test:443/app:v1", Reference("registry.corp.test", 443, "app", "v1")),
        ("localhost/app:v1", Reference("localhost", None, "app", "v1")),
        ("[::1]:5000/app:v1", Reference("::1", 5000, "app", "v1")),
        ("docker.io/library/alpine:3", Reference("registry-1.docker.io", None, "library/alpine", "3")),
        ("docker.io/alpine:3", Reference("registry-1.docker.io", None, "library/alpine", "3")),
        ("index.docker.io/team/app:3", Reference("registry-1.docker.io", None, "team/app", "3")),
    ],
)
def test_what_a_name_names(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "alpine:3",
        "team/app:3",
        "ghcr.io",
        "ghcr.io/",
        "ghcr.io/team/app:",
        "ghcr.io/team/app:a:b",
        "ghcr.io/team/APP:1",
        "ghcr.io/team/app@sha256:12",
        "ghcr.io/team/app@",
        "ghcr.io/../app:1",
        "ghcr.io:99999/app:1",
        "*.ghcr.io/app:1",
        "https://ghcr.io/app:1",
        "\tghcr.io/app:1",
        "ghcr.io/app:1\n",
        f"ghcr.io/team/app:{DIGEST}",
    ],
)
def test_what_is_no_full_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_reference(text)


def test_the_port_goes_by_the_scheme_unless_it_is_given() -> None:
    bare, given = parse_reference("corp.test/app"), parse_reference("corp.test:5000/app")
    assert [bare.port_over(scheme) for scheme in ("https", "http")] == [443, 80]
    assert [given.port_over(scheme) for scheme in ("https", "http")] == [5000, 5000]
