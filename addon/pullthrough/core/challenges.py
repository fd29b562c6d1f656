"""The challenges of a WWW-Authenticate field (RFC 9110 section 11.6.1): read, changed, written again.

Reads what registries send and clients understand, which is more than the grammar allows: values without quotes,
challenges and parameters without a comma between them. What is written is strict. Knows nothing of what a scheme or
a parameter means, nor of how several field lines belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

#: Characters of a field that is read at all.
MAX_FIELD: Final = 8192

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TOKEN68: Final = r"[A-Za-z0-9._~+/-]++=*+"
# Anything but controls: quotes and backslashes are escaped on the wire, a line break would start another field.
_TEXT: Final = r"[^\x00-\x08\x0a-\x1f\x7f]"
_QUOTED: Final = rf'"(?P<quoted>(?:(?!["\\]){_TEXT}|\\{_TEXT})*+)"'
_UNQUOTED: Final = r'[^\x00-\x20\x7f",]++'

# Every repetition is possessive, so that no field can make a match take more than linear time.
_ITEM: Final = re.compile(
    rf"(?:(?P<name>{_WORD})[ \t]*+=[ \t]*+(?:{_QUOTED}|(?P<plain>{_UNQUOTED}))"
    rf"|(?P<scheme>{_WORD})(?:[ \t]++(?P<token68>{_TOKEN68})[ \t]*+(?=,|\Z))?+)[ \t,]*+"
)
_A_WORD: Final = re.compile(_WORD)
_A_TOKEN68: Final = re.compile(_TOKEN68)
_A_TEXT: Final = re.compile(rf"{_TEXT}*+")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: a scheme with either parameters, in order, or one token68, or neither.

    Well formed by construction: ValueError for what cannot be written into a field, such as a line break.
    """

    scheme: str
    params: tuple[tuple[str, str], ...] = ()
    token68: str = ""

    def __post_init__(self) -> None:
        if not _A_WORD.fullmatch(self.scheme):
            raise ValueError("a challenge's scheme is a token")
        if self.token68 and (self.params or not _A_TOKEN68.fullmatch(self.token68)):
            raise ValueError("a token68 has an alphabet of its own and stands alone")
        if not all(_A_WORD.fullmatch(name) and _A_TEXT.fullmatch(value) for name, value in self.params):
            raise ValueError("a parameter is a token and a text without control characters")

    def get(self, name: str) -> str | None:
        """The first value of the parameter `name`, in any case, or None."""
        wanted = name.lower()
        return next((value for key, value in self.params if key.lower() == wanted), None)

    def having(self, name: str, value: str) -> Challenge:
        """A copy in which `name` has just this value, at the place where it was, else at the end.

        Repetitions of the name go, because clients differ in which one they believe; a token68 makes way.
        """
        wanted = name.lower()
        keys = [key.lower() for key, _ in self.params]
        place = keys.index(wanted) if wanted in keys else len(keys)
        before, after = (
            [param for param in part if param[0].lower() != wanted]
            for part in (self.params[:place], self.params[place:])
        )
        return Challenge(self.scheme, (*before, (name, value), *after))

    def without(self, *names: str) -> Challenge:
        """A copy that lacks the parameters `names`."""
        gone = {name.lower() for name in names}
        return replace(self, params=tuple(param for param in self.params if param[0].lower() not in gone))

    def __str__(self) -> str:
        """As in a field, every value as a quoted-string. Several challenges are joined by ", "."""
        detail = self.token68 or ",".join(f"{name}={_quoted(value)}" for name, value in self.params)
        return f"{self.scheme} {detail}" if detail else self.scheme


def parse(value: str) -> tuple[Challenge, ...] | None:
    """The challenges of one field line, at least one; None if it cannot be understood. Never raises."""
    if len(value) > MAX_FIELD:
        return None
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    for item in _items(value.strip(" \t,")):
        if item is None:
            return None
        if item["scheme"]:
            found.append((item["scheme"], item["token68"] or "", []))
        elif not found or found[-1][1]:  # a parameter of no challenge, or of one that has a token68
            return None
        else:
            found[-1][2].append((item["name"], _value(item)))
    return tuple(Challenge(scheme, tuple(params), token68) for scheme, token68, params in found) or None


def _items(text: str) -> Iterator[re.Match[str] | None]:
    """The parameters and the beginnings of challenges in order; None, and no more, at what is neither."""
    place = 0
    while place < len(text):
        item = _ITEM.match(text, place)
        yield item
        place = item.end() if item else len(text)


def _value(item: re.Match[str]) -> str:
    return item["plain"] or _ESCAPED.sub(r"\1", item["quoted"])


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
