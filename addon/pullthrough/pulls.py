"""One request to a registry: what do we do with it?

The road's crossing: classifies, finds out who asks, hands manifests and blobs on, and lets everything else pass. What
passes is watched (`observe`), so that a push or a delete takes effect here at once. Must not know mitmproxy.

Fails open, apart from access: whatever goes wrong in here, the request goes to the upstream as if we did not exist.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from pullthrough.access import Access
from pullthrough.blobs import Blobs
from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.core.routes import Kind, Route, classify
from pullthrough.fetch import Source, repeated
from pullthrough.manifests import Manifests
from pullthrough.messages import Answer, Pass, Registry, Repository, Request
from pullthrough.neighbours import Neighbours
from pullthrough.store import Store, StoreError
from pullthrough.upstream import UpstreamError

log = logging.getLogger(__name__)

_READS: Final = ("GET", "HEAD")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
#: Fields by which a server is told under which address it was asked.
_FORWARDED: Final = re.compile(r"forwarded|x-(forwarded|original|rewrite|host|real|proxy|url)\b.*", re.IGNORECASE)


class Pulls:
    """Decides and answers for all front doors."""

    def __init__(
        self,
        *,
        store: Store,
        manifests: Manifests,
        blobs: Blobs,
        access: Access,
        neighbours: Neighbours,
        trusted: Callable[[Registry], bool],
    ) -> None:
        self._store = store
        self._manifests = manifests
        self._blobs = blobs
        self._access = access
        self._neighbours = neighbours
        self._trusted = trusted

    async def answer(self, request: Request) -> Answer | Pass:
        """What to answer, or `Pass`. Never raises."""
        route = classify(request.method, request.target)
        try:
            answer = await self._answer(request, route)
            if isinstance(answer, Answer):
                self._learn(request, answer.status, answer.headers)
            return answer
        except StoreError as error:
            return Pass(CacheStatus(fwd="bypass", detail=f"store: {error}"))
        except UpstreamError as error:
            return unavailable(error)
        except Exception as error:
            log.exception("fault while answering %s %s; it passes through", request.method, route.kind)
            return Pass(CacheStatus(fwd="bypass", detail=f"internal fault: {type(error).__name__}"))

    async def _answer(self, request: Request, route: Route) -> Answer | Pass:
        if route.kind not in (Kind.MANIFEST, Kind.BLOB):
            return Pass(CacheStatus(fwd="bypass", detail=route.kind))
        if route.method not in _READS:
            return Pass(CacheStatus(fwd="method"))
        if not _meant_for(request):
            return Pass(CacheStatus(fwd="bypass", detail="the Host field names another host than the connection"))
        source = self._source(request, route)
        if route.kind is Kind.MANIFEST:
            return await self._manifests.answer(request, source, route)
        if route.digest is None:  # cannot be: a blob route has one
            return Pass()
        return await self._blobs.answer(request, source, route.digest)

    def _source(self, request: Request, route: Route) -> Source:
        repository = Repository(request.registry, route.repository)
        return Source(repository, repeated(request.headers), self._access.principal(request.headers))

    async def observe(self, request: Request, status: int, headers: Headers) -> None:
        """The upstream's answer to a request that passed through. Never raises."""
        route = classify(request.method, request.target)
        self._learn(request, status, headers)
        try:
            await self._observe(request, route, status)
        except StoreError as error:
            log.warning("cannot take note of %s %s: %s", request.method, route.kind, error)

    def _learn(self, request: Request, status: int, headers: Headers) -> None:
        """Take note of where a registry of the operator's sends clients, if the client had no say in it.

        Registries build such addresses from the Host field and from what a proxy may have added: a client that sets
        those could name any end-point, and have it opened.
        """
        if request.method not in _READS or not self._trusted(request.registry) or not _meant_for(request):
            return
        if any(_FORWARDED.fullmatch(name) for name, _ in request.headers):
            return
        base = f"{request.registry}{request.target}"
        if status == 401:
            self._neighbours.learn(base, headers.only("WWW-Authenticate"))
        elif status in _REDIRECTS:
            self._neighbours.learn(base, headers.only("Location"))

    async def _observe(self, request: Request, route: Route, status: int) -> None:
        repository = Repository(request.registry, route.repository)
        accepted = 200 <= status < 300
        match route.kind, route.method:
            case Kind.MANIFEST, "PUT" | "DELETE" if accepted:
                await self._manifests.changed(repository, route.reference)
            case Kind.BLOB, "DELETE" if accepted and route.digest is not None:
                await self._blobs.deleted(repository, route.digest)
            case _ if status in (401, 403) and route.repository:
                self._access.revoke(self._access.principal(request.headers), repository)


def _meant_for(request: Request) -> bool:
    """Does the Host field name the host that the connection leads to? If not, the answer is not that registry's."""
    host = (request.headers.get("host") or "").lower()
    return host in ("", request.registry.authority, f"{request.registry.authority}:{request.registry.port}")


def unavailable(error: UpstreamError) -> Answer:
    """Our own answer when the upstream gave none, readable by registry clients."""
    body = ocierrors.body(ocierrors.UNAVAILABLE, f"pullthrough: {error}")
    headers = Headers((("Content-Type", ocierrors.CONTENT_TYPE),))
    return Answer(error.status, headers, CacheStatus(fwd="miss", detail=str(error)), body)
