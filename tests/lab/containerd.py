"""The real containerd with its two kinds of client: `ctr`, and the CRI that a kubelet speaks.

ctr makes the requests to registries itself (1.6) or has the daemon make them (2.x); for the CRI it is
always the daemon. All of them find the proxy and the CAs in their environment.
"""

import hashlib
from pathlib import Path

from lab.clients import Result
from lab.cri import ImageService
from lab.engine import Engine
from lab.images import Image
from lab.programs import need

SNAPSHOTTER = "native"  # plain copies: works on any file system
CONTENT = "io.containerd.content.v1.content"


class Containerd(Engine):
    """One containerd. `ctr` and `cri` are its clients; what one has fetched may save the other a request."""

    def __init__(self, folder: Path, proxy_url: str | None, *ca_files: Path, hosts: Path | None = None) -> None:
        """`hosts` is a folder of HOST/hosts.toml, as /etc/containerd/certs.d."""
        self._binary = need("ctr")
        self._hosts = hosts
        super().__init__("containerd", folder, proxy_url, *ca_files)
        self.ctr = Ctr(self)
        self.cri = Cri(self)

    def run(self, *arguments: str, namespace: str = "default") -> Result:
        """Any command of ctr."""
        return self.home.run([self._binary, "--address", str(self.socket), "--namespace", namespace, *arguments])

    def clean(self) -> None:
        """Remove every image and all content, so that the next pull fetches again."""
        for namespace in self.run("namespaces", "ls", "--quiet").out.split():
            for kind in ("images", "leases", "content"):
                found = self.run(kind, "ls", "--quiet", namespace=namespace).out.split()
                if found:
                    self.run(kind, "rm", *(["--sync"] if kind != "content" else []), *found, namespace=namespace)

    def holds(self, name: str, image: Image, namespace: str) -> bool:
        """Whether `name` is this image, every byte of it."""
        listed = self.run("images", "ls", f"name=={name}", namespace=namespace).out.split()
        return image.digest in listed and all(self._has(blob.hex) for blob in (image.manifest, *image.blobs))

    def probe(self) -> Result:
        """`ctr version`, which asks the daemon for its own."""
        return self.run("version")

    def _has(self, hexadecimal: str) -> bool:
        path = self.place / "data" / CONTENT / "blobs" / "sha256" / hexadecimal
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == hexadecimal

    def _registry(self) -> str:
        if self._hosts is None:
            return ""
        return f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{self._hosts}"\n'

    def _flags(self) -> list[str]:
        config = self.place / "config.toml"
        config.write_text(
            f"""version = 2
root = "{self.place}/data"
state = "{self.place}/state"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.place}/opt"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{SNAPSHOTTER}"
{self._registry()}"""
        )
        return ["--config", str(config)]


class Ctr:
    """`ctr images`, as an administrator uses it."""

    NAMESPACE = "default"

    def __init__(self, daemon: Containerd) -> None:
        self._daemon = daemon

    def pull(self, name: str, *flags: str, creds: str | None = None) -> Result:
        """`ctr images pull`."""
        return self._images("pull", "--snapshotter", SNAPSHOTTER, *_user(creds), *flags, name)

    def push(self, name: str, *flags: str, creds: str | None = None) -> Result:
        """`ctr images push` of an image that was tagged `name`."""
        return self._images("push", *_user(creds), *flags, name)

    def tag(self, name: str, new: str) -> Result:
        """Another name for an image."""
        return self._images("tag", name, new)

    def holds(self, name: str, image: Image) -> bool:
        """Whether `name` is this image, every byte of it."""
        return self._daemon.holds(name, image, self.NAMESPACE)

    def clean(self) -> None:
        """Of the daemon: the next pull fetches again."""
        self._daemon.clean()

    def _images(self, *arguments: str) -> Result:
        return self._daemon.run("images", *arguments, namespace=self.NAMESPACE)


class Cri:
    """PullImage, as a kubelet sends it."""

    NAMESPACE = "k8s.io"

    def __init__(self, daemon: Containerd) -> None:
        self._daemon = daemon
        self._service = ImageService(daemon.socket)

    def pull(self, name: str, *, creds: str | None = None) -> Result:
        """Pull an image by the name that a pod's specification has."""
        return self._service.pull(name, creds)

    def holds(self, name: str, image: Image) -> bool:
        """Whether `name` is this image, every byte of it."""
        return self._daemon.holds(name, image, self.NAMESPACE)

    def clean(self) -> None:
        """Of the daemon: the next pull fetches again."""
        self._daemon.clean()


def _user(creds: str | None) -> list[str]:
    return [] if creds is None else ["--user", creds]
