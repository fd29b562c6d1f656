"""The certificate authority: what it makes, what it refuses, and leaves that strict clients accept."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.ca import Authority, CAError, Leaf
from pullthrough.core.constraints import Constraints, subtree, subtrees, usual
from pullthrough.issuer import _ca_subject
from pullthrough.keypair import CERT_NAME, KEY_NAME

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LONG_HOST = ".".join(["a" * 60] * 4)

type CAKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Clock:
    """A clock that a test sets."""

    moment: datetime = NOW

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.load_or_create(tmp_path / "ca", now=clock)


def certificate(authority: Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate_pem)


# What it makes


def test_a_new_ca_can_sign_for_hosts_and_for_no_further_ca(authority: Authority) -> None:
    cert = certificate(authority)
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    own = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuers = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert own.digest == issuers.key_identifier
    public = cert.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    cert.verify_directly_issued_by(cert)
    purposes = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH], "what it signs is good for servers only"


def test_a_new_ca_says_from_which_machine_and_day_it_is_and_lives_ten_years(authority: Authority) -> None:
    cert = certificate(authority)
    (name,) = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert str(name.value).startswith("pullthrough CA ")
    assert str(name.value).endswith(" 2026-11-22")
    assert cert.not_valid_before_utc == authority.not_valid_before == NOW - DAY
    assert cert.not_valid_after_utc == authority.not_valid_after == NOW - DAY + 3650 * DAY


@pytest.mark.parametrize(
    ("hostname", "shown"),
    [
        ("build-7.corp.test", "build-7.corp.test"),
        ("a b/c\n=d", "a-b-c-d"),
        ("", "unnamed"),
        ("\u00fc", "unnamed"),
        ("h" * 300, "h" * 38),
    ],
)
def test_the_machines_name_is_made_fit_for_a_common_name(hostname: str, shown: str) -> None:
    (name,) = _ca_subject(hostname, "2026-11-22").get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == f"pullthrough CA {shown} 2026-11-22"
    assert len(str(name.value)) <= 64


def test_the_fingerprint_is_what_openssl_prints(authority: Authority, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = [
        "openssl",
        "x509",
        "-noout",
        "-fingerprint",
        "-sha256",
        "-in",
        str(tmp_path / "ca" / CERT_NAME),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip().lower().endswith(f"fingerprint={authority.fingerprint.lower()}")


def test_the_description_has_what_an_operator_compares(authority: Authority, tmp_path: Path) -> None:
    assert authority.describe() == (
        {
            "Subject": authority.subject,
            "SHA-256": authority.fingerprint,
            "Valid from": "2026-11-21 12:00:00+00:00",
            "Valid until": "2036-11-18 12:00:00+00:00",
            "Signs for": "every host: it has no name constraints",
            "File": str(tmp_path / "ca" / CERT_NAME),
        },
    )
    assert socket.gethostname()[:20] in authority.subject
    assert authority.fingerprint in repr(authority)


def test_two_new_cas_differ_in_key_and_serial(tmp_path: Path, clock: Clock) -> None:
    one, other = (certificate(Authority.load_or_create(tmp_path / name, now=clock)) for name in "ab")
    assert one.serial_number != other.serial_number
    assert one.public_key() != other.public_key()


def test_the_next_start_finds_the_same_ca(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    assert Authority.load_or_create(tmp_path / "ca", now=clock).fingerprint == authority.fingerprint
    assert Authority.load_from(tmp_path / "ca", now=clock).fingerprint == authority.fingerprint


def test_asking_for_the_ca_does_not_make_one(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(CAError, match=f"there is no CA in {tmp_path / 'ca'}; make one with: pullthrough ca init"):
        Authority.load_from(tmp_path / "ca", now=clock)
    assert not (tmp_path / "ca").exists()


def test_threads_that_race_to_make_it_agree(tmp_path: Path, clock: Clock) -> None:
    barrier, seen = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        seen.append(Authority.load_or_create(tmp_path / "ca", now=clock).fingerprint)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


RACER = """
import datetime, pathlib, sys
from pullthrough.ca import Authority

