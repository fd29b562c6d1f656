"""Token requests, relayed: to learn which account got which token, and to bridge a token server that is down.

Responsible for one exchange with a token server (GET with Basic, POST of a form, refresh tokens, anonymous), and for
tokens of our own while there is none. Keeps method, query and body. Must not keep a credential: answers that hold a
token are remembered, in memory and for a short time, for the account that got them and nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.access import Access
from pullthrough.accounts import LOCAL_LIFE, Accounts
from pullthrough.core import credentials, localtoken, ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.guesses import Guesses
from pullthrough.joins import Joins
from pullthrough.messages import Answer, Registry, Repository, Request, refusal
from pullthrough.realms import Realms
from pullthrough.siblings import Siblings
from pullthrough.trouble import Trouble
from pullthrough.upstream import UnusableAnswer, Upstream, UpstreamError

#: Bytes of a token server's answer.
_MAX_ANSWER: Final = 1 << 20
#: Seconds that a token lives where its server does not say (distribution's token specification).
_DEFAULT_LIFE: Final = 60
_LONGEST_LIFE: Final = 24 * 3600
#: A remembered token has to live so many seconds still: clients count with no less.
_MARGIN: Final = 60
#: Seconds by which a token is a stranger's sooner than its server says: its 401 for being old is nobody's refusal.
_EARLY: Final = 5
_MAX_REMEMBERED: Final = 4096
#: Fields of a request that go no further: for us, for the connection, or of the registry's own host.
_NOT_RELAYED: Final = ("Host", "Cookie", "Content-Length", "Accept-Encoding", "Expect")
#: Parameters that ask for more than one token, which must be asked for each time.
_LASTING: Final = ("offline_token", "access_type")


@dataclass(frozen=True, slots=True)
class _Asking:
    """One token request, understood."""

    request: Request
    realm: str
    account: bytes
    repositories: frozenset[str]
    #: Whose name was given, by which client: wrong passwords are counted by it. None for anonymous requests.
    guess: tuple[str, bytes] | None
    #: Is it the service of the registry's challenge that is asked for? A token for another is worth nothing there.
    meant: bool
    #: What was asked for, without who asks: with the account, the name under which an answer is shared.
    wanted: tuple[tuple[str, str], ...]

    @property
    def key(self) -> tuple[object, ...]:
        return self.request.registry, self.realm, self.account, self.wanted

    @property
    def once(self) -> bool:
        """Must its answer not be given twice?"""
        return any(name in _LASTING for name, _ in self.wanted)


@dataclass(frozen=True, slots=True)
class _Relayed:
    """What the token server said."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Remembered:
    """An answer with a token: until when it may be given again, and until when the token lives."""

    said: dict[str, Any]
    headers: Headers
    until: float
    dies: float


