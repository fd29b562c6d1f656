"""What the files of an image layout say."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.children import Descriptor
from pullthrough.core.digest import Digest
from pullthrough.core.layouts import MARKED, Entry, blob_file, entries, index, is_marker
from pullthrough.core.media import OCI_MANIFEST

ONE, TWO = Digest.of(b"one"), Digest.of(b"two", "sha512")
CONTAINERD, OCI = "io.containerd.image.name", "org.opencontainers.image.ref.name"


def written(*manifests: object) -> bytes:
    return json.dumps({"manifests": manifests}).encode()


def test_blobs_are_where_the_specification_says() -> None:
    assert blob_file(ONE) == f"blobs/sha256/{ONE.hex}"
    assert blob_file(TWO) == f"blobs/sha512/{TWO.hex}"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"imageLayoutVersion": 1}', b'{"imageLayoutVersion": "2.0.0"}', b"[" * 100_000]
)
def test_what_is_no_marker(content: bytes) -> None:
    assert not is_marker(content)


def test_the_marker_that_is_written_is_one() -> None:
    assert is_marker(MARKED)


def test_an_index_is_read_as_it_was_written() -> None:
    listed = (
        Entry(Descriptor(ONE, OCI_MANIFEST, 5, is_manifest=True), ("ghcr.io/team/app:1",)),
        Entry(Descriptor(TWO, OCI_MANIFEST, 6, "linux/arm/v7", is_manifest=True), ("ghcr.io/team/app:2",)),
        Entry(Descriptor(TWO, OCI_MANIFEST, 6, is_manifest=True)),
    )
    assert entries(index(listed)) == listed


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({CONTAINERD: "a", OCI: "b"}, ("a", "b")),
        ({OCI: "b", CONTAINERD: "a"}, ("a", "b")),
        ({OCI: "a", CONTAINERD: "a"}, ("a",)),
        ({OCI: "b"}, ("b",)),
        ({OCI: 5, CONTAINERD: ""}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_the_full_name_comes_first(annotations: object, names: tuple[str, ...]) -> None:
    [entry] = entries(written({"digest": str(ONE), "annotations": annotations}))
    assert entry.names == names


def test_one_image_may_have_several_names() -> None:
    listed = entries(written(*({"digest": str(ONE), "annotations": {OCI: name}} for name in "ab")))
    assert [entry.names for entry in listed] == [("a",), ("b",)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"manifests": {}}',
        written(5),
        written({}),
        written({"digest": "md5:5"}),
        written(*({"digest": str(ONE)} for _ in range(5000))),
    ],
)
def test_what_is_no_index(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"index\.json"):
        entries(content)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_any_bytes_have_entries_or_none(content: bytes) -> None:
    is_marker(content)
    with contextlib.suppress(ValueError):
        entries(content)
