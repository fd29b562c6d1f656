"""Content digests as the OCI image spec writes them ("Digests", descriptor.md).

A `Digest` is well formed by construction, so the rest of the program may put one into a file name or an
upstream path without looking at it again. Nothing here knows where the bytes are kept.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

_HEX = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "sha512": re.compile(r"[0-9a-f]{128}"),
}


class Hasher(Protocol):
    """The part of a `hashlib` object that a verification needs."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Digest:
    """One sha256 or sha512 digest; any other algorithm, length or letter case raises ValueError."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if not _well_formed(self.algorithm, self.hex):
            raise ValueError("a digest is sha256 or sha512 with lower-case hex of the exact length")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The digest that `text` spells ("sha256:<64 hex>"), or None; never raises."""
        algorithm, _, hexadecimal = text.partition(":")
        return cls(algorithm, hexadecimal) if _well_formed(algorithm, hexadecimal) else None

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """The digest of `data`; ValueError for an algorithm other than sha256 and sha512."""
        if algorithm not in _HEX:
            raise ValueError(f"{algorithm!r} is not a digest algorithm in use here")
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Whether `data` is what this digest names."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _well_formed(algorithm: str, hexadecimal: str) -> bool:
    pattern = _HEX.get(algorithm)
    return pattern is not None and pattern.fullmatch(hexadecimal) is not None
