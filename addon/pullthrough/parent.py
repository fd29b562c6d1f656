"""The corporate parent proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).

Responsible for one question: through which proxy is this host reached? Must not know who asks.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pullthrough.guard import is_loopback, literal

_PORTS: Final = {"http": 80, "https": 443}
_FORM: Final = "a proxy is given as http://[user:password@]host:port, special characters as %XX"


class ParentError(ValueError):
    """A proxy variable that cannot be used. The text names it and never its value, which may hold a password."""


@dataclass(frozen=True, slots=True, repr=False)
class ParentProxy:
    """One proxy to go through. `authorization` is the value of Proxy-Authorization, or None."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    authorization: str | None = None

    @property
    def via(self) -> tuple[Literal["http", "https"], tuple[str, int]]:
        """As mitmproxy names a proxy to go through."""
        return self.scheme, (self.host, self.port)

    @property
    def url(self) -> str:
        """Without credentials, so that it may be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"ParentProxy({self.url})"

    def __str__(self) -> str:
        return self.url


def parse(url: str) -> ParentProxy:
    """Read a proxy URL as curl does: a missing scheme is http. ValueError says what is wrong, without the URL."""
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:  # its text quotes what may be a part of the password
        raise ValueError(_FORM) from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{parts.scheme} is not supported; only http and https proxies are")
    if not host:
        raise ValueError(_FORM)
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return ParentProxy(scheme, host, port or _PORTS[scheme], _authorization(parts))


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if parts.username is None:
        return None
    user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class ParentProxies:
    """The environment's choice of proxy for each host. Lower-case variables win, as in curl. `ParentError`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        found = {scheme: _proxy(environ, f"{scheme}_proxy", "all_proxy") for scheme in _PORTS}
        self._by_scheme = {scheme: proxy for scheme, proxy in found.items() if proxy is not None}
        self._exempt = _Exempt(_variable(environ, "no_proxy")[1])

    def __iter__(self) -> Iterator[ParentProxy]:
        return iter(dict.fromkeys(self._by_scheme.values()))

    def forget(self, proxy: ParentProxy) -> None:
        """Never use `proxy` again: it turned out to be ourselves."""
        self._by_scheme = {scheme: other for scheme, other in self._by_scheme.items() if other != proxy}

    def towards(self, scheme: str, host: str, port: int) -> ParentProxy | None:
        """The proxy that leads to this origin; None for a direct connection."""
        proxy = self._by_scheme.get(scheme)
        return None if proxy is None or self._exempt.covers(host, port) else proxy


class _Exempt:
    """NO_PROXY as curl and Go's clients read it, for whom it was written.

    Names with their subdomains, `*`, addresses and networks; each perhaps with a port. Loopback needs no mention.
    """

    def __init__(self, value: str) -> None:
        self._entries = [entry.lower() for entry in re.split(r"[\s,]+", value) if entry]

    def covers(self, host: str, port: int) -> bool:
        """Is this host reached directly?"""
        name = host.lower().rstrip(".").strip("[]")
        if name == "localhost" or is_loopback(name):
            return True
        return any(_matches(entry, name, port) for entry in self._entries)


def _matches(entry: str, name: str, port: int) -> bool:
    if entry == "*":
        return True
    pattern, wanted = _split_port(entry)
    if wanted is not None and wanted != port:
        return False
    address = literal(name)
    if address is not None:
        return _is_in(pattern, address)
    return (name == pattern.lstrip("*.") and not pattern.startswith("*.")) or name.endswith(f".{pattern.lstrip('*.')}")


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port` in two. An IPv6 address without brackets has colons, but no port."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return entry.strip("[]"), None


def _is_in(pattern: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _proxy(environ: Mapping[str, str], *names: str) -> ParentProxy | None:
    name, value = _variable(environ, *names)
    try:
        return parse(value) if value else None
    except ValueError as error:
        raise ParentError(f"{name}: {error}") from None


def _variable(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of `names` that is set and its value, lower case first.

    HTTP_PROXY in capitals counts: we are no CGI program.
    """
    spellings = (spelling for name in names for spelling in (name, name.upper()))
    return next(((spelling, value) for spelling in spellings if (value := environ.get(spelling, "").strip())), ("", ""))
