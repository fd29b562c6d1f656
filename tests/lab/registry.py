"""Debian's docker-registry (distribution 2.8) as a real upstream over TLS.

Optionally with token authentication on another host and with blobs redirected to a CDN on a third
one, as GitLab has it. Images are seeded by plain pushes; very large blobs are linked into its
storage instead.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.deadline import eventually
from lab.images import MIB, Blob, Image, Index
from lab.names import Endpoint
from lab.pki import Pki
from lab.programs import Program, environment, need
from lab.push import Pusher
from lab.registry_log import RegistryLog
from lab.signer import ISSUER, SERVICE
from lab.tokens import TokenServer

LISTENING = re.compile(rb"listening on [0-9.]+:(\d+)")
LINK_ABOVE = 256 * MIB


class Registry(Endpoint):
    """One docker-registry process with its storage in `folder`."""

    def __init__(
        self,
        pki: Pki,
        folder: Path,
        *,
        name: str = "registry.test",
        tokens: TokenServer | None = None,
        cdn_url: str | None = None,
        public_port: int | None = None,
    ) -> None:
        super().__init__(name, fixed_port=public_port)
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = folder / "storage"
        self.tokens = tokens
        self._pki = pki
        self._cdn_url = cdn_url
        self._config = folder / "config.yml"
        command = [need("docker-registry"), "serve", str(self._config)]
        self._program = Program(command, environment(folder), folder / "registry.log")
        self.journal = RegistryLog(self._program.log)

    def start(self) -> None:
        """Start it and wait for its port; a later start listens on the same port again."""
        self._config.write_text(json.dumps(self._settings()))  # JSON is YAML
        begin = self._program.log.stat().st_size
        self._program.start()
        self.port = eventually(lambda: self._listening(begin), f"{self.name} listens")

    def stop(self) -> None:
        """End the process. It closes what is open without grace."""
        self._program.end_if_running()

    def start_if_stopped(self) -> None:
        """For the end of a test that may have stopped it."""
        if self._program.exit_code is not None:
            self.start()

    def seed(self, image: Image | Index, repository: str, tag: str | None) -> None:
        """Have `image` as `repository:tag`; the same tag again moves it."""
        for blob in _all_blobs(image):
            if blob.size > LINK_ABOVE:
                self._link(blob, repository)
        with self._pusher(repository) as pusher:
            pusher.image(image, repository, tag)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest with its tags."""
        with self._pusher(repository) as pusher:
            pusher.delete(repository, digest)

    def _listening(self, begin: int) -> int:
        if (code := self._program.exit_code) is not None:
            raise RuntimeError(f"docker-registry ended with {code}: {self._program.log.read_text()[-2000:]}")
        with self._program.log.open("rb") as log:
            log.seek(begin)
            found = LISTENING.search(log.read())
        return int(found[1]) if found else 0

    @contextmanager
    def _pusher(self, repository: str) -> Iterator[Pusher]:
        authorization = None
        if self.tokens:
            token = self.tokens.mint("alice", [f"repository:{repository}:pull,push,delete"])
            authorization = f"Bearer {token}"
        pusher = Pusher(self, self._pki.client_context(), authorization)
        try:
            yield pusher
        finally:
            pusher.close()

    def _link(self, blob: Blob, repository: str) -> None:
        """Put a blob where distribution would have written it; pushed later if that cannot be done."""
        root = self.storage / "docker/registry/v2"
        data = root / "blobs/sha256" / blob.hex[:2] / blob.hex / "data"
        member = root / "repositories" / repository / "_layers/sha256" / blob.hex / "link"
        data.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(blob.path, data)
        except FileExistsError:
            pass
        except OSError:  # another file system
            return
        member.parent.mkdir(parents=True, exist_ok=True)
        member.write_text(blob.digest)

    def _settings(self) -> dict[str, Any]:
        identity = self._pki.identity(self.name)
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "debug", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "cache": {"blobdescriptor": "inmemory"},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {
                "addr": f"{self.address}:{self.port}",
                "secret": "lab",
                "tls": {"certificate": str(identity.chain), "key": str(identity.key)},
            },
        }
        if self.tokens:
            settings["auth"] = {"token": self._token_settings(self.tokens)}
        if self._cdn_url:
            options = {"baseurl": f"{self._cdn_url}/"}
            settings["middleware"] = {"storage": [{"name": "redirect", "options": options}]}
        return settings

    def _token_settings(self, tokens: TokenServer) -> dict[str, str]:
        return {
            "realm": tokens.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(self._pki.ca_file),
        }


def _all_blobs(image: Image | Index) -> tuple[Blob, ...]:
    if isinstance(image, Image):
        return image.blobs
    return tuple(blob for member in image.images for blob in member.blobs)
