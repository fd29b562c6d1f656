"""What a manifest names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.children import children, descriptors, platform
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


def test_what_is_said_of_each_is_read() -> None:
    index = {
        "manifests": [
            {
                "digest": DIGESTS[0],
                "size": 7,
                "mediaType": "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
                "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
            },
            {"digest": DIGESTS[1], "size": "7", "mediaType": 7, "platform": 7},
            {"digest": DIGESTS[2], "size": True, "platform": {"os": "linux\x1b[2J", "architecture": "amd64"}},
            {"digest": DIGESTS[3], "size": -1, "platform": {"os": "x" * 65}},
        ]
    }

    read = [
        (one.size, one.media_type, one.platform, one.is_manifest) for one in descriptors(json.dumps(index).encode())
    ]

    assert read == [
        (7, "application/vnd.oci.image.manifest.v1+json", "linux/arm64/v8", True),
        (None, "", "", True),
        (None, "", "amd64", True),
        (None, "", "", True),
    ]


def test_layers_are_no_manifests() -> None:
    image = {"config": {"digest": DIGESTS[0]}, "layers": [{"digest": DIGESTS[1]}], "blobs": [{"digest": DIGESTS[2]}]}

    assert [one.is_manifest for one in descriptors(json.dumps(image).encode())] == [False] * 3


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (b'{"os": "linux", "architecture": "amd64"}', "linux/amd64"),
        (b'{"os": "windows", "architecture": "arm", "variant": "v7"}', "windows/arm/v7"),
        (b"{}", ""),
        (b"no json", ""),
    ],
)
def test_a_config_says_what_it_is_for(config: bytes, text: str) -> None:
    assert platform(config) == text
