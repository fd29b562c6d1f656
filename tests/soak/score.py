"""What happened: counted, and judged.

Responsible for the verdict: which numbers have to be zero. Must not know how anything was brought about.
"""

import time
from collections import Counter
from dataclasses import dataclass, field

from soak.troubles import Asked, Calendar, Error

#: Findings that are told word by word; of the rest the number is enough.
TOLD = 40


@dataclass
class Score:
    """The numbers of one run. `began` is by the monotonic clock."""

    calendar: Calendar
    began: float = field(default_factory=time.monotonic)
    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[Error, str]] = field(default_factory=Counter)
    bytes: int = 0
    #: Sentences about what must not be, by kind.
    findings: dict[str, list[str]] = field(default_factory=dict)
    #: Nothing that clients see counts any more.
    over: bool = False
    interrupted: bool = False

    def right(self, what: str, size: int = 0) -> None:
        """A client got what it asked for, or the refusal that it deserved."""
        self.answers[what] += 1
        self.bytes += size

    def wrong(self, error: Error, asked: Asked, detail: str) -> None:
        """A client got something else. Counted as explained, or a finding."""
        if self.over:
            return
        trouble = self.calendar.explanation(error, asked)
        self.errors[error, trouble.kind if trouble else "UNEXPLAINED"] += 1
        if trouble is None:
            self.found(error, f"{asked.what} at server {asked.server}: {detail} ({asked.end - asked.begin:.1f} s)")

    def found(self, kind: str, sentence: str) -> None:
        """Something is so that must not be."""
        self.findings.setdefault(kind, []).append(f"{time.monotonic() - self.began:7.1f} s  {sentence}")

    def count(self, kind: str) -> int:
        """How many findings of this kind there are."""
        return len(self.findings.get(kind, ()))

    @property
    def clean(self) -> bool:
        """Is every zero a zero?"""
        return not self.findings
