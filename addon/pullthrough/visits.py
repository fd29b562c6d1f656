"""Clients' connections: how many one address may have, and how long each of them may keep us waiting.

Responsible for both bounds, and for cutting what exceeds them. Must not know what clients say: `layers` and `door` tell
whose turn it is. A connection counts until its socket is closed, and that is later than the end of its last exchange if
the client does not take what it asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

#: What one address may have of all connections, as one in so many: it can never take all. Not less, because all of a
#: farm may come from the one address of its router.
_SHARE: Final = 2
#: Seconds in which a client that has just come says what it wants, TLS included.
_GREETING: Final = 1.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a client may take. Seconds, but for `slowest`."""

    #: For what it owes as a whole, however its bytes come: the first request or CONNECT, a TLS handshake, a request's
    #: head. A handshake over a satellite takes four round trips of a second, 64 KiB at 16 kbit/s half of a minute.
    step: float = 60.0
    #: Between two requests. Go's clients keep connections for 90 s: they had better close them, and not we while they
    #: are about to send.
    idle: float = 180.0
    #: Without a byte, where bytes pass to the upstream or from there, as long as they like in all. A push may have to
    #: wait for its own source.
    silence: float = 300.0
    #: Without taking anything of a blob or a manifest of ours.
    taking: float = 60.0
    #: Bytes of those a second, on the average, after that. Half of what a line of 16 kbit/s carries.
    slowest: float = 1024.0


class Full(Exception):
    """There is no room for this connection. Is it the client's own doing (`share`), or is there a crowd?"""

    def __init__(self, limit: int, *, share: bool) -> None:
        whose = "of this client " if share else ""
        super().__init__(f"too many connections {whose}are open: the limit is {limit}")
        self.limit = limit
        self.share = share


class Visits:
    """The connections that there are. At most `most`, one address not more than its share of them."""

    def __init__(self, most: int, allowance: Allowance) -> None:
        self._most = most
        self._share = max(1, most // _SHARE)
        self._allowance = allowance
        self._visits: dict[str, Visit] = {}
        self._of: Counter[str] = Counter()
        self._count = 0
        self._nobodys = Visit(allowance, None, lambda: None)

    def __len__(self) -> int:
        return self._count

    def enter(self, key: str, address: str, writer: asyncio.StreamWriter | None) -> None:
        """A connection from `address`; what is sent on it is written to `writer`. Raises Full."""
        if len(self) >= self._most:
            raise Full(self._most, share=False)
        if self._of[address] >= self._share:
            raise Full(self._share, share=True)
        self._of[address] += 1
        self._count += 1
        visit = self._visits[key] = Visit(self._allowance, writer, lambda: self._left(address))
        visit.step()

    async def greeted(self) -> None:
        """Wait until all who are here had the time to ask for something, or have left.

        Whoever is in the middle of a handshake is not to be cut.
        """
        while any(visit.since + _GREETING > time.monotonic() for visit in self._visits.values()):  # noqa: ASYNC110
            await asyncio.sleep(_GREETING / 20)  # that somebody stays silent is no event

    def of(self, key: str) -> Visit:
        """That one; for a connection that never entered, one that is not watched."""
        return self._visits.get(key, self._nobodys)

    def leave(self, key: str) -> None:
        """Nothing more will be read from it or written to it."""
        visit = self._visits.pop(key, None)
        if visit is not None:
            visit.end()

    def _left(self, address: str) -> None:
        self._of[address] -= 1
        self._count -= 1
        if not self._of[address]:
            del self._of[address]


class _Turn(enum.Enum):
    STEP = enum.auto()
    REST = enum.auto()
    CARRY = enum.auto()
    SERVE = enum.auto()
    ALONE = enum.auto()
    END = enum.auto()


class Visit:
    """One connection. Cut when the client, whose turn it is, takes longer than its allowance.

    `over` is called once, when its socket is closed.
    """

    def __init__(self, allowance: Allowance, writer: asyncio.StreamWriter | None, over: Callable[[], None]) -> None:
        #: Of time.monotonic.
        self.since = time.monotonic()
        self._allowance = allowance
        self._writer = writer
        self._over = over
        self._turn: _Turn | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        #: What was left to be sent when we looked last, and whether there was more since.
        self._unsent = 0
        self._given = False

    # -- whose turn it is

    def step(self) -> None:
        """The client owes something as a whole. What is begun already is not begun anew."""
        if self._turn is not _Turn.STEP and self._takes(_Turn.STEP):
            self._wait(self._allowance.step, self._cut)

    def rest(self) -> None:
        """The client may ask for something, or not; and may still be taking the last answer."""
        if self._takes(_Turn.REST):
            self._watch()

    def carry(self) -> None:
        """The client sends a body."""
        if self._takes(_Turn.CARRY):
            self._wait(self._allowance.silence, self._cut)

    def moved(self) -> None:
        """A part of that body passed. It may have been the last one, some time ago."""
        if self._turn is _Turn.CARRY:
            self.carry()

    def serve(self) -> None:
        """It is our turn: of the client is only asked that it takes what it is given."""
        if self._takes(_Turn.SERVE):
            self._watch()

    def leave_alone(self) -> None:
        """It is no business of ours any more: a tunnel."""
        self._takes(_Turn.ALONE)

    def gave(self) -> None:
        """The client took so much that it was given more."""
        self._given = True

    def end(self) -> None:
        """Only what was written before is still on its way."""
        self._stop()
        self._turn = _Turn.END
        if self._writer is None or not self._left_to_send():
            self._over()
            return
        self._closing = asyncio.create_task(self._last_bytes(self._writer), name="last bytes")
        self._watch()

    # -- looking

    def _takes(self, turn: _Turn) -> bool:
        """From now on it is that turn; False if the visit is none of ours any more."""
        if self._turn in (_Turn.ALONE, _Turn.END):
            return False
        self._turn = turn
        self._stop()
        return True

    def _watch(self) -> None:
        """See to it that what is left to be sent becomes less."""
        self._unsent, self._given = self._left_to_send(), False
        if not self._unsent and self._turn is _Turn.REST:
            self._wait(self._allowance.idle, self._cut)
        else:
            self._wait(self._allowance.silence, self._look)

    def _look(self) -> None:
        unsent = self._left_to_send()
        stuck = unsent and unsent >= self._unsent and not self._given
        if stuck or (self._turn is _Turn.END and not unsent):
            self._cut()
        else:
            self._watch()

    def _left_to_send(self) -> int:
        return self._writer.transport.get_write_buffer_size() if self._writer is not None else 0

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._writer is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        """Not closed: that would wait for the client to take what was written."""
        if self._writer is None or (self._writer.is_closing() and not self._left_to_send()):
            return
        peer = self._writer.get_extra_info("peername")
        log.debug("%s kept a connection waiting (%s): cut", peer, self._turn.name.lower() if self._turn else "")
        self._writer.transport.abort()

    async def _last_bytes(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._stop()
        self._over()
