"""What the store knows: which blobs there are, which repositories they belong to, and facts that others keep here.

Responsible for the rows and for the order in which blobs were used. Must not know how bytes are written or
served, and decides nothing about access: a link is a fact, what it allows is decided elsewhere.
Everything here blocks for microseconds (diskcache on SQLite); callers run it in threads.
"""

from __future__ import annotations

import contextlib
import itertools
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
#: A use that is so many seconds in the future was dated by a clock that was wrong.
_WRONG: Final = 300.0
#: Uses that are remembered before they are written down together.
_BATCH: Final = 128
#: Rows that are written, or dropped, in one transaction. Others wait so long.
_TOGETHER: Final = 256


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
        #: When each was read, and how often since that was last written down; what was read last at the end.
        self._touched: dict[Digest, Use] = {}
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
        self._use({digest: Use(time.time())})
        self._blobs.set(str(digest), Adopted(name, size), tag=str(size))

    def rediscover(self, found: Mapping[str, int]) -> set[str]:
        """As `adopt`, for files that were found without a row and are not verified, by name and size.

        The names of those that were adopted: not if there is another file of the same blob.
        """
        adopted, now = set(), int(time.time())
        with self._blobs.transact(), self._recency.transact():
            for name, size in found.items():
                digest = names.digest_of(name)
                if digest is not None and self.find(digest) is None:
                    self._recency.add(str(digest), [now, 0])
                    self._blobs.set(str(digest), Adopted(name, size), tag=f"{size}{_UNVERIFIED}")
                    self._blobs.date(str(digest), 0)
                    adopted.add(name)
        return adopted

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
        row = only or self.find(digest)
        if row is None or not self._blobs.discard([(str(digest), row.name)]):
            return False
        self._recency.delete(str(digest))
        return True

    def folders(self) -> set[str]:
        """The folders in which files should be, relative to the root."""
        return {folder for beginning in self._blobs.beginnings() if (folder := names.folder_of(beginning)) is not None}

    def files(self, folder: str) -> set[str]:
        """The names of all files in `folder` that are somebody's blob."""
        return self._blobs.adopted(names.beginning_in(folder))

    def bytes(self) -> int:
        """Bytes in all blob files."""
        return int(self._blobs.reset("size"))

    def count(self) -> int:
        """Number of blobs."""
        return len(self._blobs)

    # -- order of use: a queue. What is used is put last, what goes is taken from the front.

    def touch(self, digest: Digest) -> bool:
        """`digest` was read. Only remembered; True when so much is remembered that it is time to `flush`."""
        with self._touching:
            before = self._touched.pop(digest, None)
            self._touched[digest] = Use(time.time(), before.hits + 1 if before is not None else 1)
            return len(self._touched) >= _BATCH

    def flush(self) -> None:
        """Write down what was read."""
        with self._touching:
            touched, self._touched = self._touched, {}
        if touched:
            self._use(touched)

    def _use(self, uses: Mapping[Digest, Use]) -> None:
        """They were used then, and read so many times more."""
        self._put_last(
            {str(digest): [round(use.last, 3), self.use(digest).hits + use.hits] for digest, use in uses.items()}
        )

    def _put_last(self, uses: Mapping[str, Any]) -> None:
        for some in itertools.batched(uses.items(), _TOGETHER):
            with self._recency.transact():
                for key, used in some:
                    self._recency.put_last(key, used)

    def evict(self, wanted: int, spared: Callable[[Digest], bool]) -> int:
        """Drop what was not used for longest and is not spared: `wanted` bytes, or as many blobs as go at once.

        How many went; 0 if there are none.
        """
        return self._drop_oldest(spared, lambda use, freed: freed >= wanted)

    def retire(self, before: float, spared: Callable[[Digest], bool]) -> int:
        """Drop what was last used before that moment (epoch seconds) and is not spared, as many as go at once.

        How many went. A use of which the time is not known, or is still to come, counts as now.
        """
        now, unknown = int(time.time()), {}
        for _, key, row in self._recency.in_order():
            use = _use_of(row)
            if use.last and use.last <= now + _WRONG:
                break
            unknown[key] = [now, use.hits]
        self._put_last(unknown)
        return self._drop_oldest(spared, lambda use, freed: not use.last or use.last >= before)

    def _drop_oldest(self, spared: Callable[[Digest], bool], until: Callable[[Use, int], bool]) -> int:
        """Go through the order of use and drop blobs `until` the next one's use, or the bytes so far, say so.

        What is spared goes behind all others, so that it is not met again and again: its time of use stays.
        """
        self.flush()
        victims, places, passed, freed = list[tuple[str, str]](), list[tuple[int, str]](), dict[str, Any](), 0
        for number, key, row in self._recency.in_order():
            digest, use = Digest.parse(key), _use_of(row)
            if digest is not None and spared(digest):
                passed[key] = [use.last, use.hits]
                continue
            if len(victims) == _TOGETHER or until(use, freed):
                break
            places.append((number, key))
            if digest is not None and (blob := self.find(digest)) is not None:
                victims.append((key, blob.name))
                freed += blob.size
            else:
                self._drop_foreign(key)
        self._blobs.discard(victims)
        self._recency.forget(places)
        if victims:
            self._put_last(passed)
        return len(victims)

    def _drop_foreign(self, key: str) -> None:
        """Delete a row that we did not write, if there is one."""
        if key in self._blobs:
            with self._blobs.transact():
                digest = Digest.parse(key)
                if digest is None or self.find(digest) is None:
                    self._blobs.delete(key)

    def enlist(self, going_on: Callable[[], bool]) -> None:
        """Give every blob a place in the order: one that has none (that database was lost) would never be evicted."""
        for keys in self._blobs.pages():
            if not going_on():
                return
            lacking = self._recency.lacking(keys)
            for key in lacking:
                if Digest.parse(key) is None:
                    self._drop_foreign(key)
            self._put_last({key: [int(time.time()), 0] for key in lacking if Digest.parse(key) is not None})

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
