"""The name server of a running proxy among datagrams that are no questions, and before name servers that are away."""

import os
import random
import socket
from collections.abc import Callable, Iterator

import pytest
from mitmproxy.net.dns import response_codes, types

from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.nameserver import Asker, LabNameServer, bomb, chain, question
from lab.ports import free_port
from lab.programs import need_root
from lab.proxy import ExitedEarly, Proxies, Proxy

GARBAGE = 600
OURS = "10.0.0.5"

#: A proxy whose name server asks these addresses, and its port.
type Start = Callable[..., tuple[Proxy, int]]


def complaints(proxy: Proxy) -> list[str]:
    """Warnings and errors in the log, but for the start's, that there is no door for the registries' ports."""
    lines = [line for line in proxy.log_lines() if line.get("level") in ("warning", "error")]
    return [line["message"] for line in lines if not line["message"].startswith("--dns-listen leads clients")]


@pytest.fixture
def start(fake: FakeRegistry, proxy_factory: Proxies) -> Start:
    def started(*resolvers: str, flags: tuple[str, ...] = ()) -> tuple[Proxy, int]:
        port = free_port()
        own = ["--dns-listen", f"127.0.0.1:{port}", "--advertise", OURS, *flags]
        asked = [word for resolver in resolvers for word in ("--resolver", resolver)]
        return proxy_factory(fake, flags=[*own, *asked]), port

    return started


def address(net: int) -> str:
    """On loopback, of this process alone: name servers are asked on port 53."""
    pid = os.getpid()
    return f"127.{net}.{pid >> 8 & 0xFF}.{pid & 0xFF}"


@pytest.fixture
def elsewhere() -> Iterator[LabNameServer]:
    """A name server at `address(55)`, which knows plain.test."""
    need_root("a name server on port 53")
    made = LabNameServer()
    made.host("plain.test", "10.0.0.1")
    made.listen(address(55))
    yield made
    made.stop()


def given(asker: Asker, name: str) -> list[str] | int:
    """The addresses that it gives, or why it gives none."""
    answer = asker.ask(question(name, types.A))
    return answer.response_code or [str(record) for record in answer.answers]


# -- questions that are none


def test_whatever_strangers_send_it_goes_on_answering_and_says_little(fake: FakeRegistry, start: Start) -> None:
    proxy, port = start(address(54))
    whole, chance = question(fake.name, types.A).packed, random.Random(5)
    for _ in range(GARBAGE):
        damaged = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4) if damaged else 0):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(bytes(damaged), ("127.0.0.1", port))

        if chance.randrange(50) == 0:
            with Asker("127.0.0.1", port=port) as asker:
                assert given(asker, fake.name) == [OURS]
    assert complaints(proxy) == []


@pytest.mark.parametrize("tcp", [False, True])
def test_a_hostile_message_gets_no_answer_and_stops_nobody(fake: FakeRegistry, start: Start, tcp: bool) -> None:
    proxy, port = start(address(54))
    answered = question(fake.name, types.A, identity=1).succeed([]).packed
    hostile = [bomb(2000, 16000), bomb(8000, 64000), bomb(1, 4000), chain(1900), chain(8000), answered]
    for message in hostile:
        with Asker("127.0.0.1", port=port, tcp=tcp) as asker:
            asker.send(message)
            if tcp:
                with pytest.raises(ConnectionResetError):
                    given(asker, fake.name)
            else:
                asker.send(question(fake.name, types.A, identity=2).packed)
                assert asker.first()[:2] == b"\0\2"  # nothing came to the first
    assert proxy.get("/healthz")[0] == 200
    assert complaints(proxy) == []


# -- name servers that are away


@pytest.mark.parametrize("tcp", [False, True])
def test_a_name_server_that_refuses_is_told_and_registries_are_still_here(
    fake: FakeRegistry, start: Start, tcp: bool
) -> None:
    _, port = start(address(54))
    with Asker("127.0.0.1", port=port, tcp=tcp) as asker:
        for name in ("plain.test", "plain.test", fake.name, "plain.test"):
            assert given(asker, name) == ([OURS] if name == fake.name else response_codes.SERVFAIL)


@pytest.mark.parametrize("tcp", [False, True])
def test_the_second_is_asked_when_the_first_is_away(elsewhere: LabNameServer, start: Start, tcp: bool) -> None:
    _, port = start(address(54), address(55))
    with Asker("127.0.0.1", port=port, tcp=tcp) as asker:
        assert [given(asker, "plain.test") for _ in range(2)] == [["10.0.0.1"]] * 2
    assert elsewhere.asked("plain.test") == 2


def test_offline_nobody_is_asked(elsewhere: LabNameServer, fake: FakeRegistry, start: Start) -> None:
    _, port = start(address(55), flags=("--offline",))
    with Asker("127.0.0.1", port=port) as asker:
        assert given(asker, "plain.test") == response_codes.SERVFAIL
        assert given(asker, fake.name) == [OURS]
    assert not elsewhere.asked("plain.test")


def test_a_resolver_that_is_the_proxy_itself_is_not_asked(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    need_root("a name server on port 53")
    own = address(56)
    proxy = proxy_factory(fake, flags=["--dns-listen", f"{own}:53", "--resolver", own])
    with Asker(own) as asker:
        assert [given(asker, "plain.test") for _ in range(3)] == [response_codes.SERVFAIL] * 3
        assert given(asker, fake.name) == [own]

    assert complaints(proxy) == [
        f"name server {own} is this proxy itself and is not asked: name another with --resolver"
    ]


# -- the door


def test_it_is_named_with_the_other_doors(start: Start) -> None:
    proxy, port = start(address(54))

    (line,) = [line["message"] for line in proxy.log_lines() if "listening on" in line.get("message", "")]
    assert line.startswith(f"listening on 127.0.0.1:{proxy.port}, 127.0.0.1:{port}; ")


def test_one_that_cannot_be_opened_ends_the_program_with_a_sentence(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(fake, flags=["--dns-listen", "192.0.2.1:5353"], start=False)

    with pytest.raises(ExitedEarly):  # no other door was open, not for a moment: nobody found us ready
        proxy.start()

    assert eventually(lambda: proxy.exit_code, "its end") == 1
    (told,) = [line["message"] for line in proxy.log_lines() if line.get("level") == "error"]
    assert told.startswith("cannot listen: --dns-listen 192.0.2.1:5353: ")
    assert told.endswith("; choose another address or port")
