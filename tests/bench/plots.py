"""Pictures of the results: throughput, latencies, the herd. Needs matplotlib, which `scripts/bench` installs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.document import Document

#: Works whose speed is one picture.
SPEEDS: Final = ("a", "b", "c")
SIZE: Final = (9.0, 5.0)


class NoPictures(Exception):
    """There is no matplotlib."""


def draw(found: Document, folder: Path) -> list[Path]:
    """PNG files of what was measured, in `folder`. NoPictures without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - nobody else needs it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise NoPictures(f"no pictures: {error}") from error
    mpl.use("Agg")
    pictures: dict[str, tuple[bool, Callable[[Document, Any], None]]] = {
        "throughput.png": (any(letter in found["works"] for letter in SPEEDS), _throughput),
        "latency.png": (bool(found["latencies"]), _latency),
        "herd.png": (bool(found["herd"]), _herd),
    }
    drawn = []
    for name, (wanted, fill) in pictures.items():
        if wanted:
            figure = Figure(figsize=SIZE, layout="constrained")
            fill(found, figure.add_subplot())
            figure.savefig(folder / name, dpi=120)
            drawn.append(folder / name)
    return drawn


def _throughput(found: Document, axes: Any) -> None:
    letters = [letter for letter in SPEEDS if letter in found["works"]]
    names = [name for name in found["subjects"] if name not in found["missing"]]
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        figures = [found["works"][letter]["figures"].get(name, {}).get("speed", {}) for letter in letters]
        medians = [figure.get("median") or 0.0 for figure in figures]
        ends = [
            [median - (figure.get("least") or median) for median, figure in zip(medians, figures, strict=True)],
            [(figure.get("most") or median) - median for median, figure in zip(medians, figures, strict=True)],
        ]
        places = [place + number * width for place in range(len(letters))]
        axes.bar(places, medians, width, yerr=ends, label=name, capsize=2)
    middle = width * (len(names) - 1) / 2
    axes.set_xticks([place + middle for place in range(len(letters))])
    axes.set_xticklabels([f"({letter}) {found['works'][letter]['title']}" for letter in letters])
    axes.set_ylabel("MB/s, median and spread of the rounds")
    axes.legend()


def _latency(found: Document, axes: Any) -> None:
    for name, points in found["latencies"].items():
        axes.plot(points, [(number + 1) / len(points) for number in range(len(points))], label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms for a request, connection included")
    axes.set_ylabel("share of requests")
    axes.set_title(f"(e) {found['works']['e']['what']}", fontsize="small", wrap=True)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _herd(found: Document, axes: Any) -> None:
    for name, spans in found["herd"].items():
        ends = sorted(end for _, end in spans)
        axes.step([0.0, *ends], range(len(ends) + 1), where="post", label=name)
    axes.set_xlabel("seconds since the first client asked for the blob")
    axes.set_ylabel("clients that have it")
    axes.set_title(f"(d) {found['works']['d']['what']}", fontsize="small", wrap=True)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
