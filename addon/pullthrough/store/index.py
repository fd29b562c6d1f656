"""What the store knows: which blobs there are, and which repositories they belong to.

Responsible for the rows and for the order in which blobs were used. Must not know how bytes are written or
served, and decides nothing about access: a link is a fact, what it allows is decided elsewhere.
Everything here blocks for microseconds (diskcache on SQLite); callers run it in threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store.disk import Adopted, open_cache

#: Links that were not seen anew for this long are forgotten (seconds).
_FORGET: Final = 90 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Link:
    """A digest's membership of a repository. `media_type` is what the upstream called it; "" for a blob."""

    media_type: str = ""


class Index:
    """The rows below one folder. Safe for several threads and processes (SQLite in WAL mode)."""

    def __init__(self, root: Path) -> None:
        # The blobs' own index lies in `root` itself: names of adopted files are relative to it.
        self._blobs = open_cache(root)
        self._recency = open_cache(root / "recency")
        self._links = open_cache(root / "links")

    def close(self) -> None:
        """Close this thread's connections."""
        for cache in (self._blobs, self._recency, self._links):
            cache.close()

    # -- blobs

    def adopt(self, digest: Digest, name: str, size: int) -> None:
        """From now on the file `name` is the blob `digest`; an earlier file of it is deleted.

        Recency first: a row there without a blob is harmless, a blob that is in no order is never evicted.
        """
        self.used((digest,))
        self._blobs.set(str(digest), Adopted(name, size), tag=str(size))

    def find(self, digest: Digest) -> Adopted | None:
        """The file that holds `digest`, with the size that it must have; None if there is none."""
        row, size = self._blobs.get(str(digest), tag=True)
        return Adopted(row.name, int(size)) if isinstance(row, Adopted) else None

    def drop(self, digest: Digest) -> None:
        """Forget the blob and delete its file. Links stay: they are facts about the upstream."""
        self._blobs.delete(str(digest))
        self._recency.delete(str(digest))

    def bytes(self) -> int:
        """Bytes in all blob files."""
        return int(self._blobs.reset("size"))

    def count(self) -> int:
        """Number of blobs."""
        return len(self._blobs)

    # -- order of use: a queue. diskcache hands rows out in the order of insertion, so to use is to insert anew.

    def used(self, digests: Iterable[Digest]) -> None:
        """These were used just now, in this order."""
        with self._recency.transact():
            for digest in digests:
                self._recency.delete(str(digest))
                self._recency.set(str(digest), 0)

    def least_recently_used(self) -> Digest | None:
        """The blob that was not used for the longest time; None if there is none."""
        while True:
            try:
                key, _ = self._recency.peekitem(last=False)
            except KeyError:
                return None
            digest = Digest.parse(key)
            if digest is not None and key in self._blobs:
                return digest
            self._recency.delete(key)

    # -- links

    def link(self, repository: str, digest: Digest, link: Link) -> None:
        """`digest` is part of `repository`: the upstream gave it out there."""
        self._links.set(f"{repository} {digest}", [link.media_type], expire=_FORGET)

    def linked(self, repository: str, digest: Digest) -> Link | None:
        """The link between the two, if there is one."""
        row = self._links.get(f"{repository} {digest}")
        return Link(str(row[0])) if isinstance(row, list) and len(row) == 1 else None

    def unlink(self, repository: str, digest: Digest) -> None:
        """`digest` is no part of `repository` any more."""
        self._links.delete(f"{repository} {digest}")

    def expire(self) -> None:
        """Delete links that were not seen anew for long."""
        self._links.expire()
