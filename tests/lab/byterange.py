"""The Range header of a request to a server of the lab (RFC 9110 section 14.2), one range only."""

import re
from dataclasses import dataclass

SINGLE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True)
class Part:
    """The bytes first..last of a whole of `size`; empty when last < first."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.last - self.first + 1

    @property
    def content_range(self) -> str:
        """The value of Content-Range."""
        return f"bytes {self.first}-{self.last}/{self.size}"

    def shifted(self, by: int) -> "Part":
        """The same number of bytes from another place, as far as the whole goes."""
        first = min(max(self.first + by, 0), self.size - 1)
        return Part(first, min(self.last + by, self.size - 1), self.size)


def whole(size: int) -> Part:
    """All of it."""
    return Part(0, size - 1, size)


def resolve(header: str | None, size: int) -> Part | None:
    """The part asked for; None is unsatisfiable. No header, or one that we do not read, asks for all."""
    found = SINGLE.match(header or "")
    if found is None or found[0] == "bytes=-":
        return whole(size)
    first, last = found[1], found[2]
    if not first:
        part = Part(max(size - int(last), 0), size - 1, size)
    else:
        part = Part(int(first), min(int(last or size), size - 1), size)
    return part if part.length > 0 else None
