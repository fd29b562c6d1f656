"""A maker of stores, and the system calls below them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.stores import Stores
from lab.system import System


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path / "store")
    yield made
    for store in made.made:
        await store.aclose()


@pytest.fixture
def system() -> Iterator[System]:
    system = System()
    with system.installed():
        yield system
