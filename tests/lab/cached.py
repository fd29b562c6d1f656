"""A data directory in which images are stored as if they had been pulled."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pullthrough.core import media
from pullthrough.core.digest import Digest
from pullthrough.facts import Facts
from pullthrough.health import Health
from pullthrough.messages import Registry, Repository
from pullthrough.store import Store
from pullthrough.tags import Tags

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REGISTRY = Registry("https", "registry.test", 443)
YEARS = 1e9


class Cached:
    """Puts images where the commands look for them. Close it before the commands are to see the order of use."""

    def __init__(self, data_dir: Path, size: int = 1 << 30) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(exist_ok=True)
        self.health = Health()
        self.store = Store(data_dir / "store", size, self.health)
        self._facts = Facts(self.store, time.time)
        self._tags = Tags(self._facts, YEARS, time.time)

    async def blob(self, repository: str, content: bytes, media_type: str = "") -> Digest:
        """Stored, and a part of the repository."""
        digest = Digest.of(content)
        await self.store.put(digest, content)
        await self.store.link(self.repository(repository), digest, media_type)
        return digest

    async def image(
        self, repository: str, tag: str | None, layers: Sequence[bytes], *, arch: str = "amd64", lacking: int = 0
    ) -> Digest:
        """An image of these layers, of which the last ones are `lacking`; `tag` names it."""
        config = json.dumps({"os": "linux", "architecture": arch}).encode()
        body = {
            "config": described(config, CONFIG),
            "layers": [described(layer, LAYER) for layer in layers],
        }
        for content in (config, *layers[: len(layers) - lacking]):
            await self.blob(repository, content)
        return await self.manifest(repository, tag, body, media.OCI_MANIFEST)

    async def index(self, repository: str, tag: str | None, images: Sequence[tuple[str, Digest]]) -> Digest:
        """An index of (architecture, manifest)."""
        entries = [
            {
                "digest": str(digest),
                "mediaType": media.OCI_MANIFEST,
                "size": 300,
                "platform": {"os": "linux", "architecture": arch},
            }
            for arch, digest in images
        ]
        return await self.manifest(repository, tag, {"manifests": entries}, media.OCI_INDEX)

    async def manifest(self, repository: str, tag: str | None, body: object, media_type: str) -> Digest:
        """Stored with its link, and named by a tag."""
        digest = await self.blob(repository, json.dumps(body).encode(), media_type)
        if tag is not None:
            await self._tags.seen(Repository(REGISTRY, repository), tag, (), digest, time.time())
            await self._facts.flush()
        return digest

    async def untag(self, repository: str, tag: str) -> None:
        """The registry said that it is gone."""
        self._tags.gone(Repository(REGISTRY, repository), tag)
        await self._facts.flush()

    async def has(self, *digests: Digest) -> list[bool]:
        """Which of them are stored?"""
        return [await self.store.has(digest) for digest in digests]

    @staticmethod
    def repository(name: str) -> str:
        """As the store names it."""
        return str(Repository(REGISTRY, name))


def described(content: bytes, media_type: str) -> dict[str, object]:
    """How a manifest names it."""
    return {"digest": str(Digest.of(content)), "size": len(content), "mediaType": media_type}
