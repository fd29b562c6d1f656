"""The real `pullthrough run` as a child process that knows the lab's names.

It gets a clean environment, a data folder of its own and a free port on 127.0.0.1; it is stopped by
its process id. Coverage measures it too where the test run asks for that (COVERAGE_* goes through).
"""

import http.client
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.deadline import eventually
from lab.names import Endpoint, NameMap
from lab.ports import free_port
from lab.programs import Program, environment
from lab.warm import WarmProgram

TESTS = Path(__file__).resolve().parents[1]
SOURCES = (TESTS.parent / "addon", TESTS)
READY_SECONDS = 60.0
ATTEMPTS = 3
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class Proxy:
    """One installation of the proxy: its folder outlives its processes."""

    def __init__(
        self,
        folder: Path,
        names: NameMap,
        *,
        upstream_ca: Path | None = None,
        system_ca: Path | None = None,
        registries: Sequence[str] = (),
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        sources: Sequence[Path] = SOURCES,
    ) -> None:
        """`registries` are hosts to intercept; `flags` and `env` are added to the usual ones.

        `system_ca` plays the system's CA store, by SSL_CERT_FILE; `upstream_ca` is the flag of that name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "data"
        self.ca_file = folder / "ca.pem"
        self.port = 0
        self.flags = [*_usual_flags(upstream_ca, registries), *flags]
        self._names = names
        self._hosts = folder / "hosts.json"
        self._sources = tuple(sources)
        self._env = environment(folder, **_variables(sources, system_ca), **_coverage(), **(env or {}))
        self._program: Program | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """The value for HTTPS_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().exit_code

    def start(self) -> None:
        """Start it and wait until `GET /readyz` says 200; the first start also fetches /ca.pem."""
        for attempt in range(1, ATTEMPTS + 1):
            self.port = self.port or free_port()
            self._program = self._spawn()
            try:
                eventually(self._ready, "GET /readyz", READY_SECONDS)
                break
            except ExitedEarly as error:
                if attempt == ATTEMPTS or "in use" not in str(error):
                    raise
                self.port = 0  # somebody else took it between choosing and listening
            except TimeoutError:
                self.kill()
                raise
        if not self.ca_file.exists():
            self.ca_file.write_bytes(self.get("/ca.pem")[1])

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        return self._running().end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._running().end(signal.SIGKILL)

    def restart(self) -> int:
        """Stop and start again on the same port and data; the exit code of the first process."""
        code = self.stop()
        self.start()
        return code

    def end_if_running(self) -> None:
        """For the end of a fixture."""
        if self._program is not None:
            self._program.end_if_running()

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        """Status and body of a request to the proxy itself."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def refuses(self) -> bool:
        """Does nobody listen any more? What has come just before that is cut instead."""
        try:
            self.get("/healthz", timeout=1.0)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def lose_names(self, *names: str) -> None:
        """From now on these names do not exist for it, until `regain_names` or the next start."""
        self._names.without(*names).write(self._hosts)

    def regain_names(self) -> None:
        """From now on it knows every name that is published."""
        self._names.write(self._hosts)

    def log_text(self) -> str:
        """All that its processes wrote."""
        return (self.folder / "proxy.log").read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The log as JSON objects; a line that is none comes as {"text": line}."""
        return [_parsed(line) for line in self.log_text().splitlines()]

    def peak_rss(self) -> int:
        """The process's own high-water mark of resident memory, in bytes."""
        found = PEAK.search(Path(f"/proc/{self.pid}/status").read_text())
        if found is None:
            raise RuntimeError("no VmHWM in /proc")
        return int(found[1]) * 1024

    def reset_peak_rss(self) -> bool:
        """Start the high-water mark from here; False where the kernel does not permit it."""
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def _spawn(self) -> Program:
        self._names.write(self._hosts)
        usual = ["--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data_dir), *self.flags]
        arguments = [str(self._hosts), "--", "run", *usual]
        log = self.folder / "proxy.log"
        if self._sources == SOURCES:
            program: Program = WarmProgram(arguments, self._env, log)
        else:
            program = Program([sys.executable, "-m", "lab.named", *arguments], self._env, log)
        program.start()
        return program

    def _ready(self) -> bool:
        code = self._running().exit_code
        if code is not None:
            raise ExitedEarly(f"exit code {code}: {self.log_text()[-4000:]}")
        try:
            return self.get("/readyz", timeout=2.0)[0] == 200
        except OSError:
            return False

    def _running(self) -> Program:
        if self._program is None:
            raise RuntimeError("the proxy was not started")
        return self._program


class ExitedEarly(Exception):
    """The process ended before it was ready; the text has the end of its log."""


def _usual_flags(upstream_ca: Path | None, registries: Sequence[str]) -> list[str]:
    flags = ["--log-format", "json", "--workers", "1"]  # but for tests of workers, one process is enough
    if upstream_ca is not None:
        flags += ["--upstream-ca", str(upstream_ca)]
    for registry in registries:
        flags += ["--registry", registry]
    return flags


def _variables(sources: Sequence[Path], system_ca: Path | None) -> dict[str, str]:
    variables = {"PYTHONPATH": os.pathsep.join(str(source) for source in sources)}
    if system_ca is not None:
        variables["SSL_CERT_FILE"] = str(system_ca)
    return variables


def _coverage() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith(("COVERAGE_", "COV_CORE_"))}


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {"text": line}
    return value if isinstance(value, dict) else {"text": line}


class Proxies:
    """Makes the proxies of one test and ends them all; their data go, their logs stay."""

    def __init__(
        self,
        folder: Path,
        names: NameMap,
        *,
        upstream_ca: Path | None = None,
        system_ca: Path | None = None,
        sources: Sequence[Path] = SOURCES,
    ) -> None:
        self._folder = folder
        self._names = names
        self._authorities = upstream_ca, system_ca
        self._sources = sources
        self.made: list[Proxy] = []

    def __call__(
        self,
        *intercepted: Endpoint,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Proxy:
        """A proxy, started unless told otherwise, that intercepts these registries."""
        upstream_ca, system_ca = self._authorities
        proxy = Proxy(
            self._folder / f"proxy-{len(self.made)}",
            self._names,
            upstream_ca=upstream_ca,
            system_ca=system_ca,
            registries=[endpoint.host for endpoint in intercepted],
            flags=flags,
            env=env,
            sources=self._sources,
        )
        self.made.append(proxy)
        if start:
            proxy.start()
        return proxy

    def end(self) -> None:
        """End what still runs and remove the data folders."""
        for proxy in self.made:
            proxy.end_if_running()
            shutil.rmtree(proxy.data_dir, ignore_errors=True)
