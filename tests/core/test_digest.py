"""Digests: only sha256 and sha512, only well formed."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.digest import Digest

SHA256 = hashlib.sha256(b"layer").hexdigest()
SHA512 = hashlib.sha512(b"layer").hexdigest()


@pytest.mark.parametrize("text", [f"sha256:{SHA256}", f"sha512:{SHA512}"])
def test_a_digest_reads_back_as_it_was_written(text: str) -> None:
    digest = Digest.parse(text)
    assert digest is not None
    assert str(digest) == text
    assert (digest.algorithm, digest.hex) == tuple(text.split(":"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        SHA256,
        "sha256:short",
        f"sha256:{SHA256[:-1]}",
        f"sha256:{SHA256}0",
        f"sha256:{SHA256.upper()}",
        f"SHA256:{SHA256}",
        f"sha256:{SHA256}\n",
        f" sha256:{SHA256}",
        f"sha256:{SHA512}",
        f"sha512:{SHA256}",
        f"sha256::{SHA256}",
        f"sha1:{hashlib.sha1(b'', usedforsecurity=False).hexdigest()}",
        f"blake3:{SHA256}",
        f"sha256:{'٣' * 64}",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    assert Digest.parse(text) is None


@given(st.text())
def test_parsing_never_raises_and_only_accepts_what_it_would_write(text: str) -> None:
    digest = Digest.parse(text)
    assert digest is None or str(digest) == text


def test_a_malformed_digest_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="exact length"):
        Digest("sha256", "../../etc/passwd")
    with pytest.raises(ValueError, match="exact length"):
        Digest("md5", SHA256)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_matches_its_own_content_only(algorithm: str) -> None:
    digest = Digest.of(b"layer", algorithm)
    assert digest.algorithm == algorithm
    assert digest.matches(b"layer")
    assert not digest.matches(b"layer!")


def test_the_default_algorithm_is_sha256() -> None:
    assert Digest.of(b"layer") == Digest("sha256", SHA256)


def test_other_algorithms_are_refused_even_where_hashlib_has_them() -> None:
    with pytest.raises(ValueError, match="'md5'"):
        Digest.of(b"layer", "md5")


def test_a_hasher_takes_the_content_in_pieces() -> None:
    digest = Digest.of(b"layer", "sha512")
    hasher = digest.hasher()
    hasher.update(b"la")
    hasher.update(memoryview(b"yer"))
    assert hasher.hexdigest() == digest.hex


def test_digests_are_values() -> None:
    digest = Digest.of(b"layer")
    assert {digest: 1}[Digest.of(b"layer")] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        digest.hex = SHA512  # type: ignore[misc]
