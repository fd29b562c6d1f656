"""`pullthrough verify`: what a person types to have every stored blob read, and what they see.

Responsible for arguments, progress, the table and the exit code. Must not know how a blob is judged, nor what is done
with a damaged one (`pullthrough.store` does).
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterator
from typing import Annotated, Final, Self

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from pullthrough.commands.flags import Config, DataDir, settings
from pullthrough.commands.tables import print_table
from pullthrough.config import ConfigError
from pullthrough.core.amounts import counted
from pullthrough.options import parse_size
from pullthrough.store.inspector import Finding, Inspector, Verdict
from pullthrough.store.opened import opened
from pullthrough.store.pace import Pace
from pullthrough.store.quarantine import Quarantine

#: Where nobody watches, one line for each such share of the bytes.
_LINES: Final = 10
#: As a shell has it for a program that SIGINT ended.
_INTERRUPTED: Final = 130


def verify(
    config: Config = None,
    data_dir: DataDir = None,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put damaged blobs aside; they are fetched anew when they are asked for.")
    ] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Read at most so much in a second, such as 50MiB.")
    ] = None,
) -> None:
    """Read every blob on the disk and compare it with its digest, while the server runs or not.

    Changes nothing without --repair. Exit code 1 if something is wrong and was not repaired.
    """
    chosen = settings(locals())
    pace = _pace(rate)
    # Each damaged blob has a line here already.
    logging.getLogger("pullthrough").addHandler(logging.NullHandler())
    tally = _Tally()
    with opened(chosen.store_dir, mend=repair) as shelf:
        inspector = Inspector(shelf, Quarantine(shelf, bool))
        typer.echo(
            f"Reading {counted(shelf.index.count(), 'blob')}, {decimal(shelf.index.bytes())}, in {chosen.store_dir}"
        )
        with _Screen(shelf.index.bytes()) as screen:

            def paid(count: int) -> None:
                tally.bytes += count
                screen.advance(tally.bytes)
                if pace is not None:
                    pace.spend(count)

            with tally.interruptible():
                for finding in inspector.survey(paid, repair=repair):
                    tally.add(finding)
                    screen.tell(finding)
    print_table(tally.rows())
    raise typer.Exit(_INTERRUPTED if tally.interrupted else int(tally.wrong > tally.repaired))


def _pace(rate: str | None) -> Pace | None:
    if rate is None:
        return None
    try:
        size = parse_size(rate)
    except ValueError as error:
        raise ConfigError(f"flag --rate: {error}; for example 50MiB") from error
    if not size.bytes:
        raise ConfigError(f"flag --rate: {rate} is no number of bytes; for example 50MiB")
    return Pace(size.bytes)


class _Tally:
    """What was found so far."""

    def __init__(self) -> None:
        self.bytes = 0
        self.repaired = 0
        self.interrupted = False
        self._verdicts: collections.Counter[Verdict] = collections.Counter()

    @property
    def wrong(self) -> int:
        """All that is not as it should be."""
        return self._verdicts.total() - self._verdicts[Verdict.RIGHT]

    def add(self, finding: Finding) -> None:
        self._verdicts[finding.verdict] += 1
        self.repaired += finding.mended

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the search; what was found until then is shown."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def rows(self) -> dict[str, str]:
        checked = self._verdicts.total() - self._verdicts[Verdict.WITHOUT_ROW]
        rows = {"checked": str(checked), "bytes": str(self.bytes)}
        rows |= {str(verdict): str(self._verdicts[verdict]) for verdict in Verdict}
        rows["repaired"] = str(self.repaired)
        return rows | ({"ended": "by Ctrl-C, before all were read"} if self.interrupted else {})


class _Screen:
    """Lines, and below them a bar where there is a terminal."""

    def __init__(self, total: int) -> None:
        console = Console(highlight=False, soft_wrap=True)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total)
        self._total = total
        self._told = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()

    def advance(self, done: int) -> None:
        """So many bytes were read in all."""
        self._bar.update(self._task, completed=done)
        if self._bar.disable and done * _LINES // max(1, self._total) > self._told:
            self._told = done * _LINES // max(1, self._total)
            typer.echo(f"{decimal(done)} of {decimal(self._total)}")

    def tell(self, finding: Finding) -> None:
        """Of what is right nobody has to hear."""
        if finding.verdict is not Verdict.RIGHT:
            reason = f" ({finding.reason})" if finding.reason else ""
            mended = ", repaired" if finding.mended else ""
            self._bar.console.print(f"{finding.verdict}: {finding.name}{reason}{mended}", markup=False)
