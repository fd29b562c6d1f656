"""Which addresses are never an upstream: cloud metadata, link-local, and ourselves.

Responsible for saying no, by address, whatever name led there. Must not know why somebody wants to connect.
Names are checked after they were resolved (`GuardedEventLoop`), so a name that changes its mind between
a check and the connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

#: The addresses of a host, port and family, as `socket.getaddrinfo` has them.
type Find = Callable[[str, int, int], Awaitable[list[Any]]]
type IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Metadata services outside the link-local ranges, each with its owner.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure wire server
        "192.0.0.192",  # Oracle Cloud (classic)
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_BROADCAST: Final = ipaddress.ip_address("255.255.255.255")
#: Where clients may be. Spelled out: what `is_private` means differs between versions of Python.
_CLIENTS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # RFC 6598, carrier-grade NAT; some clouds and VPNs use it inside
        "169.254.0.0/16",  # link-local
        "fe80::/10",
        "fc00::/7",  # RFC 4193, unique local
    )
)


class ForbiddenAddressError(OSError):
    """An address that is never an upstream. An OSError, so that whoever connects treats it as unreachable."""


def literal(host: str) -> IPAddress | None:
    """The address that `host` spells, brackets and zone aside, or None for a name. `::ffff:10.0.0.1` is 10.0.0.1."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def reached(address: IPAddress) -> IPAddress:
    """The IPv4 address to which a translator or a tunnel would carry it (NAT64, 6to4), else the same."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.sixtofour or address
    return address


def is_private_client(host: str) -> bool:
    """Is this peer on loopback or a private network? Others are refused: an open proxy is found within hours."""
    address = literal(host)
    return address is not None and any(address in network for network in _CLIENTS)


def is_loopback(host: str) -> bool:
    """Does `host` spell a loopback address?"""
    address = literal(host)
    return address is not None and address.is_loopback


class Guard:
    """Says why an address may not be connected to. Knows our own listeners once they are `listening`."""

    def __init__(self) -> None:
        self._own: frozenset[tuple[IPAddress, int]] = frozenset()

    def listening(self, addresses: Iterable[tuple[str, int]]) -> None:
        """These TCP addresses are ours; with `0.0.0.0` or `::` every address of this machine is."""
        pairs = [(literal(host), port) for host, port in addresses]
        self._own = frozenset((address, port) for address, port in pairs if address is not None)

    def objection(self, host: str, port: int) -> str | None:
        """Why `host` (an address) must not be connected to on `port`; None if nothing speaks against it."""
        address = literal(host)
        if address is None:
            return None
        address = reached(address)
        if address in _METADATA or address.is_link_local:
            return f"{host} is a link-local or cloud metadata address: pullthrough never connects there"
        if address.is_multicast or address.is_unspecified or address == _BROADCAST:
            return f"{host} is not the address of a server"
        if self.is_ourselves(host, port):
            return f"{host}:{port} is this proxy itself: a request to it would go round for ever"
        return None

    def is_ourselves(self, host: str, port: int) -> bool:
        """Is this the address of one of our own listeners?"""
        address = literal(host)
        ours = [own for own, its_port in self._own if its_port == port]
        if address is None or not ours:
            return False
        return address in ours or (any(own.is_unspecified for own in ours) and _is_local(address))

    def check(self, host: str, port: int) -> None:
        """Raise `ForbiddenAddressError` if there is an objection."""
        if objection := self.objection(host, port):
            raise ForbiddenAddressError(objection)


def _is_local(address: IPAddress) -> bool:
    """Is this an address of this machine? The kernel knows: only then can a socket be bound to it."""
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


class GuardedEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose look-ups leave out what the guard objects to: every connection of ours asks it.

    `find` looks names up in place of the system.
    """

    def __init__(self, guard: Guard, find: Find | None = None) -> None:
        super().__init__()
        self.guard = guard
        self._find = find

    # The signature is typeshed's, `Any` included.
    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        if not host or options.get("flags", 0) & socket.AI_PASSIVE:  # somebody wants to listen, not to connect
            return await super().getaddrinfo(host, port, **options)
        if self._find is not None and options.get("type") == socket.SOCK_STREAM:
            found = await self._find(host, port, options.get("family", 0))
        else:
            found = await super().getaddrinfo(host, port, **options)
        allowed = [info for info in found if self.guard.objection(str(info[4][0]), int(info[4][1])) is None]
        if found and not allowed:
            self.guard.check(str(found[0][4][0]), int(found[0][4][1]))
        return allowed
