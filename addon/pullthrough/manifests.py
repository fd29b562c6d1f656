"""Manifests: by tag always asked for upstream, by digest kept for ever.

Responsible for carrying out one manifest request. Must not know mitmproxy. Bodies are stored among the blobs: a
manifest is content named by its digest like any other; its media type is a fact of the repository and
stands in the link.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pullthrough.access import Access
from pullthrough.core import media, ratelimit
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.children import MAX_MANIFEST, children
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.policy import Facts, Step, plan
from pullthrough.core.ratelimit import Budget
from pullthrough.core.routes import Route
from pullthrough.fetch import Source
from pullthrough.joins import Joins
from pullthrough.limits import TOO_MANY_REQUESTS, Limits
from pullthrough.links import Links
from pullthrough.messages import Answer, BodyError, Pass, Registry, Repository, Request
from pullthrough.siblings import Siblings
from pullthrough.store import Link, Store, StoreError
from pullthrough.tags import Tags
from pullthrough.trouble import Trouble
from pullthrough.upstream import Reply, UnusableAnswer, Upstream, UpstreamError
from pullthrough.upstream_mirrors import UpstreamMirrors

type _Key = tuple[Repository, str, tuple[str, ...], bytes]


@dataclass(frozen=True, slots=True)
class _Head:
    """What the upstream says of a manifest without sending it."""

    status: int
    headers: Headers
    digest: Digest | None
    length: int | None
    #: Is it a 2xx about a manifest? A login page has that status too.
    ok: bool
    budget: Budget | None
    #: When the upstream was asked, by the clock of `tags`.
    asked: float


@dataclass(frozen=True, slots=True)
class _Whole:
    """A manifest request's answer with its body; `digest` if that was verified."""

    status: int
    headers: Headers
    body: bytes
    digest: Digest | None
    stored: bool
    #: When the upstream was asked, by the clock of `tags`.
    asked: float


class Spared(Exception):
    """A pull was not spent; the text says why."""


