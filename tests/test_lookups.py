"""Look-ups that do not hang on one another, and who may lead us where."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lab.inside import until
from pullthrough.guard import ForbiddenAddressError, Guard
from pullthrough.lookups import Found, Ground, Lookups
from pullthrough.resolver import Resolver

WAN, LAN, HERE = "93.184.215.14", "10.0.0.1", "127.0.0.1"


class Names:
    """A name server: knows `addresses`, counts what it is asked, and hangs for some names until `go_on`."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {"wan": [WAN], "lan": [LAN], "here": [HERE]}
        self.hanging: set[str] = set()
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, host: str, port: int, *args: object, **options: object) -> list[object]:
        self.asked.append(host)
        if host in self.hanging:
            self.go_on.wait(20)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in self.addresses[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go_on.set()


@pytest.fixture
async def lookups() -> Lookups:
    return Lookups(Guard(), Resolver())


@pytest.mark.parametrize(
    ("address", "ground"),
    [
        ("127.0.0.1", Ground.LOOPBACK),
        ("127.8.8.8", Ground.LOOPBACK),
        ("::1", Ground.LOOPBACK),
        ("::ffff:127.0.0.1", Ground.LOOPBACK),
        ("10.0.0.1", Ground.PRIVATE),
        ("172.16.0.1", Ground.PRIVATE),
        ("192.168.0.1", Ground.PRIVATE),
        ("100.64.0.1", Ground.PRIVATE),
        ("169.254.1.1", Ground.PRIVATE),
        ("fd00::1", Ground.PRIVATE),
        ("fe80::1%eth0", Ground.PRIVATE),
        ("::ffff:10.0.0.1", Ground.PRIVATE),
        ("64:ff9b::10.0.0.1", Ground.PRIVATE),
        ("64:ff9b::127.0.0.1", Ground.PRIVATE),
        ("2002:0a00:0001::1", Ground.PRIVATE),
        ("93.184.215.14", Ground.PUBLIC),
        ("2606:4700::1", Ground.PUBLIC),
        ("64:ff9b::93.184.215.14", Ground.PUBLIC),
    ],
)
def test_where_an_address_is(address: str, ground: Ground) -> None:
    assert Ground.of(address) is ground


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="no address"):
        Ground.of("registry.test")


# -- finding


async def test_what_is_found(lookups: Lookups, names: Names) -> None:
    names.addresses["wan"] = [WAN, LAN]
    assert await lookups.find("wan", 443) == [
        Found(WAN, 443, socket.AF_INET, 6),
        Found(LAN, 443, socket.AF_INET, 6),
    ]


async def test_what_the_guard_objects_to_is_left_out(lookups: Lookups, names: Names) -> None:
    names.addresses["wan"] = ["169.254.169.254", WAN]
    assert [found.host for found in await lookups.find("wan", 443)] == [WAN]
    names.addresses["wan"] = ["169.254.169.254"]
    with pytest.raises(ForbiddenAddressError, match="never connects there"):
        await lookups.find("wan", 443)


async def test_a_name_without_an_address(lookups: Lookups, names: Names) -> None:
    names.addresses["wan"] = []
    with pytest.raises(OSError, match="has no address"):
        await lookups.find("wan", 443)
    with pytest.raises(socket.gaierror, match="no such name"):
        await lookups.find("unknown", 443)


async def test_one_look_up_at_a_time_for_a_name(lookups: Lookups, names: Names) -> None:
    names.hanging.add("wan")
    askers = [asyncio.ensure_future(lookups.find("wan", 443)) for _ in range(200)]
    await until(lambda: "wan" in names.asked)
    assert [found.host for found in await lookups.find("lan", 443)] == [LAN], "there are threads for the others"
    names.go_on.set()
    assert all(found[0].host == WAN for found in await asyncio.gather(*askers))
    assert names.asked.count("wan") == 1


async def test_who_gives_up_does_not_spoil_it_for_others(lookups: Lookups, names: Names) -> None:
    names.hanging.add("wan")
    first, second = (asyncio.ensure_future(lookups.find("wan", 443)) for _ in range(2))
    await until(lambda: "wan" in names.asked)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    names.go_on.set()
    assert (await second)[0].host == WAN


async def test_the_next_question_is_asked_anew(lookups: Lookups, names: Names) -> None:
    assert (await lookups.find("wan", 443))[0].host == WAN
    names.addresses["wan"] = [LAN]
    assert (await lookups.find("wan", 443))[0].host == LAN


# -- who may lead where


@pytest.mark.parametrize(("namer", "target"), [("wan", "lan"), ("wan", "here"), ("lan", "here")])
async def test_nobody_leads_down(lookups: Lookups, names: Names, namer: str, target: str) -> None:
    with pytest.raises(ForbiddenAddressError, match=f"{namer} may not lead to {target}"):
        await lookups.footing((target, 443), (namer, 443), Ground.PUBLIC)


@pytest.mark.parametrize(
    ("namer", "target", "most", "lowest"),
    [
        ("here", "here", Ground.PUBLIC, Ground.LOOPBACK),
        ("here", "lan", Ground.PUBLIC, Ground.PRIVATE),
        ("lan", "lan", Ground.PUBLIC, Ground.PRIVATE),
        ("lan", "wan", Ground.PUBLIC, Ground.PUBLIC),
        ("wan", "wan", Ground.PUBLIC, Ground.PUBLIC),
        ("wan", "lan", Ground.PRIVATE, Ground.PRIVATE),
        ("wan", "wan", Ground.PRIVATE, Ground.PRIVATE),
        (WAN, "wan", Ground.PUBLIC, Ground.PUBLIC),
        ("lan", LAN, Ground.PUBLIC, Ground.PRIVATE),
    ],
)
async def test_who_leads_elsewhere(
    lookups: Lookups, names: Names, namer: str, target: str, most: Ground, lowest: Ground
) -> None:
    assert await lookups.footing((target, 443), (namer, 443), most) is lowest


async def test_a_name_counts_by_the_address_that_speaks_against_it(lookups: Lookups, names: Names) -> None:
    names.addresses["both"] = [WAN, LAN]
    with pytest.raises(ForbiddenAddressError):
        await lookups.footing(("lan", 443), ("both", 443), Ground.PUBLIC)
    with pytest.raises(ForbiddenAddressError):
        await lookups.footing(("both", 443), ("wan", 443), Ground.PUBLIC)


async def test_who_names_a_public_server_is_not_looked_up(lookups: Lookups, names: Names) -> None:
    assert await lookups.footing(("wan", 443), ("unknown", 443), Ground.PUBLIC) is Ground.PUBLIC
    with pytest.raises(socket.gaierror):
        await lookups.footing(("lan", 443), ("unknown", 443), Ground.PUBLIC)


@pytest.mark.parametrize(("name", "lowest"), [("here", Ground.PRIVATE), ("lan", Ground.PUBLIC)])
async def test_a_name_that_leads_lower_than_agreed(lookups: Lookups, names: Names, name: str, lowest: Ground) -> None:
    with pytest.raises(ForbiddenAddressError, match="when it was looked up before"):
        await lookups.find(name, 443, lowest=lowest)
