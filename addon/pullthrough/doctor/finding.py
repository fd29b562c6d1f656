"""What a check comes to: its name, how it went, one line and one remedy.

Responsible for keeping both lines printable, whatever a server said. Must not know what was checked.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Final

_LONGEST: Final = 600  # characters; the longest commands of ours fit, and a request with all that Cache-Status says


class Verdict(enum.StrEnum):
    """How a check went. Only FAILED makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome. `text` and `remedy` are single lines without control characters; `remedy` may be empty."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", line(self.text))
        object.__setattr__(self, "remedy", line(self.remedy))

    def as_dict(self) -> dict[str, str]:
        """For `--json`: all four as strings."""
        return {key: str(value) for key, value in asdict(self).items()}


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.OK, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    """Pulls work, or are none of this machine's business, but somebody should look."""
    return Finding(name, Verdict.WARNING, text, remedy)


def failed(name: str, text: str, remedy: str) -> Finding:
    """Pulls fail, or go round the cache."""
    return Finding(name, Verdict.FAILED, text, remedy)


def skipped(name: str, text: str, remedy: str = "") -> Finding:
    """Nothing was learned: what would be checked is not here, or is not ours to see."""
    return Finding(name, Verdict.SKIPPED, text, remedy)


def line(text: str) -> str:
    """`text` on one line, cut to a length; no control character of a stranger's reaches the terminal."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}..."
