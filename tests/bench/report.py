"""The results on a screen and as the README's table, from the JSON object alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.document import Document
from bench.targets import US

BEGIN: Final = "<!-- bench: begin; made by scripts/bench --render -->"
END: Final = "<!-- bench: end -->"
#: What the README shows of each work.
SHOWN: Final = {
    "a": ("speed", "process", "cpu"),
    "b": ("speed", "cpu"),
    "c": ("speed", "first_byte", "cpu"),
    "d": ("wall", "copies", "memory"),
    "e": ("pulls", "p50", "p99"),
    "f": ("renewed_rate", "kept_rate", "kept_latency"),
    "g": ("cold", "warm", "cold_wan", "warm_wan"),
    "j": ("kept_speed", "speed", "memory"),
    "k": ("added_p99", "p99"),
}
#: Of which there is nothing to compare.
PLAIN: Final = {"failed", "upstream", "clients"}
NOTHING: Final = "-"
PEAKS: Final = "peak memory in any work, MB"
VERDICTS: Final = {True: "reached", False: "not reached", None: "not compared"}


class NoPlace(Exception):
    """The page has no place for the table."""


def show(found: Document, console: Console) -> None:
    """Every figure with its spread and the ratio to it, the targets, and what is not there."""
    console.print(headline(found), highlight=False)
    for letter, work in found["works"].items():
        console.print(_work(found, letter, work))
    console.print(_peaks(found))
    if found["targets"]:
        console.print(_targets(found))
    for sentence in (*lacking(found), *found["notes"]):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def render(found: Document, page: Path) -> None:
    """Put the table into its place in a page. NoPlace if it has none."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlace(f"{page} has no lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{begin}\n\n{markdown(found)}\n{end}{after}")


def markdown(found: Document) -> str:
    """The medians of all subjects, and the targets."""
    subjects = _subjects(found)
    lines = [headline(found), "", _row("", *subjects), _row("---", *["---:"] * len(subjects))]
    for letter, work in found["works"].items():
        for metric in SHOWN[letter]:
            figures = [work["figures"].get(name, {}).get(metric) for name in subjects]
            title = f"({letter}) {work['title']}: {_title(found, metric)}"
            lines.append(_row(title, *(_median(found, metric, figure) for figure in figures)))
    lines.append(_row(f"(h) {PEAKS}", *(_peak(found, name) for name in subjects)))
    lines += ["", *(f"- ({letter}) {work['what']}." for letter, work in found["works"].items())]
    lines += ["", _row("target", "found", ""), _row("---", "---:", "---")]
    for verdict in found["targets"]:
        value = NOTHING if verdict["found"] is None else f"{verdict['found']:.2f}"
        lines.append(_row(f"({verdict['work']}) {verdict['target']}", value, VERDICTS[verdict["reached"]]))
    if sentences := list(lacking(found)):
        lines += ["", *sentences]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def headline(found: Document) -> str:
    """When and on what."""
    machine, workers = found["machine"], found["workers"]
    programs = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['taken'][:10]}, {machine['cores']} cores ({machine['processor']}), Linux {machine['kernel']}, "
        f"Python {machine['python']}; {programs}; {_rounds(found)}"
        f"{f'; --workers {workers}' if workers else ''}{'; sizes of --quick' if found['quick'] else ''}"
        f"{'; interrupted' if found['interrupted'] else ''}."
    )


def _rounds(found: Document) -> str:
    return f"medians of {found['rounds']} rounds" if found["rounds"] > 1 else "one round"


def lacking(found: Document) -> Iterator[str]:
    """What was not measured, and why."""
    for name, reason in found["missing"].items():
        yield f"Missing: {name}: {reason}."
    for letter, reason in found["left_out"].items():
        yield f"Left out: ({letter}): {reason}."


def _work(found: Document, letter: str, work: dict[str, Any]) -> Table:
    table = Table(title=f"({letter}) {work['what']}", title_justify="left")
    table.add_column("")
    for metric in work["metrics"]:
        table.add_column(_title(found, metric), justify="right")
    for name in found["subjects"]:
        figures = work["figures"].get(name)
        if figures is None:
            table.add_row(name, *["missing" if name in found["missing"] else NOTHING] * len(work["metrics"]))
        else:
            table.add_row(name, *(_cell(found, name, metric, figures[metric]) for metric in work["metrics"]))
    return table


def _cell(found: Document, name: str, metric: str, figure: dict[str, Any]) -> str:
    """Median, spread, and how many times that ours is."""
    if figure["median"] is None:
        return NOTHING
    lines = [_text(found, metric, figure["median"])]
    if len(figure["values"]) > 1:
        lines.append(f"{_text(found, metric, figure['least'])}…{_text(found, metric, figure['most'])}")
    if figure["added"] is not None:
        lines.append(f"{figure['added']:+.1f} to direct")
    if name != US and figure["ratio"] is not None and metric not in PLAIN:
        lines.append(f"ours x {figure['ratio']:.2f}")
    return "\n".join(lines)


def _peaks(found: Document) -> Table:
    table = Table("", PEAKS, title="(h) memory", title_justify="left")
    for name in found["subjects"]:
        table.add_row(name, _peak(found, name))
    return table


def _peak(found: Document, name: str) -> str:
    return _text(found, "memory", found["peaks"][name]) if name in found["peaks"] else NOTHING


def _targets(found: Document) -> Table:
    table = Table("", "target", "found", "", title="Targets", title_justify="left")
    for verdict in found["targets"]:
        value = NOTHING if verdict["found"] is None else f"{verdict['found']:.2f}"
        table.add_row(f"({verdict['work']})", verdict["target"], value, VERDICTS[verdict["reached"]])
    return table


def _subjects(found: Document) -> list[str]:
    return [name for name in found["subjects"] if name not in found["missing"]]


def _median(found: Document, metric: str, figure: dict[str, Any] | None) -> str:
    return NOTHING if figure is None or figure["median"] is None else _text(found, metric, figure["median"])


def _text(found: Document, metric: str, value: float) -> str:
    return f"{value:,.{found['metrics'][metric]['digits']}f}".replace(",", " ")


def _title(found: Document, metric: str) -> str:
    told = found["metrics"][metric]
    return f"{told['title']}, {told['unit']}" if told["unit"] else str(told["title"])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
