"""Ctrl-C, kept back where it would tear in two what belongs together: a process that was started, and who ends it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Interrupts:
    def __init__(self) -> None:
        self.held = 0
        self.pending = False

    def come(self, _number: int, _frame: FrameType | None) -> None:
        self.pending = True
        self.deliver()

    def deliver(self) -> None:
        if self.pending and not self.held:
            self.pending = False
            raise KeyboardInterrupt


_interrupts = _Interrupts()


def install() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, also where whoever runs us in the background has it ignored."""
    signal.signal(signal.SIGINT, _interrupts.come)


@contextmanager
def held() -> Iterator[None]:
    """It comes at the end of this at the earliest."""
    _interrupts.held += 1
    try:
        yield
    finally:
        _interrupts.held -= 1
    _interrupts.deliver()
