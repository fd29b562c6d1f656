"""The lab's network: its machines reach one another as cables say, and nothing of it is left."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy.net.dns import response_codes, types

from lab import netns
from lab.bare import resolv_conf
from lab.nameserver import Asker, LabNameServer, question
from lab.netns import Machine, Network
from lab.pki import Pki
from lab.relay import Relays, addresses
from lab.web import Exchange, WebServer
from lab.wires import dialled, get, tls


class Greeter(WebServer):
    """Says one word."""

    def answer(self, exchange: Exchange) -> None:
        exchange.reply(200, {}, b"hello")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.remove()


def interfaces() -> str:
    return Path("/proc/self/net/dev").read_text()


def test_a_service_has_its_own_addresses_and_its_public_port_upstream(network: Network, pki: Pki) -> None:
    greeter = Greeter("plain.test", pki.identity("plain.test"))
    greeter.start()
    relays = Relays(network.upstream)
    try:
        relays.offer(greeter)
        for address in addresses("plain.test"):
            with tls(network.client, address, "plain.test", pki.ca_file) as wire:
                assert get(wire, "plain.test", "/").endswith(b"hello")
        greeter.stop()
        with dialled(network.client, addresses("plain.test")[0]) as wire:
            assert get(wire, "plain.test", "/") == b""
    finally:
        relays.stop()
        greeter.stop()


@pytest.mark.parametrize("tcp", [False, True])
def test_the_name_server_answers_and_counts(network: Network, *, tcp: bool) -> None:
    names = LabNameServer()
    names.host("a.test", "10.0.0.1", "fd00::1")
    with network.upstream.entered():
        for address in network.NAMES:
            names.listen(address)
    try:
        for address in network.NAMES:
            with network.client.entered(), Asker(address, tcp=tcp) as asker:
                known, other, nobody = (
                    asker.ask(question(name, kind))
                    for name, kind in [("A.test", types.AAAA), ("a.test", types.TXT), ("b.test", types.A)]
                )
            assert [str(record) for record in known.answers] == ["fd00::1"]
            assert (other.response_code, other.answers) == (response_codes.NOERROR, [])
            assert nobody.response_code == response_codes.NXDOMAIN
        assert (names.asked("a.test"), names.asked("a.test", types.AAAA), names.asked("c.test")) == (4, 2, 0)
    finally:
        names.stop()


def test_a_program_runs_there_with_a_resolv_conf_of_its_own(network: Network, tmp_path: Path) -> None:
    file = resolv_conf(tmp_path, "192.0.2.1", "192.0.2.2")
    before = Path("/etc/resolv.conf").read_bytes()
    command = network.client.command(["cat", "/etc/resolv.conf", "/proc/self/net/dev"], file)

    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert shown.startswith("nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    assert "cache:" in shown
    assert Path("/etc/resolv.conf").read_bytes() == before


def test_what_is_out_of_reach_is_so_for_a_while(network: Network) -> None:
    router = network.CACHE[0]
    with network.client.without(f"{router}/32"), pytest.raises(OSError, match=r"denied|unreachable"):
        dialled(network.client, router)
    with pytest.raises(ConnectionRefusedError):
        dialled(network.client, router)


def test_a_thread_comes_home(network: Network) -> None:
    here = interfaces()
    with pytest.raises(ZeroDivisionError), network.client.entered():
        assert interfaces() != here
        raise ZeroDivisionError

    assert interfaces() == here


def test_a_command_that_fails_says_why(network: Network) -> None:
    with pytest.raises(AssertionError, match="Cannot find device"):
        network.client.ip("link set nothing up")


def made() -> set[str]:
    """Names of namespaces that this process made and that are there."""
    return {path.name for path in netns.MADE.glob(f"pt4-{os.getpid()}-*")}


def test_nothing_is_left() -> None:
    others = made()
    machine = Machine("alone")
    assert made() == others | {machine.name}

    machine.remove()

    assert made() == others


def test_a_network_that_cannot_be_connected_leaves_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Network) -> None:
        raise ZeroDivisionError

    others = made()
    monkeypatch.setattr(Network, "_connect", fail)

    with pytest.raises(ZeroDivisionError):
        Network()

    assert made() == others


def test_an_ordinary_user_is_told_who_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(pytest.skip.Exception, match="a network namespace has to run as root"):
        Network()
