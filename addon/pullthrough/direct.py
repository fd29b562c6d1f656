"""One reader alone with the upstream, past a store that failed, from the start or in the middle of a blob.

Responsible for bytes at the offsets that the reader wants, in its own name. Must not know flights. Nothing is stored,
and nothing verified: the client has what it would have had without us.
"""

from __future__ import annotations

import logging

from pullthrough.core.digest import Digest
from pullthrough.fetch import Fetch, Refused, Source, Unsuitable
from pullthrough.messages import BodyError
from pullthrough.store import DamagedBlob, StoredBlob
from pullthrough.upstream import Upstream, UpstreamError

log = logging.getLogger(__name__)


class Direct:
    """A blob at its upstream. One read at a time."""

    def __init__(self, upstream: Upstream, source: Source, digest: Digest) -> None:
        self._upstream = upstream
        self._source = source
        self._digest = digest
        self._fetch: Fetch | None = None
        self._at = 0
        self._rest = b""

    async def read_at(self, offset: int, limit: int, size: int | None) -> bytes:
        """1 to `limit` bytes from `offset`; b"" at the end. BodyError if there are none, or not of `size` bytes."""
        try:
            if not self._rest or self._at != offset:
                self._rest = await self._more(offset, size)
        except (Refused, Unsuitable, UpstreamError) as error:
            raise BodyError(str(error)) from error
        data, self._rest = self._rest[:limit], self._rest[limit:]
        self._at = offset + len(data)
        return data

    async def _more(self, offset: int, size: int | None) -> bytes:
        """The next chunk; over a new connection for an offset where this one is not (a reader of several ranges)."""
        fetch = self._fetch
        if fetch is None or fetch.offset != offset:
            self.close()
            fetch = self._fetch = await Fetch.open(self._upstream, self._digest, self._source, offset=offset)
            if size is not None and fetch.size not in (None, size):
                raise UpstreamError(f"the upstream now says {fetch.size} bytes, before it said {size}")
        return await fetch.read()

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.close()


class Backed:
    """A stored blob whose reader goes on alone when the disk does not give it any more."""

    def __init__(self, blob: StoredBlob, direct: Direct) -> None:
        self.size = blob.size
        self._blob = blob
        self._direct = direct

    async def read_at(self, offset: int, limit: int) -> bytes:
        """1 to `limit` bytes from `offset`; b"" at the end.

        BodyError if the upstream has none either, or if what was read before may be wrong: the reader has to be cut.
        """
        try:
            data = await self._blob.read_at(offset, limit)
        except DamagedBlob:
            raise
        except BodyError as error:
            log.warning("%s: the rest of it comes from the upstream", error)
        else:
            if data or offset >= self.size:
                return data
        return await self._direct.read_at(offset, limit, self.size)

    def close(self) -> None:
        """Let go of both. Safe to call twice."""
        self._blob.close()
        self._direct.close()
