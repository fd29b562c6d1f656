"""A token server as GitLab's `/jwt/auth`: RS256 tokens with x5c that distribution 2.8 accepts.

alice (password secret) may do everything; repositories below `priv/` are hers alone, those below
`team/` hers and bob's (hunter2), every other one anybody may pull from. Credentials come by GET
with Basic or in a POST form, as different clients send them.
"""

import base64
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab.pki import Identity
from lab.web import Exchange, WebServer

SERVICE = "container_registry"
ISSUER = "lab-issuer"
OWNERS: Mapping[str, frozenset[str]] = {
    "priv": frozenset({"alice"}),
    "team": frozenset({"alice", "bob"}),
}


@dataclass(frozen=True)
class Asked:
    """One token request. `account` is the name that was claimed, None for anonymous."""

    method: str
    account: str | None
    scopes: tuple[str, ...]
    status: int


class TokenServer(WebServer):
    """`https://auth.test/jwt/auth`."""

    def __init__(self, identity: Identity, signer: Identity) -> None:
        super().__init__(identity.name, identity)
        self.passwords = {"alice": "secret", "bob": "hunter2"}
        self.asked: list[Asked] = []
        self.ttl = 300
        self.failing: int | None = None  # answer every request with this status
        self.refuses_post = False
        self._signer = Signer(signer)
        self._denied: set[str] = set()

    @property
    def realm(self) -> str:
        """The realm that a registry names in its challenge."""
        return f"{self.url}/jwt/auth"

    def deny(self, account: str) -> None:
        """Accept this account's password no longer."""
        self._denied.add(account)

    def reset(self) -> None:
        """As new: accounts, time to live and record."""
        self.journal.clear()
        self.asked.clear()
        self._denied.clear()
        self.ttl, self.failing, self.refuses_post = 300, None, False

    def mint(self, account: str | None, scopes: Iterable[str]) -> str:
        """A token with what `account` may do of `scopes`, without any request."""
        access = [_access(account, scope) for scope in scopes]
        return self._signer.token(account or "", access, self.ttl)

    def answer(self, exchange: Exchange) -> None:
        """Check the credentials and give a token."""
        method = exchange.request.method
        if method == "POST" and self.refuses_post:
            exchange.reply(405)
            return
        if method == "POST":
            form = parse_qs(b"".join(exchange.body()).decode())
            account, password = _first(form, "username"), _first(form, "password")
        else:
            form = parse_qs(urlsplit(exchange.request.target).query)
            account, password = _basic(exchange.request.headers.get("authorization"))
        scopes = tuple(" ".join(form.get("scope", [])).split())
        status = self._verdict(account, password)
        self.asked.append(Asked(method, account, scopes, status))
        self._reply(exchange, status, account, scopes)

    def _verdict(self, account: str | None, password: str | None) -> int:
        if self.failing is not None:
            return self.failing
        if account is None:
            return 200
        good = account not in self._denied and self.passwords.get(account) == password
        return 200 if good else 401

    def _reply(self, exchange: Exchange, status: int, account: str | None, scopes: tuple[str, ...]) -> None:
        answer: dict[str, Any] = {"errors": [{"code": "UNAUTHORIZED" if status == 401 else "UNAVAILABLE"}]}
        if status == 200:
            token = self.mint(account, scopes)
            answer = {"token": token, "access_token": token, "expires_in": self.ttl}
        exchange.reply(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())


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
        text = f"{_b64(json.dumps(self._header).encode())}.{_b64(json.dumps(claims).encode())}"
        return f"{text}.{_b64(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _access(account: str | None, scope: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    wanted = actions.split(",")
    owners = OWNERS.get(name.partition("/")[0])
    if account == "alice":
        allowed = wanted
    elif owners is None or account in owners:
        allowed = [action for action in wanted if action == "pull"]
    else:
        allowed = []
    return {"type": kind, "name": name, "actions": allowed}


def _basic(header: str | None) -> tuple[str | None, str | None]:
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None, None
    account, _, password = base64.b64decode(value).decode().partition(":")
    return account, password


def _first(form: Mapping[str, list[str]], key: str) -> str | None:
    return next(iter(form.get(key, ())), None)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
