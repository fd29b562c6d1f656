"""Blobs: given from the store or from a flight, to those who may have them.

Responsible for carrying out the plan for one blob request. Must not know mitmproxy. What the upstream refuses is
relayed in its own words.
"""

from __future__ import annotations

import contextlib
from typing import Final

from pullthrough.access import Access
from pullthrough.bodies import Blob, whole_or_ranges
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.policy import Facts, Step, plan
from pullthrough.fetch import Refused, Source, Unsuitable, refusal
from pullthrough.flights import Flight, FlightBlob, Flights, NotTheBlob
from pullthrough.joins import Joins
from pullthrough.messages import Answer, Pass, Repository, Request
from pullthrough.store import Store, StoreError
from pullthrough.upstream import Upstream

#: What can change between a plan and its execution (eviction, a flight that ends) does not do so for ever.
_MAX_PLANS: Final = 4
_BLOB_HEADERS: Final = Headers(
    (
        ("Content-Type", "application/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=31536000"),
        ("Docker-Distribution-Api-Version", "registry/2.0"),
    )
)


class Blobs:
    """Answers GET and HEAD on blobs (OCI distribution spec 1.1, end-2)."""

    def __init__(self, store: Store, flights: Flights, upstream: Upstream, access: Access) -> None:
        self._store = store
        self._flights = flights
        self._upstream = upstream
        self._access = access
        self._checks: Joins[tuple[Repository, bytes, Digest], Refused | None] = Joins()

    async def answer(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        """The answer, or `Pass` where the client does better with the upstream itself.

        Raises StoreError and UpstreamError.
        """
        if request.method == "HEAD":
            return await self._head(request, source, digest)
        for _ in range(_MAX_PLANS):
            facts, flight = await self._facts(source, digest)
            # No await from here to the look at the flights in _fetch: what was planned for is what is joined.
            match plan(facts).step:
                case Step.CHECK:
                    refused, _ = await self._check(source, digest)
                    if refused is not None:
                        return relayed(refused)
                    continue
                case Step.SERVE if flight is None:
                    blob = await self._store.open(digest)
                    if blob is None:
                        continue
                    return self._content(request, blob, digest, CacheStatus(hit=True))
                case _:
                    return await self._fetch(request, source, digest)
        return Pass(CacheStatus(fwd="bypass", detail="the cache changed too fast"))

    async def _facts(self, source: Source, digest: Digest) -> tuple[Facts, Flight | None]:
        linked = await self._store.linked(str(source.repository), digest) is not None
        stored = await self._store.has(digest)
        flight = self._flights.find(digest)
        if flight is not None and not stored:
            # What the upstream answers to the one who opened the flight, it answers to the same one now.
            linked |= flight.opener.repository == source.repository and flight.opener.principal == source.principal
        granted = self._access.granted(source.principal, source.repository)
        held = stored or flight is not None
        return Facts(granted=granted, linked=linked, held=held), None if stored else flight

    async def _head(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        facts, flight = await self._facts(source, digest)
        if plan(facts).step is Step.SERVE and flight is None:
            blob = await self._store.open(digest)
            if blob is not None:
                return self._content(request, blob, digest, CacheStatus(hit=True))
        return Pass(CacheStatus(fwd="miss"))

    async def _check(self, source: Source, digest: Digest) -> tuple[Refused | None, bool]:
        key = source.repository, source.principal, digest
        return await self._checks.do(key, lambda: self._prove(source, digest))

    async def _prove(self, source: Source, digest: Digest) -> Refused | None:
        """Ask the upstream in this client's name. None, and a grant and a link, if it may have the blob."""
        asked = self._access.now()
        reply = await self._upstream.ask("HEAD", source.url(digest), source.headers, follow=True)
        reply.close()
        if not reply.ok:
            # HEAD is refused by ECR Public and by signed URLs of GHCR, and has no words to relay: one byte decides.
            one_byte = source.headers.having("Range", "bytes=0-0")
            reply = await self._upstream.ask("GET", source.url(digest), one_byte, follow=True)
            if not reply.ok:
                if reply.status in (401, 403):
                    self._access.revoke(source.principal, source.repository)
                return await refusal(reply)
            reply.close()
        await self.proved(source, digest, asked)
        return None

    async def proved(self, source: Source, digest: Digest, asked: float) -> None:
        """The upstream gave this blob to this client, who asked for it at `asked`."""
        self._access.grant(source.principal, source.repository, asked)
        with contextlib.suppress(StoreError):
            await self._store.link(str(source.repository), digest)

    async def _fetch(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        asked = self._access.now()
        blob, started = self._flights.join(digest, source)
        try:
            await blob.opened()
            if "range" in request.headers:
                await blob.sized()
            if started:
                await self.proved(source, digest, asked)
        except BaseException as failure:
            blob.close()
            if isinstance(failure, Refused | Unsuitable | StoreError | NotTheBlob):
                return self._instead(failure, source, blob)
            raise
        return self._content(request, blob, digest, CacheStatus(fwd="miss", stored=started, collapsed=not started))

    def _instead(self, failure: Exception, source: Source, blob: FlightBlob) -> Answer | Pass:
        """What a client gets whose flight did not take off."""
        if isinstance(failure, Refused):
            if failure.status in (401, 403):
                self._access.revoke(blob.opener.principal, blob.opener.repository)
            if blob.opener.repository == source.repository and blob.opener.principal == source.principal:
                return relayed(failure)
            return Pass(CacheStatus(fwd="miss", detail="the upstream refused another client's request"))
        return Pass(CacheStatus(fwd="bypass", detail=str(failure)))

    @staticmethod
    def _content(request: Request, blob: Blob, digest: Digest, cache: CacheStatus) -> Answer:
        headers = _BLOB_HEADERS.having("Docker-Content-Digest", str(digest)).having("ETag", f'"{digest}"')
        status, headers, body, length = whole_or_ranges(
            blob, digest, request.headers, headers, head=request.method == "HEAD"
        )
        return Answer(status, headers, cache, body, length)


def relayed(refused: Refused) -> Answer:
    """An upstream's answer that is not the content, in its own words."""
    cache = CacheStatus(fwd="miss", fwd_status=refused.status)
    return Answer(refused.status, refused.headers.end_to_end().without("Content-Length"), cache, refused.body)
