"""A client machine to change: a mount namespace whose configuration, trust store and state are private folders.

The folders lie below one that the test hands in, so that a test can look at them from outside, before and after.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.programs import SYSTEM_PATH, need, need_root

TIMEOUT_SECONDS = 60.0
#: Of this machine's /etc: what programs need to run.
COPIED = (
    "alternatives",
    "containers",
    "group",
    "hosts",
    "ld.so.cache",
    "nsswitch.conf",
    "passwd",
    "ssl/openssl.cnf",
)
PRIVATE = ("etc", "usr/local/share", "var/lib")
#: The same words for the shell that enters: bind the private folders over the real ones, then run.
ENTER = 'for folder in $PRIVATE; do mount --bind "$MACHINE/$folder" "/$folder"; done; exec "$@"'

type Tree = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def __bool__(self) -> bool:
        return self.code == 0


class Machine:
    """Skips where namespaces cannot be made. `folder` may be that of a machine that was copied."""

    def __init__(self, folder: Path) -> None:
        need_root("a private /etc")
        self.folder = folder
        self._unshare = need("unshare")
        if not folder.exists():
            self._make()

    @classmethod
    def debian(cls, folder: Path) -> "Machine":
        """With systemd's folder and a trust store in order."""
        need("update-ca-certificates")
        machine = cls(folder)
        for made in ("/etc/systemd/system", "/etc/ssl/certs", "/usr/local/share/ca-certificates"):
            machine.path(made).mkdir(parents=True)
        public = Path("/etc/ca-certificates.conf").read_text().splitlines()
        few = [name for name in public if not name.startswith(("#", "!"))][:3]  # with all, each update takes seconds
        machine.write("/etc/ca-certificates.conf", "".join(f"{name}\n" for name in few))
        machine.run("update-ca-certificates", "--fresh")
        return machine

    def _make(self) -> None:
        for private in PRIVATE:
            self.path(f"/{private}").mkdir(parents=True)
        for name in COPIED:
            source, target = Path("/etc") / name, self.path(f"/etc/{name}")
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy2(source, target)

    def copy(self, folder: Path) -> "Machine":
        """Another one in the same state."""
        subprocess.run(["cp", "-a", "--", str(self.folder), str(folder)], check=True)
        return Machine(folder)

    def path(self, inside: str) -> Path:
        """Where a path of the machine is in this one."""
        return self.folder / inside.lstrip("/")

    def write(self, inside: str, content: bytes | str, mode: int = 0o644) -> Path:
        """A file of the machine."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def run(self, *command: str, given: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Run a command on the machine, with `given` as its input and nothing of this one's environment."""
        inside = {
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}",
            "HOME": str(self.path("/etc")),
            "MACHINE": str(self.folder),
            "PRIVATE": " ".join(PRIVATE),
        }
        done = subprocess.run(
            [self._unshare, "--mount", "--", "/bin/sh", "-euc", ENTER, "sh", *command],
            env={**inside, **(env or {})},
            input=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            start_new_session=True,  # no terminal to ask on
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def tree(self) -> Tree:
        """Everything that is there: kind and mode, and content or where a link leads."""
        return tree_of(self.folder)


def tree_of(folder: Path) -> Tree:
    """All below a folder: kind and mode, and content or where a link leads."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = mode, content
    return found
