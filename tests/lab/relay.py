"""Services of the lab as they are on the internet: at an address of their own, IPv4 and IPv6, on their public port.

A service listens on this machine's loopback, wherever the test runs. On the upstream machine (`lab.netns`) a relay
takes connections for it and carries the bytes over.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Final

from lab.names import Endpoint
from lab.netns import Machine, given

CHUNK: Final = 256 * 1024
STOP_SECONDS: Final = 10.0


def addresses(name: str) -> tuple[str, str]:
    """Where the service of this name is, on the upstream's network: as the last number of its loopback address."""
    number = Endpoint(name).address.rpartition(".")[2]
    return f"10.77.2.{number}", f"fd77:2::{number}"


class Relays:
    """All of them, on one machine, in one thread. `stop` them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays")
        self._thread.start()

    def offer(self, *services: Endpoint) -> None:
        """Have these running services at their addresses and public ports."""
        for service in services:
            place = service.address, service.port
            for address in addresses(service.name):
                sock = self._listening(address, service.public_port)
                asyncio.run_coroutine_threadsafe(self._serve(sock, place), self._loop).result(STOP_SECONDS)

    def stop(self) -> None:
        """Close every connection, end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def _listening(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._machine.ip(given(address, "cache"))
        with self._machine.entered():
            return socket.create_server((address, port), family=family)

    async def _serve(self, sock: socket.socket, place: tuple[str, int]) -> None:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(*place)
            except OSError:
                writer.transport.abort()
                return
            ways = ((reader, far_writer), (far_reader, writer))
            try:
                await asyncio.gather(*(_pour(source, sink) for source, sink in ways))
            finally:
                for end in (writer, far_writer):
                    end.transport.abort()

        self._servers.append(await asyncio.start_server(carry, sock=sock))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        carrying = asyncio.all_tasks() - {asyncio.current_task()}
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
