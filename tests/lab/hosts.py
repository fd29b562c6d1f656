"""`plain.test`: a TLS host that is no registry, with a package index for pip and a repository for git.

Both are plain files: a simple index (PEP 503) with one wheel, and git's dumb HTTP protocol.
"""

import io
import subprocess
import zipfile
from pathlib import Path

from lab.blobs import BlobServer, FileSource
from lab.pki import Identity
from lab.programs import environment, need
from lab.web import Exchange

PACKAGE = "labthing"
WHEEL = f"{PACKAGE}-1.0-py3-none-any.whl"
README = b"a repository of the lab\n"
TYPES = {".html": "text/html", ".json": "application/json"}


class PlainHost(BlobServer):
    """`https://plain.test/` over the files of `folder`."""

    def __init__(self, identity: Identity, folder: Path) -> None:
        super().__init__(identity.name, identity)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @property
    def index_url(self) -> str:
        """For `pip --index-url`."""
        return f"{self.url}/simple/"

    @property
    def git_url(self) -> str:
        """For `git clone`."""
        return f"{self.url}/thing.git"

    def answer(self, exchange: Exchange) -> None:
        """A file, or the index.html of a folder."""
        armed = self.strike(exchange)
        if armed is None:
            return
        path = self.folder / exchange.request.path.lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if ".." in path.parts or not path.is_file():
            exchange.reply(404)
            return
        kind = TYPES.get(path.suffix, "application/octet-stream")
        self.send_blob(exchange, FileSource(path), {"Content-Type": kind}, armed)

    def add_package_index(self) -> Path:
        """Offer PACKAGE 1.0; returns the wheel's file."""
        folder = self.folder / "simple" / PACKAGE
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(f'<!doctype html><a href="{WHEEL}">{WHEEL}</a>')
        wheel = folder / WHEEL
        wheel.write_bytes(_wheel())
        return wheel

    def add_git_repository(self) -> None:
        """Offer a repository with one commit on main."""
        bare = self.folder / "thing.git"
        env = environment(self.folder, GIT_CONFIG_NOSYSTEM="1")
        git = [need("git"), "-C", str(bare)]
        bare.mkdir(exist_ok=True)
        subprocess.run([*git, "init", "-q", "--bare", "--initial-branch=main"], env=env, check=True)
        subprocess.run([*git, "fast-import", "--quiet"], env=env, check=True, input=_commit())
        subprocess.run([*git, "update-server-info"], env=env, check=True)


def _commit() -> bytes:
    message = b"first"
    return b"".join(
        [
            b"commit refs/heads/main\ncommitter Lab <lab@plain.test> 0 +0000\n",
            b"data %d\n%s\n" % (len(message), message),
            b"M 644 inline README\ndata %d\n%s\n" % (len(README), README),
        ]
    )


def _wheel() -> bytes:
    info = f"{PACKAGE}-1.0.dist-info"
    files = {
        f"{PACKAGE}.py": "NAME = 'lab'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{PACKAGE}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()
