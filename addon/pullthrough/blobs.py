"""Blobs: given from the store or from a flight, to those who may have them.

Responsible for carrying out the plan for one blob request. Must not know mitmproxy. What the upstream refuses is
relayed in its own words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pullthrough.access import Access
from pullthrough.bodies import Blob, whole_or_ranges
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.policy import Facts, Step, plan
from pullthrough.core.routes import Route
from pullthrough.direct import Backed, Direct
from pullthrough.fetch import (
    NOT_YOU,
    UNMIRRORED,
    Elsewhere,
    Mirrored,
    Refused,
    Source,
    Unsuitable,
    objection,
    refusal,
    whole_size,
)
from pullthrough.flight import Flight, NotTheBlob
from pullthrough.flights import Flights
from pullthrough.following import announced
from pullthrough.joins import Joins
from pullthrough.links import Links
from pullthrough.messages import Answer, Pass, Registry, Repository, Request
from pullthrough.siblings import Siblings
from pullthrough.store import Link, Store, StoreError, Taken
from pullthrough.trouble import Trouble
from pullthrough.upstream import Reply, Upstream, UpstreamError
from pullthrough.upstream_mirrors import UpstreamMirrors

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


@dataclass(frozen=True, slots=True)
class Word:
    """What the upstream said to a client, with a 2xx."""

    #: The blob's size, if it said so.
    size: int | None
    #: Did it surely speak of this blob?
    sure: bool
    #: Was there something of ours to compare with?
    held: bool
    #: When it was asked, by the clock of `access`.
    asked: float
    #: Why it is not the blob, if that is plain to see.
    objection: str | None = None


@dataclass(frozen=True, slots=True)
class _Outline:
    """A blob of which nothing is known but the size, for HEAD."""

    size: int

    async def read_at(self, offset: int, limit: int) -> bytes:
        return b""

    def close(self) -> None:
        pass


class Blobs:
    """Answers GET and HEAD on blobs (OCI distribution spec 1.1, end-2)."""

    def __init__(
        self,
        store: Store,
        flights: Flights,
        upstream: Upstream,
        access: Access,
        mirrors: UpstreamMirrors,
        *,
        vouches: Callable[[Registry], bool],
        siblings: Siblings | None = None,
    ) -> None:
        """A registry that `vouches` proves by its mere word that it has a digest; others have to send it."""
        self._vouches = vouches
        self._store = store
        self._flights = flights
        self._upstream = upstream
        self._access = access
        self._mirrors = mirrors
        self._links = Links(store, access)
        self._checks: Joins[tuple[Repository, bytes, Digest], Refused | Word] = Joins()
        self._siblings = siblings or Siblings()
        self._siblings.hear("blob deleted", self._join_no_more)

    async def answer(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        """The answer, or `Pass` where the client does better with the upstream itself.

        Raises StoreError and UpstreamError.
        """
        if request.method == "HEAD":
            return await self._head(request, source, digest)
        word: Word | None = None
        for _ in range(_MAX_PLANS):
            facts, stored = await self._facts(source, digest, word)
            step = plan(facts).step
            # No await from here to the look at the flights in _fetch: what was planned for is what is joined.
            match step:
                case Step.CHECK:
                    said = await self._check(source, digest)
                    if isinstance(said, Refused):
                        return relayed(said)
                    if said.held and not said.sure:
                        return Pass(CacheStatus(fwd="bypass", detail=said.objection or "the upstream proves nothing"))
                    word = said
                case Step.SERVE if stored:
                    blob = await self._store.open(digest)
                    if blob is not None:
                        backed = Backed(blob, Direct(self._upstream, source, digest))
                        given = self._content(request, backed, digest, CacheStatus(hit=True))
                        return await _in_one_piece(given) if blob.at_hand and "range" not in request.headers else given
                case _:
                    answer = await self._fetch(request, source, digest, word, entitled=step is Step.SERVE)
                    if answer is not None:
                        return answer
        return Pass(CacheStatus(fwd="bypass", detail="the cache changed too fast"))

    async def kept(self, request: Request, repository: Repository, route: Route, reason: str) -> Answer | None:
        """The blob without asking anybody, for `reason`, to a client who may have it; None if we do not have it.

        Raises StoreError.
        """
        if route.digest is None or await self._links.find(repository, route.digest) is None:
            return None
        blob = await self._store.open(route.digest)
        return (
            None if blob is None else self._content(request, blob, route.digest, CacheStatus(hit=True, detail=reason))
        )

    async def deleted(self, repository: Repository, digest: Digest) -> None:
        """The upstream deleted this blob: what it said before counts no more."""
        self._join_no_more(str(repository), str(digest))
        self._siblings.tell("blob deleted", str(repository), str(digest))
        await self._links.cut(repository, digest)

    def _join_no_more(self, repository: str, digest: str) -> None:
        self._checks.forget(lambda key: (str(key[0]), str(key[2])) == (repository, digest))

    async def _facts(self, source: Source, digest: Digest, word: Word | None) -> tuple[Facts, bool]:
        """What is known, and whether the blob is stored; `word` if the upstream answered this very question just now.

        What another process fetches is held as much as what we do: who may have it has to be known before.
        """
        checked = word is not None and word.sure
        linked, stored, elsewhere = await self._known(source.repository, digest)
        linked = linked or checked
        flight = self._flights.find(digest)
        if flight is not None and self._opened_by(flight, source):
            # What the upstream answers to the one who opened the flight, it answers to the same one now.
            linked = True
            if flight.landed and not flight.followed:
                self._access.grant(source.principal, source.repository, flight.asked)
        granted = checked or self._access.granted(source.principal, source.repository)
        facts = Facts(
            granted=granted,
            linked=linked,
            held=stored or elsewhere or flight is not None,
            mirrored=bool(self._mirrors.of(source.repository)),
            answered=word is not None,
        )
        return facts, stored

    def _opened_by(self, flight: Flight, source: Source) -> bool:
        current = not self._access.overtaken(source.repository, flight.digest, flight.asked)
        return current and _same(flight.opener, source)

    async def _known(self, repository: Repository, digest: Digest) -> tuple[bool, bool, bool]:
        """Is it linked? Is it stored? If not, does another process fetch it?

        A flight that lands while the index is asked must not be missed.
        """
        while True:
            ended = self._flights.ended
            link, stored = await self._links.look(repository, digest)
            if stored:
                return link is not None, True, False
            elsewhere = self._flights.find(digest) is None and await self._store.filling(digest) is not None
            if ended == self._flights.ended:
                return link is not None, False, elsewhere

    async def _head(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        """From the store, else from what the upstream says at the end of its redirects.

        A client would have to follow those by itself, to a host whose certificate it may not trust.
        """
        cache = CacheStatus(hit=True)
        facts, stored = await self._facts(source, digest, None)
        if plan(facts).step is not Step.SERVE or not stored:
            cache = CacheStatus(fwd="miss")
            try:
                word = await self._check(source, digest)
            except Elsewhere as error:  # perhaps it answers the client, who can follow as well
                return Pass(CacheStatus(fwd="miss", detail=str(error)))
            if isinstance(word, Refused):
                if Trouble.status(word.status):
                    return relayed(word)
                return Pass(CacheStatus(fwd="miss", fwd_status=word.status))
            if word.held and word.sure:
                cache = CacheStatus(hit=True, detail="access checked")
            if not word.sure and (word.held or word.size is None):
                return Pass(cache)
            if word.size is not None:
                return self._content(request, _Outline(word.size), digest, cache)
        blob = await self._store.open(digest)
        return Pass(CacheStatus(fwd="miss")) if blob is None else self._content(request, blob, digest, cache)

    async def _check(self, source: Source, digest: Digest) -> Refused | Word:
        key = source.repository, source.principal, digest
        word, _ = await self._checks.do(key, lambda: self._ask(source, digest))
        return word

    async def _ask(self, source: Source, digest: Digest) -> Refused | Word:
        """Ask the upstream in this client's name; make a grant and a link if it surely may have the blob."""
        asked = self._access.now()
        reply = await self._upstream.ask("HEAD", source.url(digest), source.headers, follow=True)
        reply.close()
        held, size = await self._size(digest)
        if Trouble.status(reply.status):
            return Refused(reply.status, reply.headers, b"")
        if not reply.ok or (held and not _speaks_of(reply, digest, size)):
            # HEAD is refused by ECR Public and by signed URLs of GHCR, and has no words to relay: one byte decides.
            # Not only of what we hold: how long a refusal takes must not tell that.
            one_byte = source.headers.having("Range", "bytes=0-0") if size != 0 else source.headers
            reply = await self._upstream.ask("GET", source.url(digest), one_byte, follow=True)
            if not reply.ok:
                refused = await refusal(reply)
                if refused.status in (401, 403):
                    self._access.revoke(source.principal, source.repository)
                return refused
            reply.close()
        sure = _speaks_of(reply, digest, size) and self._vouches(source.repository.registry)
        if sure:
            await self._proved(source, digest, asked)
        reason = objection(reply)
        return Word(None if reason else whole_size(reply), sure, held, asked, reason)

    async def _size(self, digest: Digest) -> tuple[bool, int | None]:
        """Do we hold the blob, or does another process fetch it? And its size, if that is known."""
        flight = self._flights.find(digest)
        if flight is not None:
            with contextlib.suppress(Refused, Unsuitable, UpstreamError, StoreError, NotTheBlob):
                await flight.opened()
                return True, flight.size
        blob = await self._store.open(digest)
        if blob is None:
            filling = await announced(self._store, digest)
            return filling is not None, None if filling is None else filling.size
        with contextlib.closing(blob):
            return True, blob.size

    async def _proved(self, source: Source, digest: Digest, asked: float) -> None:
        """The upstream gave this blob to this client, who asked for it at `asked`."""
        self._access.grant(source.principal, source.repository, asked)
        with contextlib.suppress(StoreError):
            if await self._links.find(source.repository, digest) is None:
                await self._links.make(source.repository, digest, Link(), asked)

    async def _fetch(
        self, request: Request, source: Source, digest: Digest, word: Word | None, *, entitled: bool
    ) -> Answer | Pass | None:
        """The blob from a flight. None if that was another client's, and the upstream refused that one: plan anew.

        Also if another process turns out to fetch it, and nobody knows yet whether this client is `entitled` to what we
        hold.

        `word` if the upstream was asked before. It does for a proof where it told at least the size: bytes of that
        size and with the right digest are then what it spoke of (`_speaks_of`).
        """
        asked, mirrored = self._access.now(), UNMIRRORED
        if word is not None and (word.sure or word.size is not None):
            asked, mirrored = word.asked, Mirrored(lambda: self._mirrors.of(source.repository), word.size)
        blob, started = self._flights.join(
            digest, source, asked, lambda: self._proved(source, digest, asked), mirrored, entitled=entitled
        )
        try:
            await blob.opened()
            if "range" in request.headers:
                await blob.sized()
        except BaseException as failure:
            blob.close()
            if isinstance(failure, Refused | Unsuitable | StoreError | NotTheBlob):
                return await self._instead(failure, source, blob.opener, digest)
            raise
        if blob.landed:  # all of it is here, and the disk is merely not done with it
            return self._content(request, blob, digest, CacheStatus(hit=True))
        detail = None if blob.mirror is None else f"from mirror {blob.mirror}"
        alone = started and not blob.followed
        cache = CacheStatus(fwd="miss", stored=alone, collapsed=not alone, detail=detail)
        return self._content(request, blob, digest, cache)

    async def _instead(
        self, failure: Exception, source: Source, opener: Source, digest: Digest
    ) -> Answer | Pass | None:
        """What a client gets whose flight did not take off."""
        if isinstance(failure, Taken):
            return None
        if not isinstance(failure, Refused):
            return Pass(CacheStatus(fwd="bypass", detail=str(failure)))
        if not _same(opener, source):
            if failure.status in NOT_YOU:
                return None
            return Pass(CacheStatus(fwd="miss", detail=f"{failure} to another client"))
        if failure.status in (401, 403):
            self._access.revoke(source.principal, source.repository)
        if not Trouble.status(failure.status):
            with contextlib.suppress(UpstreamError):  # as long as for a blob that we hold: see _ask
                (await self._upstream.ask("HEAD", source.url(digest), source.headers, follow=True)).close()
        return relayed(failure)

    @staticmethod
    def _content(request: Request, blob: Blob, digest: Digest, cache: CacheStatus) -> Answer:
        status, headers, body, length = whole_or_ranges(
            blob, digest, request.headers, _headers(digest), head=request.method == "HEAD"
        )
        return Answer(status, headers, cache, body, length)


