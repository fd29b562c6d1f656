"""Which digests belong to which repositories: what the upstream gave out there, and has not deleted since.

Responsible for the order of events: an answer to a question from before a deletion links nothing any more, and a
deletion counts even while the store cannot note it. Must not know requests, nor who asked.
"""

from __future__ import annotations

from pullthrough.access import Access
from pullthrough.core.digest import Digest
from pullthrough.messages import Repository
from pullthrough.store import Link, Store


class Links:
    """The store's links, as far as they are not out of date. All methods raise StoreError."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    async def find(self, repository: Repository, digest: Digest) -> Link | None:
        """The link between the two, if there is one."""
        if self._access.severed(repository, digest):
            return None
        return await self._store.linked(str(repository), digest)

    async def look(self, repository: Repository, digest: Digest) -> tuple[Link | None, bool]:
        """The same, and whether the blob is stored."""
        link, stored = await self._store.look(str(repository), digest)
        return None if self._access.severed(repository, digest) else link, stored

    async def make(self, repository: Repository, digest: Digest, link: Link, asked: float) -> None:
        """The upstream gave `digest` out in `repository`, to a question sent at `asked`."""
        if self._access.overtaken(repository, digest, asked):
            return
        await self._store.link(str(repository), digest, link.media_type)
        if self._access.overtaken(repository, digest, asked):  # deleted while the link was being written
            await self._store.unlink(str(repository), digest)
        self._access.settled(repository, digest)

    async def cut(self, repository: Repository, digest: Digest) -> None:
        """The upstream deleted or replaced `digest` in `repository`."""
        self._access.changed(repository, digest)
        await self._access.agreed()  # or a sibling could link it anew behind our back
        await self._store.unlink(str(repository), digest)
        self._access.settled(repository, digest)
