"""Which certificate authorities vouch for upstreams: the system's, and the operator's own.

Responsible for finding them and for one PEM file that holds both. Must not know our own CA, which vouches
to clients and never for an upstream.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import certifi

#: Where distributions keep the bundle, if the interpreter's own OpenSSL looks elsewhere.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, BSD
)
#: Nothing else of a file is used: an operator's may hold a private key beside the certificate.
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class TrustError(Exception):
    """No usable set of upstream authorities. The text says which file and what to do."""


def system_bundle(environ: Mapping[str, str]) -> Path | None:
    """The system's CA bundle: SSL_CERT_FILE if set, else where this system keeps it, else what certifi ships."""
    default = ssl.get_default_verify_paths().cafile
    candidates = [environ.get("SSL_CERT_FILE"), default, *_BUNDLES, certifi.where()]
    return next((Path(found) for found in candidates if found and Path(found).is_file()), None)


def bundle(files: Iterable[Path]) -> bytes:
    """The PEM certificates of `files`, one after the other. TrustError names the file that has none."""
    parts: list[bytes] = []
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise TrustError(f"cannot read the CA file {file}: {error.strerror}") from error
        certificates = _CERTIFICATE.findall(content)
        if not certificates:
            raise TrustError(f"{file} holds no PEM certificate: give --upstream-ca a file of PEM certificates")
        parts += certificates
    return b"".join(part + b"\n" for part in parts)


def client_context(pem: bytes) -> ssl.SSLContext:
    """A verifying client context that trusts exactly the authorities in `pem`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise TrustError(f"the CA files for upstreams cannot be used: {error}; check --upstream-ca") from error
    return context
