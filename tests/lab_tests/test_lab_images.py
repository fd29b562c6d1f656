"""Images of the lab are real, deterministic and cheap."""

import gzip
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

from lab.images import KIB, MIB, Blob, Image, Layer, Layout
from lab.programs import environment, need


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def read(blob: Blob) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(blob.path.read_bytes())
    return parsed


def test_every_blob_has_the_name_the_size_and_the_digest_of_its_bytes(tmp_path: Path) -> None:
    image = Layout(tmp_path).image("v1", [100 * KIB, 1])

    for blob in (image.manifest, *image.blobs):
        assert blob.digest == digest(blob.path)
        assert blob.size == blob.path.stat().st_size
        assert blob.path.name == blob.hex


def test_the_same_seed_makes_the_same_image_and_another_seed_another(tmp_path: Path) -> None:
    first = Layout(tmp_path / "a").image("v1", [5 * KIB], seed=7)
    same = Layout(tmp_path / "b").image("other-tag", [5 * KIB], seed=7)
    other = Layout(tmp_path / "c").image("v1", [5 * KIB], seed=8)

    assert first.digest == same.digest
    assert {blob.digest for blob in first.blobs}.isdisjoint(blob.digest for blob in other.blobs)


def test_the_config_names_the_digests_of_the_unpacked_layers(tmp_path: Path) -> None:
    image = Layout(tmp_path).image("v1", [3 * KIB, Layer(2 * MIB, sparse=True)])

    packed, sparse = image.layers
    unpacked = hashlib.sha256(gzip.decompress(packed.path.read_bytes())).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{unpacked}", sparse.digest]}
    assert read(image.config)["rootfs"] == rootfs


def test_layers_are_tars_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    image = Layout(tmp_path).image("v1", [3 * MIB + 5, Layer(2 * MIB + 7, sparse=True)])

    for layer, size in zip(image.layers, (3 * MIB + 5, 2 * MIB + 7), strict=True):
        with tarfile.open(layer.path) as archive:
            small, large = archive.getmembers()
            content = archive.extractfile(small)
            assert content is not None
            assert json.loads(content.read())["seed"]
            assert large.size == size


def test_a_sparse_layer_takes_next_to_no_disk_and_differs_at_every_mebibyte(tmp_path: Path) -> None:
    layer = Layout(tmp_path).image("v1", [Layer(64 * MIB, sparse=True)]).layers[0]

    with layer.path.open("rb") as file:
        parts = {file.read(MIB) for _ in range(64)}
    assert len(parts) == 64
    assert layer.path.stat().st_blocks * 512 < 2 * MIB


def test_an_index_names_its_images_by_platform(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    images = [(arch, layout.image(None, [KIB], arch=arch)) for arch in ("amd64", "arm64")]

    index = layout.index("multi", images)

    entries = read(index.manifest)["manifests"]
    assert isinstance(entries, list)
    assert [(entry["platform"]["architecture"], entry["digest"]) for entry in entries] == [
        (arch, image.digest) for arch, image in images
    ]


def test_an_artifact_refers_to_its_subject(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = layout.image("v1", [KIB])

    artifact = layout.artifact("sig", image, {"signed": True})

    manifest = read(artifact.manifest)
    assert manifest["subject"] == image.manifest.descriptor()
    assert manifest["artifactType"] == "test/lab"
    assert read(artifact.layers[0]) == {"signed": True}


def test_skopeo_reads_the_layout(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    images: list[Image] = [layout.image(f"v{seed}", [KIB], seed=seed) for seed in (1, 2)]

    command = [need("skopeo"), "inspect", layout.reference("v2")]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, check=True, timeout=60)

    assert json.loads(done.stdout)["Digest"] == images[1].digest
