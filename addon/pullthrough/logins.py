"""Logging in at registries and mirrors as a client does, for questions of our own.

Responsible for what a client does between a 401 and its next try: Basic, or a token, by the operator's credentials or
as anybody. Must not decide who may use what it gets. Tokens are kept in memory; those that are over go when the next
one is kept.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.core import challenges
from pullthrough.core.challenges import Challenge
from pullthrough.core.headers import Headers
from pullthrough.core.routes import OWN_PATH
from pullthrough.keyring import Keyring, Login
from pullthrough.messages import Answer, Pass, Registry, Repository, Request
from pullthrough.upstream import Upstream, UpstreamError

_MAX_TOKENS: Final = 4096
#: Characters of one; longer ones would not fit into the head of a request.
_MAX_TOKEN: Final = 16 << 10
_MAX_ANSWER: Final = 1 << 20
#: Seconds that a token lives where its server does not say (distribution's token specification).
_DEFAULT_LIFE: Final = 60
_LONGEST_LIFE: Final = 3600
#: Seconds by which a token is given up before its time: it has to last for the request that it is got for.
_EARLY: Final = 10
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    until: float


class Logins:
    """Authorization fields for repositories. `clock` counts seconds and never goes back.

    Token requests that a challenge leads to ourselves (`realms`) go to `own`, the way of clients' own ones, so that
    accounts, outages and limits are the same.
    """

    def __init__(
        self,
        upstream: Upstream,
        keyring: Keyring,
        clock: Callable[[], float],
        own: Callable[[Request], Awaitable[Answer | Pass]] | None = None,
    ) -> None:
        self._upstream = upstream
        self._keyring = keyring
        self._clock = clock
        self._own = own
        self._kept: OrderedDict[Repository, _Token] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def known(self, repository: Repository) -> str | None:
        """What was good for this repository a moment ago."""
        kept = self._kept.get(repository)
        return kept.value if kept is not None and kept.until > self._clock() else None

    async def answered(self, repository: Repository, fields: Headers, client: str) -> str | None:
        """The Authorization with which to try again after a 401 with these fields; None if there is no other."""
        spent = self._kept.pop(repository, None)
        secure = repository.registry.scheme == "https"  # nobody's password goes over the wire in the clear
        login = await self._keyring.credential(repository.registry.authority) if secure else None
        for challenge in _challenges(fields):
            if challenge.scheme.lower() == "basic" and login is not None and not login.identity:
                return self._keep(repository, _basic(login), _LONGEST_LIFE, spent)
            if challenge.scheme.lower() == "bearer":
                said = await self._token(repository, challenge, login, client)
                token = said.get("token") or said.get("access_token")
                if isinstance(token, str) and token.isascii() and token.isprintable() and len(token) <= _MAX_TOKEN:
                    return self._keep(repository, f"Bearer {token}", _life(said), None)
        return None

    def _keep(self, repository: Repository, value: str, life: float, spent: _Token | None) -> str | None:
        """`value`, unless it is what was refused just now."""
        if spent is not None and spent.value == value:
            return None
        now = self._clock()
        self._kept = OrderedDict((whose, token) for whose, token in self._kept.items() if token.until > now)
        self._kept[repository] = _Token(value, now + life - _EARLY)
        while len(self._kept) > _MAX_TOKENS:
            self._kept.popitem(last=False)
        return value

    async def _token(
        self, repository: Repository, challenge: Challenge, login: Login | None, client: str
    ) -> dict[str, Any]:
        """The token server's answer, or nothing."""
        realm = challenge.get("realm") or ""
        asked = [("service", challenge.get("service") or ""), ("scope", f"repository:{repository.name}:pull")]
        question = [(name, value) for name, value in asked if value]
        if login is not None and login.identity:
            question += [("grant_type", "refresh_token"), ("refresh_token", login.secret), ("client_id", "pullthrough")]
            method, target, body = "POST", realm, urllib.parse.urlencode(question).encode()
            fields = Headers((("Content-Type", _FORM),))
        else:
            method, body = "GET", b""
            target = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(question)}"
            fields = Headers(() if login is None else (("Authorization", _basic(login)),))
        return _said(await self._asked(repository.registry, method, target, fields, body, client))

    async def _asked(
        self, registry: Registry, method: str, target: str, fields: Headers, body: bytes, client: str
    ) -> bytes:
        if self._own is not None and target.startswith(f"{registry}{OWN_PATH}"):
            request = Request(registry, method, target.removeprefix(str(registry)), fields, client, body)
            answer = await self._own(request)
            good = isinstance(answer, Answer) and answer.status < 300 and isinstance(answer.body, bytes)
            return answer.body if good else b""  # type: ignore[union-attr, return-value]
        if not target.startswith("https://"):
            return b""
        try:
            reply = await self._upstream.ask(method, target, fields, body=body, named_by=str(registry))
            try:
                return (await reply.body(_MAX_ANSWER) or b"") if reply.ok else b""
            finally:
                reply.close()
        except UpstreamError:
            return b""


def _challenges(fields: Headers) -> list[Challenge]:
    return [challenge for line in fields.all("www-authenticate") for challenge in challenges.parse(line) or ()]


def _basic(login: Login) -> str:
    return f"Basic {base64.b64encode(f'{login.user}:{login.secret}'.encode()).decode('ascii')}"


def _said(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _life(said: dict[str, Any]) -> float:
    match said.get("expires_in"):
        case int() | float() as seconds if seconds > 0:
            return float(min(seconds, _LONGEST_LIFE))
    return _DEFAULT_LIFE
