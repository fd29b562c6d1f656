"""What passes between a front door and the rest: one request, and what is to be done with it.

Responsible for the shape of that conversation only. Must not know mitmproxy, the store or the network:
front doors translate to and from these values, everything behind them speaks nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Registry:
    """One upstream registry. `host` is lower-case without brackets or a trailing dot."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host[:port]` as in a Host field; the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    def __str__(self) -> str:
        # The scheme is part of the identity: what plain HTTP served must not stand in for HTTPS.
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of one registry: the unit of access (DESIGN: a grant and a link are made for it)."""

    registry: Registry
    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The repository that `str` made this text of; None for other texts."""
        address, slash, name = text.partition("://")[2].partition("/")
        try:
            parts = urlsplit(f"{text.partition('://')[0]}://{address}")
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
        except (ValueError, KeyError):
            return None
        repository = cls(Registry(parts.scheme, parts.hostname or "", port), name)
        return repository if slash and str(repository) == text else None

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a registry. `target` is the path and query as sent; `body` is there for what we answer alone."""

    registry: Registry
    method: str
    target: str
    headers: Headers
    client: str = ""
    body: bytes = field(default=b"", repr=False)

    @property
    def url(self) -> str:
        """What is asked for, absolute."""
        return f"{self.registry}{self.target}"

    @property
    def misdirected(self) -> bool:
        """Does the Host field name another host than the connection leads to? Then the answer is not that host's."""
        named = {host.lower() for host in self.headers.all("host")}
        ours = {"", self.registry.authority, f"{self.registry.authority}:{self.registry.port}"}
        return len(named) > 1 or not named <= ours

    @property
    def swayed(self) -> bool:
        """Might the client have a say in what the registry takes for its own address?

        Registries build the addresses that they give out from the Host field and from what a proxy may have added, in
        fields that nobody can list: a client that sets those could have any end-point named. So whatever is neither
        harmless nor Authorization counts as one.
        """
        return self.misdirected or any(name != "authorization" for name, _ in self.headers.credentials())


class Body(Protocol):
    """The bytes of an answer, pulled by whoever sends them."""

    @property
    def length(self) -> int | None:
        """Bytes in all, or None while nobody knows (then the answer is sent chunked)."""

    async def read(self, limit: int) -> bytes:
        """Between 1 and `limit` next bytes; b"" at the end.

        Raises `BodyError` when the rest cannot be had: the connection must then be cut, so that no client
        takes what it got for the whole.
        """

    async def aclose(self) -> None:
        """Let go of whatever the body holds. Safe to call twice."""


class BodyError(Exception):
    """The rest of a body cannot be delivered. The text goes to the log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that we give. `body` is small bytes or a `Body`; `headers` lack Content-Length and Cache-Status."""

    status: int
    headers: Headers
    cache: CacheStatus
    body: bytes | Body = b""
    #: For HEAD, whose body is empty but whose Content-Length is not.
    length: int | None = None


def refusal(status: int, code: str, message: str, *more: tuple[str, str]) -> Answer:
    """Our own error in the form of the OCI distribution specification ("Error codes"), with `more` fields."""
    headers = Headers((("Content-Type", ocierrors.CONTENT_TYPE), *more))
    return Answer(status, headers, CacheStatus(detail=message), ocierrors.body(code, f"pullthrough: {message}"))


@dataclass(frozen=True, slots=True)
class Pass:
    """Let the request through to the upstream unchanged; `cache` says why."""

    cache: CacheStatus = field(default_factory=lambda: CacheStatus(fwd="bypass"))
