"""Certificates as far as a client's trust needs them: are they the same, and since when and until when are they valid.

Responsible for PEM. Must not know where it came from.
"""

from __future__ import annotations

import base64
import re
import ssl
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def parse(text: str) -> frozenset[bytes]:
    """The certificates of a PEM file in DER; what is damaged or something else is left out."""
    found = set()
    for body in _PEM.findall(text):
        try:
            found.add(base64.b64decode("".join(body.split()), validate=True))
        except ValueError:
            continue
    return frozenset(found - {b""})


def context(certificates: frozenset[bytes]) -> ssl.SSLContext:
    """A client context that trusts exactly these. ssl.SSLError if one of them is no certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=b"".join(sorted(certificates)))
    return made


def validity(certificates: frozenset[bytes]) -> tuple[float, float]:
    """From when until when all of them are valid, in seconds since the epoch. ssl.SSLError as `context`."""
    known = context(certificates).get_ca_certs()
    begin, end = ([ssl.cert_time_to_seconds(str(each[key])) for each in known] for key in ("notBefore", "notAfter"))
    return float(max(begin)), float(min(end))
