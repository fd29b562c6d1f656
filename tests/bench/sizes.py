"""How much of each work is done: in full, and for a look whether all of it runs."""

from dataclasses import dataclass
from typing import Final

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Sizes:
    """Bytes and numbers, by what the issue of speed calls (a) to (g)."""

    large: int  # (a), (c), (j), (k)
    medium: int  # (b), (d)
    crowd: int  # clients of (b)
    herd: int  # clients of (d)
    pullers: int  # clients of (e), slow ones of (j)
    layers: int  # of the image of (e)
    layer: int
    checkers: int  # clients of (f), (k)
    kept: int  # checks by each over one connection
    renewed: int  # checks by each over connections of their own
    machines: int  # clients of (g)
    image: int  # of (g), in five layers
    rounds: int

    def room(self, caches: int) -> int:
        """Bytes of disk at the most: what so many caches keep of the work that leaves most behind."""
        return caches * max(self.large * (self.rounds + 1), self.medium * (self.rounds + 1), 2 * self.image)


FULL: Final = Sizes(
    large=1024 * MIB,
    medium=256 * MIB,
    crowd=16,
    herd=64,
    pullers=200,
    layers=12,
    layer=64 * KIB,
    checkers=8,
    kept=150,
    renewed=50,
    machines=10,
    image=500_000_000,
    rounds=3,
)
QUICK: Final = Sizes(
    large=4 * MIB,
    medium=2 * MIB,
    crowd=4,
    herd=6,
    pullers=4,
    layers=3,
    layer=8 * KIB,
    checkers=2,
    kept=10,
    renewed=4,
    machines=2,
    image=1_000_000,
    rounds=1,
)
