"""One certificate authority: its chain, its key, what it may sign for, and its leaves.

Responsible for what is in a certificate and for refusing a CA that clients could not use. Must not know that there may
be a second one (`ca` does), files' permissions (`keypair` does), connections (`leaves` does) or the configuration.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pullthrough.core.constraints import Constraints, Subtree, Subtrees, subtrees
from pullthrough.keypair import PairFiles

type SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

#: Certificates begin this much in the past, for clients whose clock is behind.
CLOCK_SKEW: Final = timedelta(days=1)

_CA_LIFETIME: Final = timedelta(days=3650)
_LEAF_LIFETIME: Final = timedelta(days=90)
#: Upper bound of a common name, RFC 5280 appendix A.1 (ub-common-name).
_MAX_COMMON_NAME: Final = 64
_MAX_DNS_NAME: Final = 253
#: One label of a host name; underscores occur in container and compose names.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate for one host: `chain` is what a server sends, leaf first, without the trusted root."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def chain_pem(self) -> bytes:
        return _pem(*self.chain)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key)

    @property
    def not_valid_after(self) -> datetime:
        return self.chain[0].not_valid_after_utc


class Issuer:
    """A CA that passed every check at `moment`. `files` are where it came from, for what is said of it."""

    def __init__(self, files: PairFiles, moment: datetime) -> None:
        """CAError if the files are missing, too open, damaged or of no use as a CA."""
        cert_pem, key_pem = files.read()
        self.files = files
        self._chain = tuple(_parse_chain(files, cert_pem))
        self._key = _parse_key(files, key_pem)
        if self._key.public_key() != self._chain[0].public_key():
            raise files.error(files.key, f"is not the key of the certificate in {files.cert}")
        self._refuse_fault(moment)
        #: What clients are told to trust: the top of the chain, often the issuer itself.
        self.anchor = self._chain[-1]
        #: What each certificate of the chain says; a host has to be permitted by all of them.
        self.constraints = tuple(_constraints_in(self._chain))

    @property
    def certificate_pem(self) -> bytes:
        """The one certificate that clients have to trust."""
        return _pem(self.anchor)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `certificate_pem`, as `openssl x509 -fingerprint` prints it."""
        return self.anchor.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def subject(self) -> str:
        return self.anchor.subject.rfc4514_string()

    @property
    def not_valid_before(self) -> datetime:
        return max(cert.not_valid_before_utc for cert in self._chain)

    @property
    def not_valid_after(self) -> datetime:
        """From then on no client accepts a leaf of this CA."""
        return min(cert.not_valid_after_utc for cert in self._chain)

    def permits(self, host: str) -> bool:
        """Whether clients accept a leaf for this host, or for all that a registry's pattern matches."""
        return all(each.permits(host) for each in self.constraints)

    def issue(self, host: str, moment: datetime) -> Leaf:
        """A leaf for a DNS name (a-labels) or an IP literal without brackets.

        Valid for 90 days, but never beyond the CA. ValueError if `host` is neither name nor address,
        CAError once the CA itself has expired.
        """
        name = general_name(host)
        self._refuse_fault(moment)
        # The key is shared by all leaves of this process: each of them lies in the same memory, so keys of
        # their own would protect nothing. It is never written to disk.
        key = self._leaf_key
        issuer = self._chain[0]
        builder = (
            _builder(_leaf_subject(name), issuer.subject, key)
            .not_valid_before(max(moment - CLOCK_SKEW, self.not_valid_before))
            .not_valid_after(min(moment + _LEAF_LIFETIME, self.not_valid_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(self._key_identifier(), critical=False)
        )
        # The trusted root is not sent: clients have it.
        intermediates = (cert for cert in self._chain if cert.subject != cert.issuer)
        return Leaf((builder.sign(self._key, hashes.SHA256()), *intermediates), key)

    def _refuse_fault(self, moment: datetime) -> None:
        if fault := _fault_of(self._chain, moment):
            raise self.files.error(self.files.cert, fault)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """The issuer's own identifier, whatever way it was computed; its key's hash if it has none."""
        identifier = _extension(self._chain[0], x509.SubjectKeyIdentifier)
        if identifier is None:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)

    @functools.cached_property
    def _leaf_key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())


