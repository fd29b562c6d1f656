"""Hosts that an operator's registry sends its clients to: token servers and storage on ports of their own.

Responsible for learning them from challenges and redirects, so that a client behind the proxy may reach them.
Must not know tunnels; it only answers whether a registry named this end-point.
"""

from __future__ import annotations

import re
import urllib.parse
from collections import OrderedDict
from typing import Final

from pullthrough.core.headers import Headers
from pullthrough.siblings import Siblings

_REALM: Final = re.compile(r'\brealm\s*=\s*"([^"]{1,2048})"', re.IGNORECASE)
_MAX: Final = 1024


class Neighbours:
    """End-points (host, port) that were named; the oldest are forgotten beyond a bound."""

    def __init__(self, siblings: Siblings | None = None) -> None:
        self._known: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._siblings = siblings or Siblings()
        self._siblings.hear("neighbour", self._put)

    def learn(self, base: str, headers: Headers) -> None:
        """Take note of the realms (RFC 6750) and the Location in an answer of the registry at `base`."""
        realms = [realm for value in headers.all("www-authenticate") for realm in _REALM.findall(value)]
        for url in (*realms, *headers.all("location")):
            endpoint = _endpoint(base, url)
            if endpoint is not None:
                if endpoint not in self._known:
                    self._siblings.tell("neighbour", *endpoint)
                self._put(*endpoint)

    def _put(self, host: str, port: int) -> None:
        self._known[host, port] = None
        self._known.move_to_end((host, port))
        while len(self._known) > _MAX:
            self._known.popitem(last=False)

    def named(self, host: str, port: int) -> bool:
        """Did a registry name this end-point?"""
        return (host.lower().rstrip("."), port) in self._known


def _endpoint(base: str, url: str) -> tuple[str, int] | None:
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        return parts.hostname.lower().rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
