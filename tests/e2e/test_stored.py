"""What is stored, as the commands tell it beside a proxy that runs: real images, pulled by a real client."""

import json
from typing import Any

import pytest

from lab.clients import Clients
from lab.deadline import eventually
from lab.images import KIB, Index, Layout
from lab.pki import Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry
from pullthrough.cli import main


@pytest.fixture
def proxy(registry: Registry, proxy_factory: Proxies) -> Proxy:
    return proxy_factory(registry)


class Commands:
    """`pullthrough ...` on the data of a proxy."""

    def __init__(self, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
        self._proxy = proxy
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int | None = None) -> str:
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--data-dir", str(self._proxy.data_dir)])
        out, err = self._capsys.readouterr()
        assert left.value.code == code or (code is None and left.value.code in (None, 0)), out + err
        return out + err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def pullthrough(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(proxy, capsys)


@pytest.fixture
def app(registry: Registry, proxy: Proxy, clients: Clients, pki: Pki, layout: Layout, repository: str) -> Index:
    """`repository` was pulled: v1 by two tags, v2, and of multi one platform of two; and v1 from other/`repository`."""
    first = layout.image("v1", [30 * KIB, 40 * KIB])
    again = layout.image("v2", [30 * KIB])  # its layer is one of v1's
    index = layout.index("multi", [("amd64", first), ("arm64", layout.image(None, [10 * KIB], arch="arm64"))])
    for made, name, tag in (
        (first, repository, "v1"),
        (first, repository, "latest"),
        (again, repository, "v2"),
        (index, repository, "multi"),
        (first, f"other/{repository}", "v1"),
    ):
        registry.seed(made, name, tag)
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, pki.ca_file)
    for name, tag in ((repository, "v1"), (repository, "latest"), (repository, "v2"), (f"other/{repository}", "v1")):
        assert skopeo.pull(registry.reference(name, tag)).result.ok
    assert skopeo.pull(registry.reference(repository, "multi"), "--override-arch=amd64").result.ok
    return index


@pytest.fixture
def name(registry: Registry, repository: str) -> str:
    return f"{registry.host}/{repository}"


def names(listed: list[dict[str, Any]]) -> list[str]:
    return [one["image"].rpartition("/")[2].rpartition(":")[2] for one in listed]


def test_images_are_listed_with_what_is_stored_of_them(pullthrough: Commands, app: Index, name: str) -> None:
    listed = {tuple(one["tags"]): one for one in pullthrough.json("ls", "--repo", name)}

    assert {tags: one["stored"] for tags, one in listed.items()} == {
        ("latest", "v1"): "whole",
        ("v2",): "whole",
        ("multi",): "1 of 2 platforms",
    }
    assert listed[("multi",)]["digest"] == app.digest
    assert listed[("latest", "v1")]["bytes"] == sum(
        blob.size for blob in (app.images[0].manifest, *app.images[0].blobs)
    )


def test_they_are_sorted_as_one_asks(
    registry: Registry, proxy: Proxy, clients: Clients, pki: Pki, pullthrough: Commands, app: Index, name: str
) -> None:
    assert names(pullthrough.json("ls", "--repo", name, "--sort", "size")) == ["multi", "latest", "v2"]

    skopeo = clients.skopeo(proxy.url, proxy.ca_file, pki.ca_file)
    for _ in range(5):  # the manifest of v1 was read for four names already
        assert skopeo.pull(f"docker://{name}:v2").result.ok

    def first_by(order: str) -> str:
        return names(pullthrough.json("ls", "--repo", name, "--sort", order))[0]

    assert eventually(lambda: first_by("hits") == "v2", "uses on disk")
    assert first_by("used") == "v2"


def test_an_image_is_shown_down_to_its_layers(pullthrough: Commands, app: Index, name: str) -> None:
    (shown,) = pullthrough.json("show", f"{name}:multi")

    parts = shown["root"]["parts"]
    assert [(part["kind"], part["platform"], part["stored"]) for part in parts] == [
        ("manifest", "linux/amd64", "yes"),
        ("manifest", "linux/arm64", "no"),
    ]
    layer = app.images[0].layers[0]
    assert layer.digest in [part["digest"] for part in parts[0]["parts"]]
    assert not shown["pinned"]
    text = pullthrough("show", f"{name}:v1")
    assert f"layer {layer.digest}" in text
    assert "tags  latest, v1" in text


