"""The mirror endpoint: registries' content, asked of the proxy itself.

Responsible for requests to `/v2/...` of our own: whose content is meant, who may use the mirror, and as whom the
registry is asked. Everything else is the same as for requests to the registry (`pulls`). Reads only. Must not know how
it is listened.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.core.mirroring import mirrored
from pullthrough.core.registries import Registries
from pullthrough.core.routes import classify
from pullthrough.gate import Gate
from pullthrough.logins import Logins
from pullthrough.messages import Answer, BodyError, Pass, Registry, Repository, Request, refusal
from pullthrough.pulls import Pulls
from pullthrough.trouble import Trouble
from pullthrough.upstream import Reply, Upstream, UpstreamError

#: What a client may say that makes another answer; its credentials are for us alone.
_FIELDS: Final = ("Accept", "Range", "If-Range", "If-None-Match", "User-Agent")
_READS: Final = ("GET", "HEAD")
_PING: Final = (("Content-Type", "application/json"), ("Docker-Distribution-Api-Version", "registry/2.0"))


class Mirror:
    """Answers for every registry that is intercepted, as far as anybody may read it, or the operator's credentials.

    `passwords`: may somebody whom the gate does not admit try again with one?
    """

    def __init__(
        self,
        *,
        pulls: Pulls,
        upstream: Upstream,
        registries: Registries,
        gate: Gate,
        passwords: bool,
        logins: Logins,
    ) -> None:
        self._pulls = pulls
        self._upstream = upstream
        self._registries = registries
        self._gate = gate
        self._passwords = passwords
        self._logins = logins

    def meant(self, request: Request) -> Request | None:
        """The request to the registry that is meant by a request to us; None if none is, or none that we open."""
        found = mirrored(request.target)
        if found is None or not self._registries.covers(found.host, found.port):
            return None
        registry = Registry("http" if found.port == 80 else "https", found.host, found.port)
        fields = [(name, value) for name, value in request.headers.only(*_FIELDS)]
        return Request(registry, request.method, found.target, Headers(fields), request.client)

    async def answer(self, request: Request, meant: Request | None) -> Answer:
        """The answer to `request`, which was made to us and means `meant`."""
        if not await self._gate.admits(request.client, request.headers.get("authorization")):
            return self._turned_away()
        if request.method not in _READS:
            return refusal(405, ocierrors.UNSUPPORTED, "a mirror is for pulling only", ("Allow", "GET, HEAD"))
        if request.target.partition("?")[0] in ("/v2", "/v2/"):
            return Answer(200, Headers(_PING), CacheStatus(), b"{}")
        if meant is None:
            named = mirrored(request.target)
            whom = "no registry" if named is None else f"a registry that is not known here ({named.host}:{named.port})"
            return refusal(404, ocierrors.NAME_UNKNOWN, f"{whom} is meant; see --registry")
        return await self._pulled(meant)

    async def _pulled(self, request: Request) -> Answer:
        repository = Repository(request.registry, classify(request.method, request.target).repository)
        answer = await self._asked(request, self._logins.known(repository))
        if _refused(answer):
            authorization = await self._logins.answered(repository, answer.headers, request.client)
            if authorization is not None:
                await _closed(answer)
                answer = await self._asked(request, authorization)
        if _refused(answer):
            await _closed(answer)
            text = f"{repository} is not there, or not for those who pull from this mirror"
            return refusal(404, ocierrors.NAME_UNKNOWN, text)  # clients then ask the registry itself
        return answer

    async def _asked(self, request: Request, authorization: str | None) -> Answer:
        if authorization is not None:
            fields = request.headers.having("Authorization", authorization)
            request = dataclasses.replace(request, headers=fields)
        answer = await self._pulls.answer(request)
        return await self._passed(request, answer) if isinstance(answer, Pass) else answer

    async def _passed(self, request: Request, reason: Pass) -> Answer:
        """What is not cached is asked for by ourselves: no client's connection leads to the registry."""
        try:
            reply = await self._upstream.ask(request.method, request.url, request.headers, follow=True, bulk=True)
        except UpstreamError as error:
            return Trouble.silence(error).refusal()
        headers = reply.headers.end_to_end().without("Content-Length", "Set-Cookie", "Strict-Transport-Security")
        cache = dataclasses.replace(reason.cache, fwd_status=reply.status)
        if request.method == "HEAD":
            reply.close()
            return Answer(reply.status, headers, cache, length=reply.length)
        return Answer(reply.status, headers, cache, _Passing(reply))

    def _turned_away(self) -> Answer:
        if not self._passwords:
            return refusal(403, ocierrors.DENIED, "this mirror does not serve your network")
        challenge = ("WWW-Authenticate", 'Basic realm="pullthrough mirror", charset="UTF-8"')
        return refusal(401, ocierrors.UNAUTHORIZED, "this mirror wants a name and a password", challenge)


class _Passing:
    """The body of an upstream's answer, as it comes."""

    def __init__(self, reply: Reply) -> None:
        self.length = reply.length
        self._reply = reply
        self._chunks = reply.chunks()
        self._rest = b""

    async def read(self, limit: int) -> bytes:
        try:
            while not self._rest:
                self._rest = await anext(self._chunks)
        except StopAsyncIteration:
            return b""
        except UpstreamError as error:
            raise BodyError(str(error)) from error
        given, self._rest = self._rest[:limit], self._rest[limit:]
        return given

    async def aclose(self) -> None:
        await self._chunks.aclose()
        self._reply.close()


def _refused(answer: Answer) -> bool:
    """Does the registry want another login, or none? A 403 of our own (--deny) is the last word, and is to be read."""
    return answer.status == 401 or (answer.status == 403 and answer.cache.fwd_status == 403)


async def _closed(answer: Answer) -> None:
    if not isinstance(answer.body, bytes):
        await answer.body.aclose()
