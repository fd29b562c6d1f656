"""How log records look: text for people, JSON for machines.

Responsible for the format, and for keeping secrets out of it. Must not know who logs.
Traffic (logger `pullthrough.traffic`) is one record for each request or tunnel, with its fields in `extra`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

#: The fields of a traffic record, in the order in which they are shown.
FIELDS: Final = (
    "client",
    "method",
    "host",
    "repository",
    "reference",
    "status",
    "outcome",
    "detail",
    "bytes",
    "ms",
)

#: Names of fields whose whole value is a secret, and of parameters whose value is.
_FIELD: Final = r"(?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:auth|token|key|secret|api)[\w-]*"
_PARAMETER: Final = r"[\w-]*(?:passw(?:or)?d|passphrase|secret|token|signature|credential|api[_-]?key)|sig"
#: Where a name begins: also after a line break that a repr spells out.
_BEGIN: Final = r"(?:(?<![\w-])|(?<=\\[nr]))"
#: What a value may follow its name with: in a head, in a query, in JSON and in a repr.
_JOINED: Final = r"[\"']?\s*[:=]\s*(?:b(?=[\"']))?[\"']?"
_JOINED_IN_PAIR: Final = r"[\"']?\s*[:=,]\s*(?:b(?=[\"']))?[\"']?"
#: Applied in this order.
_SECRETS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # what follows `?` in a URL is a signature as likely as not
        (r"(?<=[^\s?])\?[^\s\"'<>]+", "?..."),
        (r"(\w://)[^\s/\"'<>]*@", r"\1...@"),
        # up to the end of the line, real or in a repr
        (rf"{_BEGIN}({_FIELD})({_JOINED_IN_PAIR})(?:(?!\\[rn]|[\"'\r\n]).)+", r"\1\2..."),
        (rf"{_BEGIN}({_PARAMETER})({_JOINED})[^\s\"'&,;<>]+", r"\1\2..."),
        (r"\b(Basic|Bearer|Negotiate|NTLM)\s+(?!realm=)[^\s\"'<>]{4,}", r"\1 ..."),
    )
)


def redacted(text: str) -> str:
    """`text` without query strings, user parts of URLs, cookies, and the values of whatever is named as a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = ((name, getattr(record, name, None)) for name in FIELDS)
    return {name: redacted(value) if isinstance(value, str) else value for name, value in given if value is not None}


class TextFormatter(logging.Formatter):
    """One line of text: time, level, message, then `key=value` for each field."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows, on lines that cannot be taken for others."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        pairs = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        line = f"{when}Z {record.levelname:<7} {_one_line(redacted(record.getMessage()))}{pairs}"
        trace = redacted(self.formatException(record.exc_info)).splitlines() if record.exc_info else ()
        return "\n".join([line, *(f"    {_one_line(text)}" for text in trace)])


class JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": redacted(record.getMessage()),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps(entry)


def _word(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text) if not text or set(text) & set(' "=') else text


def _one_line(text: str) -> str:
    """Nobody forges a log line: what cannot be printed is escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def configure(form: str, level: str) -> None:
    """Log to stderr, from now on, in this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # mitmproxy tells of every connection; at our levels that is what `debug` is for.
    logging.getLogger("mitmproxy").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    # Else it writes a line for each question that --resolver refuses.
    logging.getLogger("mitmproxy_rs").setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
