"""Numbers for Prometheus.

Responsible for names and labels (bounded: never a repository or a client), for rendering them, and for making one sum
of what several processes count (prometheus_client's multiprocess mode). Must not know where the numbers come from. Only
this module imports prometheus_client.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from pullthrough.core.cachestatus import FORWARDED
from pullthrough.core.routes import Kind

#: Every value that a label can have. Whatever else comes is `other`: no stranger makes us count without end.
_ROUTES: Final = frozenset(Kind)
_OUTCOMES: Final = FORWARDED | {"hit", "collapsed", "local"}
_TOKEN_ANSWERS: Final = frozenset({"relayed", "cached", "local", "refused", "failed"})
_OTHER: Final = "other"
#: Registries with a rate limit that are told apart; a `--registry` with a * lets clients name any number.
_MAX_REGISTRIES: Final = 64
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

type _Together = Literal["livemax", "livesum", "mostrecent"]


class Metrics:
    """The counters of this process, or of all that share a folder.

    There may be one that shares in a process, and no other beside it: prometheus_client asks a global.
    """

    def __init__(self, shared: Path | None = None, slot: int = 0) -> None:
        """`shared` is the folder; `slot` is nobody else's there now, and what was counted in it before counts on."""
        self._registry = self._rendered = CollectorRegistry()
        if shared is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
            values.ValueClass = values.MultiProcessValue(lambda: slot)
            self._rendered = CollectorRegistry()
            MultiProcessCollector(self._rendered, str(shared))
        self._read: dict[Gauge, Callable[[], float]] = {}
        self._requests = self._counter(
            "pullthrough_requests",
            "Requests to registries, by what was asked and how it was answered.",
            "route",
            "outcome",
        )
        self._sent = self._counter(
            "pullthrough_sent_bytes", "Bytes of bodies sent to clients, by how they were answered.", "outcome"
        )
        self._tunnelled = self._counter("pullthrough_tunnelled_bytes", "Bytes through tunnels, both directions.")
        self._tokens = self._counter(
            "pullthrough_token_requests", "Token requests of clients, by how they were answered.", "answer"
        )
        self._ratelimit = self._gauge(
            "pullthrough_ratelimit_remaining",
            "Pulls left of a registry's rate limit, as it said last.",
            "mostrecent",
            "registry",
        )
        self._limited: set[str] = set()
        self._breakers = self._gauge(
            "pullthrough_breakers_open",
            "Upstream hosts that are not asked for now, because they failed again and again.",
            "livemax",
        )
        self._degraded = self._gauge(
            "pullthrough_degraded", "1 while some part does not work and pulls may go uncached.", "livemax"
        )
        self._expiry = self._gauge(
            "pullthrough_ca_expiry_seconds", "Seconds for which clients can trust the CA.", "mostrecent"
        )
        self._flights = self._gauge("pullthrough_flights", "Fills under way.", "livesum")
        self._stored = self._gauge("pullthrough_store_bytes", "Bytes of blobs on disk.", "mostrecent")
        self._blobs = self._gauge("pullthrough_store_blobs", "Blobs on disk.", "mostrecent")
        self._size = self._gauge("pullthrough_store_size_bytes", "Bytes that the store may use.", "mostrecent")
        self._workers = self._gauge("pullthrough_workers", "Processes that serve.", "livesum")
        self._restarts = self._counter("pullthrough_worker_restarts", "Processes that took the place of one that died.")
        self._damaged = self._counter(
            "pullthrough_store_damaged_blobs", "Blobs on disk that were found damaged, and are fetched again."
        )
        if shared is not None:
            _have_room(shared, slot)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, together: _Together, *labels: str) -> Gauge:
        """`together`: which of the values of several processes is shown, or is it their sum?"""
        return Gauge(name, documentation, labels, registry=self._registry, multiprocess_mode=together)

    def watch(
        self,
        *,
        degraded: Callable[[], float],
        flights: Callable[[], float],
        size: int,
        breakers: Callable[[], float] = lambda: 0.0,
        expiry: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Where the present state is to be read."""
        self._read = {self._breakers: breakers, self._expiry: expiry, self._degraded: degraded, self._flights: flights}
        self._size.set(size)

    def look(self) -> None:
        """Read the present state. Other processes show it as it was at the last look."""
        for gauge, read in self._read.items():
            gauge.set(read())

    def serves(self, *, replaces: bool) -> None:
        """This process serves from now on, perhaps in the place of one that died."""
        self._workers.set(1)
        self._restarts.inc(replaces)

    def answered(self, route: str, outcome: str, sent: int) -> None:
        """One request to a registry was answered, with `sent` bytes of body."""
        route = route if route in _ROUTES else _OTHER
        outcome = outcome if outcome in _OUTCOMES else _OTHER
        self._requests.labels(route, outcome).inc()
        self._sent.labels(outcome).inc(sent)

    def tunnelled(self, transferred: int) -> None:
        """A tunnel ended."""
        self._tunnelled.inc(transferred)

    def token(self, answer: str) -> None:
        """One token request was answered: relayed, cached, local, refused or failed."""
        self._tokens.labels(answer if answer in _TOKEN_ANSWERS else _OTHER).inc()

    def ratelimit(self, registry: str, remaining: int) -> None:
        """What `registry` says is left of its rate limit. Beyond 64 registries, new ones are left out."""
        if registry in self._limited or len(self._limited) < _MAX_REGISTRIES:
            self._limited.add(registry)
            self._ratelimit.labels(registry).set(remaining)

    def stored(self, usage: int, blobs: int) -> None:
        """What the store holds."""
        self._stored.set(usage)
        self._blobs.set(blobs)

    def damaged(self) -> None:
        """A blob was found damaged. May be called from any thread."""
        self._damaged.inc()

    def render(self) -> bytes:
        """The text exposition format."""
        self.look()
        return generate_latest(self._rendered)


def forget(shared: Path, slot: int) -> None:
    """The process that had this slot is no more. What it counted stays, what it was doing does not."""
    mark_process_dead(slot, str(shared))


def _have_room(shared: Path, slot: int) -> None:
    """Have the disk space of our files now: to write to one that has none kills a process (SIGBUS)."""
    for file in shared.glob(f"*_{slot}.db"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
