"""Clients without any proxy setting, on a machine of the lab's network: what they know is a name server and a CA.

They are those of `lab.clients` and `lab.engines`, moved there: their connections are made on that machine, and their
/etc/resolv.conf is a file of ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.clients import Clients, Home, Result, Skopeo
from lab.containerd import Containerd
from lab.dockerd import Docker
from lab.engine import Engine
from lab.netns import Machine
from lab.pullers import PodmanPuller, Puller, SkopeoPuller


class BareClients:
    """Makes the clients of one test. They trust these CAs and no other. `end` them."""

    def __init__(self, folder: Path, machine: Machine, *ca_files: Path) -> None:
        self._folder = folder / "bare"
        self._machine = machine
        self._ca_files = ca_files
        self._clients = Clients(self._folder)
        self._engines: list[Engine] = []

    def skopeo(self, name_server: str) -> Skopeo:
        """A skopeo that asks this name server."""
        made = self._clients.skopeo(None, *self._ca_files)
        made.home = self._home(made.home.folder, name_server)
        return made

    def puller(self, kind: str, name_server: str) -> Puller:
        """A client that asks this name server; see `lab.pullers` for the kinds."""
        match kind:
            case "skopeo":
                return SkopeoPuller(self.skopeo(name_server))
            case "podman":
                podman = self._clients.podman(None, *self._ca_files)
                podman.home = self._home(podman.home.folder, name_server)
                return PodmanPuller(podman)
            case "docker":
                return self._started(Docker(self._folder / "docker", None, *self._ca_files), name_server)
            case "cri":
                return self._started(Containerd(self._folder / "cri", None, *self._ca_files), name_server).cri
        raise ValueError(kind)

    def end(self) -> None:
        """End the engines, the last one first, and remove what is not below the test's folder."""
        while self._engines:
            self._engines.pop().end()
        self._clients.end()

    def _home(self, folder: Path, name_server: str) -> Home:
        return _Home(folder, self._machine, resolv_conf(folder, name_server), *self._ca_files)

    def _started[E: Engine](self, engine: E, name_server: str) -> E:
        resolv_conf(engine.place / "etc", name_server)
        self._engines.append(engine)  # before it is started, so that one that fails is ended too
        with self._machine.entered():
            engine.start()
        return engine


class _Home(Home):
    """Commands run on a machine of the network."""

    def __init__(self, folder: Path, machine: Machine, names: Path, *ca_files: Path) -> None:
        super().__init__(folder, None, *ca_files)
        self._machine = machine
        self._names = names

    def run(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> Result:
        return super().run(self._machine.command(command, self._names), more)


def resolv_conf(folder: Path, *name_servers: str) -> Path:
    """The file of that name in `folder`."""
    path = folder / "resolv.conf"
    path.write_text("".join(f"nameserver {name_server}\n" for name_server in name_servers))
    return path
