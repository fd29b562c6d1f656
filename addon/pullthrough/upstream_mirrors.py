"""Mirrors of registries that the operator names: somebody else to have the bytes from.

Responsible for which mirrors are asked for a repository, for logging in there, and for leaving those alone that failed.
Content is asked for by digest only: what a mirror says proves no client's right to anything, and no tag. Must not know
clients, nor what is stored.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pullthrough.core import media, ocierrors
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.core.mirrors import MirrorOf
from pullthrough.core.ratelimit import retry_after
from pullthrough.logins import Logins
from pullthrough.messages import Registry, Repository
from pullthrough.trouble import Trouble
from pullthrough.upstream import Reply, Upstream, UpstreamError

log = logging.getLogger(__name__)

#: Seconds for which a mirror is left alone after a failure; twice as long after each further one.
_REST: Final = 10.0
_LONGEST_REST: Final = 600.0
#: ... and for which one is that says it has nothing of a repository, or nothing for us.
_LACKING: Final = 60.0
_MAX_LACKING: Final = 4096
#: Seconds in which a manifest or an error has to be here.
_BODY_TIME: Final = 10.0
#: An error answer is read up to this length.
_MAX_REFUSAL: Final = 64 << 10
#: A whole repository's absence (OCI distribution spec 1.1, "Error Codes"); other 404s are about one manifest or blob.
_NOTHING_THERE: Final = {ocierrors.NAME_UNKNOWN, ocierrors.NAME_INVALID, ocierrors.DENIED, ocierrors.UNAUTHORIZED}
_IDENTITY: Final = ("Accept-Encoding", "identity")


class _Mirror:
    """One mirror, and how it does."""

    def __init__(self, named: MirrorOf, clock: Callable[[], float]) -> None:
        self.registry = Registry(named.scheme, named.host, named.port)
        self._prefix = named.prefix
        self._clock = clock
        self._failures = 0
        self._failed_at = 0.0
        self._resting_until = 0.0
        self._lacking: OrderedDict[Repository, float] = OrderedDict()

    def repository(self, name: str) -> Repository:
        """What the repository of this name is called here."""
        return Repository(self.registry, f"{self._prefix}{name}")

    def is_worth_asking(self, repository: Repository) -> bool:
        """Is it well, and does it have this repository, as far as we know?"""
        now = self._clock()
        return self._resting_until <= now and self._lacking.get(repository, 0.0) <= now

    def worked(self, since: float) -> None:
        """It answered what was asked at `since`."""
        if self._failures and since >= self._failed_at:
            log.info("mirror %s is well again", self.registry)
            self._failures = 0

    def failed(self, reason: str, since: float, pause: float = 0.0) -> None:
        """It failed what was asked at `since`: leave it alone for a while, `pause` seconds at least.

        What was under way at the last failure already is no further one.
        """
        now = self._clock()
        if since >= self._failed_at:
            self._failures = min(self._failures + 1, 10)
        self._failed_at = now
        until = now + min(max(_REST * 2 ** (self._failures - 1), pause), _LONGEST_REST)
        if until > self._resting_until + 1:  # else it is known already
            log.warning("mirror %s is not asked for %.0f s: %s", self.registry, until - now, reason)
        self._resting_until = max(self._resting_until, until)

    def lacks(self, repository: Repository) -> None:
        """It said that there is nothing of this repository: do not ask it for that again at once."""
        log.info("mirror %s has nothing of %s, or nothing for us", self.registry, repository.name)
        self._lacking.pop(repository, None)
        self._lacking[repository] = self._clock() + _LACKING
        while len(self._lacking) > _MAX_LACKING:
            self._lacking.popitem(last=False)


@dataclass(frozen=True, slots=True)
class MirroredRepository:
    """One repository at one mirror: a place to have content from (`fetch.Mirror`)."""

    _mirror: _Mirror
    _repository: Repository
    _upstream: Upstream
    _logins: Logins
    _now: Callable[[], float]
    #: When it was worth asking.
    _since: float = field(compare=False)

    def __str__(self) -> str:
        return self._repository.registry.authority

    async def blob(self, digest: Digest, fields: Headers) -> Reply:
        """The answer to GET with these fields (Range, If-Range), of any status. UpstreamError if there is none."""
        return await self._ask(f"blobs/{digest}", fields.having(*_IDENTITY), bulk=True)

    async def manifest(self, digest: Digest, most: int) -> bytes | None:
        """The manifest, verified; None if the mirror has it not, or not in `most` bytes."""
        fields = Headers((*(("Accept", kind) for kind in sorted(media.MANIFEST_TYPES)), _IDENTITY))
        try:
            reply = await self._ask(f"manifests/{digest}", fields, bulk=False)
            try:
                body = await reply.body(most, within=_BODY_TIME) if reply.status == 200 else None
            finally:
                reply.close()
        except UpstreamError as error:
            self.failed(str(error))
            return None
        if body is not None and not digest.matches(body):
            self.spoiled(digest)
            return None
        return body

    def failed(self, reason: str) -> None:
        """What it had begun to send ended early."""
        self._mirror.failed(reason, self._since)

    def spoiled(self, digest: Digest) -> None:
        """What it sent is not `digest`."""
        self._mirror.failed(f"its bytes are not {digest}", self._since, _LONGEST_REST)

    async def _ask(self, path: str, fields: Headers, *, bulk: bool) -> Reply:
        reply = await self._asked(path, fields, self._logins.known(self._repository), bulk=bulk)
        if reply.status == 401 and not reply.foreign:
            authorization = await self._logins.answered(self._repository, reply.headers, "")
            if authorization is not None:
                await reply.discard()
                reply = await self._asked(path, fields, authorization, bulk=bulk)
        if reply.ok:
            self._mirror.worked(self._since)
        elif Trouble.status(reply.status) or reply.foreign:
            pause = retry_after(reply.headers, self._now()) or 0.0
            self._mirror.failed(f"{reply.origin} answered {reply.status}", self._since, pause)
        elif reply.status in (401, 403) or (reply.status == 404 and await _is_of_nothing(reply)):
            self._mirror.lacks(self._repository)
        return reply

    async def _asked(self, path: str, fields: Headers, authorization: str | None, *, bulk: bool) -> Reply:
        if authorization is not None:
            fields = fields.having("Authorization", authorization)
        url = f"{self._repository.registry}/v2/{self._repository.name}/{path}"
        try:
            return await self._upstream.ask("GET", url, fields, follow=True, bulk=bulk)
        except UpstreamError as error:
            self.failed(str(error))
            raise


class UpstreamMirrors:
    """The mirrors of all registries. `clock` counts seconds and never goes back, `now` those since the epoch."""

    def __init__(
        self,
        named: Iterable[MirrorOf],
        upstream: Upstream,
        logins: Logins,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._logins = logins
        self._clock = clock
        self._now = now
        self._mirrors: dict[tuple[str, int], list[_Mirror]] = {}
        for mirror in named:
            place = mirror.registry.host, mirror.registry.port
            self._mirrors.setdefault(place, []).append(_Mirror(mirror, clock))

    def of(self, repository: Repository) -> Sequence[MirroredRepository]:
        """Where content of this repository may be had now, best first."""
        place = repository.registry.host, repository.registry.port
        named = ((mirror, mirror.repository(repository.name)) for mirror in self._mirrors.get(place, ()))
        since = self._clock()
        return [
            MirroredRepository(mirror, there, self._upstream, self._logins, self._now, since)
            for mirror, there in named
            if mirror.is_worth_asking(there)
        ]


async def _is_of_nothing(reply: Reply) -> bool:
    """Does this 404 say that the repository is not there, and not only what was asked for?"""
    try:
        body = await reply.body(_MAX_REFUSAL, within=_BODY_TIME)
    except UpstreamError:
        return False
    return bool(ocierrors.codes(body or b"") & _NOTHING_THERE)
