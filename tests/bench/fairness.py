"""The works (j) and (k): what clients are to each other, each figure beside the same without the others.

Responsible for who disturbs whom. Must not know how subjects are started, nor of rounds.
"""

from typing import Final

from bench import load
from bench.figures import quantile
from bench.subjects import Subject
from bench.works import Measured, Warm, amount, observed, pulled_layer, served

#: Bytes a second that a slow client takes.
SLOW: Final = 64 * 1024


class Crowded(Warm):
    """(j)."""

    letter, title = "j", "a fast client among slow ones"
    metrics = ("kept_speed", "speed", "memory", "process", "failed")

    def describe(self) -> str:
        sizes = self.sizes
        return (
            f"one client pulls {amount(sizes.large)} that the cache has, alone and then beside {sizes.pullers} others "
            f"that take {amount(SLOW)} a second of it"
        )

    def layers(self) -> list[int]:
        return [self.sizes.large]

    def measure(self, subject: Subject) -> Measured:
        image = self.image(subject)
        alone, _ = pulled_layer(subject, image, 1)
        slow = [[*image.opening, image.layers[0].get]] * self.sizes.pullers
        with load.meanwhile(subject.access, slow, pace=SLOW, site=subject.place.site):
            beside, _ = pulled_layer(subject, image, 1)
        before, after = alone.metrics["speed"], beside.metrics["speed"]
        beside.metrics["kept_speed"] = after / before if before and after else None
        beside.troubles += alone.troubles
        return beside


class Beside(Warm):
    """(k)."""

    letter, title = "k", "manifests beside a fill"
    metrics = ("added_p99", "p99", "memory", "process", "failed")

    def describe(self) -> str:
        sizes = self.sizes
        return (
            f"{sizes.checkers} clients ask HEAD of a warm tag, {sizes.kept} times each over one connection, alone and "
            f"then while another pulls {amount(sizes.large)} that nobody has pulled before"
        )

    def layers(self) -> list[int]:
        return [self.sizes.layer]

    def measure(self, subject: Subject) -> Measured:
        alone, before = self._checks(subject)
        stock = subject.place.upstream.stock
        large = stock.image(self.sizes.large)
        with load.meanwhile(subject.access, [[*large.opening, large.layers[0].get]], site=subject.place.site):
            beside, after = self._checks(subject)
        stock.drop(large)
        beside.metrics["p99"] = after
        beside.metrics["added_p99"] = after - before if before is not None and after is not None else None
        beside.troubles += alone.troubles
        return beside

    def _checks(self, subject: Subject) -> tuple[Measured, float | None]:
        """Also the 99th percentile of a check, in milliseconds."""
        checks = [[self.image(subject).check] * self.sizes.kept] * self.sizes.checkers
        measured, outcome = observed(subject, checks)
        seconds = [sample.seconds for sample in served(outcome.samples())]
        return measured, 1000 * quantile(seconds, 0.99) if seconds else None
