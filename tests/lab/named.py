"""Runs pullthrough with the lab's names: `python -m lab.named HOSTS.json -- run --listen ...`.

Only this process's `socket.getaddrinfo` is replaced; everything else is the real program. The file may be
replaced while it runs: the next look-up goes by the new one.
"""

import importlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.names import NameFile, resolver


def main(argv: Sequence[str]) -> None:
    """Install the map of the first argument, then be `pullthrough` with the arguments after `--`."""
    hosts, separator, *rest = argv
    if separator != "--":
        raise SystemExit("usage: python -m lab.named HOSTS.json -- ARGS...")
    socket.getaddrinfo = resolver(NameFile(Path(hosts)))
    sys.argv = ["pullthrough", *rest]
    importlib.import_module("pullthrough.cli").main()


if __name__ == "__main__":
    main(sys.argv[1:])
