"""What the store knows: which blobs there are, which repositories they belong to, and facts that others keep here.

Responsible for the rows and for the order in which blobs were used. Must not know how bytes are written or
served, and decides nothing about access: a link is a fact, what it allows is decided elsewhere.
Everything here blocks for microseconds (diskcache on SQLite); callers run it in threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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
#: Comes after every digest that a key could end with.
_AFTER_DIGESTS: Final = "~"
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


@dataclass(frozen=True, slots=True)
class Use:
    """When a blob was last used (seconds since the epoch, 0 if nobody knows), and how often it was read here."""

    last: float = 0.0
    hits: int = 0


class Index:
    """The rows below one folder. Safe for several threads and processes (SQLite in WAL mode)."""

    def __init__(self, root: Path, busy: float) -> None:
        with contextlib.ExitStack() as opened:
            self._blobs, self._recency, self._links, self._facts = (
                opened.enter_context(contextlib.closing(Rows(folder, busy))) for folder in folders(root)
            )
            self._blobs.order_by_date()
            opened.pop_all()
        #: How often each was read since that was last written down; what was read last at the end.
        self._touched: dict[Digest, int] = {}
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
        self._use({digest: 0})
        self._blobs.set(str(digest), Adopted(name, size), tag=str(size))

    def rediscover(self, name: str, size: int) -> bool:
        """As `adopt`, for a file that was found without a row and is not verified. Not if there is another. Done?"""
        digest = names.digest_of(name)
        if digest is None:
            return False
        with self._blobs.transact():
            if self.find(digest) is not None:
                return False
            self._recency.add(str(digest), [int(time.time()), 0])
            self._blobs.set(str(digest), Adopted(name, size), tag=f"{size}{_UNVERIFIED}")
            self._blobs.date(str(digest), 0)
        return True

    # -- when blobs were verified: the dates of their rows. What is adopted is verified.

    def believe(self, digest: Digest, row: Adopted) -> None:
        """The file of `row` was verified just now."""
        self._blobs.retag(str(digest), row.name, str(row.size), time.time())

    def due(self, interval: float) -> tuple[Digest, Adopted] | None:
        """A blob that was not verified for `interval` seconds; of several, the one that waits for longest.

        One that was verified that far in the future is due as well: the clock was wrong.
        """
        now = time.time()
        while (key := self._blobs.dated_outside(now - interval, now + interval)) is not None:
            digest = Digest.parse(key)
            row = self.find(digest) if digest is not None else None
            if digest is not None and row is not None:
                return digest, row
            self._blobs.date(key, now)  # no blob of ours, and in nobody's way for so long
        return None

    def postpone(self, digest: Digest, interval: float, seconds: float) -> None:
        """Of those that are due every `interval` seconds this one is due in so many, not verified as it is."""
        self._blobs.date(str(digest), time.time() - interval + min(seconds, interval))

    def find(self, digest: Digest) -> Adopted | None:
        """The file that holds `digest`, with the size that it must have; None if there is none."""
        row, tag = self._blobs.get(str(digest), tag=True)
        return _blob_of(digest, row, tag)

    def owns(self, name: str) -> bool:
        """Is the file `name` the blob that it says?"""
        digest = names.digest_of(name)
        row = self.find(digest) if digest is not None else None
        return row is not None and row.name == name

    def drop(self, digest: Digest, only: Adopted | None = None) -> bool:
        """Forget the blob and delete its file; with `only`, unless another file has replaced that one. Done?

        Links stay: they are facts about the upstream.
        """
        if only is None:
            self._blobs.delete(str(digest))
        elif not self._blobs.delete_file(str(digest), only.name):
            return False
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
            self._touched[digest] = self._touched.pop(digest, 0) + 1
            return len(self._touched) >= _BATCH

    def flush(self) -> None:
        """Write down what was read."""
        with self._touching:
            touched, self._touched = self._touched, {}
        if touched:
            self._use(touched)

    def _use(self, reads: Mapping[Digest, int]) -> None:
        """They were used just now, and read so many times."""
        now = int(time.time())
        with self._recency.transact():
            for digest, times in reads.items():
                hits = _use_of(self._recency.pop(str(digest))).hits
                self._recency.set(str(digest), [now, hits + times])

    def least_recently_used(self, spared: Callable[[Digest], bool]) -> Digest | None:
        """The blob that was not used for the longest time, but for those that are spared; None if there is none.

        Those go behind all others, so that they are not met again and again.
        """
        self.flush()
        for _ in range(len(self._recency)):
            oldest = self._oldest()
            if oldest is None or not spared(oldest[0]):
                return oldest and oldest[0]
            self._put_behind(oldest[0])
        return None

    def _put_behind(self, digest: Digest) -> None:
        """To the end of the order, without being used."""
        with self._recency.transact():
            use = _use_of(self._recency.pop(str(digest)))
            self._recency.set(str(digest), [use.last, use.hits])

    def unused_since(self, moment: float, spared: Callable[[Digest], bool]) -> Digest | None:
        """A blob that was last used before `moment` (epoch seconds), but for those that are spared; None without."""
        self.flush()
        for _ in range(len(self._recency)):
            oldest = self._oldest()
            if oldest is None or oldest[1] >= moment:
                return None
            if oldest[1] == 0:  # when is not known
                self._use({oldest[0]: 0})
            elif spared(oldest[0]):
                self._put_behind(oldest[0])
            else:
                return oldest[0]
        return None

    def _oldest(self) -> tuple[Digest, float] | None:
        """The first in the order of use, and when that was."""
        while True:
            try:
                key, used = self._recency.peekitem(last=False)
            except KeyError:
                return None
            digest = Digest.parse(key)
            if digest is not None and key in self._blobs:
                return digest, _use_of(used).last
            self._recency.delete(key)

    def enlist(self, going_on: Callable[[], bool], present: Callable[[str, int], bool]) -> None:
        """Forget blobs whose file is not `present`, and give every other one a place in the order of use.

        A power failure can take back that a row was deleted, and not that its file was; a blob that has no place
        (that database was lost) would never be evicted.
        """
        for key in self._blobs:
            if not going_on():
                return
            digest = Digest.parse(key)
            row = self.find(digest) if digest is not None else None
            if digest is None:
                self._blobs.delete(key)
            elif row is not None and not present(row.name, row.size):
                self.drop(digest, row)
            elif key not in self._recency:
                self._recency.add(key, [int(time.time()), 0])

    # -- all of them, for those who look after the store

    def blobs(self) -> Iterator[tuple[Digest, Adopted]]:
        """Every blob with its file."""
        for key, value, tag in self._blobs.scan():
            digest = Digest.parse(key)
            row = _blob_of(digest, value, tag) if digest is not None else None
            if digest is not None and row is not None:
                yield digest, row

    def use(self, digest: Digest) -> Use:
        """When `digest` was used, and how often."""
        return _use_of(self._recency.get(str(digest)))

    def repositories(self) -> Iterator[str]:
        """Every repository that something is linked to, each once. Takes time by their number, not by that of links."""
        key = self._links.following("")
        while key is not None:
            repository = key.partition(" ")[0]
            yield repository
            key = self._links.following(f"{repository} {_AFTER_DIGESTS}")

    def members(self, repository: str) -> Iterator[tuple[Digest, Link]]:
        """All that is linked to `repository`."""
        for key, row, _ in self._links.scan(f"{repository} "):
            digest, link = Digest.parse(key.rpartition(" ")[2]), _link_of(row)
            if digest is not None and link is not None:
                yield digest, link

    def facts(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Every fact whose key begins so."""
        return ((key, value) for key, value, _ in self._facts.scan(prefix))

    # -- links

    def link(self, repository: str, digest: Digest, link: Link) -> None:
        """`digest` is part of `repository`: the upstream gave it out there."""
        self._links.set(f"{repository} {digest}", [link.media_type], expire=_FORGET)

    def linked(self, repository: str, digest: Digest) -> Link | None:
        """The link between the two, if there is one."""
        return _link_of(self._links.get(f"{repository} {digest}"))

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


def _blob_of(digest: Digest, row: Any, tag: object) -> Adopted | None:
    """The file that a row names, if it can be one of `digest`."""
    if not isinstance(row, Adopted) or names.digest_of(row.name) != digest or not isinstance(tag, str):
        return None
    size = tag.removesuffix(_UNVERIFIED)
    return Adopted(row.name, int(size), verified=size == tag) if size.isdecimal() else None


def _use_of(row: Any) -> Use:
    """What a row says of a use; a number alone is its time, as rows were before they counted."""
    match row:
        case [int() | float() as last, int() as hits]:
            return Use(last, hits)
        case int() | float() as last:
            return Use(last)
    return Use()


def _link_of(row: Any) -> Link | None:
    return Link(str(row[0])) if isinstance(row, list) and len(row) == 1 else None
