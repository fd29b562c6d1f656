"""Starts workers, has others take the place of those that die, and changes all of them for new ones on SIGHUP.

Responsible for processes: they are forked, so they share the memory of what is imported, and start at once. Must not
know what they do. One thread and no event loop, because both would be lost in a fork; it sleeps until a signal comes or
a worker says something (`worker`).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from pullthrough.worker import DRAIN, END, READY, Worker

log = logging.getLogger(__name__)

_STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOP | {signal.SIGHUP, signal.SIGCHLD}
#: Seconds. A worker that dies sooner after its start may do so again.
_SETTLED: Final = 10.0
#: Seconds before one that did so twice in a row is replaced, and then twice as many each time, up to the longest.
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Shift:
    """Workers that do the same, and for how many seconds pulls under way may go on when they are relieved."""

    count: int
    grace: float
    #: Called in the process of the worker; its exit code.
    work: Callable[[Worker], int]
    #: Called here, once all of them serve.
    begun: Callable[[], None]


@dataclass(slots=True, eq=False)
class _Process:
    pid: int
    worker: Worker
    line: socket.socket
    since: float
    ready: bool = False
    #: When it is killed, if it has not ended by itself.
    until: float | None = None

    def tell(self, order: bytes, seconds: float) -> None:
        with contextlib.suppress(OSError):  # it is gone, as we shall hear
            self.line.send(order)
        self.until = time.monotonic() + seconds


@dataclass(slots=True, eq=False)
class _Crew:
    """The processes of one shift, and when those are due that are to come back."""

    shift: Shift
    processes: list[_Process] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)
    #: How often the worker of that number died soon, in a row.
    failures: dict[int, int] = field(default_factory=dict)
    begun: bool = False
    leaving: bool = False

    @property
    def complete(self) -> bool:
        """Do all of them serve?"""
        return sum(process.ready for process in self.processes) == self.shift.count

    def pause(self, process: _Process) -> float:
        """Seconds before this one, which died, is replaced."""
        number = process.worker.number
        soon = time.monotonic() - process.since < _SETTLED
        self.failures[number] = self.failures.get(number, 0) + 1 if soon else 0
        return min(_LONGEST_PAUSE, _PAUSE * 2 ** (self.failures[number] - 2)) if self.failures[number] > 1 else 0.0

    def leave(self, order: bytes, seconds: float) -> None:
        """Nobody is replaced any more."""
        self.leaving = True
        self.due.clear()
        for process in self.processes:
            process.tell(order, seconds)


class Supervisor:
    """Over one shift after the other, until it is told to stop.

    `folder` is given to workers. `again` makes the next shift, or raises what is wrong with it. `closed` is called when
    no more clients are wanted, `died` for each worker that is no more. A worker that takes `ending` seconds longer to
    end than pulls under way may take is killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        again: Callable[[], Shift],
        closed: Callable[[], None],
        died: Callable[[Worker], None],
        ending: float = 10.0,
    ) -> None:
        self._folder = folder
        self._again = again
        self._closed = closed
        self._died = died
        self._ending = ending
        self._crews: list[_Crew] = []
        self._selector = selectors.DefaultSelector()
        self._heard, self._hears = socket.socketpair()
        self._asked = False
        self._stopping = False
        self._code = 0

    def run(self, shift: Shift) -> int:
        """Until the last worker has ended; the exit code. Not 0 only if the first shift could not begin."""
        with self._listening():
            self._begin(shift)
            while self._crews:
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._bury()
                self._kill_late()
                self._replace()
                self._reload()
        return self._code

    # -- what is heard

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals wake the selector; their numbers are what is read."""
        self._heard.setblocking(False)
        self._hears.setblocking(False)
        before = {number: signal.signal(number, _noted) for number in _SIGNALS}
        signal.set_wakeup_fd(self._hears.fileno())
        self._selector.register(self._heard, selectors.EVENT_READ, self._signalled)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._let_go()

    def _let_go(self) -> None:
        """In this process, of what wakes it."""
        self._selector.close()
        self._heard.close()
        self._hears.close()
        for process in self._processes():
            process.line.close()

    def _signalled(self) -> None:
        for number in self._heard.recv(4096):
            if number in _STOP:
                self._stop()
            elif number == signal.SIGHUP:
                self._asked = True

    def _told(self, crew: _Crew, process: _Process) -> None:
        """By a worker. It closes its end when it dies, which SIGCHLD tells as well."""
        try:
            said = process.line.recv(16)
        except OSError:
            said = b""
        if not said:
            self._selector.unregister(process.line)
        if READY in said:
            process.ready = True
            if not crew.begun and not crew.leaving and crew.complete:
                self._takes_over(crew)

    def _patience(self) -> float | None:
        """Seconds until something is due by itself."""
        due = [moment for crew in self._crews for moment in crew.due.values()]
        due += [process.until for process in self._processes() if process.until is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # -- what is done

    def _begin(self, shift: Shift) -> None:
        crew = _Crew(shift)
        self._crews.append(crew)
        gc.collect()
        gc.freeze()  # else each worker's collector writes to what they share, and has a copy of it
        for number in range(shift.count):
            if not crew.leaving:
                self._start(crew, number)

    def _takes_over(self, crew: _Crew) -> None:
        crew.begun = True
        crew.shift.begun()
        for other in self._crews:
            if other is not crew and not other.leaving:
                other.leave(DRAIN, other.shift.grace + self._ending)

    def _stop(self) -> None:
        """The second time it does not wait for pulls under way."""
        if not self._stopping:
            self._closed()
        for crew in self._crews:
            if self._stopping:
                crew.leave(END, self._ending)
            elif not crew.leaving:
                crew.leave(DRAIN, crew.shift.grace + self._ending)
        self._stopping = True
        self._dismiss()

    def _reload(self) -> None:
        """One after the other: what is asked for while a shift begins comes after it."""
        if not self._asked or self._stopping or any(not crew.begun for crew in self._crews):
            return
        self._asked = False
        try:
            shift = self._again()
        except Exception as error:  # noqa: BLE001  # whatever it is, those who serve can go on
            log.error("nothing is reloaded, the old settings stay: %s", error)  # noqa: TRY400  # for the operator
            return
        self._begin(shift)

    def _bury(self) -> None:
        """Take note of those that died."""
        for crew in list(self._crews):
            for process in list(crew.processes):
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    crew.processes.remove(process)
                    self._lost(crew, process, os.waitstatus_to_exitcode(status))
        self._dismiss()

    def _lost(self, crew: _Crew, process: _Process, code: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.line)
        process.line.close()
        self._died(process.worker)
        if crew.leaving:
            return
        if not crew.begun and not process.ready:
            self._fail(crew, f"worker {process.worker.number} {_ended(code)} before it served", code)
            return
        pause = crew.pause(process)
        when = f"in {pause:g} s" if pause else "now"
        log.error(
            "worker %d (process %d) %s; another one starts %s", process.worker.number, process.pid, _ended(code), when
        )
        crew.due[process.worker.number] = time.monotonic() + pause

    def _fail(self, crew: _Crew, why: str, code: int) -> None:
        """A shift that cannot begin. There is an older one, or it was the first."""
        crew.leave(END, self._ending)
        if any(other.begun for other in self._crews):
            log.error("nothing is reloaded, the old workers stay: %s", why)
        else:
            log.error("%s", why)
            self._code = max(code, 1)
        self._dismiss()

    def _dismiss(self) -> None:
        self._crews = [crew for crew in self._crews if crew.processes or not crew.leaving]

    def _replace(self) -> None:
        for crew in self._crews:
            for number in [number for number, moment in crew.due.items() if moment <= time.monotonic()]:
                del crew.due[number]
                self._start(crew, number)

    def _kill_late(self) -> None:
        for process in self._processes():
            if process.until is not None and process.until <= time.monotonic():
                log.error("worker %d (process %d) does not end: it is killed", process.worker.number, process.pid)
                process.until = None
                os.kill(process.pid, signal.SIGKILL)

    # -- processes

    def _processes(self) -> list[_Process]:
        return [process for crew in self._crews for process in crew.processes]

    def _start(self, crew: _Crew, number: int) -> None:
        ours, theirs = socket.socketpair()
        taken = {process.worker.slot for process in self._processes()}
        slot = next(slot for slot in itertools.count() if slot not in taken)
        worker = Worker(number, crew.shift.count, slot, self._folder, replaces=number in crew.failures, line=theirs)
        # No signal finds the child with our handlers: it would come to us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be(crew.shift, worker, before)
        except OSError as error:
            ours.close()
            self._unstarted(crew, number, error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        ours.setblocking(False)
        process = _Process(pid, worker, ours, time.monotonic())
        crew.processes.append(process)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._told(crew, process))

    def _unstarted(self, crew: _Crew, number: int, error: OSError) -> None:
        """There is no memory or no process left."""
        if crew.begun:
            log.error("worker %d cannot be started: %s; tried again in %g s", number, error.strerror, _LONGEST_PAUSE)
            crew.due[number] = time.monotonic() + _LONGEST_PAUSE
        else:
            self._fail(crew, f"worker {number} cannot be started: {error.strerror}", 1)

    def _be(self, shift: Shift, worker: Worker, mask: set[int | signal.Signals]) -> NoReturn:
        """In the new process: work, and nothing of what the supervisor would do at its end."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            self._let_go()
            # Ctrl-C and a closed terminal reach all processes: it is the supervisor who says what follows.
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = shift.work(worker)
        except BaseException:
            log.exception("worker %d ends", worker.number)
        finally:
            os._exit(code)


def _noted(_: int, __: object) -> None:
    """What is to be done is read from the wakeup socket."""


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
