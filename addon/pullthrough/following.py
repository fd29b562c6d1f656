"""Somebody else's fill, in this process or another: noticed, and followed to its end.

Responsible for seeing soon what became of it, at little cost, and for not waiting for ever. Must not know who reads,
nor what an upstream says: whoever follows may have the blob.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.store import Fate, Filling, Partial, Store, StoreError

#: Seconds from one look to the next while bytes come, and at most while none do.
_SOON: Final = 0.05
_LATER: Final = 0.4
#: Seconds that an upstream may take for its first byte, redirects included; and that a fill may bring nothing: its own
#: stall time-out is shorter, and then it asks again.
_UNTIL_IT_SENDS: Final = 30.0
_SILENCE: Final = 90.0


async def announced(store: Store, digest: Digest) -> Filling | None:
    """What a fill of somebody else says, as soon as its upstream sends, or at last that it does not yet.

    None when nobody else fills it, or no more. Raises StoreError.
    """
    end = time.monotonic() + _UNTIL_IT_SENDS
    while True:
        filling = await store.filling(digest)
        if filling is None or filling.sends or time.monotonic() >= end:
            return filling
        await asyncio.sleep(_SOON)


async def follow(store: Store, partial: Partial, moved: Callable[[], None]) -> Fate:
    """Take over what somebody else writes until he ends; what became of it. `moved` is called after each look.

    StoreError if he brings nothing for too long.
    """
    heard, pause = time.monotonic(), _SOON
    while True:
        before = partial.written
        fate = await store.run(partial.catch_up)
        moved()
        if fate is not Fate.GROWS:
            return fate
        if partial.written > before:
            heard, pause = time.monotonic(), _SOON
        elif time.monotonic() - heard > (_SILENCE if partial.filling.sends else _UNTIL_IT_SENDS):
            raise StoreError("whoever downloads it already makes no progress")
        else:
            pause = min(2 * pause, _LATER)
        await asyncio.sleep(pause)
