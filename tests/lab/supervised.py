"""A supervisor over workers that do nothing but what a test is about: `python -m lab.supervised FOLDER MANNER [NEXT]`.

Each worker appends a line to FOLDER/starts. NEXT is the manner of the workers after a reload; without it that fails.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pullthrough.supervisor import Shift, Supervisor
from pullthrough.worker import Orders, Worker

log = logging.getLogger("lab")


def serves(worker: Worker) -> int:
    """As it should be."""

    async def until_told() -> None:
        orders = Orders(worker)
        with orders.heard():
            worker.report()
            await orders.stop.wait()

    asyncio.run(until_told())
    return 0


def fails(_: Worker) -> int:
    """It cannot even begin."""
    return 3


def dies(worker: Worker) -> int:
    """It begins and is gone, again and again, if it is the first one of them."""
    if not worker.first:
        return serves(worker)
    worker.report()
    return 4


def hangs(worker: Worker) -> int:
    """It hears nothing any more."""
    worker.report()
    while True:
        signal.pause()


def breaks(worker: Worker) -> int:
    """A fault of ours."""
    raise RuntimeError(f"worker {worker.number} is broken")


MANNERS: Mapping[str, Callable[[Worker], int]] = {each.__name__: each for each in (serves, fails, dies, hangs, breaks)}


def main() -> int:
    """The supervisor's exit code."""
    folder, manner, following = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def shift(manner: str) -> Shift:
        def work(worker: Worker) -> int:
            with (folder / "starts").open("a") as starts:
                starts.write(f"{os.getpid()} {worker.number} {worker.slot} {worker.replaces}\n")
            return MANNERS[manner](worker)

        return Shift(2, 0.0, work, lambda: log.info("begun"))

    supervisor = Supervisor(
        folder,
        again=lambda: shift(following.pop(0)),
        closed=lambda: log.info("closed"),
        died=lambda worker: log.info("slot %d is free", worker.slot),
        ending=0.2,
    )
    return supervisor.run(shift(manner))


if __name__ == "__main__":
    sys.exit(main())
