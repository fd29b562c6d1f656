"""Threads for one kind of blocking work.

Responsible for keeping that work off the event loop, and for leaving an index that failed alone for a while, so that no
pull waits for it again and again. Must not know what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from pullthrough.store.faults import INDEX_ERRORS, StoreError, from_disk, from_index

#: The least that a thread can ask for (setpriority(2)).
_NICEST: Final = 19


class Rest:
    """For `seconds` after a failure nothing is tried."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._reason = ""

    def begin(self, failure: StoreError) -> None:
        """It failed just now."""
        self._reason, self._until = str(failure), time.monotonic() + self._seconds

    def check(self) -> None:
        """StoreError while it lasts."""
        if time.monotonic() < self._until:
            raise StoreError(f"{self._reason} (a moment ago)")


class Lane:
    """At most `threads` threads. What disk or index raise comes out as `StoreError`; `rest` begins after the latter.

    `background`: the processor and the disk are everybody else's first.
    """

    def __init__(self, name: str, threads: int, rest: Rest, *, background: bool = False) -> None:
        self.rest = rest
        self._threads = threads
        self._background = background
        self._begun: set[int] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"store-{name}", initializer=self._begin)

    async def run[T](self, work: Callable[[], T], *, resting: bool, undo: Callable[[T], object] | None = None) -> T:
        """Do `work` in a thread; with `resting`, not while the lane rests.

        If the caller is cancelled meanwhile, what the work yields goes to `undo`.
        """
        future = self._submit(work, resting)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda done: _undo(done, undo))
            raise

    def spawn(self, work: Callable[[], object]) -> None:
        """Do `work` in a thread some time; nobody hears of its failure."""
        with contextlib.suppress(StoreError):
            self._submit(work, resting=True)

    def _submit[T](self, work: Callable[[], T], resting: bool) -> Future[T]:
        try:
            return self._pool.submit(self._do, work, resting)
        except RuntimeError:
            raise StoreError("the store is closed") from None

    def _do[T](self, work: Callable[[], T], resting: bool) -> T:
        if resting:
            self.rest.check()  # here and not earlier: what waits in the queue must not try in vain either
        try:
            return work()
        except OSError as error:
            raise from_disk(error) from error
        except INDEX_ERRORS as error:
            failure = from_index(error)
            self.rest.begin(failure)
            raise failure from error

    def close(self, farewell: Callable[[], None]) -> None:
        """Wait for the end of all work, then let each thread do `farewell`. Blocks."""
        leaving: set[int] = set()
        together = threading.Event()

        def leave() -> None:
            leaving.add(threading.get_ident())
            if leaving >= self._begun:  # nobody leaves before all have come, so each thread has a turn
                together.set()
            together.wait()
            farewell()

        for _ in range(self._threads):  # there may be fewer threads: a pool begins one only where it finds none idle
            self._pool.submit(leave)
        self._pool.shutdown()

    def _begin(self) -> None:
        """A thread's first act."""
        self._begun.add(threading.get_ident())
        if self._background:
            _give_way()


def _give_way() -> None:
    """Linux has a nice value for each thread, and where there is no other it goes for its disk reads, too."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)


def _undo[T](done: Future[T], undo: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
