"""What keeps an upstream from answering, in words for clients and logs.

Responsible for telling an outage (no answer, 429, 5xx) from the upstream's word, which is passed on (401, 403, 404).
Must not know what is done about it.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.limits import TOO_MANY_REQUESTS
from pullthrough.messages import Answer
from pullthrough.upstream import UpstreamError

#: A server that will never understand the request (501, 505) is not out of order.
_CANNOT: Final = (501, 505)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nobody can be asked, and since when."""

    reason: str
    since: datetime | None = None
    #: The status with which to say so.
    code: int = 503

    @classmethod
    def silence(cls, error: UpstreamError) -> Trouble:
        """There was no answer."""
        return cls(str(error), error.since, error.status if error.since is None else 503)

    @classmethod
    def answer(cls, url: str, status: int) -> Trouble:
        """The answer was none."""
        parts = urllib.parse.urlsplit(url)
        return cls(f"{parts.scheme}://{parts.netloc} answers {status}")

    @staticmethod
    def status(status: int) -> bool:
        """Is an answer with this status an outage?"""
        return status == TOO_MANY_REQUESTS or (status >= 500 and status not in _CANNOT)

    @staticmethod
    def relayed(status: int, headers: Headers) -> Answer:
        """An upstream's answer that is an outage, in words of ours.

        To HEAD it said none; and whether we asked with HEAD or with GET must not show, as that tells what we hold.
        """
        said = [field for field in headers.end_to_end().without("Set-Cookie") if not _is_about_body(field[0])]
        fields = Headers((*said, ("Content-Type", ocierrors.CONTENT_TYPE)))
        limited = status == TOO_MANY_REQUESTS
        code = ocierrors.TOOMANYREQUESTS if limited else ocierrors.UNAVAILABLE
        text = "the registry's rate limit is used up" if limited else f"the registry answers {status}"
        cache = CacheStatus(fwd="miss", fwd_status=status)
        return Answer(status, fields, cache, ocierrors.body(code, f"pullthrough: {text}"))

    def refusal(self) -> Answer:
        """For somebody for whom the cache has nothing: the same whether it holds what was asked for or not."""
        since = f" (unreachable since {self.since:%Y-%m-%dT%H:%M:%SZ})" if self.since is not None else ""
        headers = Headers((("Content-Type", ocierrors.CONTENT_TYPE), ("Cache-Control", "no-store")))
        body = ocierrors.body(ocierrors.UNAVAILABLE, f"pullthrough: {self.reason}{since}")
        return Answer(self.code, headers, CacheStatus(fwd="miss", detail=self.reason), body)


def _is_about_body(name: str) -> bool:
    return name.lower().startswith("content-")
