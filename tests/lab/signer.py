"""JSON web tokens, signed with RS256 and x5c as distribution 2.8 accepts them.

What a token permits is the business of `lab.tokens`.
"""

import base64
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab.pki import Identity

SERVICE = "container_registry"
ISSUER = "lab-issuer"
LEEWAY_SECONDS = 60  # for so long after its end distribution 2.8 still accepts a token


class Signer:
    """Signs tokens with the key of a certificate that the registry trusts."""

    def __init__(self, identity: Identity) -> None:
        key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("RS256 needs an RSA key")
        self._key = key
        chain = x509.load_pem_x509_certificates(identity.chain.read_bytes())
        encoded = [base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode() for cert in chain]
        self._header = {"typ": "JWT", "alg": "RS256", "x5c": encoded}

    def token(self, subject: str, access: list[dict[str, Any]], ttl: int) -> str:
        """A JSON web token, good for `ttl` seconds from now."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 10,
            "exp": now + ttl,
            "jti": str(uuid.uuid4()),
            "access": access,
        }
        text = f"{_encoded(self._header)}.{_encoded(claims)}"
        return f"{text}.{_b64(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _encoded(part: Mapping[str, Any]) -> str:
    return _b64(json.dumps(part).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
