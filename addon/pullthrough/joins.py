"""Identical questions at the same time are asked once.

Responsible for nothing but that. The work belongs to nobody: it goes on when whoever started it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable


class Joins[K: Hashable, V]:
    """Work under way, by key. Results are not kept: the next question after the answer is asked anew."""

    def __init__(self) -> None:
        self._under_way: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """The result of `work`, or that of the same work already under way. Also: was it another's?"""
        task = self._under_way.get(key)
        joined = task is not None
        if task is None:
            task = asyncio.ensure_future(self._run(work))
            if not task.done():  # with eager tasks it may be over already
                self._under_way[key] = task
                task.add_done_callback(lambda done: self._forget(key, done))
        if not task.done():
            await asyncio.wait((task,))  # which, unlike awaiting the task, does not cancel it when we are
        return task.result(), joined

    def forget(self, concerned: Callable[[K], bool]) -> None:
        """Let nobody join what is under way for these keys any more: the world has changed since it was asked."""
        for key in [key for key in self._under_way if concerned(key)]:
            del self._under_way[key]

    @staticmethod
    async def _run(work: Callable[[], Awaitable[V]]) -> V:
        return await work()

    def _forget(self, key: K, task: asyncio.Task[V]) -> None:
        if not task.cancelled():
            task.exception()  # looked at: whoever waited has it, and if nobody did, nobody missed it
        if self._under_way.get(key) is task:
            del self._under_way[key]
