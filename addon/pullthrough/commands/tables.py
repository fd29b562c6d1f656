"""Labels and values on the screen, and tables.

Responsible for how they are laid out. Must not know what they say.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import typer

_WIDTH: Final = 110


def print_table(rows: Mapping[str, str]) -> None:
    """One row for each label. Long lists go on below their first line; what has no space in it is never broken."""
    width = max(map(len, rows)) + 2
    for label, value in rows.items():
        lines = textwrap.wrap(value, _WIDTH - width, break_long_words=False, break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            typer.echo(f"{'' if number else label:<{width}}{line}")


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; the first column to the left, the others to the right, as numbers are read."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [f"{first:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))]
        typer.echo("  ".join(cells).rstrip())
