"""The other processes that answer beside this one: they hear what one of them has learned.

Responsible for carrying words to all of them, in order, and for knowing when they have been taken in. Must not know
what they mean. A process that may have missed something is told so, and goes on as if it had just started: what it does
not know, it asks the upstream.

Each process listens on a socket in a folder that only this user may enter, and connects to all others; what it tells
goes through its own connections alone. The answer to words is how many have been taken in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

#: Seconds in which a process takes in what it is told. Longer, and it is left alone: nobody waits for one that hangs.
_PATIENCE: Final = 2.0
#: Bytes that may wait for a process that does not read.
_MAX_BACKLOG: Final = 8 << 20
_SUFFIX: Final = ".sock"
#: Linux: what is open has a short name here. The path of a socket may have 107 bytes, whatever TMPDIR is.
_OPEN: Final = Path("/proc/self/fd")
#: How many words were taken in so far.
_COUNT: Final = struct.Struct("!Q")
#: The first words to somebody: who speaks. And the last: nothing was lost.
_HELLO: Final = "hello"
_BYE: Final = "bye"

log = logging.getLogger(__name__)

type Hearer = Callable[..., None]


class Siblings:
    """Who else answers. Alone, until `join` is called: then nothing of this costs anything."""

    def __init__(self) -> None:
        self._hearers: dict[str, Hearer] = {}
        self._missed: list[Callable[[], None]] = []
        self._tellings: dict[str, _Telling] = {}
        self._greetings: dict[str, asyncio.Task[None]] = {}
        self._hearings: set[_Hearing] = set()
        self._door: asyncio.Server | None = None
        self._folder = Path()
        self._opened: int | None = None
        self._name = ""

    # -- for whoever has something to say

    def hear(self, topic: str, hearer: Hearer) -> None:
        """Have `hearer` called with what a sibling tells of `topic`. It must not tell that on."""
        self._hearers[topic] = hearer

    def missed(self, forget: Callable[[], None]) -> None:
        """Have `forget` called when something may have been missed: what siblings could have changed is unknown."""
        self._missed.append(forget)

    def tell(self, topic: str, *words: Any) -> None:
        """Let every sibling hear these JSON values. Does not block; see `agreed`."""
        if self._tellings:
            line = _line(topic, *words)
            for telling in tuple(self._tellings.values()):
                telling.tell(line)

    async def agreed(self) -> None:
        """Wait until every sibling has taken in all that it was told so far. One that hangs is left alone."""
        for telling in tuple(self._tellings.values()):
            await telling.taken_in()

    # -- the life of the whole

    async def join(self, folder: Path, name: str) -> None:
        """From now on hear, and be heard by, all that have joined in `folder`. OSError if nobody can be listened to."""
        self._folder, self._name = folder, name
        if _OPEN.is_dir():
            self._opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folder = _OPEN / str(self._opened)
        loop = asyncio.get_running_loop()
        self._door = await loop.create_unix_server(lambda: _Hearing(self), self._path(name))
        for other in await asyncio.to_thread(_names, folder):
            if other != name:
                await self.greet(other)

    async def aclose(self) -> None:
        """Tell nobody any more. Safe to call twice."""
        for greeting in self._greetings.values():
            greeting.cancel()
        if self._door is not None:
            with contextlib.suppress(OSError):
                self._path(self._name).unlink()
            self._door.close()
            self._door = None
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None
        for telling in tuple(self._tellings.values()):
            telling.tell(_line(_BYE))
            telling.close()
        for hearing in tuple(self._hearings):
            hearing.close()
        self._tellings.clear()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    async def _connect(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE):
                _, telling = await loop.create_unix_connection(lambda: _Telling(self, name), str(self._path(name)))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):  # it is dead
                self._path(name).unlink()
            return
        except (OSError, TimeoutError) as error:
            log.warning("another worker cannot be reached: %s", error)
            return
        self._tellings[name] = telling
        telling.tell(_line(_HELLO, self._name))
        await telling.taken_in()

    # -- for connections alone

    def enter(self, hearing: _Hearing) -> None:
        """A sibling begins to speak."""
        self._hearings.add(hearing)

    async def greet(self, name: str) -> None:
        """Have a connection to a sibling, if it is still there, and have it know us."""
        if name in self._tellings or self._door is None:
            return
        if name not in self._greetings:
            greeting = asyncio.create_task(self._connect(name), name="sibling")
            self._greetings[name] = greeting
            greeting.add_done_callback(lambda _: self._greetings.pop(name, None))
        await asyncio.wait((self._greetings[name],))

    def heard(self, topic: str, words: list[Any]) -> None:
        """A sibling has told this."""
        hearer = self._hearers.get(topic)
        if hearer is not None:
            hearer(*words)

    def left(self, telling: _Telling) -> None:
        """Nobody hears us there any more."""
        if self._tellings.get(telling.name) is telling:
            del self._tellings[telling.name]

    def silent(self, hearing: _Hearing) -> None:
        """A sibling ended, or took us for one that hangs."""
        self._hearings.discard(hearing)
        if hearing.complete or self._door is None:
            return
        for forget in self._missed:
            forget()
        telling = self._tellings.get(hearing.name)
        if telling is not None:  # it may live: then it shall know us again
            telling.tell(_line(_HELLO, self._name))


class _Hearing(asyncio.Protocol):
    """What one sibling says."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings
        self._rest = b""
        self._taken_in = 0
        self._greeting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.name = ""
        #: Was everything heard that was to be said?
        self.complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is one
        self._siblings.enter(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take_in(line)
        self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._siblings.silent(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _take_in(self, line: bytes) -> None:
        topic, *words = json.loads(line)
        if topic == _HELLO:
            self.name = words[0]
            self._greeting = asyncio.create_task(self._siblings.greet(self.name))
            self._greeting.add_done_callback(lambda _: self._greeted())
        elif topic == _BYE:
            self.complete = True
        else:
            self._siblings.heard(topic, words)
        self._taken_in += 1

    def _greeted(self) -> None:
        self._greeting = None
        self._answer()

    def _answer(self) -> None:
        """Say how far we are; whoever said hello waits until it will be told everything as well."""
        if self._greeting is None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(_COUNT.pack(self._taken_in))


class _Telling(asyncio.Protocol):
    """What one sibling is told."""

    def __init__(self, siblings: Siblings, name: str) -> None:
        self.name = name
        self._siblings = siblings
        self._told = 0
        self._taken_in = 0
        self._rest = b""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is one

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) // _COUNT.size * _COUNT.size
        self._rest = data[whole:]
        if whole:
            [self._taken_in] = _COUNT.unpack(data[whole - _COUNT.size : whole])
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._siblings.left(self)
        self._wake()

    def tell(self, line: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._told += 1
        self._transport.write(line)
        if self._transport.get_write_buffer_size() > _MAX_BACKLOG:
            self._give_up()

    async def taken_in(self) -> None:
        """Wait until it has all that it was told so far."""
        if self._transport is None or self._taken_in >= self._told:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((self._told, future))
        try:
            async with asyncio.timeout(_PATIENCE):
                await future
        except TimeoutError:
            self._give_up()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _give_up(self) -> None:
        """It will notice, and start anew."""
        log.warning("worker %s does not take in what it is told; it has to find out by itself", self.name)
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        still = []
        for told, future in self._waiting:
            if self._transport is not None and told > self._taken_in:
                still.append((told, future))
            elif not future.done():
                future.set_result(None)
        self._waiting = still


def _names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob(f"*{_SUFFIX}")]


def _line(topic: str, *words: Any) -> bytes:
    return json.dumps([topic, *words], separators=(",", ":")).encode() + b"\n"
