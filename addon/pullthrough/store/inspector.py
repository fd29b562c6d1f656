"""Stored blobs, read again and compared with their digests.

Responsible for a finding on each blob, and for what follows from it. Must not know when, how fast, or for whom.
Everything here blocks; callers run it in threads.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store import names
from pullthrough.store.disk import Adopted
from pullthrough.store.faults import is_bad_medium
from pullthrough.store.opened import Shelf
from pullthrough.store.quarantine import Quarantine

#: A blob that could not be judged is due again after so many seconds.
_AGAIN: Final = 3600.0


class Verdict(enum.StrEnum):
    """What a blob was found to be."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    #: A file of which the index does not know; it was not read.
    WITHOUT_ROW = "without row"


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at one blob. `name` is its file below the store's root; `mended` is what was done about it."""

    name: str
    verdict: Verdict
    reason: str = ""
    #: Is the blob to blame, and not the moment?
    damaged: bool = False
    mended: bool = False

    @property
    def inconclusive(self) -> bool:
        """Was it the moment, and not the blob?"""
        return self.verdict is Verdict.UNREADABLE and not self.damaged


class Inspector:
    """Looks at stored blobs, and has those put aside that are damaged."""

    def __init__(self, shelf: Shelf, quarantine: Quarantine) -> None:
        self._files = shelf.files
        self._index = shelf.index
        self._quarantine = quarantine

    def inspect(
        self, digest: Digest, row: Adopted, paid: Callable[[int], object], *, from_disk: bool = True
    ) -> Finding | None:
        """Read the file of `row`; None if it was evicted or replaced meanwhile. Changes nothing.

        `paid` and `from_disk` are as for `BlobFiles.holds`.
        """
        finding = self._judge(digest, row, paid, from_disk=from_disk)
        if finding.verdict is Verdict.RIGHT or self._index.find(digest) == row:
            return finding
        return None

    def conclude(self, digest: Digest, row: Adopted, finding: Finding) -> Finding | None:
        """Believe it, or put it aside: None if it was replaced meanwhile. Nothing follows from what is inconclusive."""
        if finding.damaged:
            return replace(finding, mended=True) if self._quarantine.condemn(digest, row, finding.reason) else None
        if finding.verdict is Verdict.RIGHT:
            self._index.believe(digest, row)
        return finding

    def postpone(self, digest: Digest, interval: float) -> None:
        """Others that are due every `interval` seconds go first: this one is due again after a while."""
        self._index.postpone(digest, interval, _AGAIN)

    def survey(self, paid: Callable[[int], object], *, repair: bool) -> Iterator[Finding]:
        """A look at everything that there is; with `repair`, what follows from it. Other processes go on meanwhile.

        Files without a row come last: a row whose own file is damaged must not be in the way of another one.
        """
        for digest, _ in self._index.blobs():
            yield from self._look_at(digest, paid, repair=repair)
        for folder in sorted(self._files.folders()):
            for name in sorted(self._files.blobs(folder)):
                lost = names.digest_of(name)
                if lost is not None and not self._index.owns(name):
                    yield from self._settle(name, repair=repair)
                    if self._index.owns(name):
                        yield from self._look_at(lost, paid, repair=repair)

    def find(self, digest: Digest) -> tuple[Digest, Adopted] | None:
        """What is to be inspected, if it is there."""
        row = self._index.find(digest)
        return None if row is None else (digest, row)

    def due(self, interval: float) -> tuple[Digest, Adopted] | None:
        """The blob that waits for longest, if there is one that was not verified for so many seconds."""
        return self._index.due(interval)

    def _look_at(self, digest: Digest, paid: Callable[[int], object], *, repair: bool) -> Iterator[Finding]:
        row = self._index.find(digest)
        finding = self.inspect(digest, row, paid) if row is not None else None
        if row is not None and finding is not None and repair:
            finding = self.conclude(digest, row, finding)
        if finding is not None:
            yield finding

    def _judge(self, digest: Digest, row: Adopted, paid: Callable[[int], object], *, from_disk: bool) -> Finding:
        try:
            fd = self._files.open(row.name, row.size)
            if fd is None:
                if os.path.lexists(self._files.root / row.name):
                    return Finding(row.name, Verdict.WRONG, f"it is no file of {row.size} bytes", damaged=True)
                return Finding(row.name, Verdict.MISSING, "there is no file", damaged=True)
            try:
                right = self._files.holds(fd, digest, paid=paid, from_disk=from_disk)
            finally:
                os.close(fd)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            return Finding(row.name, Verdict.UNREADABLE, reason, damaged=is_bad_medium(error))
        if right:
            return Finding(row.name, Verdict.RIGHT)
        return Finding(row.name, Verdict.WRONG, "its bytes have another digest", damaged=True)

    def _settle(self, name: str, *, repair: bool) -> Iterator[Finding]:
        """A file without a row: taken over or, if it is one too many, deleted. Not if its commit is still under way."""
        found = []

        def adopt(lost: Mapping[str, int]) -> Container[str]:
            found.append(Finding(name, Verdict.WITHOUT_ROW, mended=repair))
            return self._index.rediscover(lost) if repair else lost

        try:
            self._files.settle([name], self._index.owns, adopt)
        except OSError as error:
            found = [Finding(name, Verdict.UNREADABLE, error.strerror or type(error).__name__)]
        yield from found
