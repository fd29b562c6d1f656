"""What the soak is made of: the disk, the registry, the servers, the clients and the score, put together once."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from soak.census import Census
from soak.clients import Crowd
from soak.disk import Disk
from soak.score import Score
from soak.servers import Server
from soak.stock import Stock
from soak.troubles import Calendar
from soak.upstream import Upstream


@dataclass
class World:
    """Everything that faults reach for."""

    chance: Random
    disk: Disk
    stock: Stock
    upstream: Upstream
    servers: list[Server]
    store: Path
    calendar: Calendar
    score: Score
    crowd: Crowd
    #: Blob files that we damaged, by name: nobody else's fault.
    damaged: set[str] = field(default_factory=set)
    #: May the elder be killed as well?
    elder_too: bool = True

    @property
    def census(self) -> Census:
        """The store as it lies there."""
        return Census(self.store)

    def victim(self) -> Server:
        """A server that may be ended."""
        return self.chance.choice(self.servers if self.elder_too else self.servers[1:])
