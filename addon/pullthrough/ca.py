"""The certificate authority that clients trust: made at first start or brought along, and its leaves.

Responsible for what is in a certificate and for refusing a CA that clients could not use. Must not know
connections (`leaves` does), files' permissions (`keypair` does) or the configuration. Only this
module imports `cryptography`.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pullthrough.keypair import CAError, PairFiles, make_once, refuse_shared

__all__ = ["Authority", "CAError", "Clock", "Leaf"]

type Clock = Callable[[], datetime]
type SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CA_LIFETIME: Final = timedelta(days=3650)
_LEAF_LIFETIME: Final = timedelta(days=90)
#: Certificates begin this much in the past, for clients whose clock is behind.
_CLOCK_SKEW: Final = timedelta(days=1)
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


class Authority:
    """A CA that passed every check. `now` is the clock, in aware datetimes."""

    def __init__(self, files: PairFiles, chain: Sequence[x509.Certificate], key: SigningKey, now: Clock) -> None:
        self._files = files
        self._chain = tuple(chain)
        self._issuer = chain[0]
        #: What clients are told to trust: the top of the chain, often the issuer itself.
        self._anchor = chain[-1]
        self._intermediates = tuple(cert for cert in chain if cert.subject != cert.issuer)
        self._key = key
        self._now = now

    def __repr__(self) -> str:
        return f"<Authority {self.subject} {self.fingerprint}>"

    @classmethod
    def load_or_create(cls, directory: Path, *, now: Clock) -> Authority:
        """The CA in `directory`, made there if the folder holds none. CAError if it is unusable."""
        make_once(directory, lambda: _new_pair(now()))
        return cls.load_from(directory, now=now)

    @classmethod
    def load_from(cls, directory: Path, *, now: Clock) -> Authority:
        """The CA in `directory`. CAError if there is none or it is unusable; makes nothing."""
        files = PairFiles.in_directory(directory)
        if files.absent():
            raise CAError(f"there is no CA in {directory}; make one with: pullthrough ca init")
        refuse_shared(directory)
        return cls._load(files, now)

    @classmethod
    def load(cls, cert_file: Path, key_file: Path, *, now: Clock) -> Authority:
        """The operator's own CA: PEM files of its certificate, with or without the chain, and of its key."""
        return cls._load(PairFiles.brought(cert_file, key_file), now)

    @classmethod
    def _load(cls, files: PairFiles, now: Clock) -> Authority:
        cert_pem, key_pem = files.read()
        chain, key = _parse_chain(files, cert_pem), _parse_key(files, key_pem)
        if key.public_key() != chain[0].public_key():
            raise files.error(files.key, f"is not the key of the certificate in {files.cert}")
        if fault := _fault_of(chain, now()):
            raise files.error(files.cert, fault)
        return cls(files, chain, key, now)

    @property
    def certificate_pem(self) -> bytes:
        """The one certificate that clients have to trust."""
        return _pem(self._anchor)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `certificate_pem`, as `openssl x509 -fingerprint` prints it."""
        return self._anchor.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def subject(self) -> str:
        return self._anchor.subject.rfc4514_string()

    @property
    def not_valid_before(self) -> datetime:
        return max(cert.not_valid_before_utc for cert in self._chain)

    @property
    def not_valid_after(self) -> datetime:
        """From then on no client accepts a leaf of this CA."""
        return min(cert.not_valid_after_utc for cert in self._chain)

    def describe(self) -> dict[str, str]:
        """What an operator compares with what a client shows: label and value, in reading order."""
        return {
            "Subject": self.subject,
            "SHA-256": self.fingerprint,
            "Valid from": self.not_valid_before.isoformat(sep=" ", timespec="seconds"),
            "Valid until": self.not_valid_after.isoformat(sep=" ", timespec="seconds"),
            "File": str(self._files.cert),
        }

    def issue(self, host: str) -> Leaf:
        """A leaf for a DNS name (a-labels) or an IP literal without brackets.

        Valid for 90 days, but never beyond the CA. ValueError if `host` is neither name nor address,
        CAError once the CA itself has expired.
        """
        name, moment = _general_name(host), self._now()
        if fault := _fault_of(self._chain, moment):
            raise self._files.error(self._files.cert, fault)
        # The key is shared by all leaves of this process: each of them lies in the same memory, so keys of
        # their own would protect nothing. It is never written to disk.
        key = self._leaf_key
        builder = (
            _builder(_leaf_subject(str(name.value)), self._issuer.subject, key)
            .not_valid_before(max(moment - _CLOCK_SKEW, self.not_valid_before))
            .not_valid_after(min(moment + _LEAF_LIFETIME, self.not_valid_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(self._key_identifier(), critical=False)
        )
        return Leaf((builder.sign(self._key, hashes.SHA256()), *self._intermediates), key)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """The issuer's own identifier, whatever way it was computed; its key's hash if it has none."""
        identifier = _extension(self._issuer, x509.SubjectKeyIdentifier)
        if identifier is None:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)

    @functools.cached_property
    def _leaf_key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())


def _new_pair(moment: datetime) -> tuple[bytes, bytes]:
    """Certificate and key of a new CA that can sign for hosts and for no further CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _ca_subject(socket.gethostname(), moment)
    begin = moment - _CLOCK_SKEW
    builder = (
        _builder(subject, subject, key)
        .not_valid_before(begin)
        .not_valid_after(begin + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


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


def _ca_subject(hostname: str, moment: datetime) -> x509.Name:
    """Tells apart the CAs of several caches, and of one cache over time, in a client's trust store."""
    date = f"{moment.astimezone(UTC):%Y-%m-%d}"
    room = _MAX_COMMON_NAME - len(f"pullthrough CA  {date}")
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", hostname)[:room].strip("-.") or "unnamed"
    return _name(f"pullthrough CA {host} {date}")


def _leaf_subject(host: str) -> x509.Name:
    """Clients read the alternative name; the common name is for people, and left out if too long."""
    return _name(host if len(host) <= _MAX_COMMON_NAME else None)


def _name(common_name: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pullthrough")]
    if common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """ValueError for wildcards, URLs, dotted numbers, scoped addresses and the like."""
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
