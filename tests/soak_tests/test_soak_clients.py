"""What the soak's clients notice, shown without a cache between them and a registry that misbehaves."""

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.faults import Fault
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Pki
from lab.web import served
from soak.clients import Deeds
from soak.score import Score
from soak.stock import MOVING, Stock
from soak.troubles import UPSTREAM, Calendar, Error
from soak.upstream import Upstream

type Deed = Callable[[Deeds], Awaitable[None]]
PULLS = (Deeds.image, Deeds.whole, Deeds.parts, Deeds.part, Deeds.slowly, Deeds.crowd)
FEW = 6


@dataclass(frozen=True)
class Way:
    """A proxy that only tunnels, where a server of the soak would be."""

    proxy: ParentProxy
    ca_file: Path
    number: int = field(default=0)

    @property
    def address(self) -> tuple[str, int]:
        return self.proxy.address, self.proxy.port


@dataclass
class Scene:
    """A registry, a client before it, and what comes of it."""

    stock: Stock
    upstream: Upstream
    score: Score
    deeds: Deeds

    async def do(self, *deeds: Deed, times: int = FEW) -> dict[Error, int]:
        """Do each so often; the errors that nothing explains."""
        for deed in deeds * times:
            await deed(self.deeds)
        return {error: self.score.count(error) for error in Error if self.score.count(error)}


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """A stock whose largest blobs are small: what is shown here does not depend on that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soak.stock.SIZES", ((0.1, 0, 0), (0.9, 1, 5000)))
        yield


@pytest.fixture
def scene(small: None, pki: Pki, names: NameMap) -> Iterator[Scene]:
    stock, score = Stock(7), Score(Calendar())
    with (
        served(Upstream(pki.identity("fake.test"), stock), names) as upstream,
        served(ParentProxy(names), names) as way,
    ):
        doors = [Way(way, pki.ca_file)]
        yield Scene(stock, upstream, score, Deeds(stock, upstream.url, doors, score, random.Random(7)))


async def test_nothing_is_found_at_a_registry_that_does_right(scene: Scene) -> None:
    deeds = (*PULLS, Deeds.head, Deeds.look, Deeds.leave, Deeds.steal)

    assert await scene.do(*deeds, times=2) == {}
    assert scene.score.clean
    assert scene.score.bytes > 0
    assert {"slow reader", "abandoned download", "manifest by tag", "blob in parts"} < set(scene.score.answers)


@pytest.mark.parametrize("deed", PULLS, ids=[deed.__name__ for deed in PULLS])
async def test_wrong_bytes_are_seen(scene: Scene, deed: Deed) -> None:
    for digest, content in scene.stock.blobs.items():
        scene.upstream.content.blobs[digest] = bytes(byte ^ 1 for byte in content)

    assert set(await scene.do(deed)) == {Error.WRONG}
    assert not scene.score.clean


async def test_bytes_from_another_place_are_seen(scene: Scene) -> None:
    scene.upstream.fault(lambda request: request.range is not None, Fault(shift_range=1), times=None)

    assert set(await scene.do(Deeds.part)) == {Error.WRONG}


async def test_a_wrong_length_is_seen_on_head(scene: Scene) -> None:
    scene.upstream.fault("", Fault(length_lie=1), times=None, method="HEAD")

    assert set(await scene.do(Deeds.head)) == {Error.WRONG}


async def test_content_for_strangers_is_seen(scene: Scene) -> None:
    scene.upstream.manners.accepts = lambda request: True

    assert set(await scene.do(Deeds.steal)) == {Error.LEAK}


async def test_a_tag_of_yesterday_is_seen(scene: Scene) -> None:
    for tag in scene.stock.tags:
        if tag.name == MOVING:
            before = scene.upstream.content.manifests[tag.repository, tag.name]
            while scene.upstream.content.manifests[tag.repository, tag.name] == before:
                scene.stock.move(scene.upstream, tag)
            scene.upstream.content.manifests[tag.repository, tag.name] = before

    assert set(await scene.do(Deeds.look, times=FEW * 4)) == {Error.STALE}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=500), Error.FAILED),
        (Fault(status=429), Error.LIMITED),
        (Fault(status=404), Error.REFUSED),
        (Fault(status=418), Error.STRANGE),
        (Fault(cut_after=0), Error.CUT),
    ],
)
async def test_errors_are_told_apart(scene: Scene, fault: Fault, error: Error) -> None:
    scene.upstream.fault("/blobs/", fault, times=None)

    assert set(await scene.do(Deeds.whole)) == {error}


async def test_what_a_fault_explains_is_counted_and_no_finding(scene: Scene) -> None:
    scene.upstream.fault("/blobs/", Fault(status=500), times=None)

    with scene.score.calendar.during("upstream: 500", UPSTREAM, lingers=0):
        assert await scene.do(Deeds.whole) == {}
    assert scene.score.clean
    assert scene.score.errors[Error.FAILED, "upstream: 500"] == FEW
