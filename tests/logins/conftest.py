"""A proxy before a registry that wants tokens: see `lab.logins` for what clients do there."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry
from lab.inside import Chosen, Inside
from lab.logins import behind_tls
from lab.names import NameMap, resolver
from lab.pki import Pki
from lab.tokens import TokenServer


@pytest.fixture
def chosen() -> Chosen:
    """What the operator of `proxy` chose; a test that wants something else gives it as a parameter."""
    return Chosen()


@pytest.fixture
async def proxy(
    tmp_path: Path,
    fake: FakeRegistry,
    tokens: TokenServer,
    names: NameMap,
    pki: Pki,
    public: Pki,
    monkeypatch: pytest.MonkeyPatch,
    chosen: Chosen,
) -> AsyncIterator[Inside]:
    """Without doors, before `fake`, which takes tokens of `tokens` alone."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    async with behind_tls(tmp_path, fake, tokens, pki, public, chosen=chosen) as it:
        yield it