class Manifests:
    """Answers GET and HEAD on manifests (OCI distribution spec 1.1, end-3)."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        access: Access,
        tags: Tags,
        limits: Limits,
        mirrors: UpstreamMirrors,
        *,
        floor: int,
        vouches: Callable[[Registry], bool],
        siblings: Siblings | None = None,
    ) -> None:
        """`floor`: below so many pulls that are left of a rate limit, none is spent on a tag that moved.

        A registry that `vouches` proves by its mere word that it has a digest; others have to send it.
        """
        self._store = store
        self._upstream = upstream
        self._access = access
        self._tags = tags
        self._limits = limits
        self._mirrors = mirrors
        self._floor = floor
        self._vouches = vouches
        self._links = Links(store, access)
        self._heads: Joins[_Key, _Head] = Joins()
        self._wholes: Joins[_Key, _Whole | Pass] = Joins()
        self._mirrored: Joins[tuple[Repository, Digest], tuple[bytes, str] | None] = Joins()
        self._siblings = siblings or Siblings()
        self._siblings.hear("manifest changed", self._join_no_more)
        self._siblings.hear("awaited", self._hear_awaited)

    async def answer(self, request: Request, source: Source, route: Route, *, sparing: bool) -> Answer | Pass:
        """The answer, or `Pass` where the client does better with the upstream itself.

        With `sparing`, raises Spared instead of spending a pull that the rate limit hardly has. Raises StoreError and
        UpstreamError.
        """
        if route.digest is None:
            return await self._by_tag(request, source, route.reference, sparing=sparing)
        return await self._by_digest(request, source, route.digest)

    async def kept(self, request: Request, repository: Repository, route: Route, reason: str) -> Answer | None:
        """The manifest without asking anybody, for `reason`, to a client who may have it; None if we do not have it.

        Raises StoreError.
        """
        accept = request.headers.all("accept")
        # A registry said what this client's Accept gets by the tag; of an archive's tag nobody said so.
        told = None if route.digest else await self._tags.last(repository, route.reference, accept)
        digest = route.digest or told or await self._tags.brought(repository, route.reference)
        link = await self._links.find(repository, digest) if digest is not None else None
        if digest is None or link is None or not link.media_type:
            return None
        if told is None and not media.lists(accept, link.media_type):
            return None
        body = await self._stored(digest)
        if body is None:
            return None
        stale = CacheStatus(fwd="stale", detail=reason)
        cache = stale if route.by_tag else CacheStatus(hit=True, detail=reason)
        return self._given(request, _known_headers(link), digest, body, cache)

    async def missing(self, source: Source, route: Route, accept: Sequence[str]) -> bool:
        """The upstream says 404: of something that it gave out before? Then a tag's last digest counts no more.

        A 404 to a client that does not accept the media type says nothing (distribution answers so).
        """
        if route.digest is not None:
            link = await self._links.find(source.repository, route.digest)
            return link is not None and (not link.media_type or media.lists(accept, link.media_type))
        repository, tag = source.repository, route.reference
        if await self._tags.last(repository, tag, accept) is None and await self._tags.brought(repository, tag) is None:
            return False
        self._tags.gone(source.repository, route.reference)
        return True

    async def changed(self, repository: Repository, reference: str) -> None:
        """The upstream accepted a PUT or a DELETE of this manifest: what we knew of it is over, now.

        A digest loses its link; of a tag nothing is kept. Checks under way were perhaps answered before:
        nobody joins them any more.
        """
        self._join_no_more(str(repository))
        self._siblings.tell("manifest changed", str(repository))
        digest = Digest.parse(reference)
        if digest is not None:
            await self._links.cut(repository, digest)
        else:
            self._tags.gone(repository, reference)

    def _join_no_more(self, repository: str) -> None:
        self._heads.forget(lambda key: str(key[0]) == repository)
        self._wholes.forget(lambda key: str(key[0]) == repository)

    # -- by tag

    async def _by_tag(self, request: Request, source: Source, tag: str, *, sparing: bool) -> Answer | Pass:
        """Ask what the tag names now (HEAD costs no pull at Docker Hub), and answer from the store if we have that."""
        key = _key(request, source, tag)
        accept = request.headers.all("accept")
        head, joined = await self._heads.do(key, lambda: self._ask_head(source, tag))
        if head.status == TOO_MANY_REQUESTS:  # a GET would be one more
            return Trouble.relayed(head.status, head.headers)
        await self._said(source.repository, tag, accept, head)
        if request.method == "HEAD":
            cache = CacheStatus(
                fwd="request", fwd_status=head.status, collapsed=joined, detail="tags are always checked"
            )
            return _headed(request, head, cache)
        if head.ok and head.digest is not None:
            body = await self._stored(head.digest) if await self._has(source.repository, head.digest) else None
            if body is not None:
                return self._given(
                    request, head.headers, head.digest, body, CacheStatus(hit=True, detail="tag checked")
                )
            if (found := await self._from_mirror(source.repository, head, head.digest)) is not None:
                body, cache = found
                await self._tags.seen(source.repository, tag, accept, head.digest, head.asked)
                return self._given(request, head.headers, head.digest, body, cache)
        refused = head.status in (401, 403, 404)  # that is the upstream's word, and it costs no pull
        if sparing and not refused and head.budget is not None and head.budget.remaining < self._floor:
            raise Spared(f"the registry's rate limit has {head.budget.remaining} pulls left; the tag moved")
        return await self._whole(request, source, tag)

    async def _has(self, repository: Repository, digest: Digest) -> bool:
        """May the registry's word that it has this manifest be believed?"""
        return self._vouches(repository.registry) or await self._links.find(repository, digest) is not None

    async def _said(self, repository: Repository, tag: str, accept: Sequence[str], head: _Head) -> None:
        """The upstream said what the tag names. In an outage that is the answer only if we have it by then."""
        if not head.ok or head.digest is None:
            return
        held = False
        with contextlib.suppress(StoreError):
            held = await self._store.has(head.digest)
        if held:
            await self._tags.seen(repository, tag, accept, head.digest, head.asked)
        else:
            self._tags.named(repository, tag, accept, head.digest, head.asked)

    async def _ask_head(self, source: Source, reference: str) -> _Head:
        asked, wall = self._access.now(), self._tags.now()
        reply = await self._upstream.ask("HEAD", _url(source, reference), source.headers)
        reply.close()
        digest = _promised(reply)
        proven = (digest or Digest.parse(reference)) if self._vouches(source.repository.registry) else None
        await self._note(source, proven, reply, asked)
        ok = reply.ok and _is_manifest(reply)
        return _Head(reply.status, reply.headers, digest, reply.length, ok, ratelimit.budget(reply.headers), wall)

    # -- by digest

    async def _by_digest(self, request: Request, source: Source, digest: Digest) -> Answer | Pass:
        accept = request.headers.all("accept")
        link = await self._links.find(source.repository, digest)
        body = await self._stored(digest)
        # Registries answer 404 to an Accept that does not list the stored type: then only they can decide.
        suits = link is not None and bool(link.media_type) and media.lists(accept, link.media_type)
        granted = self._access.granted(source.principal, source.repository)
        mirrored = bool(self._mirrors.of(source.repository))
        step = plan(Facts(granted=granted, linked=suits, held=body is not None, mirrored=mirrored)).step
        if step is Step.SERVE and link is not None and body is not None:
            await self._tags.got(source.repository, digest)
            return self._given(request, _known_headers(link), digest, body, CacheStatus(hit=True))
        if request.method == "HEAD":
            return await self._relay_head(request, source, str(digest))
        if step is Step.CHECK:
            head, _ = await self._heads.do(
                _key(request, source, str(digest)), lambda: self._ask_head(source, str(digest))
            )
            if head.ok and head.digest in (None, digest) and self._vouches(source.repository.registry):
                cache = CacheStatus(hit=True, detail="access checked")
                found = await self._from_mirror(source.repository, head, digest) if body is None else (body, cache)
                if found is not None:
                    body, cache = found
                    await self._tags.got(source.repository, digest)
                    return self._given(request, head.headers, digest, body, cache)
            if Trouble.status(head.status):
                return Trouble.relayed(head.status, head.headers)
            return await self._whole(request, source, str(digest))
        answer = await self._whole(request, source, str(digest))
        if isinstance(answer, Answer) and Trouble.status(answer.status):
            return Trouble.relayed(answer.status, answer.headers)  # as for one that we hold
        if isinstance(answer, Answer) and 400 <= answer.status < 500:
            with contextlib.suppress(UpstreamError):  # as long as for a manifest that we hold: time must not tell
                await self._relay_head(request, source, str(digest))
        return answer

    async def _relay_head(self, request: Request, source: Source, reference: str) -> Answer:
        head, joined = await self._heads.do(_key(request, source, reference), lambda: self._ask_head(source, reference))
        cache = CacheStatus(fwd="miss", fwd_status=head.status, collapsed=joined)
        return _headed(request, head, cache)

    # -- both

    async def _stored(self, digest: Digest) -> bytes | None:
        """The manifest, if it is stored and what it should be. Small enough to verify each time."""
        blob = await self._store.open(digest)
        if blob is None:
            return None
        with contextlib.closing(blob):
            if blob.size > MAX_MANIFEST:
                return None
            try:
                body = await blob.read_at(0, MAX_MANIFEST)
            except BodyError:  # the disk cannot read it, and the store has dropped it: ask the upstream
                return None
            if digest.matches(body):
                return body
            await blob.condemn("its bytes have another digest")
            return None

    async def _from_mirror(
        self, repository: Repository, head: _Head, digest: Digest
    ) -> tuple[bytes, CacheStatus] | None:
        """The manifest, of which the registry said to this client that it is there, from somebody else."""
        if media.media_type(head.headers.get("content-type") or "") == media.DOCKER_SCHEMA1_SIGNED:
            return None  # named by the digest of a part of it
        found, joined = await self._mirrored.do((repository, digest), lambda: self._ask_mirrors(repository, digest))
        if found is None:
            return None
        body, name = found
        return body, CacheStatus(fwd="miss", stored=not joined, collapsed=joined, detail=f"from mirror {name}")

    async def _ask_mirrors(self, repository: Repository, digest: Digest) -> tuple[bytes, str] | None:
        for mirror in self._mirrors.of(repository):
            body = await mirror.manifest(digest, MAX_MANIFEST)
            if body is not None and await self._keep(digest, body):
                return body, str(mirror)
        return None

    def _given(self, request: Request, headers: Headers, digest: Digest, body: bytes, cache: CacheStatus) -> Answer:
        """The manifest, after which its client asks for what it names."""
        if news := self._store.hold(children(body)):
            self._siblings.tell("awaited", list(map(str, news)))
        return _content(request, headers, digest, body, cache)

    def _hear_awaited(self, names: list[str]) -> None:
        self._store.hold(filter(None, map(Digest.parse, names)))

    async def _whole(self, request: Request, source: Source, reference: str) -> Answer | Pass:
        got, joined = await self._wholes.do(
            _key(request, source, reference), lambda: self._ask_whole(source, reference)
        )
        if isinstance(got, Pass):
            return got
        cache = CacheStatus(fwd="miss", fwd_status=got.status, stored=got.stored and not joined, collapsed=joined)
        if got.stored and got.digest is not None:
            if Digest.parse(reference) is None:
                accept = request.headers.all("accept")
                await self._tags.seen(source.repository, reference, accept, got.digest, got.asked)
            else:
                await self._tags.got(source.repository, got.digest)
        if got.digest is None:
            return Answer(got.status, _end_to_end(got.headers), cache, got.body)
        return self._given(request, got.headers, got.digest, got.body, cache)

    async def _ask_whole(self, source: Source, reference: str) -> _Whole | Pass:
        asked, wall = self._access.now(), self._tags.now()
        reply = await self._upstream.ask("GET", _url(source, reference), source.headers)
        try:
            body = await reply.body(MAX_MANIFEST)
        finally:
            reply.close()
        if body is None:
            return Pass(CacheStatus(fwd="bypass", detail=f"manifest over {MAX_MANIFEST} bytes"))
        if "content-encoding" in reply.headers:
            return Pass(CacheStatus(fwd="bypass", detail="upstream coded the manifest"))
        digest = _verified(reference, reply, body)
        await self._note(source, digest, reply, asked)
        stored = digest is not None and await self._keep(digest, body)
        return _Whole(reply.status, reply.headers, body, digest, stored, wall)

    async def _keep(self, digest: Digest, body: bytes) -> bool:
        try:
            await self._store.put(digest, body)
        except StoreError:
            return False
        return True

    async def _note(self, source: Source, digest: Digest | None, reply: Reply, asked: float) -> None:
        """Draw the conclusions from what the upstream said to this client about this manifest."""
        self._limits.heard(source.repository.registry, source.principal, reply.status, reply.headers)
        if reply.status in (401, 403):
            self._access.revoke(source.principal, source.repository)
        if not reply.ok or not _is_manifest(reply):
            return
        self._access.grant(source.principal, source.repository, asked)
        link = Link(media.media_type(reply.headers.get("content-type") or ""))
        if digest is not None and link.media_type in media.MANIFEST_TYPES:
            with contextlib.suppress(StoreError):
                if await self._links.find(source.repository, digest) != link:
                    await self._links.make(source.repository, digest, link, asked)


