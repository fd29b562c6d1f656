"""Look-ups of our own: by the name servers that were chosen and by nobody else, or by the system."""

import os
import socket
from collections.abc import Iterator

import pytest

from lab.nameserver import LabNameServer
from lab.programs import need_root
from pullthrough.resolver import Resolver


@pytest.fixture
def address() -> str:
    """On loopback, of this process alone: name servers are asked on port 53."""
    pid = os.getpid()
    return f"127.53.{pid >> 8 & 0xFF}.{pid & 0xFF}"


@pytest.fixture
def names(address: str) -> Iterator[LabNameServer]:
    """A name server there."""
    need_root("a name server on port 53")
    made = LabNameServer()
    made.host("both.test", "10.0.0.1", "fd00::1")
    made.host("four.test", "10.0.0.2", "10.0.0.3")
    made.host("six.test", "fd00::4")
    made.listen(address)
    yield made
    made.stop()


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("host", "family", "found"),
    [
        ("four.test", socket.AF_UNSPEC, {"10.0.0.2", "10.0.0.3"}),
        ("six.test", socket.AF_UNSPEC, {"fd00::4"}),
        ("both.test", socket.AF_INET, {"10.0.0.1"}),
        ("both.test", socket.AF_INET6, {"fd00::1"}),
    ],
)
async def test_the_chosen_name_server_is_asked(address: str, host: str, family: int, found: set[str]) -> None:
    infos = await Resolver([address]).find(host, 5050, family)

    assert {info[4][0] for info in infos} == found
    assert {info[4][1] for info in infos} == {5050}
    for kind, stream, protocol, _, place in infos:
        with socket.socket(kind, stream, protocol):  # as a caller uses them
            assert len(place) == (4 if kind == socket.AF_INET6 else 2)


@pytest.mark.parametrize(
    ("host", "family"),
    [("nowhere.test", socket.AF_UNSPEC), ("four.test", socket.AF_INET6), ("six.test", socket.AF_INET)],
)
async def test_a_name_without_an_address_is_an_error_of_look_ups(
    names: LabNameServer, address: str, host: str, family: int
) -> None:
    with pytest.raises(socket.gaierror):
        await Resolver([address]).find(host, 443, family)
    assert names.asked(host)


async def test_the_machines_own_names_are_not_known_to_it(names: LabNameServer, address: str) -> None:
    own = socket.gethostname()
    with pytest.raises(socket.gaierror):
        await Resolver([address]).find(own, 443)
    assert any(names.asked(name) for name in (own, f"{own}."))


@pytest.mark.parametrize("servers", [(), ("192.0.2.53",)])
@pytest.mark.parametrize(("literal", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_an_address_needs_no_name_server(servers: tuple[str, ...], literal: str, family: int) -> None:
    ((found, stream, _, _, place),) = await Resolver(servers).find(literal, 443)

    assert (found, stream, place[0], place[1]) == (family, socket.SOCK_STREAM, literal, 443)


async def test_without_name_servers_the_system_is_asked() -> None:
    infos = await Resolver().find("localhost", 80)

    assert {info[4][0] for info in infos} <= {"127.0.0.1", "::1"}
    assert Resolver().servers == ()
