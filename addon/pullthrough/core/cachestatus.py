"""How the cache handled a request, in the words of RFC 9211 (Cache-Status).

One value gives the header, the log line and the metrics their words, so that they cannot disagree. Knows
nothing of why; `detail` is somebody else's sentence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

CACHE_NAME = "pullthrough"
MAX_DETAIL = 300

# RFC 9211 section 2.2.
FORWARDED = frozenset({"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"})

_NOT_IN_A_STRING = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """One member of a Cache-Status header.

    `fwd` is why the request went upstream, one of `FORWARDED`; with `hit` it did not go there, so a value
    with both raises ValueError, as does an unknown `fwd`. `fwd_status` is the upstream's status code.
    Neither means that the proxy answered by itself, from no cached content.
    """

    hit: bool = False
    fwd: str | None = None
    stored: bool = False
    collapsed: bool = False
    fwd_status: int | None = None
    detail: str | None = None

    def __post_init__(self) -> None:
        if self.fwd is not None and self.fwd not in FORWARDED:
            raise ValueError(f"{self.fwd!r} is not a reason to forward in RFC 9211")
        if self.hit and self.fwd is not None:
            raise ValueError("hit and fwd exclude each other (RFC 9211 section 2.2)")

    @property
    def outcome(self) -> str:
        """One short word: hit, collapsed, a value of `fwd`, or "local"."""
        if self.hit:
            return "hit"
        return "collapsed" if self.collapsed else self.fwd or "local"

    def header(self) -> str:
        """The header's value, such as `pullthrough; fwd=miss; stored`."""
        return "; ".join([CACHE_NAME, *self._parameters()])

    def _parameters(self) -> Iterator[str]:
        if self.hit:
            yield "hit"
        if self.fwd is not None:
            yield f"fwd={self.fwd}"
        if self.fwd_status is not None:
            yield f"fwd-status={self.fwd_status}"
        if self.stored:
            yield "stored"
        if self.collapsed:
            yield "collapsed"
        if self.detail:
            yield f"detail={_string(self.detail[:MAX_DETAIL])}"


def _string(text: str) -> str:
    """`text` as an RFC 8941 string; characters that those cannot hold become question marks."""
    printable = _NOT_IN_A_STRING.sub("?", text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
