"""Contexts towards clients, by real handshakes with a client as strict as Python 3.13 is by default."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL

from pullthrough.ca import Authority, CAError
from pullthrough.leaves import LeafContexts, openssl_version

DAY = timedelta(days=1)
LONG_HOST = ".".join(["a" * 60] * 4)


@dataclass
class Clock:
    """The real time, and days that a test adds to it."""

    offset: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.load_or_create(tmp_path / "ca", now=clock)


@pytest.fixture
def contexts(authority: Authority, clock: Clock) -> LeafContexts:
    return LeafContexts(authority, clock)


@pytest.fixture
def client(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate_pem.decode("ascii"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # 3.12 does not by itself
    return context


def handshake(
    server_context: SSL.Context, client: ssl.SSLContext, host: str, session: ssl.SSLSession | None = None
) -> ssl.SSLObject:
    """The client's side of a completed handshake. ssl.SSLError if the client refuses."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    server = SSL.Connection(server_context)
    server.set_accept_state()
    for _ in range(4):
        done = _step(tls)
        _exchange(server, to_server, to_client)
        if done:
            _exchange(server, to_server, to_client)
            return tls
    raise AssertionError("the handshake does not end")


def _step(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _exchange(server: SSL.Connection, to_server: ssl.MemoryBIO, to_client: ssl.MemoryBIO) -> None:
    if sent := to_server.read():
        server.bio_write(sent)
    with contextlib.suppress(SSL.WantReadError):
        server.do_handshake()
    with contextlib.suppress(SSL.WantReadError):
        to_client.write(server.bio_read(1 << 16))


@pytest.mark.parametrize(
    "host",
    [
        "registry.test",
        "Registry.TEST",
        "localhost",
        "xn--bcher-kva.test",
        LONG_HOST,
        "127.0.0.1",
        "::1",
        "2001:db8::1",
    ],
)
def test_a_strict_client_accepts_the_leaf(contexts: LeafContexts, client: ssl.SSLContext, host: str) -> None:
    assert handshake(contexts.context(host), client, host).version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("leaf", "asked"),
    [
        ("registry.test", "other.test"),
        ("registry.test", "sub.registry.test"),
        ("127.0.0.1", "127.0.0.2"),
        ("::1", "::2"),
    ],
)
def test_a_leaf_is_for_its_host_alone(contexts: LeafContexts, client: ssl.SSLContext, leaf: str, asked: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch"):
        handshake(contexts.context(leaf), client, asked)


def test_a_client_that_does_not_trust_the_ca_refuses(contexts: LeafContexts) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(contexts.context("registry.test"), ssl.create_default_context(), "registry.test")


def test_tls_1_2_is_spoken_and_nothing_older(contexts: LeafContexts, client: ssl.SSLContext) -> None:
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(contexts.context("registry.test"), client, "registry.test").version() == "TLSv1.2"
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, SSL.Error)):
        handshake(contexts.context("registry.test"), client, "registry.test")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
def test_http_1_1_is_the_only_protocol(
    contexts: LeafContexts, client: ssl.SSLContext, offered: list[str], chosen: str | None
) -> None:
    if offered:
        client.set_alpn_protocols(offered)
    tls = handshake(contexts.context("registry.test"), client, "registry.test")
    assert tls.selected_alpn_protocol() == chosen


def test_the_ciphers_order_is_the_clients(contexts: LeafContexts, client: ssl.SSLContext) -> None:
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    for first, second in (("AES128", "AES256"), ("AES256", "AES128")):
        client.set_ciphers(_suites(first, second))
        cipher = handshake(contexts.context("registry.test"), client, "registry.test").cipher()
        assert cipher is not None
        assert first in cipher[0]


def _suites(*sizes: str) -> str:
    hashes = {"AES128": "SHA256", "AES256": "SHA384"}
    return ":".join(f"ECDHE-ECDSA-{size}-GCM-{hashes[size]}" for size in sizes)


def test_a_client_can_resume(contexts: LeafContexts, client: ssl.SSLContext) -> None:
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # whose ticket comes within the handshake
    first = handshake(contexts.context("registry.test"), client, "registry.test")
    second = handshake(contexts.context("registry.test"), client, "registry.test", first.session)
    assert second.session_reused


def test_an_intermediate_is_sent_along(tmp_path: Path, clock: Clock) -> None:
    trustme = pytest.importorskip("trustme")
    root = trustme.CA()
    middle = root.create_child_ca()
    cert, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    cert.write_bytes(middle.cert_pem.bytes() + root.cert_pem.bytes())
    key.write_bytes(middle.private_key_pem.bytes())
    key.chmod(0o600)
    contexts = LeafContexts(Authority.load(cert, key, now=clock), clock)
    client = ssl.create_default_context(cadata=root.cert_pem.bytes().decode("ascii"))
    handshake(contexts.context("registry.test"), client, "registry.test")


def test_a_hosts_context_is_made_once(contexts: LeafContexts) -> None:
    assert contexts.context("registry.test") is contexts.context("Registry.test")
    assert contexts.context("registry.test") is not contexts.context("other.test")
    assert len(contexts) == 2


def test_the_least_recently_used_goes_first(authority: Authority, clock: Clock) -> None:
    contexts = LeafContexts(authority, clock, limit=2)
    kept, dropped = contexts.context("a.test"), contexts.context("b.test")
    contexts.context("a.test")
    contexts.context("c.test")
    assert len(contexts) == 2
    assert contexts.context("a.test") is kept
    assert contexts.context("b.test") is not dropped


def test_what_is_no_host_leaves_no_trace(contexts: LeafContexts) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        contexts.context("*.test")
    assert len(contexts) == 0


def test_a_leaf_is_renewed_when_a_third_of_its_life_remains(
    contexts: LeafContexts, clock: Clock, client: ssl.SSLContext
) -> None:
    first = contexts.context("registry.test")
    clock.offset = 59 * DAY
    assert contexts.context("registry.test") is first
    clock.offset = 61 * DAY
    second = contexts.context("registry.test")
    assert second is not first
    assert contexts.context("registry.test") is second
    clock.offset = 120 * DAY
    assert contexts.context("registry.test") is second
    clock.offset = 122 * DAY
    assert contexts.context("registry.test") is not second


def test_at_the_cas_end_leaves_are_renewed_as_long_as_it_helps(
    contexts: LeafContexts, authority: Authority, clock: Clock
) -> None:
    left = authority.not_valid_after - clock()
    clock.offset = left - 3 * DAY
    first = contexts.context("registry.test")
    clock.offset = left - 1.5 * DAY
    assert contexts.context("registry.test") is first
    clock.offset = left - 0.5 * DAY
    assert contexts.context("registry.test") is not first
    clock.offset = left + DAY
    with pytest.raises(CAError, match="expired"):
        contexts.context("registry.test")


def test_the_version_is_of_the_library_that_speaks_to_clients() -> None:
    assert openssl_version().startswith("OpenSSL ")


def test_when_another_ca_takes_over_leaves_are_its_own(
    contexts: LeafContexts, authority: Authority, clock: Clock
) -> None:
    before = contexts.context("registry.test")
    authority.rotate(None, 30 * DAY)
    assert contexts.context("registry.test") is before
    clock.offset = 30 * DAY
    after = contexts.context("registry.test")
    assert after is not before
    assert contexts.context("registry.test") is after
