"""The script that makes a machine a client of this cache: `GET /setup.sh`.

Responsible for what the cache fills in there. Must not know requests: whoever calls has checked the address.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from importlib import resources
from typing import Final

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class SetupScript:
    """`clients/setup.sh` of this package, read once."""

    def __init__(self) -> None:
        self._template = resources.files("pullthrough").joinpath("clients", "setup.sh").read_text("utf-8")

    def of(self, base: str, ca_pem: bytes) -> bytes:
        """The script for clients that reach us at `base`: http://HOST:PORT, with nothing in it that a shell expands.

        Without a fingerprint given by hand it installs the certificates of `ca_pem`, and no others.
        """
        certificates = _CERTIFICATE.findall(ca_pem.decode("ascii"))
        fingerprints = " ".join(map(_fingerprint, certificates))
        return self._template.replace("@FINGERPRINTS@", fingerprints).replace("@CACHE@", base).encode()


def _fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