async def _in_one_piece(answer: Answer) -> Answer:
    """The same with its body as bytes, which are in memory already: nobody needs to pull them."""
    if isinstance(answer.body, bytes):
        return answer
    async with contextlib.aclosing(answer.body) as body:
        return replace(answer, body=await body.read(body.length or 0))


def _headers(digest: Digest) -> Headers:
    return _BLOB_HEADERS.having("Docker-Content-Digest", str(digest)).having("ETag", f'"{digest}"')


def _same(one: Source, other: Source) -> bool:
    return (one.repository, one.principal) == (other.repository, other.principal)


def _speaks_of(reply: Reply, digest: Digest, held: int | None) -> bool:
    """Is this surely about the blob? A login page behind a redirect answers 200 to everybody as well."""
    if not reply.ok or objection(reply) is not None:
        return False
    if reply.headers.get("docker-content-digest") == str(digest):
        return True
    return held is not None and whole_size(reply) == held


def relayed(refused: Refused) -> Answer:
    """An upstream's answer that is not the content, in its own words unless it is an outage.

    Others may have joined the question: a cookie that was set for one of them is kept from all.
    """
    if Trouble.status(refused.status):
        return Trouble.relayed(refused.status, refused.headers)
    cache = CacheStatus(fwd="miss", fwd_status=refused.status)
    headers = refused.headers.end_to_end().without("Content-Length", "Set-Cookie")
    return Answer(refused.status, headers, cache, refused.body)
