"""Where programs of the benchmark run: this machine's loopback, or a machine of the laboratory's network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from lab.netns import Machine
from lab.programs import need


@dataclass(frozen=True)
class Site:
    """An address to listen at, and in which network."""

    address: str = "127.0.0.1"
    machine: Machine | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there. Its process id is the command's own."""
        return () if self.machine is None else (need("nsenter"), f"--net=/run/netns/{self.machine.name}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes are in there."""
        if self.machine is None:
            yield
        else:
            with self.machine.entered():
                yield


HERE: Final = Site()
