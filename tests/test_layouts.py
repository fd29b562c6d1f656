"""Export and import: what goes into an image layout, and what a layout may bring into a store."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.cached import CONFIG, LAYER, Cached, described
from lab.images import TAG
from lab.stores import blob
from pullthrough import exports
from pullthrough.archives import ArchiveError
from pullthrough.catalog import Catalog
from pullthrough.cli import main
from pullthrough.core import media
from pullthrough.core.digest import Digest
from pullthrough.core.selections import parse_selection
from pullthrough.store.index import Link
from pullthrough.store.opened import opened

ONE, TWO, THREE = (blob(number) for number in range(3))
APP, ALPINE = "https://registry.test/app", "https://registry-1.docker.io/library/alpine"


class Commands:
    """`pullthrough ...` on one data directory."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """All that it said."""
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments), "--data-dir", str(self.data_dir)])
        said = "".join(self._capsys.readouterr())
        assert (left.value.code or 0) == code, said
        return said


@pytest.fixture
async def cached(tmp_path: Path) -> AsyncIterator[Cached]:
    made = Cached(tmp_path / "data")
    yield made
    await made.store.aclose()


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Where `cached` is."""
    return Commands(tmp_path / "data", capsys)


@pytest.fixture
def there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Another machine, without a cache."""
    return Commands(tmp_path / "other", capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "images.tar"


class Made:
    """An image layout as others make them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: list[dict[str, Any]] = []
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        (self.folder / "blobs" / "sha256" / digest.hex).write_bytes(content)
        return digest

    def image(self, *layers: bytes, lacking: bytes = b"", **more: object) -> tuple[Digest, dict[str, Any]]:
        """An image; it names a layer that is `lacking` as well."""
        config = b'{"os": "linux", "architecture": "amd64"}'
        named = [*layers, lacking] if lacking else layers
        body = {"config": described(config, CONFIG), "layers": [described(layer, LAYER) for layer in named], **more}
        for content in (config, *layers):
            self.blob(content)
        return self.manifest(body, media.OCI_MANIFEST)

    def manifest(self, body: object, media_type: str) -> tuple[Digest, dict[str, Any]]:
        content = json.dumps(body).encode()
        return self.blob(content), described(content, media_type)

    def lists(self, descriptor: Mapping[str, object], name: str | None = "registry.test/app:v1") -> Path:
        """One more image."""
        annotations = {TAG: name} if name is not None else {}
        self.listed.append({**descriptor, "annotations": annotations})
        (self.folder / "index.json").write_text(json.dumps({"manifests": self.listed}))
        return self.folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "made")


def linked(data_dir: Path, repository: str = APP) -> dict[Digest, Link]:
    if not (data_dir / "store").exists():
        return {}
    with opened(data_dir / "store") as shelf:
        return dict(shelf.index.members(repository))


# -- export


async def test_what_is_exported_is_imported_and_exported_again_byte_for_byte(
    cached: Cached, here: Commands, there: Commands, out: Path
) -> None:
    arm = await cached.image("app", None, [TWO], arch="arm64")
    index = await cached.index("app", "multi", [("amd64", await cached.image("app", "v1", [ONE])), ("arm64", arm)])
    again = out.with_name("again.tar")

    assert "registry.test/app:multi\nregistry.test/app:v1\n" in here("export", "registry.test/app", "-o", out)
    said = there("import", out)
    there("export", "registry.test/app", "-o", again)

    assert f"registry.test/app:multi  {index}" in said
    assert out.read_bytes() == again.read_bytes()
    assert linked(there.data_dir) == linked(here.data_dir)
    assert "registry.test/app:multi" in there("ls")
    assert stat.S_IMODE((there.data_dir / "store").stat().st_mode) == 0o700


