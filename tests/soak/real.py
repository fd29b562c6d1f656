"""Real images from a real registry by a real client: docker-registry with a token server, and skopeo.

Only faults of ours befall them; what their own faults do to pulls is what the other registry is for.
"""

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.clients import Skopeo
from lab.images import KIB, MIB, Image, Layout
from lab.names import NameMap
from lab.pki import Pki
from lab.registry import Registry
from lab.tokens import TokenServer
from lab.web import served
from soak.score import Score
from soak.servers import Server
from soak.troubles import Asked, Error

REPOSITORIES = ("open/real", "team/real", "priv/real")
SIZES = ((3 * KIB, 400 * KIB), (2 * MIB, 10), (100 * KIB, 4 * MIB))
CREDENTIALS = "alice:secret"


def missing() -> list[str]:
    """The programs that lack."""
    return [program for program in ("docker-registry", "skopeo") if shutil.which(program) is None]


@contextlib.contextmanager
def real_registry(folder: Path, pki: Pki, names: NameMap) -> Iterator[tuple[Registry, list[tuple[str, Image]]]]:
    """The registry and its images with their references."""
    layout = Layout(folder / "layout")
    with served(TokenServer(pki.identity("auth.test"), pki.signer()), names) as tokens:
        registry = Registry(pki, folder, tokens=tokens)
        registry.start()
        try:
            registry.publish(names)
            yield registry, list(_seeded(registry, layout))
        finally:
            registry.stop()


def _seeded(registry: Registry, layout: Layout) -> Iterator[tuple[str, Image]]:
    for repository in REPOSITORIES:
        for number, sizes in enumerate(SIZES):
            image = layout.image(None, sizes, seed=f"{repository} {number}")
            registry.seed(image, repository, f"v{number}")
            yield registry.reference(repository, f"v{number}"), image


class RealPulls:
    """A user of skopeo."""

    def __init__(
        self,
        folder: Path,
        images: Sequence[tuple[str, Image]],
        servers: Sequence[Server],
        score: Score,
        chance: random.Random,
    ) -> None:
        self._clients = [
            (server, Skopeo(folder / f"skopeo-{server.number}", server.proxy.url, server.proxy.ca_file))
            for server in servers
        ]
        self._images = images
        self._score = score
        self._chance = chance

    async def one(self) -> None:
        """Pull an image; sometimes one that this user has no right to."""
        server, skopeo = self._chance.choice(self._clients)
        reference, image = self._chance.choice(self._images)
        private = "/open/" not in reference
        creds = None if private and self._chance.random() < 0.3 else CREDENTIALS
        begin = time.monotonic()
        pulled = await asyncio.to_thread(skopeo.pull, reference, creds=creds)
        digests = frozenset((image.digest, *(blob.digest for blob in image.blobs)))
        asked = Asked("skopeo", server.number, begin, time.monotonic(), digests)
        if private and creds is None:
            if pulled:
                self._score.wrong(Error.LEAK, asked, reference)
            else:
                self._score.right("skopeo without credentials")
        elif not pulled:
            self._score.wrong(Error.CLIENT, asked, pulled.result.err.strip()[-400:])
        elif not pulled.holds(image):
            self._score.wrong(Error.WRONG, asked, f"{reference} has other bytes")
        else:
            self._score.right("skopeo", sum(blob.size for blob in image.blobs))
        await asyncio.to_thread(shutil.rmtree, pulled.folder, ignore_errors=True)
