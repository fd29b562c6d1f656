"""Machines of the lab: network namespaces with cables between them, for clients that know of no proxy.

    client ──── cache ──── upstream        10.77.1.0/24, fd77:1::/64 ──── 10.77.2.0/24, fd77:2::/64

`client` has its routes through `cache`, which forwards. Nothing of the machine that runs the tests is touched: no
route, no firewall rule, no file. Names begin with `pt4-` and the id of this process; `remove` takes all of it back.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from lab.programs import need, need_root

MADE: Final = Path("/run/netns")
_NUMBERS: Final = itertools.count(1)
#: `$1` is what the program sees as /etc/resolv.conf, in a mount namespace of its own.
WITH_OUR_RESOLVER: Final = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class Machine:
    """One network namespace."""

    def __init__(self, role: str) -> None:
        """Skips for ordinary users, without iproute2, and where nobody may make one."""
        need_root("a network namespace")
        self.name = f"pt4-{os.getpid()}-{next(_NUMBERS)}-{role}"
        self._ip = need("ip")
        made = subprocess.run([self._ip, "netns", "add", self.name], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no network namespace can be made here: {made.stderr.strip()[-300:]}")
        self._set("ipv6/conf/default/accept_dad", "0")  # neighbours are found at once, not after a second
        self.ip("link set lo up")

    def ip(self, *commands: str, six: bool = False) -> None:
        """Run commands of that program in here; `six`: they are about IPv6, though no address in them says so."""
        self.run([self._ip, *(["-6"] if six else []), "-batch", "-"], "\n".join(commands))

    def run(self, command: Sequence[str], given: str = "") -> str:
        """Run a command in here, with `given` as its input; its output. AssertionError if it fails."""
        entered = [*self._entering(), *command]
        done = subprocess.run(entered, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, command: Sequence[str], resolv_conf: Path) -> list[str]:
        """A command line that runs `command` in here, with this file for /etc/resolv.conf. Its pid is the program's."""
        private = [need("unshare"), "--mount", need("sh"), "-c", WITH_OUR_RESOLVER, "sh", str(resolv_conf)]
        return [*self._entering(), *private, *command]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes are in here, and so are the programs that it starts. Not across an await."""
        with _opened(Path("/proc/thread-self/ns/net")) as home, _opened(MADE / self.name) as here:
            os.setns(here, os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(home, os.CLONE_NEWNET)

    def forward(self) -> None:
        """Be a router."""
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self._set(setting, "1")

    @contextmanager
    def without(self, *networks: str) -> Iterator[None]:
        """Be unable to reach these networks or addresses; whoever tries is told so at once."""
        self.ip(*(f"route add prohibit {network}" for network in networks))
        try:
            yield
        finally:
            self.ip(*(f"route del prohibit {network}" for network in networks))

    def remove(self) -> None:
        """Take it back, with its interfaces, routes and rules. Whatever still runs in here keeps no name."""
        subprocess.run([self._ip, "netns", "del", self.name], capture_output=True, check=False)

    def _set(self, setting: str, value: str) -> None:
        with self.entered():
            (Path("/proc/sys/net") / setting).write_text(value)

    def _entering(self) -> list[str]:
        return [need("nsenter"), f"--net={MADE / self.name}"]


class Network:
    """The three machines. `remove` it."""

    #: The cache, as the client sees it: IPv4, IPv6, and an address for a second program there.
    CACHE: Final = ("10.77.1.1", "fd77:1::1", "10.77.1.3")
    #: The upstream's name server.
    NAMES: Final = ("10.77.2.53", "fd77:2::53")

    def __init__(self) -> None:
        self.machines: list[Machine] = []
        try:
            self.client, self.cache, self.upstream = map(self._machine, ("client", "cache", "upstream"))
            self._connect()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Whatever of it was made."""
        while self.machines:
            self.machines.pop().remove()

    def _machine(self, role: str) -> Machine:
        self.machines.append(Machine(role))
        return self.machines[-1]

    def _connect(self) -> None:
        self.cache.ip(
            f"link add clients type veth peer name cache netns {self.client.name}",
            f"link add upstream type veth peer name cache netns {self.upstream.name}",
            *_plugged("clients", *self.CACHE),
            *_plugged("upstream", "10.77.2.1", "fd77:2::1"),
        )
        for machine, net, more in ((self.client, 1, ()), (self.upstream, 2, self.NAMES)):
            machine.ip(
                *_plugged("cache", f"10.77.{net}.100", f"fd77:{net}::100", *more),
                f"route add default via 10.77.{net}.1",
                f"route add ::/0 via fd77:{net}::1",
            )
        self.cache.forward()


def _plugged(interface: str, *addresses: str) -> list[str]:
    return [*(given(address, interface, net=True) for address in addresses), f"link set {interface} up"]


def given(address: str, interface: str, *, net: bool = False) -> str:
    """A command of ip(8) that gives an address, with or without the network around it, and usable at once."""
    if ":" in address:
        return f"addr replace {address}/{64 if net else 128} dev {interface} nodad"
    return f"addr replace {address}/{24 if net else 32} dev {interface}"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