async def test_a_folder_holds_the_same(cached: Cached, here: Commands, there: Commands, out: Path) -> None:
    digest = await cached.image("app", "v1", [ONE])
    here("export", "registry.test/app:v1", "-o", out.with_name("layout"))
    there("import", f"{out.with_name('layout')}/")

    listed = json.loads((out.with_name("layout") / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [str(digest)]
    assert digest in linked(there.data_dir)


async def test_platforms_that_are_not_whole_are_left_out_and_told(
    cached: Cached, here: Commands, there: Commands, out: Path
) -> None:
    whole = await cached.image("app", None, [ONE])
    half = await cached.image("app", None, [TWO, THREE], arch="arm64", lacking=1)
    none = Digest.of(b"never pulled")
    index = await cached.index("app", "v1", [("amd64", whole), ("arm64", half), ("s390x", none)])

    told = here("export", "registry.test/app:v1", "-o", out)
    assert "registry.test/app:v1 goes without linux/arm64, linux/s390x: not stored here" in told
    assert "registry.test/app:v1 comes without linux/arm64, linux/s390x" in there("import", out)
    assert {index, whole} <= linked(there.data_dir).keys()
    assert not {half, none, Digest.of(TWO)} & linked(there.data_dir).keys()


async def test_one_platform_is_an_image_of_its_own(cached: Cached, here: Commands, out: Path) -> None:
    arm = await cached.image("app", None, [TWO], arch="arm64")
    await cached.index("app", "v1", [("amd64", await cached.image("app", None, [ONE])), ("arm64", arm)])
    folder = out.with_name("layout")
    here("export", "registry.test/app:v1", "-o", folder, "--platform", "linux/arm64")

    [entry] = json.loads((folder / "index.json").read_text())["manifests"]
    assert entry["digest"] == str(arm)
    assert entry["platform"] == {"os": "linux", "architecture": "arm64"}
    assert set(entry["annotations"].values()) == {"registry.test/app:v1"}
    assert not (folder / "blobs" / "sha256" / Digest.of(ONE).hex).exists()


async def test_only_tags_that_are_meant_name_it_and_without_one_its_digest(
    cached: Cached, here: Commands, out: Path
) -> None:
    digest = await cached.image("app", "v1", [ONE])
    await cached.image("app", "latest", [ONE])
    bare = await cached.image("app", None, [TWO])

    def exported(what: str) -> set[str]:
        out.unlink(missing_ok=True)
        return set(here("export", what, "-o", out).splitlines()[:-1])

    assert exported("registry.test/app:v*") == {"registry.test/app:v1"}
    assert exported(f"registry.test/app@{digest}") == {f"registry.test/app@{digest}"}
    assert exported("registry.test/app") == {
        f"registry.test/app@{bare}",
        *(f"registry.test/app:{tag}" for tag in ("v1", "latest")),
    }


async def test_what_cannot_be_exported_says_what_to_do(cached: Cached, here: Commands, out: Path) -> None:
    await cached.image("app", "half", [ONE, THREE], lacking=1)
    two = [("arm64", await cached.image("app", None, [layer], arch="arm64")) for layer in (ONE, TWO)]
    await cached.index("app", "twice", two)
    out.with_name("there.tar").touch()

    for arguments, words in [
        (("registry.test/app:v9", "-o", out), "nothing of registry.test/app:v9 is stored here: pull it"),
        (("registry.test/app:half", "-o", out), "stored in part only: pull all of it"),
        (("registry.test/app:twice", "-o", out, "--platform", "linux/s390x"), "has nothing for linux/s390x here"),
        (("registry.test/app:twice", "-o", out, "--platform", "linux/arm64"), "name one, by its variant or digest"),
        (("registry.test/app:twice", "-o", out.with_name("there.tar")), "is there already"),
        (("Registry.test/APP", "-o", out), "lower case"),
    ]:
        assert words in here("export", *arguments, code=2)
    assert [path.name for path in out.parent.iterdir()] == ["there.tar"]


@pytest.mark.parametrize("name", ["images.tar", "folder"])
async def test_a_rotten_blob_ends_an_export_and_nothing_is_left(
    cached: Cached, here: Commands, out: Path, name: str
) -> None:
    await cached.image("app", "v1", [ONE, TWO])
    [file] = (here.data_dir / "store" / "blobs").rglob(f"{Digest.of(TWO).hex}-*")
    file.write_bytes(ONE[: len(TWO)])

    said = here("export", "registry.test/app:v1", "-o", out.with_name(name), code=1)
    assert f"{Digest.of(TWO)} is damaged in the store: run pullthrough verify --repair" in said
    assert list(out.parent.iterdir()) == []


async def test_what_is_evicted_meanwhile_is_told(cached: Cached, here: Commands, out: Path) -> None:
    await cached.image("app", "v1", [ONE])
    with opened(here.data_dir / "store") as shelf:
        chosen = exports.chosen(Catalog(shelf), [parse_selection("registry.test/app:v1")], None)
        shelf.index.drop(Digest.of(ONE))
        with pytest.raises(ArchiveError, match="was evicted meanwhile: pull the image again"):
            chosen.write(shelf, out)

    assert list(out.parent.iterdir()) == []


# -- whose an image is


@pytest.mark.parametrize(
    ("name", "flags", "repository"),
    [
        ("registry.test/app:v1", (), APP),
        ("docker.io/library/alpine:3", (), ALPINE),
        ("docker.io/alpine:3", (), ALPINE),
        ("registry.test:5000/app", ("--plain-http",), "http://registry.test:5000/app"),
        ("registry.test/app:v1", ("--plain-http",), "http://registry.test/app"),
        ("3", ("--as", "docker.io/library/alpine:3"), ALPINE),
        (None, ("--as", "registry.test/app"), APP),
        ("docker.io/library/alpine:3", ("--as", "registry.test/app"), APP),
    ],
)
def test_an_image_is_whose_name_it_has(
    made: Made, there: Commands, name: str | None, flags: tuple[str, ...], repository: str
) -> None:
    digest, descriptor = made.image(ONE)
    there("import", made.lists(descriptor, name), *flags)

    assert linked(there.data_dir, repository) == {
        digest: Link(media.OCI_MANIFEST),
        Digest.of(ONE): Link(),
        Digest.of(b'{"os": "linux", "architecture": "amd64"}'): Link(),
    }


@pytest.mark.parametrize(
    ("names", "flags", "words"),
    [
        ([None], (), "calls .* nothing, which is no full name: say it with --as"),
        (["3"], (), "calls .* '3', which is no full name"),
        (["registry.test/app:v1", "latest"], (), "'latest', which is no full name"),
        ([None], ("--as", "alpine"), "flag --as: 'alpine' has no registry"),
        (["a", "b"], ("--as", "registry.test/app:v1"), "has 2 images: --as says the name of one"),
        ([f"registry.test/app@{Digest.of(b'other')}"], (), "is another image"),
    ],
)
def test_an_image_that_is_nobody_s_is_not_taken(
    made: Made, there: Commands, names: list[str | None], flags: tuple[str, ...], words: str
) -> None:
    for number, name in enumerate(names):
        made.lists(made.image(blob(number))[1], name)

    said = there("import", made.folder, *flags, code=2)
    assert re.search(words, said), said
    assert not there.data_dir.exists()


# -- what a layout may bring


def damaged(made: Made) -> Path:
    """One bit of a layer is wrong."""
    folder = made.lists(made.image(ONE, TWO)[1])
    path = folder / "blobs" / "sha256" / Digest.of(TWO).hex
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    return folder


def changed(made: Made) -> Path:
    """The manifest is another than its digest says."""
    digest, descriptor = made.image(ONE)
    path = made.lists(descriptor) / "blobs" / "sha256" / digest.hex
    path.write_bytes(path.read_bytes() + b" ")
    return made.folder


def lacking(made: Made) -> Path:
    return made.lists(made.image(ONE, lacking=TWO)[1])


def unmarked(made: Made) -> Path:
    (made.lists(made.image(ONE)[1]) / "oci-layout").unlink()
    return made.folder


def empty(made: Made) -> Path:
    (made.folder / "index.json").write_text('{"manifests": []}')
    return made.folder


def two_types(made: Made) -> Path:
    """A manifest that says that it is something else than its descriptor says."""
    return made.lists(made.image(ONE, mediaType=media.OCI_INDEX)[1])


def no_manifest(made: Made) -> Path:
    return made.lists({**made.image(ONE)[1], "mediaType": LAYER})


def no_json(made: Made) -> Path:
    made.blob(b"[]")
    return made.lists(described(b"[]", media.OCI_MANIFEST))


def too_long(made: Made) -> Path:
    content = b" " * (9 << 20)
    made.blob(content)
    return made.lists(described(content, media.OCI_MANIFEST))


def too_deep(made: Made) -> Path:
    descriptor = made.image(ONE)[1]
    for _ in range(9):
        descriptor = made.manifest({"manifests": [descriptor]}, media.OCI_INDEX)[1]
    return made.lists(descriptor)


def too_wide(made: Made) -> Path:
    """4096 indexes that each name 4096 others, in a few files."""
    level = [made.manifest({"n": number}, media.OCI_INDEX)[1] for number in range(400)]
    for name in range(3):
        level = [
            made.manifest({"n": number, "name": name, "manifests": level}, media.OCI_INDEX)[1] for number in range(20)
        ]
    return made.lists(made.manifest({"manifests": level}, media.OCI_INDEX)[1])


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (damaged, 1, "is not what its digest says; copy the archive anew"),
        (changed, 1, "is not what its digest says"),
        (lacking, 2, "does not have all of registry.test/app:v1: export it again"),
        (unmarked, 2, "is no OCI image layout of a version"),
        (empty, 2, "has no image"),
        (two_types, 2, "is no image, or none of the type"),
        (no_manifest, 2, "is no image, or none of the type"),
        (no_json, 2, "is no image, or none of the type"),
        (too_long, 2, "is longer than"),
        (too_deep, 2, "names more than any image has"),
        (too_wide, 2, "names more than any image has"),
    ],
)
def test_a_layout_that_is_not_right_makes_no_image(
    made: Made, there: Commands, make: Callable[[Made], Path], code: int, words: str
) -> None:
    assert words in there("import", make(made), code=code)
    assert linked(there.data_dir) == {}
    if (there.data_dir / "store").exists():
        assert "0 images" in there("ls")
        assert not [path for path in (there.data_dir / "store" / "partial").rglob("*") if path.is_file()]


