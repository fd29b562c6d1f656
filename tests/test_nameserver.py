"""What the name server answers itself, and what it hands to another."""

from collections.abc import Sequence

import pytest
from mitmproxy import flow as mflow
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.dns import DNSFlow, DNSMessage
from mitmproxy.net.dns import classes, response_codes, types
from mitmproxy.test import tflow

from lab.nameserver import question
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.nameserver import NameServer
from pullthrough.options import IPAddress, parse_ip

RESOLVER = "10.0.0.53"
FOUR, SIX = parse_ip("10.0.0.5"), parse_ip("fd00::5")


def server(advertised: Sequence[IPAddress] = (FOUR, SIX), resolver: str | None = RESOLVER) -> NameServer:
    entries = ("registry.test", "other.test:5050", "*.corp.test", "10.0.0.9:5050")
    return NameServer(Registries([parse_entry(entry) for entry in entries]), advertised, resolver)


async def asked(names: NameServer, name: str, kind: int, state: ConnectionState = ConnectionState.CLOSED) -> DNSFlow:
    """A question on a connection of its own; that to the resolver is in this state."""
    flow = tflow.tdnsflow(req=question(name, kind), server_conn=Server(address=None, transport_protocol="udp"))
    flow.server_conn.state = state
    await names.dns_request(flow)
    return flow


def given(flow: DNSFlow) -> DNSMessage:
    assert flow.response is not None
    return flow.response


@pytest.mark.parametrize(
    "name", ["registry.test", "Registry.TEST", "other.test", "a.corp.test", "registry-1.docker.io", "GHCR.io"]
)
async def test_a_registry_is_here_whatever_its_port(name: str) -> None:
    four, six = [given(await asked(server(), name, kind)) for kind in (types.A, types.AAAA)]

    assert [(record.name, record.type, record.data) for record in four.answers] == [(name, types.A, FOUR.packed)]
    assert [(record.name, record.type, record.data) for record in six.answers] == [(name, types.AAAA, SIX.packed)]
    assert all(0 < record.ttl <= 300 and record.class_ == classes.IN for record in (*four.answers, *six.answers))
    assert DNSMessage.unpack(four.packed).answers == four.answers


@pytest.mark.parametrize(
    ("advertised", "kind"), [([FOUR], types.AAAA), ([SIX], types.A), ([FOUR, SIX], types.HTTPS), ([FOUR], types.SVCB)]
)
async def test_of_a_registry_nothing_is_given_that_would_lead_past_us(advertised: list[IPAddress], kind: int) -> None:
    answer = given(await asked(server(advertised), "registry.test", kind))

    assert answer.response_code == response_codes.NOERROR
    assert answer.answers == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plain.test", types.A),
        ("plain.test", types.HTTPS),
        ("test", types.A),
        ("sub.registry.test", types.A),
        ("registry.test.evil.test", types.A),
        ("registry.test", types.TXT),
        ("registry.test", types.MX),
        ("", types.NS),
    ],
)
async def test_everything_else_is_asked_of_the_resolver(name: str, kind: int) -> None:
    flow = await asked(server(), name, kind)

    assert flow.response is None
    assert flow.server_conn.address == (RESOLVER, 53)


async def test_a_connection_to_the_resolver_is_used_again() -> None:
    flow = await asked(server(), "plain.test", types.A, ConnectionState.OPEN)

    assert flow.response is None
    assert flow.server_conn.address is None  # it must not change under an open connection


async def test_with_nobody_to_ask_only_registries_are_known() -> None:
    names = server(resolver=None)

    assert given(await asked(names, "registry.test", types.A)).answers
    assert given(await asked(names, "plain.test", types.A)).response_code == response_codes.SERVFAIL


async def test_an_id_that_comes_again_does_not_bring_back_the_old_answer() -> None:
    flow = await asked(server(), "registry.test", types.A)
    flow.error = mflow.Error("of the first time")
    flow.request = question("plain.test", types.A)
    await server().dns_request(flow)

    assert flow.response is None
    assert flow.error is None


@pytest.mark.parametrize("count", [0, 2])
async def test_a_message_without_one_question_is_left_to_the_resolver(count: int) -> None:
    request = question("registry.test", types.A)
    request.questions = request.questions * count
    flow = tflow.tdnsflow(req=request)
    await server().dns_request(flow)

    assert flow.response is None


def test_a_look_up_that_failed_is_no_line_in_a_quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server().dns_error(tflow.tdnsflow(err=True))

    assert caplog.text == ""
