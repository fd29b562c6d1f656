"""What clients get while the upstream, its rate limit or its login is down.

Responsible for the rule: the last digest of a tag, and content by digest, for those to whom the upstream lately gave
something of the same repository; a challenge from memory for those who have not said yet who they are; and for all
others a refusal that says since when. Must not ask for content upstream. What the upstream refuses (401, 403, 404) is
no outage.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pullthrough.access import Access
from pullthrough.accounts import Accounts, Caller, Credential
from pullthrough.blobs import Blobs
from pullthrough.broker import Broker, too_many_logins
from pullthrough.core import credentials, media, ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.core.routes import Kind, Route
from pullthrough.guesses import Guesses
from pullthrough.manifests import Manifests
from pullthrough.messages import Answer, Repository, Request, refusal
from pullthrough.realms import Realms
from pullthrough.store import StoreError
from pullthrough.trouble import Trouble

log = logging.getLogger(__name__)

_READS: Final = ("GET", "HEAD")
#: Seconds between two warnings about the same registry.
_QUIET: Final = 60.0
_MAX_WARNED: Final = 1024


class Outages:
    """Stands in for upstreams that cannot be asked. `clock` never goes back."""

    def __init__(
        self,
        *,
        manifests: Manifests,
        blobs: Blobs,
        access: Access,
        accounts: Accounts,
        realms: Realms,
        broker: Broker,
        clock: Callable[[], float],
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._access = access
        self._accounts = accounts
        self._realms = realms
        self._broker = broker
        self._clock = clock
        self._guesses: Guesses[tuple[str, bytes]] = Guesses(clock)
        self._warned: OrderedDict[str, float] = OrderedDict()

    async def answer(self, request: Request, route: Route, caller: Caller, trouble: Trouble) -> Answer | None:
        """What we can say in the upstream's place; None if nothing."""
        login = credentials.basic(request.headers)
        if login is not None:  # a password is judged here: whoever guesses is not told for ever
            guess = request.client, self._accounts.name(request.registry, login[0])
            if wait := self._guesses.wait(guess):
                return too_many_logins(wait)
            if not await self._accounts.remembered(request.registry, caller.principal):
                self._guesses.wrong(guess)
        return await self._answer(request, route, caller, trouble)

    async def _answer(self, request: Request, route: Route, caller: Caller, trouble: Trouble) -> Answer | None:
        if request.method not in _READS:
            return None
        if route.kind is Kind.PING:
            return await self._ping(request, caller)
        if route.kind not in (Kind.MANIFEST, Kind.BLOB):
            return None
        repository = Repository(request.registry, route.repository)
        if await self._may_or_anybody(caller, repository):
            return await self._kept(request, route, repository, trouble)
        return await self._challenge(request, route.repository, caller)

    async def may(self, principal: bytes, repository: Repository) -> bool:
        """Did the upstream lately give something of `repository` to `principal`, and refuse nothing since?"""
        return self._access.granted(principal, repository) or await self._access.remembered(principal, repository)

    async def _may_or_anybody(self, caller: Caller, repository: Repository) -> bool:
        """What anybody may have, somebody may have as well."""
        for principal in (caller.principal, *self._accounts.anybody(repository.registry)):
            if await self.may(principal, repository):
                return True
        return False

    async def to_own_token(self, request: Request, route: Route, caller: Caller) -> Answer:
        """The answer to a request with a token of ours, which no upstream would understand.

        It is good as long as the registry or its token server is down; then the client is told to get a real one.
        """
        if caller.credential is Credential.LOCAL and not await self._broker.alive(request.registry):
            trouble = Trouble(f"{request.registry} or its token server does not answer")
            answer = await self.answer(request, route, caller, trouble)
            return answer if answer is not None else trouble.refusal()
        challenge = await self._realms.challenge(request.registry, route.repository, invalid=True)
        return _unauthorized(challenge, "this token was good for an outage only; get a new one")

    async def _ping(self, request: Request, caller: Caller) -> Answer | None:
        """`/v2/`: whoever may log in, or needs not, hears so."""
        known = caller.credential in (Credential.LOCAL, Credential.TOKEN)
        if (
            known
            or await self._accounts.remembered(request.registry, caller.principal)
            or await self._open(request, caller)
        ):
            fields = (("Content-Type", "application/json"), ("Docker-Distribution-Api-Version", "registry/2.0"))
            return Answer(200, Headers(fields), CacheStatus(fwd="stale", detail="upstream unreachable"), b"{}")
        return await self._challenge(request, "", caller)

    async def _open(self, request: Request, caller: Caller) -> bool:
        """Is there something for anonymous clients, of a registry that was never asked, so that none can log in?"""
        if caller.credential is not Credential.NONE or await self._realms.challenge(
            request.registry, "", invalid=False
        ):
            return False
        return await self._accounts.remembered(request.registry, self._accounts.anonymous(request.registry))

    async def _challenge(self, request: Request, repository: str, caller: Caller) -> Answer | None:
        """401, for whoever shows nothing, or a token that we do not know: it may have another, or get one."""
        if caller.credential not in (Credential.NONE, Credential.STRANGE_TOKEN):
            return None
        strange = caller.credential is Credential.STRANGE_TOKEN
        challenge = await self._realms.challenge(request.registry, repository, invalid=strange)
        return _unauthorized(challenge, "upstream unreachable: log in as before") if challenge else None

    async def _kept(self, request: Request, route: Route, repository: Repository, trouble: Trouble) -> Answer | None:
        try:
            if route.kind is Kind.MANIFEST and not media.is_plain(request.headers.all("accept")):
                return None  # who chooses what the upstream chokes on does not choose an outage
            if route.kind is Kind.MANIFEST:
                answer = await self._manifests.kept(request, repository, route, trouble.reason)
            else:
                answer = await self._blobs.kept(request, repository, route, trouble.reason)
        except StoreError as error:
            log.warning("the cache cannot stand in for %s: %s", repository.registry, error)
            return None
        if answer is not None:
            self._warn(repository.registry.authority, trouble)
        return answer

    def _warn(self, registry: str, trouble: Trouble) -> None:
        """Once a minute for each registry, not for each request."""
        now = self._clock()
        if now - self._warned.get(registry, -_QUIET) >= _QUIET:
            log.warning("%s: answered from the cache, unchecked: %s", registry, trouble.reason)
            self._warned[registry] = now
            self._warned.move_to_end(registry)
            while len(self._warned) > _MAX_WARNED:
                self._warned.popitem(last=False)


def _unauthorized(challenge: list[str], message: str) -> Answer:
    fields = [("WWW-Authenticate", line) for line in challenge]
    version = ("Docker-Distribution-Api-Version", "registry/2.0")
    return refusal(401, ocierrors.UNAUTHORIZED, message, version, *fields)
