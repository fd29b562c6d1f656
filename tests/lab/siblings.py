"""Processes that answer together, as far as they tell each other what they learn; here they are all this one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pullthrough.siblings import Siblings


@asynccontextmanager
async def joined(folder: Path, *names: str) -> AsyncIterator[list[Siblings]]:
    """Siblings with these names, who know each other. `folder` is theirs alone; its path has to be short."""
    folder.mkdir(mode=0o700, exist_ok=True)
    async with contextlib.AsyncExitStack() as ends:
        everybody = []
        for name in names:
            one = Siblings()
            ends.push_async_callback(one.aclose)
            await one.join(folder, name)
            everybody.append(one)
        yield everybody
