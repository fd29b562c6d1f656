"""The front door where no client of a laboratory gets: strangers, crowds, names that change their address."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from mitmproxy import connection, http
from mitmproxy.options import Options
from mitmproxy.proxy import server_hooks
from mitmproxy.proxy.context import Context
from mitmproxy.test import tflow
from mitmproxy.tls import TlsData

from pullthrough.ca import Authority
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.door import Door
from pullthrough.guard import Guard
from pullthrough.layers import Connections
from pullthrough.leaves import LeafContexts
from pullthrough.metrics import Metrics
from pullthrough.neighbours import Neighbours
from pullthrough.parent import ParentProxies
from pullthrough.visits import Allowance, Visits

LIMIT = 6


@dataclass
class House:
    """A door, and the connections behind it: as many as a test says."""

    door: Door
    connected: dict[str, Any] = field(default_factory=dict)

    def knock(self, address: str) -> connection.Client:
        """A client that connects from `address`."""
        client = connection.Client(peername=(address, 50000), sockname=("192.0.2.1", 3128))
        self.connected[client.id] = None
        self.door.client_connected(client)
        return client

    def led(self, client: connection.Client, name: str, address: str) -> server_hooks.ServerConnectionHookData:
        """A connection to `name` for `client` that came out at `address`."""
        server = connection.Server(address=(name, 443))
        server.peername = (address, 443)
        return server_hooks.ServerConnectionHookData(server=server, client=client)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("ca"), now=lambda: datetime.now(UTC))


def build(
    authority: Authority,
    *,
    offline: bool = False,
    environ: Mapping[str, str] | None = None,
    guard: Guard | None = None,
) -> House:
    connected: dict[str, Any] = {}
    door = Door(
        registries=Registries([parse_entry("registry.test")]),
        neighbours=Neighbours(),
        leaves=LeafContexts(authority, lambda: datetime.now(UTC)),
        guard=guard or Guard(),
        parents=ParentProxies(environ or {}),
        metrics=Metrics(),
        connections=Connections(lambda: connected),
        visits=Visits(LIMIT, Allowance()),
        own_names=frozenset(("localhost",)),
        discovery=None,
        offline=offline,
    )
    return House(door, connected)


@pytest.fixture
def house(authority: Authority) -> House:
    return build(authority)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "192.0.2.7"])
def test_a_client_with_a_public_address_is_refused_and_named_once(
    house: House, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    for _ in range(2):
        assert house.knock(address).error

    assert caplog.text.count(f"{address} is a client with a public address") == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "fd00::7", "::ffff:192.168.1.2"])
def test_a_client_nearby_is_let_in(house: House, address: str) -> None:
    assert house.knock(address).error is None


def test_a_crowd_is_kept_out_before_files_run_out(house: House, caplog: pytest.LogCaptureFixture) -> None:
    assert [house.knock(f"10.0.0.{number}").error for number in range(LIMIT)] == [None] * LIMIT

    for number in (0, 100):
        assert house.knock(f"10.0.0.{number}").error == "too many connections are open: the limit is 6"
    assert caplog.text.count("ulimit -n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "fd00::7"])
def test_one_client_never_takes_all_connections(house: House, caplog: pytest.LogCaptureFixture, address: str) -> None:
    own = [house.knock(address) for _ in range(LIMIT)]

    assert [client.error is None for client in own] == [True] * 3 + [False] * 3
    assert own[-1].error == "too many connections of this client are open: the limit is 3"
    assert caplog.text.count(f"{address} was refused") == 1
    assert house.knock("10.0.0.99").error is None

    house.door.client_disconnected(own[0])
    house.door.client_disconnected(own[-1])  # one that was refused takes nobody's place with it
    assert [house.knock(address).error is None for _ in range(2)] == [True, False]


async def connect_to(house: House, host: str, port: int = 443) -> http.HTTPFlow:
    flow = tflow.tflow(client_conn=house.knock("10.0.0.1"))
    flow.request.host, flow.request.port = host, port
    await house.door.http_connect(flow)
    return flow


async def test_offline_no_tunnel_is_opened_but_registries_are(authority: Authority) -> None:
    house = build(authority, offline=True)
    refused = await connect_to(house, "other.test")

    assert refused.response is not None
    assert refused.response.status_code == 503
    assert b"--offline" in (refused.response.content or b"")
    assert (await connect_to(house, "registry.test")).response is None


async def test_the_log_does_not_fill_with_hosts_that_strangers_choose(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(2000):
        await house.door.http_connect(_connect(f"h{number}.test", 25))

    assert len(caplog.records) <= 1024


def _connect(host: str, port: int) -> http.HTTPFlow:
    flow = tflow.tflow(client_conn=connection.Client(peername=("10.0.0.1", 1), sockname=("10.0.0.2", 2)))
    flow.request.host, flow.request.port = host, port
    return flow


@pytest.mark.parametrize(("host", "port"), [("10.0.0.2", 3128), ("localhost", 2)])
async def test_a_tunnel_to_the_proxy_itself_belongs_into_no_proxy(authority: Authority, host: str, port: int) -> None:
    guard = Guard()
    guard.listening([("10.0.0.2", 3128)])
    flow = _connect(host, port)
    await build(authority, guard=guard).door.http_connect(flow)

    assert flow.response is not None
    said = flow.response.get_text() or ""
    assert (flow.response.status_code, f"this proxy itself: put {host} into NO_PROXY" in said) == (403, True)
    assert "--registry" not in said


def _greet(house: House, name: str) -> None:
    client = connection.Client(peername=("10.0.0.1", 1), sockname=("10.0.0.2", 3128))
    client.sni = name
    house.door.tls_start_client(TlsData(conn=client, context=Context(client, Options())))


def test_a_name_that_we_are_taken_for_is_told_once_with_the_flag(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cache.corp.test", "Cache.Corp.Test", "registry.test", "localhost", "odd\x1b[31m", "; reboot", ""):
        _greet(house, name)

    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["cache.corp.test"]
    assert caplog.text.count("--name cache.corp.test") == 1


def test_names_that_strangers_choose_leave_room_in_the_log_for_others(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2000):
        _greet(house, f"h{number}.test")
    house.knock("8.8.8.8")

    assert len(caplog.records) < 500
    assert "8.8.8.8 is a client with a public address" in caplog.text


class Handler:
    """What mitmproxy keeps of one client: its transports."""

    def __init__(self, server: connection.Server, writer: asyncio.StreamWriter) -> None:
        self.transports = {server: type("Transport", (), {"writer": writer})()}


@pytest.mark.parametrize(
    ("address", "cut"), [("169.254.169.254", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.9", False)]
)
async def test_a_name_that_changed_its_address_since_it_was_looked_up_is_hung_up_on(
    house: House, address: str, cut: bool
) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        gone.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname()[:2])
        client = house.knock("10.0.0.1")
        data = house.led(client, "other.test", address)
        house.connected[client.id] = Handler(data.server, writer)
        house.door.server_connected(data)

        assert writer.transport.is_closing() == cut
        writer.close()
        await asyncio.wait_for(gone.wait(), 10)


def test_a_parent_proxy_may_be_anywhere(authority: Authority) -> None:
    house = build(authority, environ={"HTTPS_PROXY": "http://parent.test:443"})
    client = house.knock("10.0.0.1")
    house.door.server_connected(house.led(client, "parent.test", "127.0.0.1"))  # nothing to hang up on: no error
