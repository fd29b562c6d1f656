"""What the store knows: which blobs there are, which repositories they belong to, and facts that others keep here.

Responsible for the rows and for the order in which blobs were used. Must not know how bytes are written or
served, and decides nothing about access: a link is a fact, what it allows is decided elsewhere.
Everything here blocks for microseconds (diskcache on SQLite); callers run it in threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pullthrough.core.digest import Digest
from pullthrough.store import names
from pullthrough.store.disk import Adopted, Rows

#: Links that were not seen anew for this long are forgotten (seconds).
_FORGET: Final = 90 * 24 * 3600.0
#: Facts that are kept; beyond, those that were written first go. Strangers can have some written.
_MAX_FACTS: Final = 200_000
#: Stands behind the size of a file that was found and not read yet.
_UNVERIFIED: Final = "?"
#: Uses that are remembered before they are written down together.
_BATCH: Final = 128


@dataclass(frozen=True, slots=True)
class Link:
    """A digest's membership of a repository. `media_type` is what the upstream called it; "" for a blob."""

    media_type: str = ""


def folders(root: Path) -> tuple[Path, Path, Path, Path]:
    """Where the databases are: of blobs, of their use, of links, of facts.

    The first lies in `root` itself: names of adopted files are relative to it.
    """
    return root, root / "recency", root / "links", root / "facts"


class Index:
    """The rows below one folder. Safe for several threads and processes (SQLite in WAL mode)."""

    def __init__(self, root: Path, busy: float) -> None:
        with contextlib.ExitStack() as opened:
            self._blobs, self._recency, self._links, self._facts = (
                opened.enter_context(contextlib.closing(Rows(folder, busy))) for folder in folders(root)
            )
            opened.pop_all()
        self._touched: dict[Digest, None] = {}
        self._touching = threading.Lock()

    def close(self) -> None:
        """Close this thread's connections; they are opened again when need be."""
        for cache in (self._blobs, self._recency, self._links, self._facts):
            cache.close()

    # -- blobs

    def adopt(self, digest: Digest, name: str, size: int) -> None:
        """From now on the file `name` is the blob `digest`; an earlier file of it is deleted.

        Recency first: a row there without a blob is harmless, a blob that is in no order is not evicted.
        """
        self._use((digest,))
        self._blobs.set(str(digest), Adopted(name, size), tag=str(size))

    def rediscover(self, name: str, size: int) -> bool:
        """As `adopt`, for a file that was found without a row and is not verified. Not if there is another. Done?"""
        digest = names.digest_of(name)
        if digest is None:
            return False
        with self._blobs.transact():
            if self.find(digest) is not None:
                return False
            self._recency.add(str(digest), int(time.time()))
            self._blobs.set(str(digest), Adopted(name, size), tag=f"{size}{_UNVERIFIED}")
        return True

    def believe(self, digest: Digest, row: Adopted) -> None:
        """The file of `row` was verified."""
        self._blobs.retag(str(digest), row.name, str(row.size))

    def find(self, digest: Digest) -> Adopted | None:
        """The file that holds `digest`, with the size that it must have; None if there is none."""
        row, tag = self._blobs.get(str(digest), tag=True)
        if not isinstance(row, Adopted) or names.digest_of(row.name) != digest or not isinstance(tag, str):
            return None
        size = tag.removesuffix(_UNVERIFIED)
        return Adopted(row.name, int(size), verified=size == tag) if size.isdecimal() else None

    def owns(self, name: str) -> bool:
        """Is the file `name` the blob that it says?"""
        digest = names.digest_of(name)
        row = self.find(digest) if digest is not None else None
        return row is not None and row.name == name

    def drop(self, digest: Digest, only: Adopted | None = None) -> bool:
        """Forget the blob and delete its file; with `only`, unless another file has replaced that one. Done?

        Links stay: they are facts about the upstream.
        """
        with self._blobs.transact():
            if only is not None and self.find(digest) != only:
                return False
            self._blobs.delete(str(digest))
        self._recency.delete(str(digest))
        return True

    def bytes(self) -> int:
        """Bytes in all blob files."""
        return int(self._blobs.reset("size"))

    def count(self) -> int:
        """Number of blobs."""
        return len(self._blobs)

    # -- order of use: a queue. diskcache hands rows out in the order of insertion, so to use is to insert anew.

    def touch(self, digest: Digest) -> bool:
        """`digest` was read. Only remembered; True when so much is remembered that it is time to `flush`."""
        with self._touching:
            self._touched.pop(digest, None)
            self._touched[digest] = None
            return len(self._touched) >= _BATCH

    def flush(self) -> None:
        """Write down what was read."""
        with self._touching:
            touched, self._touched = self._touched, {}
        if touched:
            self._use(touched)

    def _use(self, digests: Iterable[Digest]) -> None:
        now = int(time.time())
        with self._recency.transact():
            for digest in digests:
                self._recency.delete(str(digest))
                self._recency.set(str(digest), now)

    def least_recently_used(self, spared: Callable[[Digest], bool]) -> Digest | None:
        """The blob that was not used for the longest time, but for those that are spared; None if there is none.

        Those go behind all others, so that they are not met again and again.
        """
        self.flush()
        for _ in range(len(self._recency)):
            oldest = self._oldest()
            if oldest is None or not spared(oldest[0]):
                return oldest and oldest[0]
            self._use((oldest[0],))
        return None

    def unused_since(self, moment: float) -> Digest | None:
        """A blob that was last used before `moment` (epoch seconds); None if there is none."""
        self.flush()
        while (oldest := self._oldest()) is not None and oldest[1] == 0:  # when is not known
            self._use((oldest[0],))
        return oldest[0] if oldest is not None and oldest[1] < moment else None

    def _oldest(self) -> tuple[Digest, float] | None:
        """The first in the order of use, and when that was."""
        while True:
            try:
                key, used = self._recency.peekitem(last=False)
            except KeyError:
                return None
            digest = Digest.parse(key)
            if digest is not None and key in self._blobs:
                return digest, used if isinstance(used, int | float) else 0
            self._recency.delete(key)

    def enlist(self, going_on: Callable[[], bool]) -> None:
        """Give every blob a place in the order: one that has none (that database was lost) would never be evicted."""
        for key in self._blobs:
            if not going_on():
                return
            if Digest.parse(key) is None:
                self._blobs.delete(key)
            elif key not in self._recency:
                self._recency.add(key, int(time.time()))

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

    # -- facts

    def recall(self, key: str) -> Any:
        """The fact that was written down under `key`; None if there is none."""
        return self._facts.get(key)

    def note(self, facts: Mapping[str, tuple[Any, float] | None]) -> None:
        """Write facts down, each for so many seconds; None deletes one. All of them or none."""
        with self._facts.transact():
            for key, fact in facts.items():
                if fact is None:
                    self._facts.delete(key)
                else:
                    self._facts.delete(key)  # so that the order is that of writing
                    self._facts.set(key, fact[0], expire=fact[1])
            while len(self._facts) > _MAX_FACTS:
                self._facts.delete(self._facts.peekitem(last=False)[0])

    # -- both

    def expire(self) -> None:
        """Delete links that were not seen anew for long, and facts whose time is over."""
        self._links.expire()
        self._facts.expire()