async def test_nobody_names_their_way_to_another_s_blob(cached: Cached, here: Commands, made: Made) -> None:
    """The layer is stored: of another repository, and the archive does not have it."""
    await cached.image("priv/app", "v1", [TWO])
    folder = made.lists(made.image(ONE, lacking=TWO)[1])

    assert "does not have all of" in here("import", folder, code=2)
    (folder / "blobs" / "sha256" / Digest.of(TWO).hex).write_bytes(ONE)
    assert "is not what its digest says" in here("import", folder, code=1)
    assert linked(here.data_dir) == {}


async def test_what_the_registry_said_of_a_type_stays(cached: Cached, here: Commands, made: Made) -> None:
    digest, descriptor = made.image(ONE)
    await cached.store.link(APP, digest, media.DOCKER_MANIFEST)
    here("import", made.lists(descriptor))

    assert linked(here.data_dir)[digest] == Link(media.DOCKER_MANIFEST)


async def test_a_damaged_blob_of_the_store_is_mended_by_an_import(
    cached: Cached, here: Commands, made: Made, out: Path
) -> None:
    await cached.image("app", "v1", [ONE])
    [file] = (here.data_dir / "store" / "blobs").rglob(f"{Digest.of(ONE).hex}-*")
    file.write_bytes(b"short")
    here("import", made.lists(made.image(ONE)[1], "registry.test/app:v2"))

    here("export", "registry.test/app:v1", "-o", out)


