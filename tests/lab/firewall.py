"""What leads clients' connections astray on the cache machine: the rules that this project hands out, and iptables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.gateway import REDIRECTED
from lab.netns import Machine
from lab.programs import need

SCRIPTS: Final = Path(__file__).resolve().parents[2] / "scripts"
PORTS: Final = (80, 443, 5050)
MARKED: Final = ("rule add fwmark 3129 lookup 3129", "route add local default dev lo table 3129")
KINDS: Final = ("nft redirect", "nft tproxy", "iptables")


@contextmanager
def firewall(kind: str, machine: Machine, door: int = REDIRECTED) -> Iterator[None]:
    """Have rules of this kind, for IPv4 and IPv6, and take them back. Only the first kind knows another `door`."""
    match kind:
        case "nft redirect":
            rules = _nft(machine, SCRIPTS / "transparent.nft", door)
        case "nft tproxy":
            rules = _tproxy(machine)
        case "iptables":
            rules = _iptables(machine)
        case _:
            raise ValueError(kind)
    with rules:
        yield


@contextmanager
def _nft(machine: Machine, file: Path, door: int = REDIRECTED) -> Iterator[None]:
    ports = ", ".join(map(str, PORTS))
    nft = need("nft")
    defined = ["-D", "clients=clients", "-D", f"door={door}", "-D", f"ports={{ {ports} }}"]
    machine.run([nft, *defined, "-f", str(file)])
    try:
        yield
    finally:
        machine.run([nft, "delete table inet pullthrough"])


@contextmanager
def _tproxy(machine: Machine) -> Iterator[None]:
    for six in (False, True):
        machine.ip(*MARKED, six=six)
    try:
        with _nft(machine, SCRIPTS / "transparent-tproxy.nft"):
            yield
    finally:
        for six in (False, True):
            machine.ip(*(command.replace(" add ", " del ") for command in MARKED), six=six)


@contextmanager
def _iptables(machine: Machine) -> Iterator[None]:
    commands = [need("iptables"), need("ip6tables")]
    matching = ["-i", "clients", "-p", "tcp", "-m", "multiport", "--dports", ",".join(map(str, PORTS))]
    rule = [*matching, "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "REDIRECT", "--to-ports", str(REDIRECTED)]
    for command in commands:
        machine.run([command, "-t", "nat", "-A", "PREROUTING", *rule])
    try:
        yield
    finally:
        for command in commands:
            machine.run([command, "-t", "nat", "-D", "PREROUTING", *rule])
