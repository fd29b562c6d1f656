"""The corporate parent proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).

Responsible for one question: through which proxy is this host reached? Must not know who asks.
"""

from __future__ import annotations

import base64
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

# The standard library's reading of NO_PROXY: suffixes, with and without a port, and "*". Typeshed does not know it.
_bypassed: Final[Callable[[str, Mapping[str, str]], bool]] = vars(urllib.request)["proxy_bypass_environment"]
_PORTS: Final = {"http": 80, "https": 443}


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


def parse(url: str) -> ParentProxy:
    """Read a proxy URL as curl does: a missing scheme is http. ValueError says what is wrong."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("a parent proxy is given as http://[user:password@]host:port")
    authorization = None
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return ParentProxy(scheme, parts.hostname, parts.port or _PORTS[scheme], authorization)


class ParentProxies:
    """The environment's choice of proxy for each host. Lower-case variables win, as in curl."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._by_scheme = {
            scheme: parse(url) for scheme in _PORTS if (url := _variable(environ, f"{scheme}_proxy", "all_proxy"))
        }
        self._no_proxy = {"no": _variable(environ, "no_proxy")}

    def __iter__(self) -> Iterator[ParentProxy]:
        return iter(dict.fromkeys(self._by_scheme.values()))

    def forget(self, proxy: ParentProxy) -> None:
        """Never use `proxy` again: it turned out to be ourselves."""
        self._by_scheme = {scheme: other for scheme, other in self._by_scheme.items() if other != proxy}

    def towards(self, scheme: str, host: str, port: int) -> ParentProxy | None:
        """The proxy that leads to this origin; None for a direct connection."""
        proxy = self._by_scheme.get(scheme)
        if proxy is None or _bypassed(f"{host}:{port}", self._no_proxy):
            return None
        return proxy


def _variable(environ: Mapping[str, str], *names: str) -> str:
    """The first of `names` that is set, lower case first. HTTP_PROXY in capitals counts: we are no CGI program."""
    spellings = (spelling for name in names for spelling in (name, name.upper()))
    return next((value for spelling in spellings if (value := environ.get(spelling, "").strip())), "")
