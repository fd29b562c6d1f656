"""Which faults are on when, and what clients may suffer from them.

Responsible for the question whether an error is explained. Most faults explain nothing: a full disk, a damaged index or
a lost file is ours to live with, and no client may notice.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class Error(StrEnum):
    """What can go wrong for a client, by what it sees."""

    CONNECTION = "no connection"
    CUT = "answer cut short"
    SILENCE = "no answer in time"
    LIMITED = "429"
    FAILED = "5xx"
    CHALLENGED = "told to log in, where nobody has to"
    REFUSED = "refused, but has the right"
    STRANGE = "answer that is none"
    STALE = "digest that the tag had before"
    WRONG = "wrong bytes"
    LEAK = "content without a right to it"
    CLIENT = "skopeo gave up"


ENDED = frozenset((Error.CONNECTION, Error.CUT, Error.FAILED, Error.CLIENT))
#: Who shows nothing may be asked for more in an outage: nobody knows then what he may have.
UPSTREAM = frozenset((Error.CUT, Error.FAILED, Error.LIMITED, Error.CHALLENGED, Error.STALE))
DAMAGED = frozenset((Error.CUT, Error.CLIENT))
ROTTEN = frozenset((Error.CUT, Error.WRONG, Error.CLIENT))


@dataclass(frozen=True)
class Asked:
    """One request of a client: what it is called, which server was asked, and for which digests; from when to when."""

    what: str
    server: int
    begin: float
    end: float
    digests: frozenset[str] = frozenset()


@dataclass
class Trouble:
    """One fault, from `begin` to `end` (monotonic clock), and what it explains: at one server, for some digests.

    What `heals` is over so many seconds after a client first got wrong bytes for it.
    """

    kind: str
    explains: frozenset[Error]
    begin: float
    end: float = float("inf")
    server: int | None = None
    digests: Collection[str] | None = None
    heals: float | None = None

    def explained(self, error: Error, asked: Asked) -> None:
        """It was the explanation."""
        if error is Error.WRONG and self.heals is not None:
            self.end = min(self.end, asked.end + self.heals)


class Calendar:
    """All troubles so far."""

    def __init__(self) -> None:
        self._troubles: list[Trouble] = []

    def begin(
        self,
        kind: str,
        explains: frozenset[Error],
        *,
        seconds: float = float("inf"),
        server: int | None = None,
        digests: Collection[str] | None = None,
        heals: float | None = None,
    ) -> Trouble:
        """A fault is about to be committed; its effects last for `seconds`, unless it is ended."""
        now = time.monotonic()
        trouble = Trouble(kind, explains, now, now + seconds, server, digests, heals)
        self._troubles.append(trouble)
        return trouble

    @contextmanager
    def during(
        self,
        kind: str,
        explains: frozenset[Error],
        *,
        lingers: float,
        server: int | None = None,
        digests: Collection[str] | None = None,
    ) -> Iterator[Trouble]:
        """The fault is on inside of the block, and its effects for some seconds more."""
        trouble = self.begin(kind, explains, server=server, digests=digests)
        try:
            yield trouble
        finally:
            trouble.end = time.monotonic() + lingers

    def explanation(self, error: Error, asked: Asked) -> Trouble | None:
        """A trouble that was on while this was asked and that explains the error."""
        for trouble in reversed(self._troubles):
            together = trouble.begin <= asked.end and asked.begin <= trouble.end
            here = trouble.server in (None, asked.server)
            about = trouble.digests is None or not asked.digests.isdisjoint(trouble.digests)
            if together and here and about and error in trouble.explains:
                trouble.explained(error, asked)
                return trouble
        return None
