"""Accept values, media types and the references of manifests."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.digest import Digest
from pullthrough.core.media import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Reference,
    Role,
    accept_key,
    lists,
    media_type,
    references,
)

ONE, TWO, THREE = Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3", "sha512")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(digest: Digest, size: object = 1, kind: object = GZIP, **more: object) -> dict[str, object]:
    return {"digest": str(digest), "size": size, "mediaType": kind, **more}


def read(document: object) -> tuple[Reference, ...]:
    return references(json.dumps(document).encode())


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


def test_indexes_are_manifests_too() -> None:
    assert INDEX_TYPES < MANIFEST_TYPES
    assert {OCI_MANIFEST, DOCKER_MANIFEST} <= MANIFEST_TYPES - INDEX_TYPES


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([], ()),
        (["", " , ,", ";q=1"], ()),
        (["b/b, a/a"], ("a/a", "b/b")),
        (["b/b", "a/a"], ("a/a", "b/b")),
        (["a/a,a/a", "A/A"], ("a/a",)),
        (["a/a ;  q=0.5;v = X;"], ("a/a;q=0.5;v = X",)),
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


def test_an_image_manifest_refers_to_config_and_layers() -> None:
    config = descriptor(ONE, 7, "application/vnd.oci.image.config.v1+json")
    assert read(
        {"schemaVersion": 2, "config": config, "layers": [descriptor(TWO, 5), descriptor(THREE, 0)]}
    ) == (
        Reference(ONE, 7, "application/vnd.oci.image.config.v1+json", Role.CONFIG),
        Reference(TWO, 5, GZIP, Role.LAYER),
        Reference(THREE, 0, GZIP, Role.LAYER),
    )


def test_an_index_refers_to_manifests() -> None:
    assert read({"manifests": [descriptor(ONE, 9, OCI_MANIFEST)]}) == (
        Reference(ONE, 9, OCI_MANIFEST, Role.MANIFEST),
    )


def test_artifacts_refer_to_blobs_and_a_subject() -> None:
    assert read({"subject": descriptor(TWO, 3, OCI_MANIFEST), "blobs": [descriptor(ONE)]}) == (
        Reference(ONE, 1, GZIP, Role.LAYER),
        Reference(TWO, 3, OCI_MANIFEST, Role.SUBJECT),
    )


def test_schema_1_refers_to_blob_sums() -> None:
    assert read({"schemaVersion": 1, "fsLayers": [{"blobSum": str(ONE)}]}) == (
        Reference(ONE, None, "", Role.LAYER),
    )


def test_a_layer_that_is_elsewhere_is_foreign() -> None:
    elsewhere = descriptor(ONE, urls=["https://cdn.test/layer"])
    assert [reference.role for reference in read({"layers": [elsewhere]})] == [Role.FOREIGN]
    assert [reference.role for reference in read({"layers": [descriptor(ONE, urls=[])]})] == [Role.LAYER]
    assert [reference.role for reference in read({"config": elsewhere})] == [Role.CONFIG]


def test_a_layer_named_twice_is_one_reference() -> None:
    assert len(read({"layers": [descriptor(ONE), descriptor(ONE), descriptor(TWO)]})) == 2


def test_the_number_of_references_is_bounded() -> None:
    many = [descriptor(Digest.of(str(number).encode())) for number in range(20)]
    assert len(references(json.dumps({"layers": many}).encode(), max_references=5)) == 5
    assert len(read({"layers": many})) == 20


@pytest.mark.parametrize("size", [-1, 2**63, 10**400, 1.5, "1", None, True, [], {}])
def test_an_incredible_size_is_no_size(size: object) -> None:
    assert [reference.size for reference in read({"layers": [descriptor(ONE, size)]})] == [None]


@pytest.mark.parametrize("kind", [None, 1, "", "a b", "a\nb", "\ud800", "é", "x" * 256])
def test_an_unfit_media_type_is_left_out(kind: object) -> None:
    assert [reference.media_type for reference in read({"layers": [descriptor(ONE, 1, kind)]})] == [""]


@pytest.mark.parametrize(
    "malformed",
    [None, 1, "x", [], {}, {"digest": None}, {"digest": 1}, {"digest": "sha256:short"}, {"blobSum": []}],
)
def test_malformed_descriptors_are_left_out_and_the_others_kept(malformed: object) -> None:
    assert [reference.digest for reference in read({"layers": [malformed, descriptor(TWO)]})] == [TWO]
    assert read({"config": malformed, "manifests": malformed}) == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe{}",
        b'\xef\xbb\xbf{"layers":[]}',
        json.dumps({"layers": [descriptor(ONE)]}).encode("utf-16"),
        b"[" * 200_000,
        b'{"config":' * 200_000,
        b'{"size":' + b"9" * 10_000 + b"}",
    ],
)
def test_a_body_that_is_no_manifest_refers_to_nothing(body: bytes) -> None:
    assert references(body) == ()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(str(ONE))),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(
            st.one_of(
                st.text(),
                st.sampled_from(["config", "layers", "manifests", "subject", "digest", "size", "urls"]),
            ),
            inner,
        ),
    ),
)


@given(st.one_of(st.binary(), JSON.map(lambda document: json.dumps(document).encode())))
def test_any_body_gives_references(body: bytes) -> None:
    for reference in references(body):
        assert reference.size is None or reference.size >= 0
        reference.media_type.encode("ascii")
