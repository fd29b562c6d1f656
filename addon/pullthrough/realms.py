"""Challenges of registries, and the token servers that they name.

Responsible for leading clients to us instead of to the token server (the realm of a Bearer challenge becomes a path of
the registry's own host), for knowing where that path leads, and for the challenge to give in an outage. Must not relay
anything. A realm is learned from the registry's own words alone, and never from those that a client could have put
into its mouth: sooner or later somebody's password is sent there.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pullthrough.core import challenges
from pullthrough.core.challenges import Challenge
from pullthrough.core.headers import Headers
from pullthrough.core.routes import REALM_PATH
from pullthrough.facts import Facts
from pullthrough.messages import Registry, Request

_FIELD: Final = "WWW-Authenticate"
#: Seconds for which a registry's words are remembered that were not heard anew.
_REMEMBER: Final = 90 * 24 * 3600.0
_LONGEST: Final = 2048
_MAX: Final = 4096


class Realms:
    """What registries said. With `brokered` false, challenges are passed on as they are."""

    def __init__(self, facts: Facts, *, brokered: bool) -> None:
        self._facts = facts
        self._brokered = brokered
        self._known: OrderedDict[tuple[Registry, str], str] = OrderedDict()

    def heard(self, request: Request, headers: Headers) -> Headers:
        """The head of a 401 as it is to be sent on; what it says is remembered."""
        if _FIELD not in headers or request.swayed:
            return headers
        said = [_each(line, lambda challenge: _absolute(request, challenge)) for line in headers.all(_FIELD)]
        self._facts.put(_challenge_key(request.registry), [_lasting(line) for line in said], _REMEMBER)
        if not self._brokered:
            return headers
        fields = headers.without(_FIELD)
        for line in said:
            fields = fields.adding(_FIELD, self._line(request.registry, line))
        return fields

    async def realm(self, registry: Registry, identifier: str) -> str | None:
        """The URL for which a path of ours stands, if `registry` ever named it."""
        known = self._known.get((registry, identifier))
        if known is None:
            noted = await self._facts.get(_realm_key(registry, identifier))
            known = noted if isinstance(noted, str) and _identifier(noted) == identifier else None
        return known

    async def challenge(self, registry: Registry, repository: str, *, invalid: bool) -> list[str]:
        """The registry's challenge from memory, for a pull from `repository`; nothing if there is none.

        `invalid` says that a token was shown which is not good: some clients would only repeat it.
        """
        more = {"scope": f"repository:{repository}:pull"} if repository else {}
        if invalid:
            more["error"] = "invalid_token"
        lines = [_for_now(line, more) for line in await self._remembered(registry)]
        return [self._line(registry, line) for line in lines] if self._brokered else lines

    async def current(self, registry: Registry) -> str | None:
        """The token server that the registry last named, if we relay to it."""
        challenge = await self._bearer(registry)
        return None if challenge is None or not self._brokered else _relayable(registry, challenge)

    async def service(self, registry: Registry) -> str | None:
        """The service for which the registry last wanted a token, if it said so."""
        challenge = await self._bearer(registry)
        return None if challenge is None else challenge.get("service")

    async def _bearer(self, registry: Registry) -> Challenge | None:
        found = [each for line in await self._remembered(registry) for each in challenges.parse(line) or ()]
        return next((each for each in found if each.scheme.lower() == "bearer"), None)

    async def _remembered(self, registry: Registry) -> list[str]:
        noted = await self._facts.get(_challenge_key(registry))
        return [line for line in noted if isinstance(line, str)] if isinstance(noted, list) else []

    def _line(self, registry: Registry, line: str) -> str:
        return _each(line, lambda challenge: self._through_us(registry, challenge))

    def _through_us(self, registry: Registry, challenge: Challenge) -> Challenge:
        realm = _relayable(registry, challenge)
        if realm is None:
            return challenge
        identifier = _identifier(realm)
        self._known[registry, identifier] = realm
        self._known.move_to_end((registry, identifier))
        while len(self._known) > _MAX:
            self._known.popitem(last=False)
        self._facts.put(_realm_key(registry, identifier), realm, _REMEMBER)
        return challenge.having("realm", f"{registry}{REALM_PATH}{identifier}")


def _absolute(request: Request, challenge: Challenge) -> Challenge:
    """With the realm of a Bearer challenge as a URL: it may have been relative to what was asked for."""
    realm = challenge.get("realm")
    if challenge.scheme.lower() != "bearer" or not realm:
        return challenge
    try:
        return challenge.having("realm", urllib.parse.urljoin(request.url, realm))
    except ValueError:
        return challenge


def _relayable(registry: Registry, challenge: Challenge) -> str | None:
    """The realm, if credentials may be relayed to it: over TLS, on both ways."""
    url = challenge.get("realm") or ""
    if challenge.scheme.lower() != "bearer" or registry.scheme != "https":
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme == "https" and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= _LONGEST
    return parts._replace(fragment="").geturl() if usable and plain else None


def _lasting(line: str) -> str:
    """A challenge without what concerned one request."""
    return _each(line, lambda challenge: challenge.without("scope", "error", "error_description"))


def _for_now(line: str, more: dict[str, str]) -> str:
    return _each(line, lambda challenge: _with(challenge, more))


def _each(line: str, change: Callable[[Challenge], Challenge]) -> str:
    """The field line with every challenge changed; one that cannot be understood as it is."""
    found = challenges.parse(line)
    return line if found is None else ", ".join(str(change(challenge)) for challenge in found)


def _with(challenge: Challenge, more: dict[str, str]) -> Challenge:
    if challenge.scheme.lower() == "bearer":
        for name, value in more.items():
            challenge = challenge.having(name, value)
    return challenge


def _identifier(realm: str) -> str:
    """What stands for a realm in a path: the same in every process and after every restart."""
    return hashlib.sha256(realm.encode()).hexdigest()[:16]


def _challenge_key(registry: Registry) -> str:
    return f"challenge {registry}"


def _realm_key(registry: Registry, identifier: str) -> str:
    return f"realm {registry} {identifier}"
