"""An immutable, ordered, case-insensitive multi-map of HTTP fields.

Responsible for looking fields up and for knowing which of them may cross a proxy.
Must not know where the fields came from or where they go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

#: RFC 9110 section 7.6.1, and the older fields that some peers still send.
HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)

#: Fields that decide nothing about access. The list is of the harmless ones because nobody can list the others: next to
#: Authorization and Cookie, registries take keys in fields of their own (X-JFrog-Art-Api, Private-Token, ...), and
#: proxies before them vouch for users in still others. One that is missing here costs a check and gives nothing away.
_HARMLESS: Final = re.compile(
    r"accept(-.+)?|user-agent|host|range|if-.+|cache-control|pragma|content-(length|type|encoding)|expect|date|dnt|via"
    r"|docker-distribution-api-version|x-request-id|x-correlation-id|request-id|traceparent|tracestate|baggage"
    r"|uber-trace-id|b3|x-b3-.+|x-amzn-trace-id|x-cloud-trace-context",
    re.IGNORECASE,
)


class Headers:
    """Fields in the order in which they came; names compare without case. Never changes: methods return copies."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = tuple(fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        # Values may be credentials: a repr that lands in a log or a traceback shows names only.
        return f"Headers({', '.join(name for name, _ in self._fields)})"

    def get(self, name: str) -> str | None:
        """The first value of `name`, or None."""
        wanted = name.lower()
        return next((value for key, value in self._fields if key.lower() == wanted), None)

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of `name`, in order."""
        wanted = name.lower()
        return tuple(value for key, value in self._fields if key.lower() == wanted)

    def without(self, *names: str) -> Headers:
        """A copy that lacks `names`."""
        gone = {name.lower() for name in names}
        return Headers((key, value) for key, value in self._fields if key.lower() not in gone)

    def only(self, *names: str) -> Headers:
        """A copy that has nothing but `names`."""
        kept = {name.lower() for name in names}
        return Headers((key, value) for key, value in self._fields if key.lower() in kept)

    def having(self, name: str, value: str) -> Headers:
        """A copy in which `name` has just this value."""
        return Headers((*self.without(name), (name, value)))

    def adding(self, name: str, value: str) -> Headers:
        """A copy with one more line of `name`."""
        return Headers((*self._fields, (name, value)))

    def end_to_end(self) -> Headers:
        """A copy without hop-by-hop fields, those that Connection names included (RFC 9110 section 7.6.1)."""
        named = {token.strip().lower() for value in self.all("connection") for token in value.split(",")}
        return self.without(*HOP_BY_HOP, *named)

    def credentials(self) -> tuple[tuple[str, str], ...]:
        """The fields that may decide what the sender is allowed to see.

        Sorted by name, so that equal senders compare equal; lines of one name keep their order, which may matter.
        """
        telling = (
            (key.lower(), value)
            for key, value in self._fields
            if key.lower() not in HOP_BY_HOP and not _HARMLESS.fullmatch(key)
        )
        return tuple(sorted(telling, key=lambda field: field[0]))