# -- room


def test_images_that_are_larger_than_the_store_are_refused_before_anything_goes(made: Made, there: Commands) -> None:
    folder = made.lists(made.image(*(blob(number, 700_000) for number in range(2)))[1])

    assert "flag --size: the images take 1.3 MiB, and the store holds 1.0 MiB" in there(
        "import", folder, "--size", "1MiB", code=2
    )
    assert linked(there.data_dir) == {}


async def test_the_least_used_goes_for_an_import_and_pinned_things_stay(
    cached: Cached, here: Commands, made: Made
) -> None:
    large = [blob(number, 400_000) for number in range(4)]
    await cached.image("old", "v1", [large[0]])
    await cached.image("kept", "v1", [large[1]])
    here("pin", "registry.test/kept:v1")
    folder = made.lists(made.image(large[2])[1])
    here("import", folder, "--size", "1MiB")
    assert await cached.has(Digest.of(large[0]), Digest.of(large[1]), Digest.of(large[2])) == [False, True, True]

    more = Made(folder.with_name("more"))
    more.lists(more.image(*large[2:])[1], "registry.test/app:v2")
    assert "give the store more room with --size, or unpin something" in here(
        "import", more.folder, "--size", "1MiB", code=2
    )
    assert await cached.has(Digest.of(large[1])) == [True]


# -- who gets it


def test_without_public_it_is_said_who_gets_it(made: Made, there: Commands) -> None:
    folder = made.lists(made.image(ONE)[1])
    assert "import with --public what anybody may have" in there("import", folder)
    assert not (there.data_dir / "secret").exists()

    told = there("import", folder, "--public")
    assert (
        "anybody may pull what is stored of these while their registry cannot be asked:\n  registry.test/app\n" in told
    )
    assert stat.S_IMODE((there.data_dir / "secret").stat().st_mode) == 0o600
