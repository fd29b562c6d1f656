"""Faults that a server of blobs commits on purpose, and the script that says when.

A fault is a value: what goes wrong in one answer. Arming it says for which requests and how often.
A fault that holds something back tells when it does (`reached`) and waits until it may go on
(`release`), so tests wait for states and never for times.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.journal import Match, Request, matches


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong. Counts are body bytes of this one answer, offsets are those of the whole blob."""

    status: int | None = None  # answer this instead, with `headers` and `body`
    headers: Mapping[str, str] = field(default_factory=dict)  # added to, or replacing, the right ones
    body: bytes = b""
    hold_headers: bool = False  # nothing is sent until `release`
    stall_after: int | None = None  # so many body bytes, then nothing until `release`
    cut_after: int | None = None  # so many body bytes, then the connection ends
    reset: bool = False  # ... by RST instead of FIN
    corrupt_at: int | None = None  # the byte at this offset is wrong
    length_lie: int = 0  # Content-Length is wrong by so much; the connection ends after the true body
    gzip: bool = False  # Content-Encoding: gzip, whoever asked, and really compressed
    chunked: bool = False  # no Content-Length
    ignore_range: bool = False  # a ranged request gets 200 and all of it
    shift_range: int = 0  # a ranged request gets 206 for another place, and says so
    etag: str | None = None  # the validator changed


class Armed:
    """A fault in the script: how often it struck, whether it holds, and the way to let it go."""

    def __init__(self, match: Match, fault: Fault, times: int | None, method: str | None) -> None:
        self.fault = fault
        self.reached = threading.Event()
        self.hits: list[Request] = []
        self._match = match
        self._left = times
        self._method = method
        self._go = threading.Event()

    def release(self) -> None:
        """Let the held answers go on, now and from now on."""
        self._go.set()

    def hold(self) -> None:
        """Called by the server: say that it holds, wait for `release`."""
        self.reached.set()
        self._go.wait()

    def strike(self, request: Request) -> bool:
        """Whether this request is hit; counts it. Called under the script's lock."""
        wanted = self._method in (None, request.method) and matches(self._match, request)
        if not wanted or self._left == 0:
            return False
        self._left = None if self._left is None else self._left - 1
        self.hits.append(request)
        return True


NONE = Armed("", Fault(), 0, None)


class FaultScript:
    """Armed faults, asked in the order of arming; the first that hits is the only one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Armed] = []

    def arm(self, match: Match, fault: Fault, times: int | None, method: str | None) -> Armed:
        """Strike the next `times` matching requests (None: all of them)."""
        armed = Armed(match, fault, times, method)
        with self._lock:
            self._armed.append(armed)
        return armed

    def take(self, request: Request) -> Armed:
        """The fault for this request, or the harmless NONE."""
        with self._lock:
            return next((armed for armed in self._armed if armed.strike(request)), NONE)

    def disarm(self, armed: Armed) -> None:
        """Disarm this one and let its held answers go."""
        with self._lock:
            armed.release()
            self._armed.remove(armed)

    def clear(self) -> None:
        """Disarm everything and let every held answer go."""
        with self._lock:
            for armed in self._armed:
                armed.release()
            self._armed.clear()
