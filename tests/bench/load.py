"""Load: clients in processes of their own, begun at the same moment, and what each of their requests saw.

Responsible for starting, gathering and ending them. Must not know what the requests are for.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from bench.site import HERE, Site
from lab.programs import environment

CLIENT: Final = Path(__file__).with_name("client.py")
PROCESSES: Final = 16
#: Seconds that a client waits for a byte before it gives up.
PATIENCE: Final = 120.0

type Script = Sequence[Ask]


class Ask(NamedTuple):
    """One request, and how many bytes its body has to have; None: that is not known."""

    method: str
    path: str
    expected: int | None = None


@dataclass(frozen=True)
class Access:
    """How clients reach a subject: as a proxy on their way to `origin`, or as `origin` itself."""

    origin: str
    ca_file: Path
    proxy: str | None = None
    #: Has it a certificate for the address that clients ask for?
    named: bool = True


class Sample(NamedTuple):
    """One request as its client saw it. Times are of the monotonic clock."""

    begin: float
    first: float
    end: float
    status: int
    size: int
    trouble: str

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Outcome:
    """The samples of each client, and the processor seconds that all clients took."""

    clients: list[list[Sample]]
    cpu: float

    def samples(self, skip: int = 0) -> list[Sample]:
        """Those of all clients, but for the first few of each."""
        return [sample for samples in self.clients for sample in samples[skip:]]


def run(access: Access, scripts: Sequence[Script], *, keep_alive: bool = True, site: Site = HERE) -> Outcome:
    """One client for each script, all at once."""
    with _crowd(access, scripts, site=site, keep_alive=keep_alive) as crowd:
        found = [process.outcome() for process in crowd]
    return Outcome([client for outcome in found for client in outcome.clients], sum(outcome.cpu for outcome in found))


@contextmanager
def meanwhile(
    access: Access, scripts: Sequence[Script], *, pace: int | None = None, site: Site = HERE
) -> Iterator[None]:
    """As long as this block takes, others go through scripts: it begins when each gets the body of its last request.

    `pace` is how many bytes a second each of them takes. At the end of the block they are cut.
    """
    with _crowd(access, scripts, site=site, pace=pace) as crowd:
        for process in crowd:
            process.flowing()
        yield


@contextmanager
def _crowd(
    access: Access, scripts: Sequence[Script], *, site: Site, keep_alive: bool = True, pace: int | None = None
) -> Iterator[list["_Process"]]:
    """They have begun."""
    shares = [scripts[number::PROCESSES] for number in range(min(PROCESSES, len(scripts)))]
    with ExitStack() as stack:
        crowd = [stack.enter_context(_Process(site)) for _ in shares]
        for process, share in zip(crowd, shares, strict=True):
            process.order(access, share, keep_alive, pace)
        for process in crowd:
            process.ready()
        for process in crowd:
            process.go()
        yield crowd


class _Process:
    """One process of clients; it is ended with the block around it, whatever state it is in."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __enter__(self) -> "_Process":
        # -I and -S: nothing of this machine's Python settings is read, which is also what makes it start fast.
        command = [*self._site.prefix, sys.executable, "-I", "-S", str(CLIENT)]
        self._process = subprocess.Popen(
            command,
            env=environment(CLIENT.parent),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for us; it would have each of them say so
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def order(self, access: Access, scripts: Sequence[Script], keep_alive: bool, pace: int | None) -> None:
        self._say(
            json.dumps(
                {
                    "origin": access.origin,
                    "proxy": access.proxy,
                    "ca": str(access.ca_file),
                    "named": access.named,
                    "keep_alive": keep_alive,
                    "patience": PATIENCE,
                    "pace": pace,
                    "scripts": scripts,
                }
            )
        )

    def ready(self) -> None:
        if self._hear() != "ready":
            raise RuntimeError("a client could not begin (see above)")

    def go(self) -> None:
        self._say("go")

    def flowing(self) -> None:
        if self._hear() != "flowing":
            raise RuntimeError("a client got nothing (see above)")

    def outcome(self) -> Outcome:
        self.flowing()
        found = json.loads(self._hear())
        return Outcome([[Sample(*sample) for sample in client] for client in found["samples"]], found["cpu"])

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")
