"""Whether a proxy variable, or the URL of a mirror, leads to the cache.

Responsible for comparing places by name and by address. Must not know whose variable it is.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from pullthrough.doctor.asking import SECONDS, in_time
from pullthrough.doctor.target import Place
from pullthrough.parent import ParentProxy, parse


def proxy_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of the variable that Go's clients, and so all engines, use for HTTPS; upper case first."""
    return next(
        ((name, environ[name].strip()) for name in ("HTTPS_PROXY", "https_proxy") if environ.get(name)), ("", "")
    )


def proxied_by(environ: Mapping[str, str]) -> Place | None:
    """Where that variable leads; None if it is not set, or cannot be read."""
    return place_of(proxy_of(environ)[1])


def place_of(url: str) -> Place | None:
    """The host and port of a proxy or a mirror; None for what is neither."""
    try:
        proxy = parse(url)
    except ValueError:
        return None
    return Place(proxy.host, proxy.port)


def leads_to(found: Place | ParentProxy | None, cache: Place) -> bool:
    """Is this the cache, by whatever name?"""
    if found is None or found.port != cache.port:
        return False
    return found.host == cache.host or bool(set(addresses(found.host)) & set(addresses(cache.host)))


def addresses(host: str) -> tuple[str, ...]:
    """What a name resolves to here, in order; nothing if it does not, or not in time."""
    try:
        found = in_time(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), SECONDS)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(info[4][0]) for info in found))
