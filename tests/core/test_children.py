"""What a manifest names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.children import children
from pullthrough.core.digest import Digest

DIGESTS = [f"sha256:{number:064x}" for number in range(5)]


def named(**manifest: object) -> list[str]:
    return [str(digest) for digest in children(json.dumps(manifest).encode())]


def described(*digests: object) -> list[dict[str, object]]:
    return [{"digest": digest, "size": 1} for digest in digests]


def test_an_image_names_its_config_and_its_layers() -> None:
    assert named(config=described(DIGESTS[0])[0], layers=described(*DIGESTS[1:])) == DIGESTS


def test_an_index_names_its_manifests() -> None:
    assert named(manifests=described(*DIGESTS)) == DIGESTS


def test_schema_1_names_its_layers() -> None:
    assert named(fsLayers=[{"blobSum": digest} for digest in DIGESTS]) == DIGESTS


def test_what_is_named_twice_is_named_once() -> None:
    assert named(layers=described(*DIGESTS, *DIGESTS)) == DIGESTS


def test_there_is_a_bound() -> None:
    assert len(named(layers=described(*(f"sha256:{number:064x}" for number in range(5000))))) == 4096


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"layers": {}, "manifests": 7, "config": [], "fsLayers": "x"}',
        b'{"layers": [7, null, "x", {}, {"digest": 7}, {"digest": "sha256:x"}], "fsLayers": [[]]}',
    ],
)
def test_what_is_no_manifest_names_nothing(body: bytes) -> None:
    assert children(body) == ()


@given(st.binary())
def test_any_bytes_are_read(body: bytes) -> None:
    assert all(isinstance(digest, Digest) for digest in children(body))
