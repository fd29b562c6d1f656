"""What the registry of the soak has, and who may read it: images of random bytes, made from the seed.

Repositories `open/...` are anybody's, those below `alice/`, `bob/` and `both/` belong to the accounts. Layers are
shared across repositories, private and public ones: bytes are stored once, rights are not. In each repository one tag
moves.
"""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.fake_registry import FakeImage, FakeRegistry, basic

KIB, MIB = 1024, 1024 * 1024
REPOSITORIES = ("open/base", "open/tools", "both/app", "both/web", "alice/app", "alice/data", "bob/app", "bob/data")
IMAGES = 5
LAYERS = 5
SHARED = 0.15
#: (share of the layers, smallest, largest) in bytes: most are small, a few are what a disk notices.
SIZES = ((0.05, 0, 0), (0.62, 1, 200 * KIB), (0.28, 500 * KIB, 5 * MIB), (0.05, 12 * MIB, 20 * MIB))
MOVING = "latest"


@dataclass(frozen=True)
class Account:
    """Who asks. Without an authorization: anybody."""

    name: str
    authorization: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What its requests carry."""
        return {} if self.authorization is None else {"Authorization": self.authorization}


ANYBODY = Account("anybody")
ALICE = Account("alice", basic("alice", "secret"))
BOB = Account("bob", basic("bob", "hunter2"))
#: Knows a name, and not the password.
GUESSER = Account("guesser", basic("alice", "wrong"))
READERS = {
    "open": (ANYBODY, ALICE, BOB),
    "both": (ALICE, BOB),
    "alice": (ALICE,),
    "bob": (BOB,),
}


@dataclass
class Tag:
    """A tag and what it named since when (by the monotonic clock)."""

    repository: str
    name: str
    moves: list[tuple[float, str]] = field(default_factory=list)

    def during(self, begin: float, end: float) -> set[str]:
        """The digests that it named at any time from `begin` to `end`."""
        ends = itertools.chain((since for since, _ in self.moves[1:]), (float("inf"),))
        return {
            digest for (since, digest), until in zip(self.moves, ends, strict=True) if since <= end and until >= begin
        }

    def ever(self) -> set[str]:
        """All digests that it named so far."""
        return {digest for _, digest in self.moves}


class Stock:
    """The contents by digest, the images by repository, the tags."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.images: dict[str, list[FakeImage]] = {}
        self.tags: list[Tag] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.members: dict[str, set[str]] = {}

    def fill(self, registry: FakeRegistry) -> None:
        """Give all of it to `registry`."""
        made: list[bytes] = []
        for repository in REPOSITORIES:
            images = [
                registry.add_image(repository, f"v{number}", list(self._layers(made))) for number in range(IMAGES)
            ]
            self.images[repository] = images
            self.members[repository] = {digest for image in images for digest in (image.config, *image.layers)}
            now = time.monotonic()
            self.tags += [Tag(repository, f"v{number}", [(now, image.digest)]) for number, image in enumerate(images)]
            self.tags.append(Tag(repository, MOVING))
            self.move(registry, self.tags[-1])
        self.blobs = dict(registry.content.blobs)
        self.manifests = {key[1]: body for key, (_, body) in registry.content.manifests.items() if ":" in key[1]}

    def move(self, registry: FakeRegistry, tag: Tag) -> None:
        """Let `tag` name another image of its repository."""
        image = self._chance.choice(self.images[tag.repository])
        media_type, body = registry.content.manifests[tag.repository, image.digest]
        tag.moves.append((time.monotonic(), image.digest))  # first: who sees it move finds it in here
        registry.add_manifest(tag.repository, tag.name, body, media_type)

    @property
    def weight(self) -> int:
        """How many bytes of blobs there are."""
        return sum(map(len, self.blobs.values()))

    def _layers(self, made: list[bytes]) -> Iterator[bytes]:
        for _ in range(LAYERS):
            if made and self._chance.random() < SHARED:
                yield self._chance.choice(made)
            else:
                made.append(self._chance.randbytes(self._size()))
                yield made[-1]

    def _size(self) -> int:
        [(_, least, most)] = self._chance.choices(SIZES, [share for share, _, _ in SIZES])
        return self._chance.randint(least, most)


def may_read(account: Account, repository: str) -> bool:
    """Has this account the right?"""
    return account in READERS[repository.partition("/")[0]]
