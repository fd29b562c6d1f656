"""Processes that work on a store of their own and are killed at one call each: `python -m lab.dying FOLDER EVERY`.

FOLDER/N/store is what the one leaves that was killed just before its Nth call that changes something; FOLDER/N/done
has a byte for each step (`lab.storework`) that it had finished. N goes up by EVERY, until one comes to its end.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path

from lab import storework
from lab.system import System


def main(folder: Path, every: int) -> None:
    """Have one after the other die; their numbers go to standard output."""
    for number in itertools.count(every, every):
        if not _dies(folder / str(number), number):
            return
        sys.stdout.write(f"{number}\n")


def _dies(folder: Path, number: int) -> bool:
    """Was it killed? Else it came to its end."""
    folder.mkdir()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _work(folder, number)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise RuntimeError(f"a worker failed at call {number}")
    return False


def _work(folder: Path, number: int) -> None:
    system, changes = System(), 0

    def before(_: int, name: str) -> None:
        nonlocal changes
        if system.changes:
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    system.before = before
    code = 1
    try:
        with system.installed():
            asyncio.run(_steps(folder))
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, it is told before the end
        traceback.print_exc()
    finally:
        os._exit(code)


async def _steps(folder: Path) -> None:
    store = storework.make(folder / "store")
    done = os.open(folder / "done", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for step in storework.STEPS:
        await step.work(store)
        os.write(done, b".")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
