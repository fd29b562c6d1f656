"""Work (g): build machines, and the registry far away, in network namespaces of their own.

    machines ──── cache ──── WAN: 20 ms there and back, 200 Mbit/s each way ──── upstream

The machines' own side of the cache is as fast as the processors. Without a cache they reach the registry through it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from bench import load
from bench.load import Outcome
from bench.site import Site
from bench.sizes import Sizes
from bench.stock import Image
from bench.subjects import Subject
from bench.works import MB, Measured, Work, asked
from lab.netns import Machine, Network
from lab.programs import need

DELAY_MS: Final = 10
MEGABITS: Final = 200
LAYERS: Final = 5


class Wan(Work):
    """(g). Both ends of the line, and what went over it."""

    letter, title = "g", "a WAN"
    metrics = ("cold", "warm", "cold_wan", "warm_wan", "failed")

    def __init__(self, sizes: Sizes, network: Network) -> None:
        super().__init__(sizes)
        self.cache = Site(network.CACHE[0], network.cache)
        self.upstream = Site("10.77.2.100", network.upstream)
        self.machines = Site("10.77.1.100", network.client)
        for machine, interface in ((network.cache, "upstream"), (network.upstream, "cache")):
            self.delayed = _narrow(machine, interface)
        self._network = network

    def describe(self) -> str:
        """What it is, with as much of the line as this kernel has."""
        sizes, delay = self.sizes, f"{2 * DELAY_MS} ms and " if self.delayed else ""
        return (
            f"{sizes.machines} machines pull an image of {sizes.image / MB:g} MB, cold and warm, "
            f"from a registry behind {delay}{MEGABITS} Mbit/s"
        )

    def prepare(self, subject: Subject) -> None:
        """Each round begins with an image that nobody has."""

    def measure(self, subject: Subject) -> Measured:
        """Cold, then warm, which for no cache is the same."""
        image = subject.place.upstream.stock.image(*[self.sizes.image // LAYERS] * LAYERS)
        metrics: dict[str, float | None] = {}
        troubles = list[str]()
        for name in ("cold", "warm") if subject.caches else ("cold",):
            before = self._received()
            outcome = self._pull(subject, image)
            samples = outcome.samples()
            troubles += [sample.trouble for sample in samples if sample.trouble]
            seconds = max(sample.end for sample in samples) - min(sample.begin for sample in samples)
            metrics |= {name: seconds if not troubles else None, f"{name}_wan": (self._received() - before) / MB}
            time.sleep(1.0)  # what a cache does after the last byte is not part of the next pull
        metrics["failed"] = len(troubles)
        if not subject.caches:
            metrics |= {"warm": metrics["cold"], "warm_wan": metrics["cold_wan"]}
        subject.place.upstream.stock.drop(image)
        return Measured(metrics, troubles=troubles)

    def _pull(self, subject: Subject, image: Image) -> Outcome:
        subject.start_if_ended()
        return load.run(subject.access, [asked(image)] * self.sizes.machines, site=self.machines)

    def _received(self) -> int:
        """Bytes that came over the WAN so far."""
        told = self._network.cache.run([need("ip"), "-s", "-j", "link", "show", "dev", "upstream"])
        return int(json.loads(told)[0]["stats64"]["rx"]["bytes"])


def _narrow(machine: Machine, interface: str) -> bool:
    """Make one direction a WAN. False where the kernel has no netem, but the rate alone."""
    command = [need("tc"), "qdisc", "add", "dev", interface, "root"]
    try:
        machine.run([*command, *f"netem limit 20000 delay {DELAY_MS}ms rate {MEGABITS}mbit".split()])
    except AssertionError:
        machine.run([*command, *f"tbf rate {MEGABITS}mbit burst 256kb latency 50ms".split()])
        return False
    return True


@contextmanager
def network() -> Iterator[Network]:
    """The three machines. OSError with the reason, where there can be none."""
    try:
        for program in ("tc", "ip", "nsenter"):
            need(program)
        made = Network()
    except pytest.skip.Exception as reason:
        raise OSError(str(reason)) from reason
    try:
        yield made
    finally:
        made.remove()
