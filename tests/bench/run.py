"""One run: starts the upstream and the subjects, does each work round by round, tears all of it down.

In each round every subject does the work once, one after the other, beginning with another one each time. What a work
leaves in the caches is thrown away after it.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import processes, wan
from bench.fairness import Beside, Crowded
from bench.figures import Table
from bench.peers import SUBJECTS
from bench.site import HERE, Site
from bench.sizes import Sizes
from bench.subjects import Place, Subject
from bench.upstream import Upstream
from bench.wan import Wan
from bench.works import Checks, Herd, Images, ManyHits, Measured, Miss, OneHit, Work

#: Sentences about one subject and work that are kept.
TOLD: Final = 3
#: Characters of what a subject said that did not start.
TOLD_OF_START: Final = 300
#: Those that need no network of their own.
WORKS: Final[tuple[type[Work], ...]] = (OneHit, ManyHits, Miss, Herd, Images, Checks, Crowded, Beside)
#: Bytes that a subject may keep from one work to the next, on disk or in memory.
MUCH: Final = 1 << 30
#: The line decides about work (g), and it is the same line each time.
WAN_ROUNDS: Final = 1


@dataclass(frozen=True)
class Terms:
    """What was asked for."""

    sizes: Sizes
    rounds: int
    works: str
    subjects: tuple[str, ...]
    workers: str | None
    quick: bool


@dataclass
class Findings:
    """What was found, as far as the run came."""

    table: Table = field(default_factory=dict)
    works: dict[str, dict[str, object]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    interrupted: bool = False


class Run:
    """The course of it."""

    def __init__(self, terms: Terms, folder: Path) -> None:
        self.findings = Findings()
        self._terms = terms
        self._folder = folder
        self._kinds = list[type[Subject]]()
        for kind in SUBJECTS:
            if kind.name in terms.subjects:
                if reason := kind.lacks():
                    self._lose(kind, reason)
                else:
                    self._kinds.append(kind)

    def go(self) -> None:
        """All works; after Ctrl-C, those that were done so far."""
        try:
            self._near()
            if Wan.letter in self._terms.works:
                self._far()
        except KeyboardInterrupt:
            self.findings.interrupted = True

    def _near(self) -> None:
        works = [work(self._terms.sizes) for work in WORKS if work.letter in self._terms.works]
        if not works:
            return
        with self._upstream(HERE) as upstream, self._subjects(upstream) as subjects:
            for work in works:
                self._do(work, subjects, self._terms.rounds)
                self._empty(subjects)

    def _far(self) -> None:
        try:
            with wan.network() as network:
                far = Wan(self._terms.sizes, network)
                if not far.delayed:
                    self._tell("(g): this kernel has no netem, so the line has its rate (tbf) and no delay")
                with self._upstream(far.upstream) as upstream, self._subjects(upstream, far) as subjects:
                    self._do(far, subjects, min(self._terms.rounds, WAN_ROUNDS))
        except OSError as reason:
            self.findings.left_out[Wan.letter] = str(reason)
            say(f"left out: (g) a WAN: {reason}")

    def _do(self, work: Work, subjects: Sequence[Subject], rounds: int) -> None:
        say(f"({work.letter}) {work.describe()}")
        self.findings.works[work.letter] = {
            "title": work.title,
            "what": work.describe(),
            "metrics": list(work.metrics),
        }
        ready = [subject for subject in subjects if self._prepared(work, subject)]
        measured: dict[str, list[Measured | None]] = {subject.name: [] for subject in ready}
        for number in range(rounds):
            first = number % len(ready) if ready else 0
            for subject in (*ready[first:], *ready[:first]):
                found = self._measured(work, subject)
                measured[subject.name].append(found)
                self._note(work, subject, number, found)
            self._enter(work, measured)

    def _prepared(self, work: Work, subject: Subject) -> bool:
        """It failing is a note and no end."""
        try:
            subject.start_if_ended()
            work.prepare(subject)
        except (OSError, RuntimeError) as error:
            self._tell(f"({work.letter}) {subject.name}: {error!r}"[:500])
            return False
        return True

    def _measured(self, work: Work, subject: Subject) -> Measured | None:
        """None if it failed, which is a note and no end."""
        if not self._terms.quick:
            os.sync()  # nobody pays for what the one before has still to write
        try:
            found = work.measure(subject)
            if found.troubles:
                subject.restart()  # it may hang from now on
            return found
        except (OSError, RuntimeError) as error:
            self._tell(f"({work.letter}) {subject.name}: {error!r}"[:500])
            return None

    def _note(self, work: Work, subject: Subject, number: int, found: Measured | None) -> None:
        if found is None:
            return
        figure = found.metrics.get(work.metrics[0])
        shown = "failed" if figure is None else f"{figure:.4g}"
        say(f"({work.letter}) round {number + 1}: {subject.name}: {work.metrics[0]} {shown}")
        for sentence in found.troubles[:TOLD]:
            self._tell(f"({work.letter}) {subject.name}: {sentence}")
        if found.latencies:
            self.findings.latencies.setdefault(subject.name, []).extend(found.latencies)
        if found.spans:
            self.findings.spans[subject.name] = found.spans

    def _enter(self, work: Work, measured: dict[str, list[Measured | None]]) -> None:
        self.findings.table[work.letter] = {
            name: {
                metric: [one.metrics.get(metric) if one is not None else None for one in rounds]
                for metric in work.metrics
            }
            for name, rounds in measured.items()
        }

    def _tell(self, sentence: str) -> None:
        say(sentence)
        if sentence not in self.findings.notes:
            self.findings.notes.append(sentence)

    def _lose(self, kind: type[Subject], reason: str) -> None:
        self.findings.missing[kind.name] = reason
        say(f"missing: {kind.name}: {reason}")

    def _empty(self, subjects: Sequence[Subject]) -> None:
        for subject in subjects:
            if subject.size() > MUCH:
                subject.empty()
            elif processes.resident(subject.pids()) > MUCH:
                subject.restart()

    @contextmanager
    def _upstream(self, site: Site) -> Iterator[Upstream]:
        folder = self._folder / "upstream"
        upstream = Upstream(folder, site)
        try:
            upstream.start()
            yield upstream
        finally:
            upstream.stop()
            shutil.rmtree(folder)

    @contextmanager
    def _subjects(self, upstream: Upstream, far: Wan | None = None) -> Iterator[list[Subject]]:
        """All of them run; those that do not start are missing, with the reason."""
        folder = self._folder / "subjects"
        folder.mkdir()
        site = upstream.site if far is None else far.cache
        started = list[Subject]()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder)
            for kind in self._kinds:
                if far is not None and not kind.caches and kind.name != "direct":
                    continue  # a proxy that keeps nothing is no cache, at greater cost
                subject = kind(Place(folder, site, upstream, self._terms.workers))
                stack.callback(subject.stop)
                try:
                    subject.start()
                except (OSError, RuntimeError) as error:
                    reason = f"it did not start: {' '.join(str(error).split())[-TOLD_OF_START:]}"
                    if far is None:
                        self._lose(kind, reason)
                    else:
                        self._tell(f"({far.letter}) {kind.name}: {reason}")
                else:
                    started.append(subject)
            yield started


def say(sentence: str) -> None:
    """To whoever watches."""
    sys.stderr.write(f"bench: {time.strftime('%H:%M:%S')} {sentence}\n")
