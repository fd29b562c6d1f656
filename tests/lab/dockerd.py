"""The real dockerd, and Debian's docker as its command line.

The daemon makes the requests to registries, so the proxy and the CAs are in its environment; the
command line has them too. It keeps images and runs nothing: no bridge, no forwarding, no firewall rule.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from lab.clients import Result
from lab.engine import Engine
from lab.images import Image
from lab.programs import need

NO_NETWORK = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]


class Docker(Engine):
    """One dockerd with one user of it."""

    def __init__(self, folder: Path, proxy_url: str | None, *ca_files: Path, mirrors: Sequence[str] = ()) -> None:
        """`mirrors` are URLs of mirrors of Docker Hub."""
        self._binary = need("docker", first="/usr/bin")  # others of that name may be clients of something else
        self._mirrors = mirrors
        super().__init__("dockerd", folder, proxy_url, *ca_files)

    def run(self, *arguments: str, config: str = "docker", **more: str) -> Result:
        """Any command of docker, with the logins that are in this folder of its home, and `more` variables."""
        folder = self.home.folder / config
        folder.mkdir(exist_ok=True)
        usual = [self._binary, "--host", f"unix://{self.socket}", "--config", str(folder)]
        return self.home.run([*usual, *arguments], more)

    def pull(self, name: str, *, creds: str | None = None) -> Result:
        """`docker pull`, as the account that is logged in, or with `creds` (USER:PASSWORD) and no login before."""
        return self.run("pull", "--quiet", name, config=self._config(name, creds))

    def push(self, name: str, *, creds: str | None = None) -> Result:
        """`docker push` of an image that was tagged `name`; credentials as for `pull`."""
        return self.run("push", "--quiet", name, config=self._config(name, creds))

    def build(self, folder: Path) -> Result:
        """`docker build` by BuildKit; `out` is the id of the image."""
        return self.run("build", "--quiet", str(folder), DOCKER_BUILDKIT="1")

    def login(self, host: str, creds: str) -> Result:
        """`docker login`, which asks the registry; later commands are this account's."""
        account, _, password = creds.partition(":")
        return self.run("login", "--username", account, "--password", password, host)

    def logout(self, host: str) -> Result:
        """`docker logout`."""
        return self.run("logout", host)

    def tag(self, name: str, new: str) -> Result:
        """Another name for an image."""
        return self.run("tag", name, new)

    def holds(self, name: str, image: Image) -> bool:
        """Whether `name` is this image, config and layers; the daemon itself has compared every byte with them."""
        shown = self.run("image", "inspect", name)
        if not shown:
            return False
        (found,) = json.loads(shown.out)
        wanted = json.loads(image.config.path.read_text())["rootfs"]["diff_ids"]
        return (
            found["Id"] in (image.config.digest, image.digest)  # its own image store; containerd's
            and found["RootFS"]["Layers"] == wanted
            and any(known.endswith(f"@{image.digest}") for known in found["RepoDigests"])
        )

    def remove(self, *names: str) -> Result:
        """`docker image rm`; layers that no other image has go with it."""
        return self.run("image", "rm", "--force", *names)

    def clean(self) -> None:
        """Remove every image, so that the next pull fetches again."""
        found = set(self.run("image", "ls", "--all", "--quiet").out.split())
        if found:
            self.remove(*found)

    def probe(self) -> Result:
        """`docker version`, which asks the daemon for its own."""
        return self.run("version")

    def _config(self, name: str, creds: str | None) -> str:
        if creds is None:
            return "docker"
        folder = self.home.folder / f"docker-{creds.partition(':')[0]}"
        folder.mkdir(exist_ok=True)
        auths = {name.partition("/")[0]: {"auth": base64.b64encode(creds.encode()).decode()}}
        (folder / "config.json").write_text(json.dumps({"auths": auths}))
        return folder.name

    def _flags(self) -> list[str]:
        places = ["--data-root", f"{self.place}/data", "--exec-root", f"{self.place}/exec"]
        places += ["--pidfile", f"{self.place}/pid", "--host", f"unix://{self.socket}"]
        places += [f"--registry-mirror={url}" for url in self._mirrors]
        return [*places, "--storage-driver", "vfs", *NO_NETWORK]