def test_shared_bytes_are_counted_once(pullthrough: Commands, app: Index, name: str, repository: str) -> None:
    usage = {one["repository"]: one for one in pullthrough.json("du", name.partition("/")[0])}
    first = sum(blob.size for blob in (app.images[0].manifest, *app.images[0].blobs))

    assert usage[f"{name.partition('/')[0]}/other/{repository}"]["bytes"] == first
    assert usage[f"{name.partition('/')[0]}/other/{repository}"]["own"] == 0
    everything = sum(one["bytes"] for one in usage.values())
    assert usage[name]["bytes"] < everything
    *_, total = [line for line in pullthrough("du").splitlines() if line.startswith("all of these")]
    assert total.split()[3] == str(pullthrough.json("du", name)[0]["blobs"])  # every blob is in that one


def test_what_is_purged_is_fetched_again_and_nothing_else(
    registry: Registry,
    proxy: Proxy,
    clients: Clients,
    pki: Pki,
    pullthrough: Commands,
    app: Index,
    name: str,
) -> None:
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, pki.ca_file)

    would = pullthrough("purge", f"{name}:v2", "--dry-run")
    assert would.replace("would go", "gone") == pullthrough("purge", f"{name}:v2")
    assert names(pullthrough.json("ls", "--repo", name)) == ["latest", "multi"]

    registry.journal.clear()
    for tag in ("v1", "v2"):
        assert skopeo.pull(f"docker://{name}:{tag}").result.ok
    fetched = [
        request for request in registry.journal.requests() if request.method == "GET" and "blobs" in request.target
    ]
    assert len(fetched) == 1  # the config of v2: its layer is one of v1's, and stayed
    assert not any(layer.digest in request.target for request in fetched for layer in app.images[0].layers)


def test_a_repository_is_purged_but_not_what_another_has(
    pullthrough: Commands, app: Index, name: str, repository: str
) -> None:
    told = pullthrough("purge", name)

    assert "as other images or repositories have it as well: " in told
    registry = name.partition("/")[0]
    assert [one["repository"] for one in pullthrough.json("ls")] == [f"{registry}/other/{repository}"]
    assert pullthrough.json("ls")[0]["whole"]
    pullthrough("purge", "--all")
    assert pullthrough.json("ls") == []
    assert "nothing of" in pullthrough("purge", name, code=2)


def test_a_pin_stays_whatever_else_is_purged_or_evicted(
    registry: Registry,
    proxy: Proxy,
    clients: Clients,
    pki: Pki,
    layout: Layout,
    pullthrough: Commands,
    app: Index,
    name: str,
    repository: str,
) -> None:
    assert "1 image," in pullthrough("pin", f"{name}:v2")
    assert pullthrough.json("show", f"{name}:v2")[0]["pinned"]
    assert "pinned" in pullthrough("purge", "--all")
    assert names(pullthrough.json("ls")) == ["v2"]

    proxy.flags += ["--size", "300KiB"]
    proxy.restart()
    skopeo = clients.skopeo(proxy.url, proxy.ca_file, pki.ca_file)
    for number in range(6):
        image = layout.image(f"more{number}", [100 * KIB], seed=number)
        registry.seed(image, f"{repository}/more", f"m{number}")
        assert skopeo.pull(registry.reference(f"{repository}/more", f"m{number}")).result.ok

    (listed,) = pullthrough.json("pins")
    assert (listed["pin"], listed["bytes"]) == (f"{name}:v2", listed["stored"])
    pullthrough("unpin", f"{name}:v2")
    assert pullthrough.json("pins") == []
    assert "is not pinned" in pullthrough("unpin", f"{name}:v2", code=2)


def test_more_than_there_is_room_for_is_not_pinned(pullthrough: Commands, app: Index, name: str) -> None:
    told = pullthrough("pin", name, "--size", "50KiB", code=2)

    assert "more than 95% of the 50.0 KiB of --size" in told
    assert "nothing is pinned" in pullthrough("pins")
    assert "1 image," in pullthrough("pin", f"{name}:v2", "--size", "50KiB")
    assert "are pinned already" in pullthrough("pin", f"{name}:v1", "--size", "50KiB", code=2)


def test_one_platform_of_an_image_is_pinned(pullthrough: Commands, app: Index, name: str) -> None:
    assert "are not stored yet" in pullthrough("pin", f"{name}:multi")
    assert "are not stored yet" not in pullthrough("pin", f"{name}:multi", "--platform", "linux/amd64")
    assert len(pullthrough.json("pins")) == 2


def test_what_nobody_pulled_is_not_pinned(pullthrough: Commands, app: Index, name: str) -> None:
    assert "pull it through this proxy first" in pullthrough("pin", f"{name}:nowhere", code=2)
    assert "0 images" in pullthrough("pin", f"{name}/*")  # may come
