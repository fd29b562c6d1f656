"""The works (a) to (f), each on one subject at a time: what is prepared once, and what is measured in each round.

Responsible for what is asked and what of the answers counts. Must not know how subjects are started, nor of rounds.
(h), memory, and (i), processor time, are taken along with each. Every pull begins with its tag and its manifest, which
are not timed; so connections to the subject are made, and pullthrough has asked the registry whether the client may.

What is warm: the upstream's files, always; in (a), (b) and (e) the subjects' own files, which they have read or written
before and which fit into the memory together. Nothing waits for the disk when a measurement begins.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from bench import load, processes
from bench.figures import quantile
from bench.load import Ask, Outcome, Sample, Script
from bench.sizes import Sizes
from bench.stock import Image
from bench.subjects import Subject

MB: Final = 1e6
#: Pulls after which a cache that still asks upstream is taken as it is.
WARMING: Final = 5
#: What there is to say about one that has it all.
HIT: Final = ("speed", "memory", "process", "cpu", "clients", "upstream", "failed")
#: The first requests of a script that are not timed.
OPENING: Final = 2


@dataclass
class Measured:
    """One round of a work on a subject."""

    metrics: dict[str, float | None]
    #: Seconds of each request, and when each client began and ended, where a picture is made of them.
    latencies: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


class Work(ABC):
    """One kind of work."""

    letter: ClassVar[str]
    title: ClassVar[str]
    #: Metrics in the order of the table; the first stands for the work.
    metrics: ClassVar[tuple[str, ...]]

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @abstractmethod
    def describe(self) -> str:
        """Clients and bytes."""

    @abstractmethod
    def prepare(self, subject: Subject) -> None:
        """Once, before the first round."""

    @abstractmethod
    def measure(self, subject: Subject) -> Measured:
        """One round."""


class Warm(Work):
    """Clients of one image that the cache has."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._made: Image | None = None

    @abstractmethod
    def layers(self) -> list[int]:
        """The sizes of its layers."""

    def prepare(self, subject: Subject) -> None:
        """Let the cache have it."""
        warm(subject, self.image(subject))

    def image(self, subject: Subject) -> Image:
        """The same one for every subject and round."""
        if self._made is None:
            self._made = subject.place.upstream.stock.image(*self.layers())
        return self._made


class OneHit(Warm):
    """(a)."""

    letter, title = "a", "hit, one client"
    metrics = HIT

    def describe(self) -> str:
        return f"one client pulls {amount(self.sizes.large)} that the cache has"

    def layers(self) -> list[int]:
        return [self.sizes.large]

    def measure(self, subject: Subject) -> Measured:
        return pulled_layer(subject, self.image(subject), 1)[0]


class ManyHits(Warm):
    """(b)."""

    letter, title = "b", "hits, many clients"
    metrics = HIT

    def describe(self) -> str:
        return f"{self.sizes.crowd} clients pull the same {amount(self.sizes.medium)} that the cache has"

    def layers(self) -> list[int]:
        return [self.sizes.medium]

    def measure(self, subject: Subject) -> Measured:
        return pulled_layer(subject, self.image(subject), self.sizes.crowd)[0]


class Miss(Work):
    """(c)."""

    letter, title = "c", "cold miss, one client"
    metrics = ("speed", "first_byte", "memory", "process", "cpu", "clients", "failed")

    def describe(self) -> str:
        return f"one client pulls {amount(self.sizes.large)} that nobody has pulled before"

    def prepare(self, subject: Subject) -> None:
        """Each round begins with a blob that nobody has."""

    def measure(self, subject: Subject) -> Measured:
        stock = subject.place.upstream.stock
        image = stock.image(self.sizes.large)
        measured, samples = pulled_layer(subject, image, 1)
        measured.metrics["first_byte"] = _median_of([sample.first - sample.begin for sample in samples])
        stock.drop(image)
        return measured


class Herd(Work):
    """(d)."""

    letter, title = "d", "herd, cold"
    metrics = ("wall", "slowest", "copies", "memory", "process", "cpu", "clients", "failed")

    def describe(self) -> str:
        return f"{self.sizes.herd} clients at once pull {amount(self.sizes.medium)} that nobody has pulled before"

    def prepare(self, subject: Subject) -> None:
        """Each round begins with a blob that nobody has."""

    def measure(self, subject: Subject) -> Measured:
        stock = subject.place.upstream.stock
        image = stock.image(self.sizes.medium)
        measured, samples = pulled_layer(subject, image, self.sizes.herd)
        stock.drop(image)
        sent = measured.metrics["upstream"] or 0.0
        measured.metrics["copies"] = sent * MB / image.layers[0].size
        measured.metrics["slowest"] = max(sample.seconds for sample in samples) if samples else None
        begin = min((sample.begin for sample in samples), default=0.0)
        measured.spans = [(sample.begin - begin, sample.end - begin) for sample in samples]
        return measured