def new_pair(moment: datetime, constraints: Constraints | None, *, stamp: str = "%Y-%m-%d") -> tuple[bytes, bytes]:
    """Certificate and key, in PEM, of a new CA that can sign for servers and for no further CA.

    Clients refuse what it signs outside of `constraints`; None permits every host. `stamp` is the format of the time
    in its name, which tells it apart from other CAs of this machine.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _ca_subject(socket.gethostname(), moment.astimezone(UTC).strftime(stamp))
    begin = moment - CLOCK_SKEW
    builder = (
        _builder(subject, subject, key)
        .not_valid_before(begin)
        .not_valid_after(begin + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        # Name constraints say nothing of code and mail signatures: a stolen key must be worth nothing there either.
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    if constraints is not None:
        builder = builder.add_extension(_name_constraints(constraints), critical=True)
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def _name_constraints(constraints: Constraints) -> x509.NameConstraints:
    permitted, excluded = constraints.permitted, constraints.excluded
    return x509.NameConstraints(
        [*map(_general_subtree, (*permitted.domains, *permitted.networks))],
        [*map(_general_subtree, (*excluded.domains, *excluded.networks))] or None,
    )


def _general_subtree(subtree: Subtree) -> x509.GeneralName:
    return x509.DNSName(subtree) if isinstance(subtree, str) else x509.IPAddress(subtree)


def _constraints_in(chain: Sequence[x509.Certificate]) -> Iterator[Constraints]:
    for cert in chain:
        found = _extension(cert, x509.NameConstraints)
        if found is not None:
            permitted, excluded = _hosts_among(found.permitted_subtrees), _hosts_among(found.excluded_subtrees)
            if permitted or excluded:
                yield Constraints(permitted, excluded)


def _hosts_among(names: Sequence[x509.GeneralName] | None) -> Subtrees:
    """Constraints on mail addresses, URIs and the like say nothing of our leaves."""
    found: list[Subtree] = []
    for name in names or ():
        if isinstance(name, x509.DNSName):
            found.append(name.value.lower())
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            found.append(name.value)
    return subtrees(found)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """What every certificate of ours has. Python 3.13 refuses chains without Subject Key Identifiers."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_subject(hostname: str, stamp: str) -> x509.Name:
    """Tells apart the CAs of several caches, and of one cache over time, in a client's trust store."""
    room = _MAX_COMMON_NAME - len(f"pullthrough CA  {stamp}")
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", hostname)[:room].strip("-.") or "unnamed"
    return _name(f"pullthrough CA {host} {stamp}")


def _leaf_subject(host: x509.DNSName | x509.IPAddress) -> x509.Name:
    """Clients read the alternative name; the common name is for people.

    It is left out if too long, and for an address: where no alternative name is a DNS name, OpenSSL and GnuTLS hold the
    common name against the constraints on DNS names.
    """
    fits = isinstance(host, x509.DNSName) and len(host.value) <= _MAX_COMMON_NAME
    return _name(str(host.value) if fits else None)


def _name(common_name: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pullthrough")]
    if common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """A host as certificates have it. ValueError for wildcards, URLs, dotted numbers, scoped addresses and the like."""
    try:
        if "%" not in host:  # a scope means something on one machine only, and a certificate has no room for it
            return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # then it is a name or nothing
    return x509.DNSName(_dns_name(host))


def _dns_name(host: str) -> str:
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    well_formed = host.isascii() and len(name) <= _MAX_DNS_NAME and all(map(_LABEL.fullmatch, labels))
    if not well_formed or labels[-1].isdigit():
        raise ValueError(f"{host[:80]!r} is not a host name or IP address")
    return name


def _parse_chain(files: PairFiles, pem: bytes) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
        for cert in chain:  # parsed lazily: a damaged one must be found here, not in a handshake
            _ = cert.public_key(), cert.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise files.error(files.cert, "is not a readable PEM certificate") from error
    return chain


def _parse_key(files: PairFiles, pem: bytes) -> SigningKey:
    try:
        key: PrivateKeyTypes = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:  # how cryptography says that a password is needed
        fault = "is encrypted and there is nobody to ask for the password: decrypt it with openssl pkey"
        raise files.error(files.key, fault) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise files.error(files.key, "is not a readable PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise files.error(files.key, "is neither an EC nor an RSA key, which is what every client can check")
    return key


def _fault_of(chain: Sequence[x509.Certificate], moment: datetime) -> str | None:
    """Why clients would refuse leaves under this chain, or None."""
    for depth, cert in enumerate(chain):
        if fault := _validity_fault(cert, moment) or _signing_fault(cert, depth):
            return fault
    for cert, issuer in itertools.pairwise(chain):
        try:
            cert.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return "holds a chain out of order: the issuing certificate first, then the one that signed it"
    return None


def _validity_fault(cert: x509.Certificate, moment: datetime) -> str | None:
    begin, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    if moment >= end:
        return f"expired on {end:%Y-%m-%d %H:%M} UTC"
    if moment < begin:
        return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC (is this machine's clock right?)"
    return None


def _signing_fault(cert: x509.Certificate, depth: int) -> str | None:
    """RFC 5280 section 4.2.1.9 and 4.2.1.3: who may sign, and over how many CAs below."""
    constraints = _extension(cert, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return f"is not the certificate of a CA ({cert.subject.rfc4514_string()})"
    usage = _extension(cert, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return "is a CA that may not sign certificates (key usage)"
    if constraints.path_length is not None and constraints.path_length < depth:
        return "holds a CA whose path length does not allow the one below it"
    return None


def _extension[T: x509.ExtensionType](cert: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return cert.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _pem(*certs: x509.Certificate) -> bytes:
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
