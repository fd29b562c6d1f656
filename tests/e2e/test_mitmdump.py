"""`mitmdump -s addon/main.py` is the same proxy, with mitmproxy's own program around it."""

import http.client
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.asking import Asking, from_cache
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.http import Client
from lab.journal import find
from lab.names import ADDRESSES
from lab.pki import Pki
from lab.programs import Program, environment

MAIN = Path(__file__).resolve().parents[2] / "addon" / "main.py"
LISTENING = re.compile(r"listening at \S*:(\d+)")


class ByAddress(FakeRegistry):
    """Known by its address: another process does not know the lab's names."""

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"


@pytest.fixture
def numeric(pki: Pki) -> Iterator[FakeRegistry]:
    server = ByAddress("fake.test", pki.identity(ADDRESSES["fake.test"]))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mitmdump(numeric: FakeRegistry, pki: Pki, tmp_path: Path) -> Iterator[Program]:
    binary = Path(sys.executable).with_name("mitmdump")
    env = environment(
        tmp_path,
        PULLTHROUGH_REGISTRY=numeric.host,
        PULLTHROUGH_UPSTREAM_CA=str(pki.ca_file),
        PULLTHROUGH_DATA_DIR=str(tmp_path / "data"),
        PYTHONUNBUFFERED="1",
    )
    command = [str(binary), "-s", str(MAIN), "--listen-host", "127.0.0.1", "--listen-port", "0"]
    program = Program(command, env, tmp_path / "mitmdump.log")
    program.start()
    yield program
    program.end_if_running()


@pytest.fixture
def port(mitmdump: Program) -> int:
    found = eventually(lambda: LISTENING.search(mitmdump.log.read_text()), "mitmdump listens", 30)
    assert found
    return int(found[1])


def ask_itself(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_mitmdump_serves_a_pull_and_then_a_hit(
    numeric: FakeRegistry, port: int, tmp_path: Path, data: bytes
) -> None:
    image = numeric.add_image("app", "v1", [data])
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(ask_itself(port, "/ca.pem")[1])
    asking = Asking(Client(ca_file, proxy=("127.0.0.1", port)), numeric)

    for cached in (False, True):
        assert (await asking.manifest("app", "v1")).digest == image.digest
        answer = await asking.blob("app", image.layers[0])
        assert (answer.digest, from_cache(answer)) == (image.layers[0], cached)
    assert len(find(numeric.journal, image.layers[0], method="GET")) == 1
    assert (await asking.fetch("/v2/", method="POST", body=b"x")).status == 200


def test_the_port_answers_for_itself_there_too(port: int, numeric: FakeRegistry) -> None:
    status, body = ask_itself(port, "/healthz")

    assert (status, b'"status": "ok"' in body) == (200, True)
    assert numeric.journal.requests() == []


def test_mitmdump_stops_when_asked_to(mitmdump: Program, port: int) -> None:
    assert port
    assert mitmdump.end() == 0
    assert "Traceback" not in mitmdump.log.read_text()
