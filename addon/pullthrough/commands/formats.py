"""The CA's certificates in the formats that clients' trust stores take.

Responsible for bytes. Must not know where certificates come from, and is never given a key.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from pullthrough.keypair import CAError

#: What Java expects of a trust store unless it is told otherwise. It guards nothing: certificates are public.
P12_PASSWORD: Final = "changeit"  # noqa: S105

_CONFIG_MAP: Final = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: pullthrough-ca
data:
  ca.crt: |
{pem}"""


class Format(StrEnum):
    """As `--format` spells them."""

    PEM = "pem"
    DER = "der"
    P12 = "p12"
    K8S_CONFIGMAP = "k8s-configmap"

    @property
    def binary(self) -> bool:
        """Whether it is nothing for a screen."""
        return self in (Format.DER, Format.P12)


def exported(pem: bytes, form: Format) -> bytes:
    """The certificates of a PEM file in another format. CAError if there are more than the format has room for."""
    return _WRITERS[form](pem)


def _der(pem: bytes) -> bytes:
    certs = x509.load_pem_x509_certificates(pem)
    if len(certs) > 1:
        raise CAError("DER has room for one certificate, and during a rotation there are two; use --format pem or p12")
    return certs[0].public_bytes(Encoding.DER)


def _p12(pem: bytes) -> bytes:
    """A trust store, with the attribute by which Java knows trusted certificates."""
    certs = x509.load_pem_x509_certificates(pem)
    named = [pkcs12.PKCS12Certificate(cert, f"pullthrough-{number}".encode()) for number, cert in enumerate(certs, 1)]
    return pkcs12.serialize_java_truststore(named, BestAvailableEncryption(P12_PASSWORD.encode()))


def _config_map(pem: bytes) -> bytes:
    return _CONFIG_MAP.format(pem=textwrap.indent(pem.decode("ascii"), "    ")).encode("ascii")


_WRITERS: Final[Mapping[Format, Callable[[bytes], bytes]]] = {
    Format.PEM: bytes,
    Format.DER: _der,
    Format.P12: _p12,
    Format.K8S_CONFIGMAP: _config_map,
}