class Broker:
    """Answers token requests. `remember` is for how many seconds a token may be given again; `count` hears how."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        realms: Realms,
        accounts: Accounts,
        access: Access,
        clock: Callable[[], float],
        remember: float,
        count: Callable[[str], None],
        siblings: Siblings | None = None,
    ) -> None:
        self._upstream = upstream
        self._realms = realms
        self._accounts = accounts
        self._access = access
        self._clock = clock
        self._remember = remember
        self._count = count
        self._under_way: Joins[tuple[object, ...], _Relayed] = Joins()
        self._guesses: Guesses[tuple[str, bytes]] = Guesses(clock)
        self._remembered: OrderedDict[tuple[object, ...], _Remembered] = OrderedDict()
        self._siblings = siblings or Siblings()
        self._siblings.hear("refused token", self._forget_token)

    async def answer(self, request: Request, identifier: str) -> Answer:
        """The token server's answer to a request for the realm that `identifier` stands for, or ours in its place."""
        if request.method not in ("GET", "POST"):
            return refusal(405, ocierrors.UNSUPPORTED, "a token is asked for with GET or POST", ("Allow", "GET, POST"))
        realm = await self._realms.realm(request.registry, identifier)
        if realm is None:
            return refusal(404, ocierrors.UNSUPPORTED, "no registry named this token server; ask the registry again")
        asking = await self._understood(request, realm)
        again = self._again(asking)
        if again is not None:
            return again
        try:
            relayed, _ = await self._under_way.do(asking.key, lambda: self._relay(asking))
        except UnusableAnswer as error:
            return self._failed(error)
        except UpstreamError as error:
            return await self._in_an_outage(asking, Trouble.silence(error)) or self._failed(error)
        if Trouble.status(relayed.status):
            bridged = await self._in_an_outage(asking, Trouble.answer(realm, relayed.status))
            if bridged is not None:
                return bridged
        self._count("relayed" if 200 <= relayed.status < 300 else "refused")
        cache = CacheStatus(fwd="bypass", fwd_status=relayed.status, detail="token")
        return Answer(relayed.status, _for_client(realm, relayed.headers), cache, relayed.body)

    def refused(self, token: str) -> None:
        """The registry refused it: who asks again gets a new one, which may be worth more."""
        fingerprint = _hashed(token)
        self._forget_token(fingerprint)
        self._siblings.tell("refused token", fingerprint)

    def _forget_token(self, fingerprint: str) -> None:
        for key, kept in list(self._remembered.items()):
            tokens = kept.said.get("token"), kept.said.get("access_token")
            if any(isinstance(token, str) and _hashed(token) == fingerprint for token in tokens):
                del self._remembered[key]

    async def alive(self, registry: Registry) -> bool:
        """Can a client get a token of the registry, and use it there?"""
        realm = await self._realms.current(registry)
        asked = [self._upstream.answers(f"{registry}/v2/")]
        if realm is not None:  # as it is relayed to: while names are gone, connections that are open say nothing
            asked.append(self._upstream.answers(realm, named_by=str(registry)))
        return all(await asyncio.gather(*asked))

    # -- one exchange

    async def _understood(self, request: Request, realm: str) -> _Asking:
        said = credentials.form(request.target.partition("?")[2].encode(), credentials.FORM)
        if request.method == "POST":
            for name, values in credentials.form(request.body, request.headers.get("content-type")).items():
                said[name] = [*said.get(name, ()), *values]
        claim = credentials.claim(request.headers, said)
        account = await self._accounts.account(request.registry, claim)
        wanted = sorted((name, value) for name in said if name in credentials.IMPERSONAL for value in said[name])
        scopes = credentials.pullable(said.get("scope", ()))
        named = None if claim.kind == "anonymous" else self._accounts.name(request.registry, claim.user)
        guess = None if named is None else (request.client, named)
        service = await self._realms.service(request.registry)
        meant = service is None or said.get("service") == [service]
        return _Asking(request, realm, account, scopes, guess, meant, (("", request.method), *wanted))

    async def _relay(self, asking: _Asking) -> _Relayed:
        request = asking.request
        query = request.target.partition("?")[2]
        url = asking.realm + (f"{'&' if '?' in asking.realm else '?'}{query}" if query else "")
        reply = await self._upstream.ask(
            request.method, url, _fields(request.headers), body=request.body, named_by=str(request.registry)
        )
        try:
            body = await reply.body(_MAX_ANSWER)
        finally:
            reply.close()
        if body is None:
            raise UnusableAnswer(f"the token server's answer is longer than {_MAX_ANSWER} bytes")
        relayed = _Relayed(reply.status, reply.headers, body)
        self._learn(asking, relayed)
        return relayed

    def _learn(self, asking: _Asking, relayed: _Relayed) -> None:
        """What the answer says of the account."""
        registry, account = asking.request.registry, asking.account
        if relayed.status in (400, 401, 403):
            self._refuse(asking, relayed.status)
        said = _token_answer(relayed)
        if said is None:
            return
        life = _life(said)
        good = life - _EARLY if asking.meant else 0.0
        for name in ("token", "access_token"):
            if isinstance(said.get(name), str):
                self._accounts.issued(registry, said[name], account, asking.repositories, good)
        if isinstance(said.get("refresh_token"), str):
            self._accounts.refreshes(registry, said["refresh_token"], account)
        elif not asking.once:
            self._keep(asking, said, relayed.headers, life)
        self._accounts.proved(registry, account)

    def _refuse(self, asking: _Asking, status: int) -> None:
        """The token server does not know this login (400 as well: RFC 6749 section 5.2), or not for these repositories.

        Everybody can be anonymous: what one asks for in vain ends what all have only if it is plainly that.
        """
        registry, named = asking.request.registry, asking.guess is not None
        if named and (status != 403 or not asking.repositories):
            self._accounts.disproved(registry, asking.account)
        if named or (asking.meant and status != 400 and len(asking.repositories) == 1):
            principal = self._accounts.principal(asking.account, asking.request.headers)
            for name in asking.repositories:
                self._access.revoke(principal, Repository(registry, name))

    # -- tokens that are given again

    def _keep(self, asking: _Asking, said: dict[str, Any], headers: Headers, life: float) -> None:
        now = self._clock()
        self._forget(now)
        until = now + min(self._remember, life - _MARGIN)
        if until > now:
            self._remembered[asking.key] = _Remembered(said, headers, until, now + life)
            self._remembered.move_to_end(asking.key)
            while len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    def _forget(self, now: float) -> None:
        """What may not be given again does not stay."""
        while self._remembered and next(iter(self._remembered.values())).until <= now:
            self._remembered.popitem(last=False)

    def _again(self, asking: _Asking) -> Answer | None:
        """The token that this account got for the same question a moment ago: a login saved."""
        now = self._clock()
        self._forget(now)
        kept = self._remembered.get(asking.key)
        if kept is None or kept.until <= now:
            return None
        self._count("cached")
        body = json.dumps({**kept.said, "expires_in": int(kept.dies - now)}).encode()
        return Answer(200, _for_client(asking.realm, kept.headers), CacheStatus(hit=True, detail="token"), body)

    # -- in an outage

    async def _in_an_outage(self, asking: _Asking, trouble: Trouble) -> Answer | None:
        """A token of our own, for an account that the token server accepted before."""
        registry = asking.request.registry
        if asking.guess is not None and (wait := self._guesses.wait(asking.guess)):
            self._count("refused")
            return too_many_logins(wait)
        if not await self._accounts.remembered(registry, asking.account):
            if asking.guess is not None:
                self._guesses.wrong(asking.guess)
            return None
        self._count("local")
        token = self._accounts.local(registry, asking.account, asking.repositories)
        said = {"token": token, "access_token": token, "expires_in": LOCAL_LIFE}
        headers = Headers((("Content-Type", "application/json"), ("Cache-Control", "no-store")))
        return Answer(200, headers, CacheStatus(fwd="stale", detail=trouble.reason), json.dumps(said).encode())

    def _failed(self, error: UpstreamError) -> Answer:
        self._count("failed")
        return Trouble.silence(error).refusal()


