"""Waiting for a condition with a deadline, the only kind of waiting that the lab does."""

import time
from collections.abc import Callable

POLL_SECONDS = 0.01


def eventually[T](check: Callable[[], T], what: str, timeout: float = 15.0) -> T:
    """The first true value of `check`; TimeoutError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() >= end:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(POLL_SECONDS)
