"""The sockets that clients come to: opened once, shared by all workers.

Responsible for opening them, and for handing them to whoever wants to listen there. Must not know what is spoken on
them. They are shared, and not one for each worker (SO_REUSEPORT): a connection that waits belongs to nobody, so none is
lost with a worker that dies or drains; who has the fewest takes the next one (`balance`); and two servers by mistake
cannot have one port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pullthrough.balance import Balance
from pullthrough.config import Settings
from pullthrough.guard import Find, Guard, GuardedEventLoop
from pullthrough.options import OPTIONS, Address

#: The settings that say where, in the order in which they are told.
SETTINGS: Final = ("listen", "tls_listen", "transparent_listen", "dns_listen")
#: Name servers are asked by datagrams as well.
_DATAGRAMS: Final = frozenset({"dns_listen"})
#: Connections that wait for a worker with time. The kernel takes the smaller one of this and net.core.somaxconn.
_QUEUE: Final = 1024
#: Connections that a worker takes at a time. With more, the first one to look would have all of a crowd.
_AT_ONCE: Final = 1
#: `localhost` may have an address of a family that is switched off here.
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class ListenError(Exception):
    """Not every address can be listened on. One text for each."""


class _Connection(socket.socket):
    """Counts for this worker until it is closed."""

    def __init__(self, accepted: socket.socket, balance: Balance) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._counted: Balance | None = balance
        balance.took()

    def close(self) -> None:
        """As of any socket."""
        balance, self._counted = self._counted, None
        if balance is not None:
            balance.lost()
        super().close()


class _Listening(socket.socket):
    """It listens already. What asyncio gives as the length of the queue is how many it takes out of it at a time."""

    def __init__(self, family: int, balance: Balance) -> None:
        # The protocol is named, as asyncio turns Nagle's algorithm off for connections of which it knows that they are
        # TCP: else the second part of an answer waits 40 ms for the client to acknowledge the first.
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._balance = balance

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, if it is for this worker to take: else as if there were none."""
        if not self._balance.may_take():
            os.sched_yield()  # whose turn it is may wait for this very processor
            raise BlockingIOError(errno.EAGAIN, "another worker's turn")
        accepted, peer = super().accept()
        return _Connection(accepted, self._balance), peer

    def listen(self, backlog: int = 0, /) -> None:
        """Other workers listen here too: the queue stays as long as it is."""


class Listener(NamedTuple):
    """One address, as it really is: a port, and no name. `udp` for those that are asked by datagrams too."""

    address: Address
    tcp: socket.socket
    udp: socket.socket | None


class Listeners:
    """All of them, by the setting that asked for them; none until they are opened."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {name: [] for name in SETTINGS}
        self.balance = Balance()

    def of(self, name: str) -> list[Listener]:
        """Those that this setting asked for."""
        return self._listeners[name]

    @property
    def addresses(self) -> list[Address]:
        """Where clients come to."""
        return [listener.address for listeners in self._listeners.values() for listener in listeners]

    def open(self, settings: Settings) -> None:
        """Listen wherever these settings say. ListenError, with all that is wrong, and then nothing is open."""
        faults = []
        for name in SETTINGS:
            for address in _wanted(settings, name):
                try:
                    self._listeners[name] += opened(address, self.balance, datagrams=name in _DATAGRAMS)
                except OSError as error:
                    faults.append(f"{OPTIONS[name].flag} {address}: {_why(error)}")
        if faults:
            self.close()
            raise ListenError(*faults)

    def lent(self, host: str, port: int) -> socket.socket | None:
        """The socket for connections to this address."""
        listeners = (listener for each in self._listeners.values() for listener in each)
        return next((listener.tcp for listener in listeners if listener.address == (host, port)), None)

    def close(self) -> None:
        """Have no part in them any more. They live on in other processes."""
        self.balance.leave()
        for listener in (listener for each in self._listeners.values() for listener in each):
            listener.tcp.close()
            if listener.udp is not None:
                listener.udp.close()
        self._listeners = {name: [] for name in SETTINGS}


class ListeningEventLoop(GuardedEventLoop):
    """An event loop that listens on sockets that are open already, where there is one."""

    def __init__(self, guard: Guard, find: Find | None, listeners: Listeners) -> None:
        super().__init__(guard, find)
        self._listeners = listeners

    # The signature is typeshed's, `Any` included.
    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """As of asyncio."""
        sock = self._listeners.lent(host, port)
        if sock is None:
            return await super().create_server(protocol_factory, host, port, **options)
        return await super().create_server(protocol_factory, sock=sock, **options | {"backlog": _AT_ONCE})


def _wanted(settings: Settings, name: str) -> tuple[Address, ...]:
    wanted: Address | tuple[Address, ...] = getattr(settings, name)
    return (wanted,) if isinstance(wanted, Address) else wanted


def moved(old: Settings, new: Settings) -> Iterator[str]:
    """The flags of what cannot be moved while it is open."""
    return (OPTIONS[name].flag for name in SETTINGS if _wanted(old, name) != _wanted(new, name))


def opened(address: Address, balance: Balance, *, datagrams: bool) -> Iterator[Listener]:
    """Listen there; for a name on each of its addresses that this machine has, with port 0 on one port.

    OSError.
    """
    port, found_some, absent = address.port, False, None
    found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, (host, *_) in dict.fromkeys(found):
        try:
            listener = _listener(family, (str(host), port), balance, datagrams=datagrams)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            absent = error
        else:
            port, found_some = listener.address.port, True
            yield listener
    if absent is not None and not found_some:
        raise absent


def _listener(family: int, place: tuple[str, int], balance: Balance, *, datagrams: bool) -> Listener:
    with contextlib.ExitStack() as leaving:
        tcp = _Listening(family, balance)
        leaving.callback(tcp.close)
        # As asyncio has it: connections of a server that has just ended do not keep the next one waiting.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(tcp, place)
        address = Address(*tcp.getsockname()[:2])
        udp = None
        if datagrams:
            udp = socket.socket(family, socket.SOCK_DGRAM)
            leaving.callback(udp.close)
            _bind(udp, address)
        socket.socket.listen(tcp, _QUEUE)
        leaving.pop_all()
    return Listener(address, tcp, udp)


def _bind(sock: socket.socket, place: tuple[str, int]) -> None:
    sock.setblocking(False)
    if sock.family == socket.AF_INET6:  # 0.0.0.0 may be there as well
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(place)


def _why(error: OSError) -> str:
    """In words. Ports below 1024 need a right."""
    hint = "; ports below 1024 need root or CAP_NET_BIND_SERVICE" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{hint}"
