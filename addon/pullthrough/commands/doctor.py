"""`pullthrough doctor`: what a person types to have it run, and how its findings look.

Responsible for arguments, colours, JSON and the exit code. Must not know what is checked (`pullthrough.doctor` does).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from pullthrough.config import Settings, load
from pullthrough.doctor import (
    Finding,
    Machine,
    Place,
    Target,
    Verdict,
    examine,
    own_place,
    parse_cache,
    parse_target,
    proxied_by,
)

_COLOURS: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}
_WORD: Final = max(map(len, Verdict))
_NAME: Final = 20  # "proxy of containerd" fits


def doctor(
    host: Annotated[
        str | None,
        typer.Argument(metavar="HOST", help="The registry to check, as HOST[:PORT]. Docker Hub unless given."),
    ] = None,
    *,
    cache: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the cache is. HTTPS_PROXY unless given, else this machine."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="REF", help="An image to ask for: REPOSITORY:TAG there, or HOST/REPOSITORY:TAG."),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="On the cache's machine: its data folder. As for pullthrough run."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print a list of objects instead of lines.")
    ] = False,
) -> None:
    """Check the way from this machine through the cache: one line for each check, and what to do where it fails.

    Run it on a client or on the cache, as root to see daemons too. It changes nothing. Exit code 1 if a check failed.
    """
    settings = load({"data_dir": data_dir}, os.environ)
    place, target = _asked(cache, host, image, settings)
    findings = examine(Machine(environ=os.environ), place, target, settings.data_dir)
    seen = list(findings) if as_json else list(_shown(findings))
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in seen], indent=2))
    else:
        typer.echo(_summary(seen))
    raise typer.Exit(any(finding.verdict is Verdict.FAILED for finding in seen))


def _asked(cache: str | None, host: str | None, image: str | None, settings: Settings) -> tuple[Place, Target]:
    try:
        place = parse_cache(cache) if cache else proxied_by(os.environ) or own_place(settings.listen)
        return place, parse_target(host, image)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _shown(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Each finding as it comes: checks that wait for a time-out would else look like a program that hangs."""
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(
            Text.assemble((f"{finding.verdict:<{_WORD}}", _COLOURS[finding.verdict]), f"  {finding.name:<{_NAME}}"),
            Text(finding.text),
        )
        if finding.remedy:
            console.print(Text(f"{'':<{_WORD}}  {'':<{_NAME}} -> {finding.remedy}", "cyan"))
        yield finding


def _summary(findings: Sequence[Finding]) -> str:
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
