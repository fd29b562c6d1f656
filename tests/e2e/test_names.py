"""The name server of a running proxy among datagrams that are no questions."""

import random
import socket

from mitmproxy.net.dns import types

from lab.fake_registry import FakeRegistry
from lab.nameserver import Asker, question
from lab.proxy import Proxies

GARBAGE = 600


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_whatever_strangers_send_it_goes_on_answering_and_says_little(
    fake: FakeRegistry, proxy_factory: Proxies
) -> None:
    port = free_port()
    flags = ["--dns-listen", f"127.0.0.1:{port}", "--advertise", "10.0.0.5", "--resolver", "127.0.0.1"]
    proxy = proxy_factory(fake, flags=flags)
    whole, chance = question(fake.name, types.A).packed, random.Random(5)
    for _ in range(GARBAGE):
        damaged = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4) if damaged else 0):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(bytes(damaged), ("127.0.0.1", port))

        if chance.randrange(50) == 0:
            with Asker("127.0.0.1", port=port) as asker:
                assert [str(record) for record in asker.ask(question(fake.name, types.A)).answers] == ["10.0.0.5"]
    assert [line for line in proxy.log_lines() if line.get("level") == "error"] == []
