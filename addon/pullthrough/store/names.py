"""Names of blob files, relative to the store's folder: `blobs/sha256/ab/<hex>-<random>`.

Responsible for making them and for telling ours from others': a name that comes out of the index is only a
text until it was read here, so that no planted row can lead anywhere else. Must not know files.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from pullthrough.core.digest import Digest

BLOBS: Final = "blobs"
_BEGINNING: Final = re.compile("(sha256|sha512):([0-9a-f]{2})")
_NAME: Final = re.compile(rf"{BLOBS}/(sha256|sha512)/([0-9a-f]{{2}})/(\2[0-9a-f]+)-[0-9a-f]{{16}}")


def fresh(digest: Digest) -> str:
    """A name for the blob that nobody ever had.

    The random part makes replacement, eviction and late readers safe: a name is never used twice.
    """
    return f"{folder_for(digest)}/{digest.hex}-{secrets.token_hex(8)}"


def folder_for(digest: Digest) -> str:
    """Where the files of a digest lie."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}"


def digest_of(name: str) -> Digest | None:
    """The digest that `name` stands for; None if it is no name of ours."""
    match = _NAME.fullmatch(name)
    return Digest.parse(f"{match[1]}:{match[3]}") if match else None


def folder_of(beginning: str) -> str | None:
    """Where the files lie of all digests with this beginning (`sha256:ab`); None if no digest begins so."""
    match = _BEGINNING.fullmatch(beginning)
    return f"{BLOBS}/{match[1]}/{match[2]}" if match else None


def beginning_in(folder: str) -> str:
    """How the digests begin of which the files lie in `folder`: the other way round."""
    _, algorithm, hexadecimal = folder.split("/")
    return f"{algorithm}:{hexadecimal}"
