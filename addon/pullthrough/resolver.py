"""Look-ups of our own: by the system, or by name servers that the operator chose.

Responsible for addresses of names. With --resolver the system's are not asked, which may well lead here: then
registries would be looked for at this very proxy. Must not know who may be connected to (`guard`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from mitmproxy_rs.dns import DnsResolver

from pullthrough.guard import literal

#: As `socket.getaddrinfo` has them: family, type, protocol, canonical name, address.
type Info = tuple[Any, Any, int, str, tuple[Any, ...]]


class Resolver:
    """Asks these name servers (port 53), and nobody's hosts file; the system where there are none."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self.servers = tuple(servers)
        self._client = DnsResolver(name_servers=list(servers), use_hosts_file=False) if servers else None

    async def find(
        self, host: str, port: int, family: int = socket.AF_UNSPEC, executor: Executor | None = None
    ) -> list[Info]:
        """The TCP addresses of `host`. OSError (`socket.gaierror`) if it has none. Threads are of `executor`."""
        if self._client is None or literal(host) is not None:
            return await self._by_system(host, port, family, executor)
        look_up = {socket.AF_INET: self._client.lookup_ipv4, socket.AF_INET6: self._client.lookup_ipv6}
        found = await look_up.get(socket.AddressFamily(family), self._client.lookup_ip)(host)
        return [_info(address, port) for address in found]

    async def _by_system(self, host: str, port: int, family: int, executor: Executor | None) -> list[Info]:
        def look_up() -> list[Info]:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

        return await asyncio.get_running_loop().run_in_executor(executor, look_up)


def _info(address: str, port: int) -> Info:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = (address, port, 0, 0) if family == socket.AF_INET6 else (address, port)
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place
