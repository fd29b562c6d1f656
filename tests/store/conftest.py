"""A maker of stores, and the system calls below them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lab.stores import Stores, System


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(tmp_path / "store")
    yield made
    for store in made.made:
        await store.aclose()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    for name in ("pwrite", "fsync", "rename", "ftruncate"):
        monkeypatch.setattr(os, name, _counted(system, name, getattr(os, name)))

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            system.call("sql", str(args[0]))
            return super().execute(*args)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options))
    return system


def _counted(system: System, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        system.call(name)
        return real(*args, **options)

    return call
