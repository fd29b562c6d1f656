"""`python -m soak --minutes N`, in the environment that scripts/soak prepares."""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from soak.run import Terms, say, soak


def main() -> int:
    """0 only if every zero is a zero; 1 if not; 130 if it was interrupted before there was a finding."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Pulls, kills, fills the disk and flips bits.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="what chance follows from (default: another one each time)")
    parser.add_argument("--mounts", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"--minutes {given.minutes:g} --seed {seed}, in {folder}")
    score = soak(Terms(given.minutes, seed, given.mounts), folder)
    if not score.clean:
        say(f"what the servers said is in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 130 if score.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
