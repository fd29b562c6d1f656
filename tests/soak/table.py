"""The table at the end."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from soak.score import TOLD, Score
from soak.servers import Vitals
from soak.troubles import Error

MIB = 1 << 20
#: What a process may grow by between two quiet moments: memory of what was seen, and the threads that the store may
#: have (some 20, each with connections to four databases). What leaks does so without end.
FLAT = Vitals(0, 64 * MIB, 160, 24)
#: Findings that are told with their zero, whether there are some or not.
ZEROS = (
    Error.WRONG,
    Error.LEAK,
    Error.STALE,
    "entries lost",
    "entries whose file is not the blob",
    "files without a row",
    "more bytes than --size",
    "servers that did not come or go",
    "processes or files left behind",
)


def show(score: Score, vitals: Mapping[str, Sequence[Vitals]], headline: str) -> None:
    """All numbers; the findings below."""
    console = Console()
    table = Table("", "", title=headline, title_justify="left", show_header=False)
    table.columns[1].justify = "right"
    table.add_row("operations that went well", str(score.answers.total()))
    for what, count in sorted(score.answers.items()):
        table.add_row(f"  {what}", str(count))
    table.add_row("body bytes checked", f"{score.bytes / MIB:.0f} MiB")
    table.add_section()
    table.add_row("faults injected", str(score.faults.total()))
    for what, count in sorted(score.faults.items()):
        table.add_row(f"  {what}", str(count))
    table.add_section()
    table.add_row("errors seen by clients", str(score.errors.total()))
    for (error, cause), count in sorted(score.errors.items()):
        table.add_row(f"  {error}: {cause}", str(count))
    table.add_section()
    for kind in dict.fromkeys((*ZEROS, *score.findings)):
        table.add_row(_title(kind), str(score.count(kind)))
    table.add_section()
    for name, (first, last) in _ends(vitals):
        table.add_row(f"{name}: resident memory", f"{first.resident / MIB:.0f} → {last.resident / MIB:.0f} MiB")
        table.add_row(f"{name}: open files", f"{first.files} → {last.files}")
        table.add_row(f"{name}: threads", f"{first.threads} → {last.threads}")
    console.print(table)
    for kind, sentences in score.findings.items():
        for sentence in sentences[:TOLD]:
            console.print(f"{_title(kind)}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    console.print("every zero is a zero" if score.clean else "FINDINGS", highlight=False)


def judge_growth(score: Score, vitals: Mapping[str, Sequence[Vitals]]) -> None:
    """A process that takes more at the end than at the start is a finding."""
    for name, (first, last) in _ends(vitals):
        for what in ("resident", "files", "threads"):
            before, after = getattr(first, what), getattr(last, what)
            if after > before + getattr(FLAT, what):
                score.found("processes that grew", f"{name}: {what} from {before} to {after}")


def _title(kind: str) -> str:
    return f"{kind}, unexplained" if isinstance(kind, Error) else kind


def _ends(vitals: Mapping[str, Sequence[Vitals]]) -> list[tuple[str, tuple[Vitals, Vitals]]]:
    return [(name, (seen[0], seen[-1])) for name, seen in vitals.items() if seen]
