"""Name constraints as real clients see them: OpenSSL, Go and GnuTLS accept what is inside and refuse what is outside.

What is outside comes from a thief: somebody with the CA's key who signs for whatever host he likes. That the same
clients accept the same host from a CA without constraints shows that it is the constraints that they refuse by.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from lab.clients import Clients
from lab.fake_registry import FakeRegistry
from lab.names import NameMap
from lab.parent import ParentProxy
from lab.pki import Identity
from lab.programs import environment, need
from lab.web import served
from pullthrough.ca import Authority
from pullthrough.core.constraints import usual
from pullthrough.keypair import CERT_NAME, KEY_NAME

INSIDE = (
    "ghcr.io",
    "europe-docker.pkg.dev",
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    "registry.corp.test",
    "eu.r.corp.test",
    "cache.corp.test",
    "10.1.2.3",
    "203.0.113.7",
)
OUTSIDE = (
    "example.com",
    "login.corp.test",
    "notghcr.io",
    "ghcr.io.example.com",
    "auth.docker.io",
    "8.8.8.8",
    "203.0.113.8",
)
NAMED = ("registry.corp.test", "*.r.corp.test", "cache.corp.test", "203.0.113.7")
#: As openssl calls them.
PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "sslserver",
    ExtendedKeyUsageOID.CLIENT_AUTH: "sslclient",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "smimesign",
}
DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Stolen:
    """The two files of a CA in the hands of a thief."""

    cert: Path
    key: Path

    def sign(
        self, host: str, purpose: ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A certificate that is well-formed and says what it likes."""
        issuer = x509.load_pem_x509_certificate(self.cert.read_bytes())
        signing = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "thief")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - DAY)
            .not_valid_after(now() + DAY)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([general_name(host)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return builder.sign(signing, hashes.SHA256()), key

    def identity(self, host: str, folder: Path) -> Identity:
        """A server's certificate as files."""
        cert, key = self.sign(host)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return written(host, folder, cert.public_bytes(serialization.Encoding.PEM), private)


def is_address(host: str) -> bool:
    return host.replace(".", "").isdigit()


def general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)


def written(host: str, folder: Path, chain: bytes, key: bytes) -> Identity:
    """A certificate and its key as files."""
    identity = Identity(host, folder / "leaf.pem", folder / "leaf.key")
    identity.chain.write_bytes(chain)
    identity.key.write_bytes(key)
    return identity


@dataclass(frozen=True)
class Scene:
    """A server that plays `host`, which a proxy without a cache leads to, and the CA that clients trust."""

    host: str
    server: FakeRegistry
    parent: ParentProxy
    ca_file: Path
    folder: Path


type Client = Callable[[Scene], bool]


def ran(command: list[str], folder: Path, **variables: str) -> bool:
    """Whether a command succeeds in a clean environment."""
    done = subprocess.run(
        command,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode == 0


def python_strict(scene: Scene) -> bool:
    """Python's ssl (OpenSSL), as strict as 3.13 is by default."""
    context = ssl.create_default_context(cafile=scene.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        with (
            socket.create_connection((scene.server.address, scene.server.port)) as raw,
            context.wrap_socket(raw, server_hostname=scene.host),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False


def openssl(scene: Scene) -> bool:
    """The openssl command."""
    address = f"{scene.server.address}:{scene.server.port}"
    kind = "-verify_ip" if is_address(scene.host) else "-verify_hostname"
    command = [need("openssl"), "s_client", "-connect", address, "-verify_return_error", "-x509_strict"]
    command += ["-CAfile", str(scene.ca_file), "-no-CApath", "-no-CAstore", kind, scene.host]
    return ran(command, scene.folder)


def skopeo(scene: Scene) -> bool:
    """skopeo, which is Go."""
    clients = Clients(scene.folder)
    try:
        pulling = clients.skopeo(scene.parent.proxy_url, scene.ca_file)
        return pulling.inspect(f"docker://{scene.host}/team/app:1", "--raw").ok
    finally:
        clients.end()


def gnutls(scene: Scene) -> bool:
    """gnutls-cli."""
    command = [need("gnutls-cli"), "--x509cafile", str(scene.ca_file), "--verify-hostname", scene.host]
    return ran([*command, "--port", str(scene.server.port), scene.server.address], scene.folder)


def wget(scene: Scene) -> bool:
    """wget, where it is built with GnuTLS."""
    program = need("wget")
    if "+ssl/gnutls" not in subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout:
        pytest.skip("wget is not built with GnuTLS")
    command = [program, "--no-config", "--no-hsts", "-q", "-O", "/dev/null", "--ca-directory=/nowhere"]
    command += [f"--ca-certificate={scene.ca_file}", "--tries=1", f"https://{scene.host}/v2/"]
    return ran(command, scene.folder, https_proxy=scene.parent.proxy_url)


CLIENTS: tuple[Client, ...] = (python_strict, openssl, skopeo, gnutls, wget)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authorities")


@pytest.fixture(scope="module")
def constrained(folder: Path) -> Authority:
    """As the first start makes it."""
    return Authority.load_or_create(folder / "constrained", now=now, constraints=usual(NAMED))


@pytest.fixture(scope="module")
def unconstrained(folder: Path) -> Authority:
    return Authority.load_or_create(folder / "unconstrained", now=now)


def stolen(folder: Path, name: str) -> Stolen:
    return Stolen(folder / name / CERT_NAME, folder / name / KEY_NAME)


@pytest.fixture
def meet(names: NameMap, parent: ParentProxy, tmp_path: Path) -> Iterator[Callable[[Identity, bytes, Client], bool]]:
    """Whether a client that trusts a CA accepts a server."""
    with contextlib.ExitStack() as stack:

        def accepts(identity: Identity, ca_pem: bytes, client: Client) -> bool:
            server = stack.enter_context(served(FakeRegistry("fake.test", identity), names))
            server.add_image("team/app", "1", [b"layer"])
            names.publish(identity.name, 443, server.address, server.port)
            ca_file = tmp_path / "trusted.pem"
            ca_file.write_bytes(ca_pem)
            return client(Scene(identity.name, server, parent, ca_file, tmp_path))

        yield accepts


type Meet = Callable[[Identity, bytes, Client], bool]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("host", INSIDE)
def test_inside_is_accepted(constrained: Authority, meet: Meet, tmp_path: Path, host: str, client: Client) -> None:
    leaf = constrained.issue(host)
    assert meet(written(host, tmp_path, leaf.chain_pem, leaf.key_pem), constrained.certificate_pem, client)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("host", OUTSIDE)
def test_outside_a_stolen_key_is_worthless(
    constrained: Authority,
    unconstrained: Authority,
    folder: Path,
    meet: Meet,
    tmp_path: Path,
    host: str,
    client: Client,
) -> None:
    assert not constrained.permits(host)
    assert not meet(stolen(folder, "constrained").identity(host, tmp_path), constrained.certificate_pem, client)
    assert meet(stolen(folder, "unconstrained").identity(host, tmp_path), unconstrained.certificate_pem, client)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_during_a_rotation_clients_that_trust_both_accept_either(tmp_path: Path, meet: Meet, client: Client) -> None:
    moment = now()
    authority = Authority.load_or_create(tmp_path / "ca", now=lambda: moment, constraints=usual(["old.corp.test"]))
    authority.rotate(usual(["new.corp.test"]), 30 * DAY)
    both = authority.certificate_pem
    for host in ("old.corp.test", "new.corp.test"):  # signed by the old one, and already by the new one
        leaf = authority.issue(host)
        assert meet(written(host, tmp_path, leaf.chain_pem, leaf.key_pem), both, client), host
    assert authority.signer("old.corp.test") != authority.signer("new.corp.test")
    moment += 30 * DAY
    assert authority.signer("old.corp.test") == authority.signer("new.corp.test")


@pytest.mark.parametrize(
    ("purpose", "accepted"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, True),
        (ExtendedKeyUsageOID.CLIENT_AUTH, False),
        (ExtendedKeyUsageOID.EMAIL_PROTECTION, False),
    ],
    ids=PURPOSES.values(),
)
def test_a_stolen_key_signs_for_servers_only(
    constrained: Authority, folder: Path, tmp_path: Path, purpose: ObjectIdentifier, accepted: bool
) -> None:
    """As OpenSSL sees it; GnuTLS 3.7 does not look at the purposes of a CA that it trusts."""
    thief = stolen(folder, "constrained")
    file = tmp_path / "cert.pem"
    file.write_bytes(thief.sign("ghcr.io", purpose)[0].public_bytes(serialization.Encoding.PEM))
    command = [need("openssl"), "verify", "-CAfile", str(thief.cert), "-purpose", PURPOSES[purpose], str(file)]
    assert ran(command, tmp_path) is accepted
