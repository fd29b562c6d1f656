"""Real registry clients with nothing of this machine's configuration: skopeo and podman.

Each trusts the CA files that it is given and nothing else, has a home, storage and credentials of
its own below a folder that the test hands in, and speaks through the proxy that it is given.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.images import Image
from lab.programs import environment, need

POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    command: Sequence[str]
    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0

    def __bool__(self) -> bool:
        return self.ok


class Home:
    """The configuration files and the environment of one user of the clients."""

    def __init__(self, folder: Path, proxy_url: str | None, *ca_files: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.policy = self._file("policy.json", json.dumps(POLICY))
        self.registries = self._file("registries.conf", "unqualified-search-registries = []\n")
        self.credentials = self._file("auth.json", "{}")
        self.trusted = self._file("trusted.pem", "".join(ca_file.read_text() for ca_file in ca_files))
        self.empty = self._folder("empty")
        self.temporary = self._folder("tmp")
        self.runtime = self._folder("run")
        self.env = environment(folder, **self._variables(), **_proxy(proxy_url))

    def run(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end in this environment."""
        done = subprocess.run(
            command,
            env={**self.env, **(more or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def _variables(self) -> dict[str, str]:
        return {
            "SSL_CERT_FILE": str(self.trusted),
            "SSL_CERT_DIR": str(self.empty),  # Go reads both, and the folder's default is the system's
            "REGISTRY_AUTH_FILE": str(self.credentials),
            "CONTAINERS_REGISTRIES_CONF": str(self.registries),
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.runtime),
            # root's cache of where blobs are is in /var/lib whatever HOME says, other users' are in HOME
            "_CONTAINERS_ROOTLESS_UID": str(os.geteuid() or 1000),
        }

    def _file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path


class Skopeo:
    """skopeo, with one home."""

    def __init__(self, folder: Path, proxy_url: str | None, *ca_files: Path) -> None:
        self._binary = need("skopeo")
        self.home = Home(folder, proxy_url, *ca_files)
        self._numbers = itertools.count(1)

    def run(self, command: str, *arguments: str) -> Result:
        """Any command of skopeo."""
        usual = ["--insecure-policy", "--registries.d", str(self.home.empty)]
        usual += ["--tmpdir", str(self.home.temporary), "--override-os", "linux", "--override-arch", "amd64"]
        return self.home.run([self._binary, *usual, command, *arguments])

    def copy(self, source: str, target: str, *flags: str) -> Result:
        """`skopeo copy`; digests are kept or it fails."""
        return self.run("copy", "--preserve-digests", *flags, source, target)

    def pull(self, reference: str, *flags: str, creds: str | None = None) -> "Pulled":
        """Pull into a new folder."""
        folder = self.home.folder / f"pull-{next(self._numbers)}"
        login = ["--src-creds", creds] if creds else []
        return Pulled(self.copy(reference, f"dir:{folder}", *login, *flags), folder)

    def push(self, source: str, reference: str, *flags: str, creds: str | None = None) -> Result:
        """Push an image of a layout."""
        return self.copy(source, reference, *(["--dest-creds", creds] if creds else []), *flags)

    def inspect(self, reference: str, *flags: str, creds: str | None = None) -> Result:
        """`skopeo inspect`."""
        return self.run("inspect", *(["--creds", creds] if creds else []), *flags, reference)


@dataclass(frozen=True)
class Pulled:
    """What a pull left in its folder (skopeo's `dir:` form)."""

    result: Result
    folder: Path

    def __bool__(self) -> bool:
        return self.result.ok

    @property
    def digest(self) -> str:
        """The digest of the manifest that was pulled."""
        return f"sha256:{hashlib.sha256((self.folder / 'manifest.json').read_bytes()).hexdigest()}"

    def holds(self, image: Image) -> bool:
        """Whether the pull succeeded and this is the image, every byte of it."""
        return (
            self.result.ok
            and self.digest == image.digest
            and all(_hash(self.folder / blob.hex) == blob.hex for blob in image.blobs)
        )


class Podman:
    """podman with storage of its own (vfs) and no daemon, network or system file."""

    def __init__(self, folder: Path, runroot: Path, proxy_url: str | None, *ca_files: Path) -> None:
        """`runroot` has at most 50 characters. Skips where podman is missing or cannot run for this user."""
        self._binary = need("podman")
        self.home = Home(folder, proxy_url, *ca_files)
        self._runroot = runroot
        self._env = self._configure()
        probe = self.run("info")
        if not probe:
            pytest.skip(f"podman cannot run here: {probe.err.strip()[-300:]}")

    def run(self, *arguments: str) -> Result:
        """Any command of podman."""
        folder = self.home.folder
        usual = [
            "--root",
            f"{folder}/root",
            "--runroot",
            str(self._runroot),
            "--tmpdir",
            f"{self.home.runtime}/libpod",
        ]
        usual += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        return self.home.run([self._binary, *usual, *arguments], self._env)

    def pull(self, name: str, *flags: str, creds: str | None = None) -> Result:
        """`podman pull`."""
        login = ["--creds", creds] if creds else []
        return self.run("pull", "--quiet", "--signature-policy", str(self.home.policy), *login, *flags, name)

    def digest(self, name: str) -> str:
        """The manifest digest of an image in its storage."""
        return self.run("image", "inspect", "--format", "{{.Digest}}", name).out.strip()

    def remove(self, *names: str) -> Result:
        """`podman rmi`."""
        return self.run("rmi", "--force", *names)

    def _configure(self) -> dict[str, str]:
        folder = self.home.folder
        # file locks: the usual ones live in /dev/shm and are shared by everybody
        engine = f'[engine]\nlock_type = "file"\nnetwork_config_dir = "{folder}/cni"\n'
        (folder / "containers.conf").write_text(engine)
        places = f'graphroot = "{folder}/root"\nrunroot = "{self._runroot}"\n'
        (folder / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\n{places}')
        return {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }


class Clients:
    """Makes the clients of one test, each with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._runroots: list[Path] = []

    def skopeo(self, proxy_url: str | None, *ca_files: Path) -> Skopeo:
        """A skopeo behind this proxy that trusts these CAs and no other."""
        return Skopeo(self._folder / f"skopeo-{next(self._numbers)}", proxy_url, *ca_files)

    def podman(self, proxy_url: str | None, *ca_files: Path) -> Podman:
        """A podman behind this proxy that trusts these CAs and no other."""
        runroot = Path(tempfile.mkdtemp(prefix="lab-"))  # a test's own folder has too long a name
        self._runroots.append(runroot)
        return Podman(self._folder / f"podman-{next(self._numbers)}", runroot, proxy_url, *ca_files)

    def end(self) -> None:
        """Remove what is not below the test's folder."""
        for runroot in self._runroots:
            shutil.rmtree(runroot, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _proxy(url: str | None) -> dict[str, str]:
    return {} if url is None else {"HTTPS_PROXY": url, "HTTP_PROXY": url}
