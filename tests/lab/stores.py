"""Stores in folders of their own, and blobs to put into them."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pullthrough.core.digest import Digest
from pullthrough.health import Health
from pullthrough.store import Store, StoreError

MIB = 1 << 20


def blob(seed: object, size: int = 1000) -> bytes:
    """`size` bytes that differ for every seed."""
    pattern = hashlib.sha256(repr(seed).encode()).digest()
    return (pattern * (size // len(pattern) + 1))[:size]


@dataclass
class Stores:
    """Makes stores over `root`, and closes them all."""

    root: Path
    health: Health = field(default_factory=Health)
    made: list[Store] = field(default_factory=list)

    def __call__(
        self, size: int = 64 * MIB, *, root: Path | None = None, busy: float = 0.1, rest: float = 0.0
    ) -> Store:
        store = Store(root or self.root, size, self.health, busy=busy, rest=rest)
        self.made.append(store)
        return store


async def fill(store: Store, content: bytes, *, announced: int | None = None, chunk: int = 400) -> Digest:
    """Store a blob as a fill does: piece by piece."""
    digest = Digest.of(content)
    partial = await store.begin(digest)
    try:
        if announced is not None:
            await store.reserve(partial, announced)
        for start in range(partial.written, len(content), chunk):
            await store.write(partial, content[start : start + chunk])
        await store.commit(partial)
    except StoreError:
        await store.end(partial, keep=False)
        raise
    else:
        await store.end(partial, keep=True)
    finally:
        partial.close()
    return digest


async def content(store: Store, digest: Digest) -> bytes | None:
    """The stored blob, whole; None if it is absent."""
    found = await store.open(digest)
    if found is None:
        return None
    try:
        whole = b""
        while part := await found.read_at(len(whole), MIB):
            whole += part
        return whole
    finally:
        found.close()


def files(root: Path, folder: str = "blobs") -> list[Path]:
    """The files below one folder of a store."""
    return sorted(path for path in (root / folder).rglob("*") if path.is_file())


def opened(root: Path) -> list[str]:
    """The files below `root` that this process has open, one for each descriptor."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(f"{root}/")]
