"""The real proxy on the cache machine of the lab's network, where clients are led to it that know nothing of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.bare import resolv_conf
from lab.names import NameMap
from lab.netns import Machine
from lab.pki import Pki
from lab.programs import Program
from lab.proxy import Proxy

REDIRECTED: Final = 3129


class Gateway(Proxy):
    """One installation there. Its /etc/resolv.conf names `name_server`; it knows none of the lab's names by itself."""

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        *,
        name_server: str,
        port: int,
        pki: Pki,
        public: Pki,
        registries: Sequence[str],
        flags: Sequence[str],
    ) -> None:
        """`port` of its loopback is its main port."""
        nobody = NameMap()
        super().__init__(
            folder, nobody, upstream_ca=pki.ca_file, system_ca=public.ca_file, registries=registries, flags=flags
        )
        self.port = port
        self._machine = machine
        self._resolv_conf = resolv_conf(folder, name_server)

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        with self._machine.entered():
            return super().get(path, timeout)

    def _spawn(self) -> Program:
        run = [sys.executable, "-m", "pullthrough", "run"]
        usual = ["--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data_dir), *self.flags]
        command = self._machine.command([*run, *usual], self._resolv_conf)
        program = Program(command, self._env, self.folder / "proxy.log")
        program.start()
        return program