def _key(request: Request, source: Source, reference: str) -> _Key:
    return source.repository, reference, media.accept_key(request.headers.all("accept")), source.principal


def _url(source: Source, reference: str) -> str:
    return f"{source.repository.registry}/v2/{source.repository.name}/manifests/{reference}"


def _promised(reply: Reply) -> Digest | None:
    return Digest.parse(reply.headers.get("docker-content-digest") or "")


def _is_manifest(reply: Reply) -> bool:
    """Is a 2xx about a manifest, or is it somebody's login page?"""
    kind = media.media_type(reply.headers.get("content-type") or "")
    return kind in media.MANIFEST_TYPES or _promised(reply) is not None


def _verified(reference: str, reply: Reply, body: bytes) -> Digest | None:
    """The digest of a 2xx body, if it is the one that was asked for or promised.

    By tag, another digest in the header than that of the body is relayed but not kept: signed schema 1 manifests are
    named by the digest of a part of them. By digest, wrong bytes are an error.
    """
    wanted = Digest.parse(reference)
    if not reply.ok or (wanted is None and not _is_manifest(reply)):  # a login page is what no tag names
        return None
    promised = _promised(reply)
    if wanted is None:
        if promised is None and reply.headers.get("docker-content-digest"):  # by an algorithm that is not ours to check
            return None
        digest = Digest.of(body, promised.algorithm if promised else "sha256")
        return digest if promised in (None, digest) else None
    if wanted.matches(body):
        return wanted
    if media.media_type(reply.headers.get("content-type") or "") == media.DOCKER_SCHEMA1_SIGNED:
        return None
    raise UnusableAnswer(f"the upstream sent bytes that are not {wanted}; nothing was kept, try again")


