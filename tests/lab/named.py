"""Runs pullthrough with the lab's names: `python -m lab.named HOSTS.json -- run --listen ...`.

Only this process's `socket.getaddrinfo` is replaced; everything else is the real program. The file may be
replaced while it runs: the next look-up goes by the new one. LAB_ALLOWANCE is a JSON object of what clients may take,
for tests that would wait for minutes; LAB_OPEN_FILES is a limit for this process, for tests that would need thousands.
"""

import functools
import importlib
import json
import os
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import baddisk
from lab.names import NameFile, resolver


def main(argv: Sequence[str]) -> None:
    """Install the map of the first argument, then be `pullthrough` with the arguments after `--`."""
    hosts, separator, *rest = argv
    if separator != "--":
        raise SystemExit("usage: python -m lab.named HOSTS.json -- ARGS...")
    socket.getaddrinfo = resolver(NameFile(Path(hosts)))
    if files := os.environ.get("LAB_OPEN_FILES"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    if allowance := os.environ.get("LAB_ALLOWANCE"):
        wiring: Any = importlib.import_module("pullthrough.wiring")
        wiring.serve = functools.partial(wiring.serve, allowance=wiring.Allowance(**json.loads(allowance)))
    baddisk.install()
    sys.argv = ["pullthrough", *rest]
    importlib.import_module("pullthrough.cli").main()


if __name__ == "__main__":
    main(sys.argv[1:])
