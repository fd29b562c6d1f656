"""One request to a registry: what do we do with it?

The road's crossing: classifies, finds out who asks, hands manifests, blobs and token requests on, turns to `outages`
when the upstream fails, and lets everything else pass. What passes is watched (`observe`), so that a push or a delete
takes effect here at once. Must not know mitmproxy.

Fails open, apart from access: whatever goes wrong in here, the request goes to the upstream as if we did not exist.
What is meant for us alone (token requests, tokens of ours) never does.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Final

from pullthrough.access import Access
from pullthrough.accounts import Accounts, Caller
from pullthrough.blobs import Blobs
from pullthrough.broker import Broker
from pullthrough.core import credentials, ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.concerns import Concerns, concerns
from pullthrough.core.filters import Filters, Verdict
from pullthrough.core.headers import Headers
from pullthrough.core.routes import OWN_PATH, Kind, Route, classify
from pullthrough.fetch import Source, repeated
from pullthrough.limits import TOO_MANY_REQUESTS, Limits
from pullthrough.manifests import Manifests, Spared
from pullthrough.messages import Answer, Pass, Registry, Repository, Request, refusal
from pullthrough.neighbours import Neighbours
from pullthrough.outages import Outages
from pullthrough.realms import Realms
from pullthrough.siblings import Siblings
from pullthrough.store import StoreError
from pullthrough.trouble import Trouble
from pullthrough.upstream import UnusableAnswer, Upstream, UpstreamError

log = logging.getLogger(__name__)

_READS: Final = ("GET", "HEAD")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
#: Bytes of an answer to `/v2/`.
_MAX_PING: Final = 64 << 10


class Pulls:
    """Decides and answers for all front doors. With `offline`, nothing passes."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        manifests: Manifests,
        blobs: Blobs,
        access: Access,
        accounts: Accounts,
        realms: Realms,
        broker: Broker,
        limits: Limits,
        outages: Outages,
        neighbours: Neighbours,
        trusted: Callable[[Registry], bool],
        filters: Filters,
        siblings: Siblings,
        offline: bool,
    ) -> None:
        self._upstream = upstream
        self._manifests = manifests
        self._blobs = blobs
        self._access = access
        self._accounts = accounts
        self._realms = realms
        self._broker = broker
        self._limits = limits
        self._outages = outages
        self._neighbours = neighbours
        self._trusted = trusted
        self._filters = filters
        self._siblings = siblings
        self._offline = offline

    async def answer(self, request: Request) -> Answer | Pass:
        """What to answer, or `Pass`. Never raises."""
        route = classify(request.method, request.target)
        answer = await self._safely(request, route)
        await self._siblings.agreed()  # whoever has an answer may ask another process next
        if isinstance(answer, Pass) and self._offline:
            return Trouble("pullthrough was started with --offline").refusal()
        return answer

    async def _safely(self, request: Request, route: Route) -> Answer | Pass:
        """As `_answer`, whatever goes wrong."""
        caller = self._accounts.caller(request, route.repository)
        try:
            return await self._answer(request, route, caller)
        except StoreError as error:
            reason = f"store: {error}"
        except Exception as error:
            log.exception("fault while answering %s %s", request.method, route.kind)
            reason = f"internal fault: {type(error).__name__}"
        ours = caller.credential.ours or route.kind is Kind.TOKEN
        return Trouble(reason).refusal() if ours else Pass(CacheStatus(fwd="bypass", detail=reason))

    async def _answer(self, request: Request, route: Route, caller: Caller) -> Answer | Pass:
        if route.kind is Kind.TOKEN:
            return await self._broker.answer(request, route.reference)
        if request.target.startswith(OWN_PATH):
            return Trouble("there is nothing at this path", code=404).refusal()
        concerned = concerns(request.method, request.target, request.headers)
        verdict = self._verdict(request, concerned)
        if verdict is Verdict.REFUSE:
            return self._denied(request, concerned)
        if caller.credential.ours:
            return await self._outages.to_own_token(request, route, caller)
        past = _past_the_cache(request, route, verdict)
        return await self._pull(request, route, caller) if past is None else Pass(past)

    def _verdict(self, request: Request, concerned: Concerns) -> Verdict:
        """The operator's word on all that this could concern; what concerns no repository is not filtered."""
        if request.misdirected and self._filters.refuses:  # whose repositories are these?
            return Verdict.REFUSE
        return self._filters.judged(request.registry.host, request.registry.port, concerned)

    def _denied(self, request: Request, concerned: Concerns) -> Answer:
        registry = request.registry
        whom = f"what this request to {registry} may concern"
        for name in sorted(concerned.repositories):
            if self._filters.verdict(registry.host, registry.port, name) is Verdict.REFUSE:
                whom = str(Repository(registry, name))
        return refusal(403, ocierrors.DENIED, f"{whom} is not served by this proxy (--allow, --deny)")

    # -- reading, from the upstream or in its place

    async def _pull(self, request: Request, route: Route, caller: Caller) -> Answer | Pass:
        try:
            answer, trouble = await self._ask(request, route, caller, sparing=True)
        except Spared as reason:
            kept = await self._outages.answer(request, route, caller, Trouble(str(reason)))
            if kept is not None:
                return kept
            answer, trouble = await self._ask(request, route, caller, sparing=False)
        kept = None if trouble is None else await self._outages.answer(request, route, caller, trouble)
        return answer if kept is None else kept

    async def _ask(
        self, request: Request, route: Route, caller: Caller, *, sparing: bool
    ) -> tuple[Answer | Pass, Trouble | None]:
        """The upstream's answer, or ours if it has none; and what is wrong with it, if that is an outage."""
        pause = self._limits.pause(request.registry, caller.principal)
        if pause:
            return _limited(pause), Trouble(f"{request.registry} asked to wait {pause:.0f} s more")
        try:
            answer = self._led(request, route, await self._online(request, route, caller, sparing=sparing))
        except UpstreamError as error:
            trouble = Trouble.silence(error)
            return trouble.refusal(), None if isinstance(error, UnusableAnswer) else trouble
        if isinstance(answer, Answer) and Trouble.status(answer.status):
            self._limits.heard(request.registry, caller.principal, answer.status, answer.headers)
            return answer, Trouble.answer(str(request.registry), answer.status)
        return answer, None

    async def _online(self, request: Request, route: Route, caller: Caller, *, sparing: bool) -> Answer | Pass:
        if route.kind is Kind.PING:
            return await self._ping(request, caller)
        fields = repeated(request.headers, *(("Accept",) if route.kind is Kind.MANIFEST else ()))
        source = Source(Repository(request.registry, route.repository), fields, caller.principal)
        if route.kind is Kind.MANIFEST:
            answer = await self._manifests.answer(request, source, route, sparing=sparing)
        elif route.digest is not None:
            answer = await self._blobs.answer(request, source, route.digest)
        else:  # cannot be: a blob route has one
            return Pass()
        if isinstance(answer, Answer) and answer.status == 404:
            await self._missing(request, source, route)
        elif isinstance(answer, Answer) and answer.status < 300:
            self._accounts.proved(request.registry, caller.principal)
        return answer

    async def _missing(self, request: Request, source: Source, route: Route) -> None:
        """The upstream answered 404. Of something that it gave out before: deleted, or hidden from this client?

        Nobody can tell, so what it was given before counts no more. A stranger's 404 ends nothing.
        """
        if not await self._outages.may(source.principal, source.repository):
            return
        if await self._manifests.missing(source, route, request.headers.all("accept")):
            self._access.revoke(source.principal, source.repository)

    async def _ping(self, request: Request, caller: Caller) -> Answer | Pass:
        """`/v2/`, where clients find out how to log in. Asked by ourselves, to be able to answer in an outage."""
        reply = await self._upstream.ask(request.method, request.url, repeated(request.headers))
        try:
            body = await reply.body(_MAX_PING)
        finally:
            reply.close()
        if body is None:
            return Pass(CacheStatus(fwd="bypass", detail="the answer is too long"))
        if reply.ok:
            self._accounts.proved(request.registry, caller.principal)
        elif reply.status in (401, 403):
            self._accounts.disproved(request.registry, caller.principal)
        headers = reply.headers.end_to_end().without("Content-Length")
        cache = CacheStatus(fwd="bypass", fwd_status=reply.status, detail=Kind.PING)
        return Answer(reply.status, headers, cache, body, reply.length if request.method == "HEAD" else None)

    # -- what passes

    async def observe(self, request: Request, status: int, headers: Headers) -> Headers:
        """What the upstream answered to a request that passed; its fields as they are to be sent on. Never raises."""
        route = classify(request.method, request.target)
        try:
            if not request.misdirected:  # else it is another host's answer
                await self._observe(request, route, status)
        except StoreError as error:
            log.warning("cannot take note of %s %s: %s", request.method, route.kind, error)
        heard = self._heard(request, route, status, headers)
        await self._siblings.agreed()
        return heard

    async def _observe(self, request: Request, route: Route, status: int) -> None:
        repository = Repository(request.registry, route.repository)
        accepted = 200 <= status < 300
        match route.kind, route.method:
            case Kind.MANIFEST, "PUT" | "DELETE" if accepted:
                await self._manifests.changed(repository, route.reference)
            case Kind.BLOB, "DELETE" if accepted and route.digest is not None:
                await self._blobs.deleted(repository, route.digest)
            case Kind.MANIFEST | Kind.BLOB, "GET" | "HEAD" if status in (401, 403):
                self._access.revoke(self._accounts.caller(request, route.repository).principal, repository)
            case Kind.MANIFEST | Kind.BLOB, "GET" | "HEAD" if status == 404:
                caller = self._accounts.caller(request, route.repository)
                await self._missing(request, Source(repository, repeated(request.headers), caller.principal), route)

    def _led(self, request: Request, route: Route, answer: Answer | Pass) -> Answer | Pass:
        """The upstream's own answer, as `_heard`. Not for ours: a challenge from memory leads to us already."""
        if isinstance(answer, Pass):
            return answer
        headers = self._heard(request, route, answer.status, answer.headers)
        return answer if headers is answer.headers else dataclasses.replace(answer, headers=headers)

    def _heard(self, request: Request, route: Route, status: int, headers: Headers) -> Headers:
        """Take note of where a registry sends clients, and send those who need a token to us.

        What else is served under the registry's name, or by its token server, speaks for neither.
        """
        if route.kind in (Kind.OTHER, Kind.TOKEN):
            return headers
        if status in (401, 403) and (token := credentials.bearer(request.headers)):
            self._broker.refused(token)
        if status == 401:
            self._learn(request, headers.only("WWW-Authenticate"))
            return self._realms.heard(request, headers)
        if status in _REDIRECTS:
            self._learn(request, headers.only("Location"))
        return headers

    def _learn(self, request: Request, headers: Headers) -> None:
        if request.method in _READS and self._trusted(request.registry) and not request.swayed:
            self._neighbours.learn(request.url, headers)


def _past_the_cache(request: Request, route: Route, verdict: Verdict) -> CacheStatus | None:
    """Why this is nothing for the cache; None if it is."""
    if route.kind not in (Kind.PING, Kind.MANIFEST, Kind.BLOB):
        return CacheStatus(fwd="bypass", detail=route.kind)
    if route.method not in _READS:
        return CacheStatus(fwd="method")
    if verdict is Verdict.PASS:
        return CacheStatus(fwd="bypass", detail="not to be cached (--cache-only, --bypass)")
    if request.misdirected:
        return CacheStatus(fwd="bypass", detail="the Host field names another host than the connection")
    return None


def _limited(pause: float) -> Answer:
    """Our own 429, while the upstream's holds."""
    text = f"the registry's rate limit is used up; it asked to wait {pause:.0f} s more"
    return refusal(TOO_MANY_REQUESTS, ocierrors.TOOMANYREQUESTS, text, ("Retry-After", str(math.ceil(pause))))
