"""Servers and upstream clients of a test's own (`lab.pages`), under the lab's names."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from lab.names import NameMap, resolver
from lab.pages import Make, Serve, making, serving
from lab.pki import Pki


@pytest.fixture(autouse=True)
def lookups(names: NameMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names of this test lead anywhere; a test may forge more of them, to anything."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))


@pytest.fixture
def serve(names: NameMap) -> Iterator[Serve]:
    """Starts servers: `serve("cdn.test", identity)`; plain HTTP without one."""
    with serving(names) as start:
        yield start


@pytest.fixture
async def make(pki: Pki) -> AsyncIterator[Make]:
    """Makes clients: `make(timeouts=Timeouts(1.0, 1.0, 1.0))`."""
    async with making(pki) as build:
        yield build