class Images(Warm):
    """(e)."""

    letter, title = "e", "images, a connection for each request"
    metrics = ("pulls", "p50", "p99", "memory", "process", "clients", "failed")

    def describe(self) -> str:
        sizes = self.sizes
        return (
            f"{sizes.pullers} clients pull a warm image of {sizes.layers} layers of {amount(sizes.layer)}, "
            "closing the connection after each request, as dockerd does"
        )

    def layers(self) -> list[int]:
        return [self.sizes.layer] * self.sizes.layers

    def measure(self, subject: Subject) -> Measured:
        measured, outcome = observed(subject, [self.image(subject).pull] * self.sizes.pullers, keep_alive=False)
        whole = [client for client in outcome.clients if not any(sample.trouble for sample in client)]
        good = served(outcome.samples())
        seconds = _wall(outcome.samples())
        measured.metrics["pulls"] = len(whole) / seconds if whole else None
        measured.latencies = [sample.seconds for sample in good]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            measured.metrics[name] = 1000 * quantile(measured.latencies, share) if good else None
        return measured


class Checks(Warm):
    """(f)."""

    letter, title = "f", "tags revalidated"
    metrics = ("renewed_rate", "renewed_latency", "kept_rate", "kept_latency", "memory", "process", "failed")

    def describe(self) -> str:
        sizes = self.sizes
        return (
            f"{sizes.checkers} clients ask HEAD of a warm tag, {sizes.kept} times each over one connection, then "
            f"{sizes.renewed} times each with a new one"
        )

    def layers(self) -> list[int]:
        return [self.sizes.layer]

    def measure(self, subject: Subject) -> Measured:
        check = self.image(subject).check
        kept, over_one = observed(subject, [[check] * self.sizes.kept] * self.sizes.checkers)
        renewed, over_new = observed(subject, [[check] * self.sizes.renewed] * self.sizes.checkers, keep_alive=False)
        for name, outcome in (("kept", over_one), ("renewed", over_new)):
            good = served(outcome.samples())
            renewed.metrics[f"{name}_rate"] = len(good) / _wall(outcome.samples()) if good else None
            latency = _median_of([sample.seconds for sample in good])
            renewed.metrics[f"{name}_latency"] = latency
        renewed.metrics["failed"] = (kept.metrics["failed"] or 0) + (renewed.metrics["failed"] or 0)
        renewed.troubles += kept.troubles
        return renewed


def warm(subject: Subject, image: Image) -> None:
    """Pull until nothing of it comes from upstream any more, if the subject keeps anything."""
    upstream = subject.place.upstream
    for _ in range(WARMING if subject.caches else 1):
        before = upstream.sent()
        load.run(subject.access, [image.pull], site=subject.place.site)
        if upstream.sent() == before:
            break
        time.sleep(0.2)  # docker-registry has the blob some moments after its client


def pulled_layer(subject: Subject, image: Image, clients: int) -> tuple[Measured, list[Sample]]:
    """The one layer of an image, by so many clients: what it took, and the samples of those who got it."""
    script = [*image.opening, image.layers[0].get]
    measured, outcome = observed(subject, [script] * clients)
    samples = outcome.samples(OPENING)
    good = served(samples)
    seconds, size = _wall(samples), sum(sample.size for sample in good)
    failed = len(good) < len(samples)
    measured.metrics |= {
        "wall": None if failed else seconds,
        "speed": None if failed else size / seconds / MB,
    }
    return measured, good


def observed(subject: Subject, scripts: Sequence[Script], *, keep_alive: bool = True) -> tuple[Measured, Outcome]:
    """Let clients do that, and see what the subject's processes and the upstream had to do."""
    upstream = subject.place.upstream
    subject.start_if_ended()
    before, pids = upstream.sent(), subject.pids()
    processes.reset_peaks(pids)
    used = processes.processor_seconds(pids)
    outcome = load.run(subject.access, scripts, keep_alive=keep_alive, site=subject.place.site)
    pids = subject.pids()
    used, peak = processes.processor_seconds(pids) - used, processes.peak(pids)
    samples = outcome.samples()
    troubles = [sample.trouble for sample in samples if sample.trouble]
    delivered = sum(sample.size for sample in samples)
    metrics: dict[str, float | None] = {
        "failed": len(troubles),
        "clients": outcome.cpu,
        "upstream": (upstream.sent() - before) / MB,
        "memory": peak.together / MB if pids else None,
        "process": peak.largest / MB if pids else None,
        "cpu": used / (delivered / 1e9) if pids and delivered and not troubles else None,
    }
    return Measured(metrics, troubles=troubles), outcome


def amount(size: int) -> str:
    """Bytes as people read them."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"


def asked(image: Image) -> list[Ask]:
    """A pull of all of it, without `/v2/`."""
    return [*image.opening, *(layer.get for layer in image.layers)]


def served(samples: Sequence[Sample]) -> list[Sample]:
    """Those that got what they asked for."""
    return [sample for sample in samples if not sample.trouble]


def _wall(samples: Sequence[Sample]) -> float:
    return max(sample.end for sample in samples) - min(sample.begin for sample in samples)


def _median_of(seconds: Sequence[float]) -> float | None:
    """In milliseconds."""
    return 1000 * quantile(seconds, 0.5) if seconds else None
