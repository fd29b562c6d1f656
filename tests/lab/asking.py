"""One account's raw requests to one registry, through a proxy or straight to it.

Says only what the OCI distribution spec calls things; what is sent and what comes back is `lab.http`'s.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lab.http import Answer, Client, Connection, Fetched
from lab.images import INDEX, MANIFEST
from lab.names import Endpoint
from lab.proxy import Proxy

ACCEPT = f"{INDEX}, {MANIFEST}"
#: Fields that may differ between the same answer through a proxy and without one.
OWN_FIELDS = frozenset({"date", "cache-status"})
REALM = re.compile(r'(realm=)"[^"]*"')


class Asking:
    """Requests with one value of Authorization, or without any."""

    def __init__(self, client: Client, registry: Endpoint, authorization: str | None = None) -> None:
        self._client = client
        self._registry = registry
        self.authorization = authorization

    @classmethod
    def through(cls, proxy: Proxy, registry: Endpoint, authorization: str | None = None) -> "Asking":
        """Through a proxy, trusting its CA alone."""
        return cls(Client(proxy.ca_file, proxy=proxy.address), registry, authorization)

    def as_account(self, authorization: str | None) -> "Asking":
        """The same road for somebody else."""
        return Asking(self._client, self._registry, authorization)

    async def fetch(self, target: str, *, headers: Mapping[str, str] | None = None, **request: Any) -> Fetched:
        """Any request; keyword arguments as for `Client.fetch`."""
        return await self._client.fetch(f"{self._registry.url}{target}", headers=self._fields(headers), **request)

    async def blob(self, repository: str, digest: str, **request: Any) -> Fetched:
        """A blob, or what is said instead."""
        return await self.fetch(f"/v2/{repository}/blobs/{digest}", **request)

    async def manifest(
        self, repository: str, reference: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Fetched:
        """A manifest by tag or digest."""
        fields = {"Accept": ACCEPT, **(headers or {})}
        return await self.fetch(f"/v2/{repository}/manifests/{reference}", headers=fields, **request)

    @asynccontextmanager
    async def open_blob(
        self, repository: str, digest: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> AsyncIterator[Answer]:
        """A blob whose body is still to be read; leaving the block leaves it."""
        url = f"{self._registry.url}/v2/{repository}/blobs/{digest}"
        async with self._client.open(url, headers=self._fields(headers), **request) as answer:
            yield answer

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A connection to the registry for several requests, without any field of ours."""
        async with self._client.connect(self._registry.url) as connection:
            yield connection

    def _fields(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        login = {"Authorization": self.authorization} if self.authorization else {}
        return {**login, **(headers or {})}


def cache_status(answer: Fetched | Answer) -> str:
    """The value of Cache-Status (RFC 9211), "" if there is none."""
    return answer.headers.get("cache-status", "")


def from_cache(answer: Fetched | Answer) -> bool:
    """Whether the proxy says that it asked the upstream for no content.

    A blob is "collapsed" instead of a hit while the fill that brought it is still being made durable.
    """
    status = cache_status(answer)
    return "pullthrough; hit" in status or "collapsed" in status


def spoken(answer: Fetched) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body, as far as a proxy must not change them: where tokens are to be had, it may."""
    fields = {name: value for name, value in answer.headers.items() if name not in OWN_FIELDS}
    if "www-authenticate" in fields:
        fields["www-authenticate"] = REALM.sub(r"\1", fields["www-authenticate"])
    return answer.status, fields, answer.body
