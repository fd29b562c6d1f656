"""The container engines of one test: each a daemon of its own, behind the proxy that it is given."""

from collections.abc import Sequence
from pathlib import Path

from lab.containerd import Containerd
from lab.dockerd import Docker
from lab.engine import Engine


class Engines:
    """Starts them, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Engine] = []

    def docker(self, proxy_url: str | None, *ca_files: Path, mirrors: Sequence[str] = ()) -> Docker:
        """A dockerd behind this proxy that trusts these CAs and no other."""
        return self._start(Docker(self._home("docker"), proxy_url, *ca_files, mirrors=mirrors))

    def containerd(self, proxy_url: str | None, *ca_files: Path, hosts: Path | None = None) -> Containerd:
        """A containerd behind this proxy that trusts these CAs and no other."""
        return self._start(Containerd(self._home("containerd"), proxy_url, *ca_files, hosts=hosts))

    def end(self) -> None:
        """End them all, the last one first."""
        while self._made:
            self._made.pop().end()

    def _home(self, name: str) -> Path:
        return self._folder / f"{name}-{len(self._made)}"

    def _start[E: Engine](self, engine: E) -> E:
        self._made.append(engine)  # before it is started, so that one that fails is ended too
        engine.start()
        return engine
