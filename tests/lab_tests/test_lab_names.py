"""Names of the lab are known to one process, ports may be moved, and no other name is touched."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.names import Endpoint, NameFile, NameMap, resolver
from lab.programs import environment
from lab.proxy import TESTS

STUB = """
import json, socket, sys
def main():
    found = socket.getaddrinfo("cdn.test", 443, type=socket.SOCK_STREAM)[0][4]
    print(json.dumps([sys.argv, found]))
"""


def test_a_name_may_be_published_on_another_port_than_it_listens_on() -> None:
    names = NameMap()
    names.publish("cdn.test", 443, "127.0.0.5", 40443)

    found = resolver(names)("cdn.test", 443, type=socket.SOCK_STREAM)

    assert [entry[4] for entry in found] == [("127.0.0.5", 40443)]


def test_a_name_without_port_keeps_the_port_that_was_asked_for() -> None:
    assert NameMap({"registry.test": "127.0.0.2"}).lookup("registry.test", 5000) == ("127.0.0.2", 5000)


@pytest.mark.parametrize("name", ["nowhere.test", b"nowhere.test"])
def test_an_unknown_test_name_does_not_exist(name: str | bytes) -> None:
    with pytest.raises(socket.gaierror):
        resolver(NameMap())(name, 443)


def test_other_names_are_left_to_the_system() -> None:
    assert resolver(NameMap(), lambda *arguments: list(arguments))("127.0.0.1", 80, 0) == ["127.0.0.1", 80, 0]


def test_an_endpoint_is_called_by_its_port_only_where_that_is_not_the_usual_one() -> None:
    assert Endpoint("cdn.test", fixed_port=443, port=40443).url == "https://cdn.test"
    assert Endpoint("registry.test", port=5050).host == "registry.test:5050"
    assert Endpoint("storage.test", secure=False, fixed_port=80).url == "http://storage.test"


def test_names_are_lost_with_all_of_their_ports_and_others_stay() -> None:
    names = NameMap({"registry.test:5000": "127.0.0.2", "registry.test": "127.0.0.2", "cdn.test:443": "127.0.0.5"})

    left = names.without("registry.test")

    assert left.lookup("registry.test", 5000) is None
    assert left.lookup("cdn.test", 443) == ("127.0.0.5", 443)
    assert names.lookup("registry.test", 5000) == ("127.0.0.2", 5000)


def test_a_file_of_names_is_followed_as_it_changes(tmp_path: Path) -> None:
    names = NameMap({"cdn.test:443": "127.0.0.5:40443"})
    path = names.write(tmp_path / "hosts.json")
    followed = resolver(NameFile(path))
    assert followed("cdn.test", 443)

    for _ in range(3):
        names.without("cdn.test").write(path)
        with pytest.raises(socket.gaierror):
            followed("cdn.test", 443)
        names.write(path)
        assert followed("cdn.test", 443)


def test_named_runs_pullthrough_with_the_map_and_its_arguments(tmp_path: Path) -> None:
    package = tmp_path / "pullthrough"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STUB)
    names = NameMap()
    names.publish("cdn.test", 443, "127.0.0.5", 40443)
    hosts = names.write(tmp_path / "hosts.json")

    path = os.pathsep.join([str(tmp_path), str(TESTS)])
    command = [sys.executable, "-m", "lab.named", str(hosts), "--", "run", "--listen", "x"]
    done = subprocess.run(
        command, env=environment(tmp_path, PYTHONPATH=path), capture_output=True, check=True, timeout=60
    )

    assert done.stdout.strip() == b'[["pullthrough", "run", "--listen", "x"], ["127.0.0.5", 40443]]'