def _hashed(token: str) -> str:
    """A token as it may be named to others."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _fields(headers: Headers) -> Headers:
    """A client's fields as they go to the token server."""
    relayed = headers.end_to_end().without(*_NOT_RELAYED).having("Accept-Encoding", "identity")
    token = credentials.bearer(headers)
    return relayed.without("Authorization") if token is not None and localtoken.is_local(token) else relayed


def _for_client(realm: str, headers: Headers) -> Headers:
    """The token server's fields as they go to the client, who takes them for those of the registry's host."""
    fields = headers.end_to_end().without("Content-Length", "Set-Cookie", "Strict-Transport-Security")
    location = fields.get("location")
    if location is None:
        return fields
    try:
        return fields.having("Location", urllib.parse.urljoin(realm, location))
    except ValueError:
        return fields.without("Location")


def _token_answer(relayed: _Relayed) -> dict[str, Any] | None:
    """The fields of an answer that gives a token."""
    if not 200 <= relayed.status < 300 or "content-encoding" in relayed.headers:
        return None
    try:
        said = json.loads(relayed.body)
    except (ValueError, RecursionError):
        return None
    given = isinstance(said, dict) and any(isinstance(said.get(name), str) for name in ("token", "access_token"))
    return said if given else None


def _life(said: Mapping[str, Any]) -> float:
    match said.get("expires_in"):
        case int() | float() as seconds if seconds > 0:
            return float(min(seconds, _LONGEST_LIFE))
    return _DEFAULT_LIFE


def too_many_logins(wait: float) -> Answer:
    """For who tried so many passwords in an outage that the next is not looked at for `wait` seconds."""
    retry = ("Retry-After", str(math.ceil(wait)))
    return refusal(429, ocierrors.TOOMANYREQUESTS, "too many logins that are not known here", retry)
