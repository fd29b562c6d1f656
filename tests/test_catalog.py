"""What is stored, as people name it, and what goes when they name it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.cached import Cached
from lab.stores import blob
from pullthrough.catalog import Catalog, Image
from pullthrough.core import media
from pullthrough.core.children import Descriptor
from pullthrough.core.digest import Digest
from pullthrough.core.selections import parse_selection
from pullthrough.purging import Purge, carry_out, plan
from pullthrough.store import StoreError
from pullthrough.store.opened import Shelf, opened

ONE, TWO, THREE = (blob(number) for number in range(3))


@pytest.fixture
async def cached(tmp_path: Path) -> AsyncIterator[Cached]:
    made = Cached(tmp_path / "data")
    yield made
    await made.store.aclose()


@pytest.fixture
def shelf(cached: Cached) -> Iterator[Shelf]:
    cached.data_dir.joinpath("store").mkdir(exist_ok=True)
    with opened(cached.data_dir / "store") as shelf:
        yield shelf


def images(shelf: Shelf, *selections: str) -> dict[str, Image]:
    found = list(Catalog(shelf).images(*map(parse_selection, selections)))
    assert len({image.name for image in found}) == len(found)
    return {image.name.removeprefix("registry.test/"): image for image in found}


def purged(shelf: Shelf, text: str | None, pinned: frozenset[Digest] = frozenset()) -> Purge:
    made = plan(shelf, parse_selection(text) if text is not None else None, pinned)
    carry_out(shelf, made)
    return made


# -- what there is


async def test_an_image_is_known_by_its_tags_or_by_its_digest(cached: Cached, shelf: Shelf) -> None:
    tagged = await cached.image("app", "v1", [ONE])
    bare = await cached.image("app", None, [TWO])
    await cached.image("other/app", "v1", [ONE])

    assert images(shelf).keys() == {"app:v1", f"app@{bare}", "other/app:v1"}
    assert images(shelf, "registry.test/app").keys() == {"app:v1", f"app@{bare}"}
    assert images(shelf, "registry.test/*:v1").keys() == {"app:v1"}
    assert images(shelf, f"registry.test/app@{tagged}").keys() == {"app:v1"}
    assert images(shelf, str(tagged)).keys() == {"app:v1", "other/app:v1"}
    assert images(shelf, "registry.test/**", "*/app").keys() == {"app:v1", f"app@{bare}"}


async def test_what_an_index_names_is_a_part_of_it(cached: Cached, shelf: Shelf) -> None:
    amd = await cached.image("app", None, [ONE])
    missing = Digest.of(b"not here")
    await cached.index("app", "v1", [("amd64", amd), ("arm64", missing)])

    (image,) = images(shelf).values()
    assert [(part.what.platform, part.stored is not None) for part in image.root.parts] == [
        ("linux/amd64", True),
        ("linux/arm64", False),
    ]
    assert not image.root.whole
    platform = image.root.of_platform("linux/amd64")
    assert platform is not None
    assert platform.whole
    assert image.root.of_platform("linux") is not None
    assert image.root.of_platform("linux/arm") is None
    assert images(shelf, str(amd)).keys() == {f"app@{amd}"}  # by digest any manifest is meant


async def test_the_platform_of_an_image_is_what_its_config_says(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE], arch="riscv64")

    assert images(shelf)["app:v1"].root.what.platform == "linux/riscv64"


async def test_an_image_with_a_layer_that_was_evicted_is_not_whole(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE, TWO], lacking=1)

    image = images(shelf)["app:v1"]
    assert not image.root.whole
    assert image.root.parts[-1].size == len(TWO)  # as its manifest says
    assert image.bytes == sum(node.stored or 0 for node in image.root.walk())


async def test_a_manifest_whose_file_is_damaged_has_no_parts(cached: Cached, shelf: Shelf) -> None:
    digest = await cached.image("app", "v1", [ONE])
    row = shelf.index.find(digest)
    assert row is not None
    file = shelf.files.root / row.name
    file.write_bytes(bytes(file.stat().st_size))

    assert images(shelf)["app:v1"].root.parts == ()


async def test_a_tag_that_is_gone_names_nothing(cached: Cached, shelf: Shelf) -> None:
    digest = await cached.image("app", "v1", [ONE])
    await cached.image("app", "v2", [TWO])
    await cached.untag("app", "v1")

    assert images(shelf).keys() == {f"app@{digest}", "app:v2"}


async def test_a_tag_names_what_it_named_last(cached: Cached, shelf: Shelf) -> None:
    before = await cached.image("app", "v1", [ONE])
    after = await cached.image("app", "v1", [TWO])

    assert {name: image.root.digest for name, image in images(shelf).items()} == {
        "app:v1": after,
        f"app@{before}": before,
    }


async def test_links_that_others_wrote_are_passed_over(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE])
    for repository in (
        "no address",
        "ftp://registry.test/app",
        "https://registry.test",
        "https://[/x",
        "https://x:y/z",
    ):
        await cached.store.link(repository, Digest.of(ONE), "application/json")

    assert images(shelf).keys() == {"app:v1"}


# -- what goes


async def test_what_another_image_of_the_repository_needs_stays(cached: Cached, shelf: Shelf) -> None:
    first = await cached.image("app", "v1", [ONE, TWO])
    second = await cached.image("app", "v2", [ONE])

    gone = purged(shelf, "registry.test/app:v1")

    assert await cached.has(first, Digest.of(TWO)) == [False, False]
    assert await cached.has(second, Digest.of(ONE)) == [True, True]
    assert Digest.of(ONE) in gone.shared
    assert images(shelf).keys() == {"app:v2"}
    assert await cached.store.linked(cached.repository("app"), Digest.of(TWO)) is None


async def test_what_another_repository_has_stays_there(cached: Cached, shelf: Shelf) -> None:
    digest = await cached.image("app", "v1", [ONE])
    await cached.image("copy", "v1", [ONE])

    purged(shelf, "registry.test/app")

    assert images(shelf).keys() == {"copy:v1"}
    assert images(shelf)["copy:v1"].root.whole
    assert await cached.store.linked(cached.repository("app"), digest) is None


async def test_a_platform_that_has_a_tag_of_its_own_stays(cached: Cached, shelf: Shelf) -> None:
    amd = await cached.image("app", "amd", [ONE])
    arm = await cached.image("app", None, [TWO])
    await cached.index("app", "v1", [("amd64", amd), ("arm64", arm)])

    purged(shelf, "registry.test/app:v1")

    assert images(shelf).keys() == {"app:amd"}
    assert await cached.has(arm, Digest.of(TWO)) == [False, False]


async def test_a_digest_goes_whoever_needs_it(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE, TWO])
    await cached.image("copy", "v1", [ONE])

    gone = purged(shelf, str(Digest.of(ONE)))

    assert set(gone.blobs) == {Digest.of(ONE)}
    assert len(gone.links) == 2
    assert await cached.has(Digest.of(ONE), Digest.of(TWO)) == [False, True]


async def test_a_registry_goes_whole_and_alone(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE])
    await cached.store.link("https://other.test/app", Digest.of(ONE))
    await cached.store.put(Digest.of(THREE), THREE)

    purged(shelf, "registry.test")

    assert list(Catalog(shelf).repositories()) == ["https://other.test/app"]
    assert await cached.has(Digest.of(ONE), Digest.of(THREE)) == [True, True]


async def test_everything_goes_that_is_not_pinned(cached: Cached, shelf: Shelf) -> None:
    digest = await cached.image("app", "v1", [ONE, TWO])
    await cached.store.put(Digest.of(THREE), THREE)  # of nobody

    gone = purged(shelf, None, frozenset({digest, Digest.of(ONE)}))

    assert await cached.has(digest, Digest.of(ONE), Digest.of(TWO), Digest.of(THREE)) == [True, True, False, False]
    assert gone.pinned == {digest, Digest.of(ONE)}
    assert not gone.shared


async def test_what_is_unfinished_or_damaged_goes_with_everything(cached: Cached, shelf: Shelf) -> None:
    partial = await cached.store.begin(Digest.of(TWO))
    await cached.store.write(partial, TWO[:10])
    await cached.store.end(partial, keep=True)
    partial.close()
    filling = await cached.store.begin(Digest.of(THREE))
    await cached.store.write(filling, THREE[:10])
    damaged = shelf.files.root / "damaged" / "blobs" / "one"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")

    assert set(purged(shelf, None).rests.values()) == {10, 7}

    assert not damaged.exists()
    assert [path.name for path in shelf.files.partials()] == [Digest.of(THREE).hex]  # somebody is at it
    await cached.store.end(filling, keep=False)
    filling.close()


async def test_a_purge_that_is_only_planned_changes_nothing(cached: Cached, shelf: Shelf) -> None:
    digest = await cached.image("app", "v1", [ONE])

    assert plan(shelf, parse_selection("registry.test"), ()).bytes > len(ONE)
    assert await cached.has(digest, Digest.of(ONE)) == [True, True]


async def test_a_blob_that_came_anew_meanwhile_is_not_deleted(cached: Cached, shelf: Shelf) -> None:
    await cached.image("app", "v1", [ONE])
    planned = plan(shelf, parse_selection("registry.test"), ())
    await cached.store.drop(Digest.of(ONE))
    await cached.store.put(Digest.of(ONE), ONE)

    carry_out(shelf, planned)

    assert await cached.has(Digest.of(ONE)) == [True]


# -- where


def test_a_folder_without_a_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing is stored in .*--data-dir"), opened(tmp_path / "store"):
        pytest.fail("it was opened")


def test_what_belongs_to_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: folder.stat().st_uid + 1)

    with pytest.raises(StoreError, match=r"belongs to .*: do this as that user"), opened(folder):
        pytest.fail("it was opened")
    assert not list(folder.iterdir())


async def test_few_manifests_that_name_each_other_have_an_end(cached: Cached, shelf: Shelf) -> None:
    named: list[tuple[str, Digest]] = []
    for level in range(4):
        made = []
        for number in range(40):
            body = {"level": level, "number": number, "manifests": [{"digest": str(one)} for _, one in named]}
            made.append((str(number), await cached.manifest("app", None, body, media.OCI_INDEX)))
        named = made
    root = await cached.index("app", "v1", named)

    tree = Catalog(shelf).tree(Descriptor(root, media.OCI_INDEX, is_manifest=True))

    assert sum(1 for _ in tree.walk()) <= (1 << 14) + 1
