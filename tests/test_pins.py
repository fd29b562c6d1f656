"""What is pinned, and that it stays."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.cached import YEARS, Cached
from lab.stores import blob, fill
from pullthrough import durable
from pullthrough.catalog import Catalog
from pullthrough.commands.pinning import unpin
from pullthrough.core.digest import Digest
from pullthrough.pins import Keeper, PinError, Pins, kept
from pullthrough.store import Store, StoreError
from pullthrough.store.opened import Shelf, opened

ONE, TWO, THREE = (blob(number) for number in range(3))
APP = "registry.test/app"


@pytest.fixture
async def cached(tmp_path: Path) -> AsyncIterator[Cached]:
    made = Cached(tmp_path / "data")
    made.data_dir.joinpath("store").mkdir()
    yield made
    await made.store.aclose()


@pytest.fixture
def shelf(cached: Cached) -> Iterator[Shelf]:
    with opened(cached.data_dir / "store") as shelf:
        yield shelf


@pytest.fixture
def pins(cached: Cached) -> Pins:
    return Pins(cached.data_dir)


def add(pins: Pins, shelf: Shelf, what: str, platform: str = "", size: int = 1 << 30) -> set[Digest]:
    """Pin it; what that keeps."""
    catalog = Catalog(shelf)
    return set(kept(catalog, pins.add(catalog, what, platform, size)))


async def test_a_pin_keeps_all_of_an_image(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    image = await cached.image("app", "v1", [ONE, TWO])
    other = await cached.image("app", "v2", [THREE])

    found = add(pins, shelf, f"{APP}:v1")

    assert {image, Digest.of(ONE), Digest.of(TWO)} < found
    assert not {other, Digest.of(THREE)} & found
    assert Pins(cached.data_dir).follow(Catalog(shelf)) == found


async def test_it_follows_its_tag(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")
    await cached.image("app", "v1", [TWO])

    found = pins.follow(Catalog(shelf))

    assert Digest.of(TWO) in found
    assert Digest.of(ONE) not in found


async def test_it_knows_its_image_when_the_tag_is_forgotten(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])
    before = add(pins, shelf, f"{APP}:v1")
    await cached.untag("app", "v1")

    assert pins.follow(Catalog(shelf)) == before


async def test_a_glob_takes_what_comes_later(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    assert add(pins, shelf, "registry.test/*:v*") == set()
    await cached.image("app", "v1", [ONE])
    await cached.image("app", "latest", [TWO])

    found = pins.follow(Catalog(shelf))
    assert Digest.of(ONE) in found
    assert Digest.of(TWO) not in found


async def test_a_layer_is_pinned_by_its_digest(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])

    assert add(pins, shelf, str(Digest.of(ONE))) == {Digest.of(ONE)}


async def test_one_platform_is_pinned_with_the_index(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    amd, arm = await cached.image("app", None, [ONE]), await cached.image("app", None, [TWO], arch="arm64")
    index = await cached.index("app", "v1", [("amd64", amd), ("arm64", arm)])

    found = add(pins, shelf, f"{APP}:v1", "linux/arm64")

    assert {index, arm, Digest.of(TWO)} < found
    assert not {amd, Digest.of(ONE)} & found


async def test_a_platform_that_an_image_lacks_is_no_pin(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])

    with pytest.raises(PinError, match="has no platform linux/amd46; see which it has: pullthrough show"):
        add(pins, shelf, f"{APP}:v1", "linux/amd46")
    assert pins.all() == ()


async def test_one_image_is_one_pin_however_it_is_written(shelf: Shelf, pins: Pins) -> None:
    for what in ("alpine*", "docker.io/library/alpine*", "docker.io/alpine*"):
        add(pins, shelf, what)

    assert [str(pin) for pin in pins.all()] == ["docker.io/alpine*"]
    assert [str(pin) for pin in pins.remove("docker.io/library/alpine*", "")] == ["docker.io/alpine*"]


async def test_what_is_not_here_cannot_be_pinned(shelf: Shelf, pins: Pins) -> None:
    for what in (f"{APP}:v1", str(Digest.of(ONE))):
        with pytest.raises(PinError, match="pull it through this proxy first"):
            add(pins, shelf, what)
    assert pins.all() == ()


async def test_pins_that_would_not_fit_are_refused_with_numbers(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE], lacking=1)
    await cached.image("app", "v2", [ONE, TWO])

    with pytest.raises(PinError, match=r"needs 1\.\d KiB more, 0 B are pinned already: .* 95% of the 1000 B of --size"):
        add(pins, shelf, f"{APP}:v1", size=1000)  # what is not stored yet counts
    add(pins, shelf, f"{APP}:v1", size=2000)
    with pytest.raises(PinError, match=r"more, 1\.\d KiB are pinned already"):
        add(pins, shelf, f"{APP}:v2", size=2000)
    assert [pin.what for pin in pins.all()] == [f"{APP}:v1"]


async def test_to_pin_again_is_no_second_pin(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])
    for _ in range(2):
        add(pins, shelf, f"{APP}:v1")
    add(pins, shelf, f"{APP}:v1", "linux/amd64")

    assert [str(pin) for pin in pins.all()] == [f"{APP}:v1", f"{APP}:v1 (linux/amd64)"]
    pins.remove(f"{APP}:v1", "linux/amd64")
    assert [str(pin) for pin in pins.all()] == [f"{APP}:v1"]
    pins.remove(f"{APP}:v1", "")
    with pytest.raises(PinError, match="is not pinned"):
        pins.remove(f"{APP}:v1", "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"7",
        b"[]",
        b'{"pins": 7}',
        b'{"pins": [7]}',
        b"\xff",
        b"[" * 100000,
        json.dumps({"pins": [{"what": "@", "platform": "", "since": 0, "roots": {}}]}).encode(),
    ],
    ids=range(9),
)
async def test_a_damaged_list_is_said_and_not_overwritten(
    cached: Cached, shelf: Shelf, pins: Pins, content: bytes
) -> None:
    await cached.image("app", "v1", [ONE])
    pins.file.write_bytes(content)

    with pytest.raises(PinError, match=r"cannot be read .*mend or remove it"):
        add(pins, shelf, f"{APP}:v1")
    assert pins.file.read_bytes() == content


async def test_only_its_owner_reads_the_list(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")

    assert pins.file.stat().st_mode & 0o777 == 0o600


# -- for a store that evicts


@pytest.fixture
async def small(cached: Cached, pins: Pins) -> AsyncIterator[Store]:
    """A store of 10 000 bytes over the same folder."""
    store = Store(cached.data_dir / "store", 10_000, cached.health, kept=Keeper(pins))
    yield store
    await store.aclose()


async def test_what_is_pinned_is_not_evicted(cached: Cached, shelf: Shelf, pins: Pins, small: Store) -> None:
    image = await cached.image("app", "v1", [ONE, TWO])
    add(pins, shelf, f"{APP}:v1")
    for number in range(30):
        await fill(small, blob(f"new {number}"), announced=1000)

    assert await cached.has(image, Digest.of(ONE), Digest.of(TWO)) == [True] * 3
    assert (await small.usage())[0] <= 10_000

    pins.remove(f"{APP}:v1", "")
    for number in range(30):
        await fill(small, blob(f"newer {number}"), announced=1000)
    assert await cached.has(image, Digest.of(ONE), Digest.of(TWO)) == [False] * 3


async def test_what_is_pinned_does_not_grow_too_old(cached: Cached, shelf: Shelf, pins: Pins, small: Store) -> None:
    image = await cached.image("app", "v1", [ONE])
    await cached.store.put(Digest.of(TWO), TWO)
    add(pins, shelf, f"{APP}:v1")

    assert await small.retire(-YEARS) == 1
    assert await cached.has(image, Digest.of(ONE), Digest.of(TWO)) == [True, True, False]


async def test_a_list_that_cannot_be_read_keeps_what_it_kept(
    cached: Cached, shelf: Shelf, pins: Pins, caplog: pytest.LogCaptureFixture
) -> None:
    await cached.image("app", "v1", [ONE])
    found = add(pins, shelf, f"{APP}:v1")
    keeper = Keeper(pins)
    assert keeper(shelf) == found

    pins.file.write_bytes(b"damaged")

    assert keeper(shelf) == found
    assert "those from before count" in caplog.text


async def test_without_a_list_nothing_is_kept(shelf: Shelf, pins: Pins) -> None:
    assert Digest.of(ONE) not in Keeper(pins)(shelf)


async def test_a_list_that_was_never_read_keeps_everything(cached: Cached, shelf: Shelf, pins: Pins) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")
    pins.file.write_bytes(b"{")

    assert Digest.of(ONE) in Keeper(pins)(shelf)


async def test_one_manifest_that_cannot_be_read_ends_no_pin(
    cached: Cached, shelf: Shelf, pins: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")

    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "pread", failing)

    assert Digest.of(ONE) in Keeper(pins)(shelf)


async def test_a_full_disk_does_not_keep_pins_from_following(
    cached: Cached, shelf: Shelf, pins: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")
    await cached.image("app", "v1", [TWO])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(durable, "replace", full)
    found = Keeper(pins)(shelf)

    assert [Digest.of(layer) in found for layer in (ONE, TWO)] == [False, True]


async def test_another_user_cannot_take_the_list_away(
    cached: Cached, shelf: Shelf, pins: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached.image("app", "v1", [ONE])
    add(pins, shelf, f"{APP}:v1")
    monkeypatch.setattr(os, "geteuid", lambda: cached.data_dir.stat().st_uid + 1)

    with pytest.raises(StoreError, match="do this as that user"):
        unpin(f"{APP}:v1", data_dir=str(cached.data_dir))
    assert [pin.what for pin in pins.all()] == [f"{APP}:v1"]