def _known_headers(link: Link) -> Headers:
    return Headers((("Content-Type", link.media_type), ("Docker-Distribution-Api-Version", "registry/2.0")))


def _end_to_end(headers: Headers) -> Headers:
    """As to be sent on. Others may have joined the question: a cookie that was set for one of them is kept from all."""
    return headers.end_to_end().without("Content-Length", "Content-Encoding", "Set-Cookie")


def _headed(request: Request, head: _Head, cache: CacheStatus) -> Answer:
    """The upstream's answer to HEAD."""
    fields = _end_to_end(head.headers)
    if head.ok and _known(request, fields.get("etag"), head.digest):
        return Answer(304, fields.without("Content-Type"), cache)
    return Answer(head.status, fields, cache, b"", head.length)


def _content(request: Request, headers: Headers, digest: Digest, body: bytes, cache: CacheStatus) -> Answer:
    """A manifest whose bytes are verified. Range is ignored, as registries do on manifests."""
    etag = headers.get("etag") or f'"{digest}"'
    fields = _end_to_end(headers).having("Docker-Content-Digest", str(digest)).having("ETag", etag)
    if _known(request, etag, digest):
        return Answer(304, fields.without("Content-Type"), cache)
    if request.method == "HEAD":
        return Answer(200, fields, cache, b"", len(body))
    return Answer(200, fields, cache, body)


def _known(request: Request, etag: str | None, digest: Digest | None) -> bool:
    """Has the client this version (If-None-Match, RFC 9110 section 13.1.2)? Some name it by ETag, some by digest."""
    conditions = {
        tag.strip().removeprefix("W/") for value in request.headers.all("if-none-match") for tag in value.split(",")
    }
    versions = {"*"}
    if etag is not None:
        versions.add(etag.removeprefix("W/"))
    if digest is not None:
        versions.add(f'"{digest}"')
    return not conditions.isdisjoint(versions)