sys.stdin.readline()
now = lambda: datetime.datetime.now(datetime.UTC)
print(Authority.load_or_create(pathlib.Path(sys.argv[1]), now=now).fingerprint)
"""


def test_processes_that_race_to_make_it_agree(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    command = [sys.executable, "-c", RACER, str(tmp_path / "ca")]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for racer in racers:  # all wait for this line, after their imports
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    fingerprints = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert fingerprints == {Authority.load_from(tmp_path / "ca", now=lambda: datetime.now(UTC)).fingerprint}


# What it issues


def names_of(leaf: Leaf) -> x509.SubjectAlternativeName:
    return leaf.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_a_leaf_is_a_servers_certificate_and_nothing_more(authority: Authority) -> None:
    leaf = authority.issue("registry.test")
    cert, issuer = leaf.chain[0], certificate(authority)
    assert len(leaf.chain) == 1, "the root is not sent: clients have it"
    cert.verify_directly_issued_by(issuer)
    extensions = cert.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    extensions.get_extension_for_oid(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    authority_key = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    issuer_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority_key.key_identifier == issuer_key.digest
    assert authority_key.authority_cert_issuer is None


def test_a_leaf_lives_ninety_days_and_began_yesterday(authority: Authority, clock: Clock) -> None:
    clock.moment = NOW + 100 * DAY
    leaf = authority.issue("registry.test")
    assert leaf.not_valid_after == clock.moment + 90 * DAY
    assert leaf.chain[0].not_valid_before_utc == clock.moment - DAY


def test_a_leaf_never_outlives_its_ca(authority: Authority, clock: Clock) -> None:
    clock.moment = authority.not_valid_after - 10 * DAY
    assert authority.issue("registry.test").not_valid_after == authority.not_valid_after
    clock.moment = authority.not_valid_after
    with pytest.raises(CAError, match=r"ca-cert.pem expired on 2036-11-18 12:00 UTC; "):
        authority.issue("registry.test")


def test_leaves_have_serials_of_their_own_and_one_key(authority: Authority) -> None:
    one, other = authority.issue("registry.test"), authority.issue("registry.test")
    assert one.chain[0].serial_number != other.chain[0].serial_number
    assert one.key_pem == other.key_pem
    assert one.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert one.chain_pem.count(b"BEGIN CERTIFICATE") == 1


def test_a_leaf_keeps_its_key_to_itself(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority.issue("registry.test"))
    assert "key=" not in repr(authority.issue("registry.test"))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("registry.test", "registry.test"),
        ("Registry.TEST.", "registry.test"),
        ("localhost", "localhost"),
        ("my_registry.test", "my_registry.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        (LONG_HOST, LONG_HOST),
    ],
)
def test_names(authority: Authority, host: str, name: str) -> None:
    assert names_of(authority.issue(host)).get_values_for_type(x509.DNSName) == [name]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:DB8::5000"])
def test_addresses(authority: Authority, host: str) -> None:
    names = names_of(authority.issue(host))
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(host)]
    assert names.get_values_for_type(x509.DNSName) == []
    assert authority.issue(host).chain[0].subject.rfc4514_string() == "O=pullthrough", "a name would be constrained"


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "*.test",
        "a..test",
        ".test",
        "-a.test",
        "a-.test",
        "a b.test",
        "a/b",
        "a.test:443",
        "[::1]",
        "fe80::1%eth0",
        "b\u00fccher.test",
        "\u0661.test",
        "\u212aube.test",
        "300.1.1.1",
        "1.2.3",
        "a" * 64 + ".test",
        "a.\0.test",
        ".".join(["a" * 63] * 4),
    ],
)
def test_what_is_no_host_gets_no_leaf(authority: Authority, host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name or IP address"):
        authority.issue(host)


@pytest.fixture(scope="module")
def lasting_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("lasting") / "ca", now=lambda: NOW)


@given(st.text() | st.from_regex(r"[a-z0-9.:*\[\]_%-]{0,80}", fullmatch=True))
def test_any_text_is_a_leaf_or_a_value_error(lasting_authority: Authority, host: str) -> None:
    try:
        leaf = lasting_authority.issue(host)
    except ValueError:
        return
    assert len(names_of(leaf)) == 1
    assert leaf.chain[0].subject.rfc4514_string().endswith("O=pullthrough")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("host", ["registry.test", LONG_HOST, "127.0.0.1", "::1", "xn--bcher-kva.test"])
def test_openssl_accepts_leaves_strictly(authority: Authority, tmp_path: Path, host: str, clock: Clock) -> None:
    (tmp_path / "leaf.pem").write_bytes(authority.issue(host).chain_pem)
    address = host.replace(".", "").isdigit() or ":" in host
    kind = "-verify_ip" if address else "-verify_hostname"
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-check_ss_sig",
        "-auth_level",
        "2",
    ]
    command += ["-attime", str(int(clock.moment.timestamp())), "-CAfile", str(tmp_path / "ca" / CERT_NAME)]
    command += [kind, host, str(tmp_path / "leaf.pem")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# A CA brought along


@dataclass
class Forged:
    """A CA for tests, sound unless told otherwise."""

    name: str = "corp root"
    issuer: Forged | None = None
    ca: bool = True
    path_length: int | None = None
    may_sign: bool = True
    identifier: bool = True
    begin: datetime = NOW - DAY
    end: datetime = NOW + 30 * DAY
    key: CAKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    permitted: list[str] | None = None
    excluded: list[str] | None = None

    def __post_init__(self) -> None:
        issuer = self.issuer or self
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=self.may_sign,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        public = self.key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer.name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
            .add_extension(x509.BasicConstraints(self.ca, self.path_length), critical=True)
            .add_extension(usage, critical=True)
        )
        if self.identifier:
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        if self.permitted or self.excluded:
            constraints = x509.NameConstraints(general(self.permitted), general(self.excluded))
            builder = builder.add_extension(constraints, critical=True)
        digest = None if isinstance(issuer.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        self.cert = builder.sign(issuer.key, digest)

    @property
    def pem(self) -> bytes:
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            lock = serialization.BestAvailableEncryption(password)
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def general(texts: list[str] | None) -> list[x509.GeneralName] | None:
    """Domains, and networks (with a slash), as certificates have them."""
    if texts is None:
        return None
    return [x509.IPAddress(ipaddress.ip_network(text)) if "/" in text else x509.DNSName(text) for text in texts]


def brought(folder: Path, certs: bytes, key: bytes) -> Authority:
    cert_file, key_file = folder / "corp.pem", folder / "corp.key"
    cert_file.write_bytes(certs)
    key_file.write_bytes(key)
    key_file.chmod(0o600)
    return Authority.load(cert_file, key_file, now=Clock())


def test_an_own_ca_signs_leaves(tmp_path: Path) -> None:
    root = Forged()
    authority = brought(tmp_path, root.pem, root.key_pem())
    leaf = authority.issue("registry.test")
    leaf.chain[0].verify_directly_issued_by(root.cert)
    assert authority.certificate_pem == root.pem
    assert leaf.not_valid_after == root.end
    assert leaf.chain[0].not_valid_before_utc == root.begin


def test_an_own_ca_may_have_an_rsa_key(tmp_path: Path) -> None:
    root = Forged(key=rsa.generate_private_key(65537, 2048))
    brought(tmp_path, root.pem, root.key_pem()).issue("registry.test").chain[0].verify_directly_issued_by(root.cert)


def test_a_key_file_as_openssl_ecparam_writes_it_is_read(tmp_path: Path) -> None:
    root = Forged()
    traditional = root.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    parameters = b"-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n"
    assert brought(tmp_path, root.pem, parameters + traditional).certificate_pem == root.pem


def test_an_intermediate_with_its_root_sends_itself_and_has_the_root_trusted(tmp_path: Path) -> None:
    root = Forged(path_length=1, end=NOW + 20 * DAY)
    middle = Forged("corp issuing", issuer=root, path_length=0)
    authority = brought(tmp_path, middle.pem + root.pem, middle.key_pem())
    leaf = authority.issue("registry.test")
    assert leaf.chain[1:] == (middle.cert,)
    assert authority.certificate_pem == root.pem
    assert authority.not_valid_after == leaf.not_valid_after == root.end


def test_an_intermediate_without_its_root_is_what_clients_trust(tmp_path: Path) -> None:
    middle = Forged("corp issuing", issuer=Forged())
    authority = brought(tmp_path, middle.pem, middle.key_pem())
    assert authority.certificate_pem == middle.pem
    assert authority.issue("registry.test").chain[1:] == (middle.cert,)


def test_a_ca_without_key_identifier_is_named_by_its_keys_hash(tmp_path: Path) -> None:
    root = Forged(identifier=False)
    leaf = brought(tmp_path, root.pem, root.key_pem()).issue("registry.test").chain[0]
    named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == x509.SubjectKeyIdentifier.from_public_key(root.cert.public_key()).digest


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (
            Forged(ca=False),
            r"corp.pem is not the certificate of a CA \(CN=corp root\); check --ca-cert and --ca-key",
        ),
        (Forged(may_sign=False), "corp.pem is a CA that may not sign certificates"),
        (Forged(begin=NOW - 9 * DAY, end=NOW), "corp.pem expired on 2026-11-22 12:00 UTC"),
        (
            Forged(begin=NOW + DAY),
            r"corp.pem is not valid before 2026-11-23 12:00 UTC \(is this machine's clock",
        ),
        (Forged(key=ed25519.Ed25519PrivateKey.generate()), "corp.key is neither an EC nor an RSA key"),
    ],
)
def test_an_unsuitable_ca_is_refused_in_one_sentence(tmp_path: Path, root: Forged, sentence: str) -> None:
    with pytest.raises(CAError, match=sentence) as refused:
        brought(tmp_path, root.pem, root.key_pem())
    assert "\n" not in str(refused.value)


def test_a_chain_out_of_order_or_too_long_is_refused(tmp_path: Path) -> None:
    root = Forged(path_length=0)
    middle = Forged("corp issuing", issuer=root)
    with pytest.raises(CAError, match="path length does not allow"):
        brought(tmp_path, middle.pem + root.pem, middle.key_pem())
    with pytest.raises(CAError, match="out of order"):
        brought(tmp_path, middle.pem + Forged("another root").pem, middle.key_pem())
    with pytest.raises(CAError, match=r"corp\.key is not the key of the certificate in .*corp\.pem"):
        brought(tmp_path, root.pem + middle.pem, middle.key_pem())


@pytest.mark.parametrize("damage", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_named(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(CAError, match=r"corp\.pem is not a readable PEM certificate"):
        brought(tmp_path, damage, Forged().key_pem())


def test_a_damaged_or_encrypted_key_is_named(tmp_path: Path) -> None:
    root = Forged()
    with pytest.raises(CAError, match=r"corp\.key is not a readable PEM private key"):
        brought(tmp_path, root.pem, root.key_pem().replace(b"M", b"N"))
    with pytest.raises(CAError, match=r"corp\.key is encrypted .*openssl pkey"):
        brought(tmp_path, root.pem, root.key_pem(b"secret"))


# What it may sign for


def permitting(*texts: str) -> Constraints:
    return Constraints(subtrees(map(subtree, texts)))


@pytest.fixture
def narrow(tmp_path: Path, clock: Clock) -> Authority:
    """A CA for corp.test and 10.0.0.0/8."""
    return Authority.load_or_create(tmp_path / "narrow", now=clock, constraints=permitting("corp.test", "10.0.0.0/8"))


def test_constraints_are_written_as_critical_and_read_back(narrow: Authority, tmp_path: Path) -> None:
    found = certificate(narrow).extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert found.value.permitted_subtrees == [
        x509.DNSName("corp.test"),
        x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
    ]
    assert found.value.excluded_subtrees is None
    assert narrow.permits("registry.corp.test")
    assert narrow.permits("10.1.2.3")
    assert not narrow.permits("example.com")
    assert not narrow.permits("::1"), "a permitted IPv4 network leaves no IPv6 address permitted"
    assert narrow.describe()[0]["Signs for"] == "corp.test, 10.0.0.0/8"


def test_no_leaf_is_made_that_clients_would_refuse(narrow: Authority, tmp_path: Path) -> None:
    assert narrow.issue("Registry.Corp.Test.").chain
    with pytest.raises(CAError, match=f"do not let it sign for example.com; run: .* --data-dir {tmp_path} --permit ex"):
        narrow.issue("example.com")
    with pytest.raises(ValueError, match="is not a host name or IP address"):
        narrow.issue("a; rm -rf b")


def test_a_ca_made_before_there_were_constraints_signs_for_every_host(authority: Authority) -> None:
    assert authority.unconstrained
    authority.require_unconstrained()
    authority.require(["registry.corp.test", "*.corp.test", "203.0.113.7"])
    assert authority.permits("example.com")


def test_a_host_outside_is_an_error_with_the_command_that_permits_it(narrow: Authority, tmp_path: Path) -> None:
    narrow.require(["registry.corp.test", "*.corp.test", "10.1.2.3", "10.1.0.0/16"])
    with pytest.raises(CAError) as refused:
        narrow.require(["registry.corp.test", "registry.example.com", "*.r.example.org", "203.0.113.7"])
    assert str(refused.value) == (
        f"{tmp_path}/narrow/{CERT_NAME} has name constraints that do not let it sign for registry.example.com, "
        f"*.r.example.org, 203.0.113.7; run: pullthrough ca rotate --data-dir {tmp_path} "
        "--permit registry.example.com --permit r.example.org --permit 203.0.113.7/32"
    )
    with pytest.raises(CAError, match=r"for hosts that nobody named; run: .* --unconstrained$"):
        narrow.require_unconstrained()


def test_every_ca_of_a_chain_has_its_say(tmp_path: Path) -> None:
    root = Forged(permitted=["corp.test"])
    middle = Forged("corp issuing", issuer=root, permitted=[".r.corp.test", "10.0.0.0/8"])
    authority = brought(tmp_path, middle.pem + root.pem, middle.key_pem())
    assert authority.permits("a.r.corp.test")
    assert not authority.permits("r.corp.test"), "a leading dot stands for names below it"
    assert not authority.permits("a.corp.test")
    assert not authority.permits("192.168.1.1")
    assert authority.describe()[0]["Signs for"] == ".r.corp.test, 10.0.0.0/8; and: corp.test, every address"
    with pytest.raises(CAError, match=r"corp.pem has .* sign for a.corp.test; check --ca-cert and --ca-key"):
        authority.require(["a.corp.test"])


def test_what_a_chain_excludes_is_not_permitted(tmp_path: Path) -> None:
    root = Forged(permitted=["corp.test"], excluded=["secret.corp.test"])
    authority = brought(tmp_path, root.pem, root.key_pem())
    assert authority.permits("r.corp.test")
    assert not authority.permits("r.secret.corp.test")
    assert authority.describe()[0]["Signs for"] == "corp.test, every address; but not secret.corp.test"


# Rotation


def test_during_the_overlap_clients_get_both_and_the_old_one_signs(narrow: Authority, clock: Clock) -> None:
    old, before = narrow.fingerprint, narrow.certificate_pem
    narrow.rotate(permitting("new.test"), 30 * DAY)
    assert narrow.fingerprint == old
    assert len(narrow.fingerprints) == 2
    assert narrow.certificate_pem.startswith(before)
    first, second = x509.load_pem_x509_certificates(narrow.certificate_pem)
    assert first.subject != second.subject, "clients look issuers up by name"
    assert narrow.succession == NOW + 30 * DAY
    narrow.issue("r.corp.test").chain[0].verify_directly_issued_by(first)
    old_table, new_table = narrow.describe()
    assert old_table["Signs until"] == new_table["Signs from"] == "2026-12-22 12:00:00+00:00"
    clock.moment = NOW + 30 * DAY - timedelta(seconds=1)
    assert narrow.signer("r.corp.test") == old
    clock.moment = NOW + 30 * DAY
    assert narrow.signer("r.corp.test") == narrow.fingerprint != old
    assert set(narrow.fingerprints) == {narrow.fingerprint}
    assert [table.keys() & {"Signs from", "Signs until"} for table in narrow.describe()] == [set()]
    narrow.issue("r.corp.test").chain[0].verify_directly_issued_by(second)


def test_what_was_permitted_stays_so_and_what_is_new_is_signed_by_the_new_one_at_once(narrow: Authority) -> None:
    narrow.rotate(permitting("new.test"), 30 * DAY)
    new = narrow.fingerprints[1]
    narrow.require(["r.corp.test", "10.1.2.3", "r.new.test"])
    assert narrow.signer("r.corp.test") == narrow.signer("10.1.2.3") == narrow.fingerprint
    assert narrow.signer("r.new.test") == new


def test_a_ca_without_constraints_gets_them_by_rotation(authority: Authority) -> None:
    authority.rotate(usual(["r.corp.test"]), 30 * DAY)
    assert not authority.unconstrained
    assert authority.permits("ghcr.io")
    assert not authority.permits("example.com"), "after the overlap nobody could sign for it"
    assert authority.issue("example.com").chain, "until then the old one can"
    with pytest.raises(CAError, match=r"run: rm -r .*/ca/next && pullthrough ca rotate .* --permit example.com"):
        authority.require(["example.com"])


def test_rotating_again_during_the_overlap_is_an_error_that_names_the_day_and_the_way_back(
    narrow: Authority, tmp_path: Path, clock: Clock
) -> None:
    narrow.rotate(None, 30 * DAY)
    before = narrow.fingerprints
    with pytest.raises(CAError, match=f"takes over on 2026-12-22 12:00:00.* or remove {tmp_path}/narrow/next to give"):
        narrow.rotate(None, timedelta(0))
    assert narrow.fingerprints == before
    clock.moment = NOW + 31 * DAY
    narrow.rotate(permitting("x.test"), timedelta(0))
    assert len(narrow.fingerprints) == 1
    assert narrow.fingerprint not in before


def test_without_an_overlap_the_old_key_is_gone_at_once(narrow: Authority, tmp_path: Path, clock: Clock) -> None:
    key = (tmp_path / "narrow" / KEY_NAME).read_bytes()
    narrow.rotate(permitting("x.test"), timedelta(0))
    files = [each for each in (tmp_path / "narrow").rglob("*") if each.is_file()]
    assert {each.name for each in files} == {CERT_NAME, KEY_NAME, ".lock"}
    assert all(each.read_bytes() != key for each in files)
    assert Authority.load_from(tmp_path / "narrow", now=clock).fingerprints == narrow.fingerprints


def test_the_new_one_takes_over_before_the_old_one_ends(narrow: Authority, clock: Clock) -> None:
    clock.moment = narrow.not_valid_after - 10 * DAY
    narrow.rotate(None, 30 * DAY)
    assert narrow.succession == clock.moment + 9 * DAY


def test_the_next_start_after_the_overlap_removes_the_old_key(narrow: Authority, tmp_path: Path, clock: Clock) -> None:
    narrow.rotate(None, 30 * DAY)
    new = narrow.fingerprints[1]
    clock.moment = NOW + 30 * DAY
    assert Authority.load_from(tmp_path / "narrow", now=clock).fingerprint == new
    assert (tmp_path / "narrow" / "next").exists(), "whoever only looks changes nothing"
    assert Authority.load_or_create(tmp_path / "narrow", now=clock).fingerprint == new
    assert not (tmp_path / "narrow" / "next").exists()
    clock.moment = NOW
    assert Authority.load_from(tmp_path / "narrow", now=clock).fingerprint == new, "the files do not go back in time"


def test_a_running_process_notices_a_rotation_by_another(narrow: Authority, tmp_path: Path, clock: Clock) -> None:
    other = Authority.load_from(tmp_path / "narrow", now=clock)
    narrow.rotate(None, 30 * DAY)
    assert len(other.fingerprints) == 1
    other.refresh()
    assert other.fingerprints == narrow.fingerprints


def test_files_that_went_bad_leave_a_running_process_with_what_it_has(narrow: Authority, tmp_path: Path) -> None:
    narrow.rotate(None, 30 * DAY)
    before = narrow.fingerprints
    (tmp_path / "narrow/next/ca-cert.pem").write_bytes(b"")
    with pytest.raises(CAError, match=f"remove {tmp_path}/narrow/next to give the new CA up"):
        narrow.refresh()
    assert narrow.fingerprints == before
    assert narrow.issue("r.corp.test").chain


def test_a_ca_brought_along_is_not_rotated(tmp_path: Path) -> None:
    root = Forged()
    with pytest.raises(CAError, match="renew it where it was made"):
        brought(tmp_path, root.pem, root.key_pem()).rotate(None, 30 * DAY)


# Its end


def test_the_last_thirty_days_are_complained_of_until_it_is_rotated(
    narrow: Authority, tmp_path: Path, clock: Clock
) -> None:
    end = narrow.not_valid_after
    clock.moment = end - 30 * DAY - timedelta(seconds=1)
    assert narrow.expiry_warning() is None
    assert narrow.expires_in() == 30 * 86400 + 1
    clock.moment = end - 30 * DAY
    warning = narrow.expiry_warning()
    assert warning == (
        f"the CA {narrow.subject} ends on 2036-11-18 12:00:00+00:00, and every pull with it; "
        f"run: pullthrough ca rotate --data-dir {tmp_path}"
    )
    narrow.rotate(None, 30 * DAY)
    assert narrow.expiry_warning() is None
    assert narrow.expires_in() > 3000 * 86400


def test_a_ca_brought_along_that_ends_soon_is_to_be_replaced(tmp_path: Path) -> None:
    root = Forged(end=NOW + 20 * DAY)
    authority = brought(tmp_path, root.pem, root.key_pem())
    assert authority.expires_in() == 20 * 86400
    assert str(authority.expiry_warning()).endswith("; replace --ca-cert and --ca-key")


# Files of ours that went bad


def spoiled(folder: Path, name: str, content: bytes) -> dict[str, bytes]:
    (folder / name).write_bytes(content)
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.parametrize("name", [CERT_NAME, KEY_NAME])
@pytest.mark.parametrize("content", [b"", b"\0" * 700, b"-----BEGIN CERTIFICATE-----\n"])
def test_damaged_files_of_ours_stop_the_start_and_stay_as_they_are(
    authority: Authority, tmp_path: Path, clock: Clock, name: str, content: bytes
) -> None:
    before = spoiled(tmp_path / "ca", name, content)
    with pytest.raises(CAError, match=f"{name} is not a readable PEM .*; restore it from a backup, or move "):
        Authority.load_or_create(tmp_path / "ca", now=clock)
    assert {each.name: each.read_bytes() for each in (tmp_path / "ca").iterdir()} == before


def test_another_cas_key_stops_the_start(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    Authority.load_or_create(tmp_path / "other", now=clock)
    before = spoiled(tmp_path / "ca", KEY_NAME, (tmp_path / "other" / KEY_NAME).read_bytes())
    with pytest.raises(CAError, match=f"{KEY_NAME} is not the key of the certificate in "):
        Authority.load_or_create(tmp_path / "ca", now=clock)
    assert {each.name: each.read_bytes() for each in (tmp_path / "ca").iterdir()} == before


def test_an_expired_ca_of_ours_stops_the_start(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    clock.moment = NOW + 3650 * DAY
    with pytest.raises(CAError, match=f"{CERT_NAME} expired on 2036-11-18"):
        Authority.load_or_create(tmp_path / "ca", now=clock)
    clock.moment = NOW - 2 * DAY
    with pytest.raises(CAError, match="is this machine's clock right"):
        Authority.load_or_create(tmp_path / "ca", now=clock)


def test_a_folder_opened_to_others_later_stops_the_start(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "ca").chmod(0o777)
    with pytest.raises(CAError, match="other users can write to it"):
        Authority.load_or_create(tmp_path / "ca", now=clock)


def test_a_read_only_folder_with_a_ca_is_enough(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "ca").chmod(0o500)
    assert Authority.load_or_create(tmp_path / "ca", now=clock).fingerprint == authority.fingerprint
