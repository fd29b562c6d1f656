"""`python -m bench`, in the environment that scripts/bench prepares."""

import argparse
import json
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import interrupts, peers, plots, report
from bench.document import document
from bench.run import Run, Terms, say
from bench.sizes import FULL, QUICK
from bench.upstream import NoUpstream
from pullthrough.options import OPTIONS

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
LETTERS: Final = "abcdefgjk"
NAMES: Final = tuple(kind.name for kind in peers.SUBJECTS)
NEEDED: Final = {"docker-registry": "docker-registry", "nginx": "nginx"}
FILES: Final = 65536


class Unfit(Exception):
    """Something that a person can mend; the sentence says how."""


def main() -> int:
    """0 when it was measured, whatever the figures; 2 if something lacks; 130 after Ctrl-C."""
    given = _parser().parse_args()
    try:
        if given.core:
            return core()
        if given.render is not None:
            return render(given.render)
        return measure(given)
    except (Unfit, NoUpstream, report.NoPlace) as fault:
        say(str(fault))
        return 2


def core() -> int:
    """Micro-benchmarks of the pure core, by pytest-benchmark."""
    options = ["-o", "addopts=--import-mode=importlib", "-o", "python_files=*_benchmarks.py", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(ROOT / "tests" / "bench_core")]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def render(file: Path) -> int:
    """The README's table from a file of results."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Unfit(f"{file} cannot be read: {error}") from error
    report.render(found, README)
    say(f"the table is in {README}")
    return 0


def measure(given: argparse.Namespace) -> int:
    """All of it, into `given.output`."""
    sizes = QUICK if given.quick else FULL
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)
    terms = Terms(sizes, sizes.rounds, given.only, given.subjects, given.workers, given.quick)
    _fit(terms)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    interrupts.install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="pullthrough-bench."))
    folder.chmod(0o711)  # squid gives its rights away, and has to reach its own folder below
    try:
        run = Run(terms, folder)
        run.go()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = document(terms, run.findings, shlex.join(["scripts/bench", *sys.argv[1:]]))
    report.show(found, Console(width=None if sys.stdout.isatty() else 160))
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "bench.json").write_text(json.dumps(found, indent=1))
    say(f"wrote {given.output / 'bench.json'}")
    try:
        for picture in plots.draw(found, given.output):
            say(f"wrote {picture}")
    except plots.NoPictures as reason:
        say(str(reason))
    return 130 if run.findings.interrupted else 0


def _fit(terms: Terms) -> None:
    """Can the upstream be started here, and is there room for what the caches keep?"""
    for program, package in NEEDED.items():
        if peers.found(program) is None:
            raise Unfit(f"the upstream needs {program}: apt-get install {package}")
    caches = sum(kind.caches for kind in peers.SUBJECTS if kind.name in terms.subjects)
    needed, free = terms.sizes.room(caches), shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:
        raise Unfit(
            f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB left and {needed / 1e9:.0f} GB are needed: name another "
            "folder in TMPDIR, or take fewer --rounds or --subjects"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures pullthrough and its peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: does all of it run?")
    parser.add_argument("--only", type=_works, default=LETTERS, metavar="a,f", help="these works (default: all)")
    parser.add_argument("--rounds", type=_count, help="of each work (default: 3; --quick: 1)")
    parser.add_argument("--subjects", type=_subjects, default=NAMES, help=f"some of {','.join(NAMES)}")
    parser.add_argument("--workers", type=_workers, help="for pullthrough (default: as it comes)")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder (default: bench-results)")
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="make the README's table of these results")
    parser.add_argument("--core", action="store_true", help="micro-benchmarks of the pure core instead")
    return parser


def _works(text: str) -> str:
    letters = "".join(text.replace(",", ""))
    if not letters or set(letters) - set(LETTERS):
        raise argparse.ArgumentTypeError(f"{text!r} is not some of {LETTERS}; h and i are taken with each of them")
    return letters


def _subjects(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if strange := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(strange))}: not one of {', '.join(NAMES)}")
    return names


def _workers(text: str) -> str:
    try:
        OPTIONS["workers"].parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
