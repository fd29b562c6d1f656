"""A machine to examine: files below a folder of the test, processes of the test, and a cache that it names."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.deadline import eventually
from pullthrough.doctor import Machine, Place, mirrors, parse_target
from pullthrough.doctor.case import Case, Interview
from pullthrough.doctor.certificates import parse

REGISTRY = "registry.corp.test:5050"
CACHE = Place("192.0.2.7", 3128)

#: Makes a CA as the cache does, one for each name, and gives its PEM text.
type Authorities = Callable[[str], str]


@dataclass
class Patient:
    """One machine. `case` is what checks are given."""

    root: Path
    proc: Path
    ca_pem: str
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def case(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        registry: str = REGISTRY,
        cache: Place = CACHE,
        said: Interview | None = None,
        redirected: bool = False,
        client: bool = True,
    ) -> Case:
        return Case(
            machine=self.machine(environ or {}),
            cache=cache,
            target=parse_target(registry, None),
            said=said or Interview(ready={"status": "ok"}, ca=parse(self.ca_pem)),
            redirected=redirected,
            mirrors=mirrors.found(self.machine(environ or {}), cache, parse_target(registry, None)),
            client=client,
        )

    def machine(self, environ: Mapping[str, str]) -> Machine:
        return Machine(environ=environ, root=self.root, proc=self.proc)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def runs(self, program: str, environ: Mapping[str, str]) -> int:
        """Start a process of that name with that environment; its id. It waits, and is ended with the test."""
        binary = self.root / program
        shutil.copy(shutil.which("sleep") or "/bin/sleep", binary)
        process = subprocess.Popen([binary, "1000"], env=dict(environ))
        self._started.append(process)
        # The kernel fills in the arguments last, together with the environment.
        arguments = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: arguments.read_bytes().split(b"\0")[1:2] == [b"1000"], f"{program} runs")
        (self.proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        return process.pid

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
