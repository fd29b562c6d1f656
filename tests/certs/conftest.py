"""Fixtures of the scripts for clients: a machine to change, a CA, and a cache that gives out CA and script."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certs.machine import Machine
from lab.fake_registry import FakeRegistry
from lab.names import NameMap
from lab.pki import Identity
from lab.programs import need
from lab.web import Exchange, WebServer, served
from pullthrough.ca import Authority
from pullthrough.clientsetup import SetupScript


class StubCache(WebServer):
    """`/ca.pem` and `/setup.sh` as the cache has them; what they are can be changed."""

    def __init__(self, authority: Authority) -> None:
        super().__init__("plain.test", None, public_port=None)
        self.ca_pem = authority.certificate_pem
        self.announced = authority.certificate_pem
        self.fingerprint = authority.fingerprint

    def give_out(self, *authorities: Authority) -> None:
        """From now on these, as after a rotation or during one."""
        self.ca_pem = self.announced = b"".join(authority.certificate_pem for authority in authorities)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def script(self) -> str:
        return SetupScript().of(self.url, self.announced).decode()

    def answer(self, exchange: Exchange) -> None:
        bodies = {"/ca.pem": self.ca_pem, "/setup.sh": self.script.encode()}
        body = bodies.get(exchange.request.target)
        exchange.reply(200 if body else 404, body=body or b"")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("template")
    yield Machine.debian(folder / "machine")
    shutil.rmtree(folder)


@pytest.fixture
def machine(template: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A Debian machine that knows nothing of a cache."""
    made = template.copy(tmp_path / "machine")
    yield made
    shutil.rmtree(made.folder)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of the cache."""
    return Authority.load_or_create(tmp_path_factory.mktemp("ca") / "ca", now=lambda: datetime.now(UTC))


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.certificate_pem)
    return path


@pytest.fixture
def cache(authority: Authority, names: NameMap) -> Iterator[StubCache]:
    need("curl")
    with served(StubCache(authority), names) as server:
        yield server


@pytest.fixture
def vouched(authority: Authority, names: NameMap, tmp_path: Path) -> Iterator[FakeRegistry]:
    """`fake.test:PORT`: a registry with a certificate of the CA."""
    leaf = authority.issue("fake.test")
    identity = Identity("fake.test", tmp_path / "fake.chain.pem", tmp_path / "fake.key.pem")
    identity.chain.write_bytes(leaf.chain_pem)
    identity.key.write_bytes(leaf.key_pem)
    with served(FakeRegistry("fake.test", identity), names) as server:
        server.add_image("team/app", "1.0", [b"one layer" * 1000])
        yield server
