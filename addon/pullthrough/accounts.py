"""Who asks: the account behind a request, known by fingerprint and never by name.

Responsible for principals, for which account got which token, and for tokens of our own in an outage. Must not know
what anybody may have. No credential is kept, in memory or on disk: a fingerprint is an HMAC under the secret of this
installation.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pullthrough.core import credentials, localtoken
from pullthrough.core.credentials import Claim
from pullthrough.core.headers import Headers
from pullthrough.core.localtoken import LocalToken
from pullthrough.facts import LASTING, Facts, Row, row_of
from pullthrough.messages import Registry, Request
from pullthrough.siblings import Siblings

#: Seconds for which a token of ours may be used: as docker counts at least.
LOCAL_LIFE: Final = 60
#: ... and by which it is honoured longer, as it takes time to arrive.
_LATE: Final = 30
#: Tokens whose account is remembered; beyond, the oldest are strangers again.
_MAX_TOKENS: Final = 65536
#: Seconds for which it is remembered whose a refresh token is.
_REFRESH: Final = 90 * 24 * 3600.0


class Credential(enum.Enum):
    """What a request shows."""

    NONE = enum.auto()
    #: A token that we relayed to the account.
    TOKEN = enum.auto()
    #: A token of which we know nothing.
    STRANGE_TOKEN = enum.auto()
    #: A token of our own, good here and now.
    LOCAL = enum.auto()
    #: A token of our own that is not.
    VOID = enum.auto()
    #: A password, a key: anything else that may decide what the sender is allowed to see.
    OTHER = enum.auto()

    @property
    def ours(self) -> bool:
        """Is it of our making? Then it never goes upstream."""
        return self in (Credential.LOCAL, Credential.VOID)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the one to whom grants are made."""

    principal: bytes
    credential: Credential


@dataclass(frozen=True, slots=True)
class _Issued:
    account: bytes
    repositories: frozenset[str]
    until: float


class Accounts:
    """The accounts that use this installation. `now` counts seconds since the epoch.

    `clock` never goes back and is the same for all `siblings`.
    """

    def __init__(
        self,
        secret: bytes,
        facts: Facts,
        clock: Callable[[], float],
        now: Callable[[], float],
        *,
        grace: float,
        siblings: Siblings | None = None,
    ) -> None:
        self._fingerprint = _Fingerprints(secret)
        self._signing = hmac.digest(secret, b"local tokens", "sha256")
        self._facts = facts
        self._clock = clock
        self._now = now
        self._grace = grace
        self._issued: OrderedDict[bytes, _Issued] = OrderedDict()
        self._siblings = siblings or Siblings()
        self._siblings.hear("issued", self._hear_issued)

    # -- principals

    def caller(self, request: Request, repository: str) -> Caller:
        """Who asks for something of `repository` ("" for the registry itself).

        A token stands for its account only where it was asked for: one with a narrower scope opens no more here than
        upstream.
        """
        token = credentials.bearer(request.headers)
        if token is None:
            fields = request.headers.credentials()
            return Caller(self._stranger(request.headers), Credential.OTHER if fields else Credential.NONE)
        if localtoken.is_local(token):
            return self._local(request, token, repository)
        issued = self._issued.get(self._fingerprint("token", str(request.registry), token))
        if issued is not None and issued.until > self._clock() and _covers(issued.repositories, repository):
            return Caller(self.principal(issued.account, request.headers), Credential.TOKEN)
        return Caller(self._stranger(request.headers), Credential.STRANGE_TOKEN)

    def principal(self, account: bytes, headers: Headers) -> bytes:
        """The account as it shows itself with these fields: others than the token's may decide as well."""
        return _principal(self._fingerprint, account, headers)

    def _local(self, request: Request, text: str, repository: str) -> Caller:
        token = localtoken.read(self._signing, text, self._now())
        if token is None or token.registry != str(request.registry) or not _covers(token.repositories, repository):
            return Caller(self._stranger(request.headers), Credential.VOID)
        return Caller(self.principal(token.account, request.headers), Credential.LOCAL)

    def _stranger(self, headers: Headers) -> bytes:
        fields = (part for field in headers.credentials() for part in field)
        return self._fingerprint("fields", *fields)

    # -- accounts and their tokens

    async def account(self, registry: Registry, claim: Claim) -> bytes:
        """Whose token request this is: the same account for the same credentials, whatever way they were sent."""
        if claim.kind == "refresh":
            known = await self._facts.get(self._refresh_key(registry, claim.secret))
            if isinstance(known, str):
                with contextlib.suppress(ValueError):
                    return bytes.fromhex(known)
        return self._claimed(registry, claim)

    def _claimed(self, registry: Registry, claim: Claim) -> bytes:
        return _claimed(self._fingerprint, registry, claim)

    def anonymous(self, registry: Registry) -> bytes:
        """The account of everybody who asks for a token and says nothing of who it is."""
        return self._claimed(registry, Claim("anonymous"))

    def anybody(self, registry: Registry) -> tuple[bytes, bytes]:
        """The principals that everybody can be: without credentials, and with a token for anonymous use."""
        return self._stranger(Headers()), self.principal(self.anonymous(registry), Headers())

    def name(self, registry: Registry, user: str) -> bytes:
        """The name that an account goes by, whatever its password."""
        return self._fingerprint("name", str(registry), user)

    def issued(
        self, registry: Registry, token: str, account: bytes, repositories: Iterable[str], seconds: float
    ) -> None:
        """The token server gave `token` to `account`, for `seconds`, asked for what may be pulled from these."""
        key = self._fingerprint("token", str(registry), token)
        issued = _Issued(account, frozenset(repositories), self._clock() + seconds)
        self._remember(key, issued)
        self._siblings.tell("issued", key.hex(), account.hex(), sorted(issued.repositories), issued.until)

    def _hear_issued(self, key: str, account: str, repositories: list[str], until: float) -> None:
        self._remember(bytes.fromhex(key), _Issued(bytes.fromhex(account), frozenset(repositories), until))

    def _remember(self, key: bytes, issued: _Issued) -> None:
        self._issued[key] = issued
        self._issued.move_to_end(key)
        while len(self._issued) > _MAX_TOKENS:
            self._issued.popitem(last=False)

    def refreshes(self, registry: Registry, token: str, account: bytes) -> None:
        """The token server gave `account` this refresh token: who shows it is that account."""
        self._facts.put(self._refresh_key(registry, token), account.hex(), _REFRESH)

    # -- who was known before an outage

    def proved(self, registry: Registry, who: bytes) -> None:
        """The registry, or its token server, accepted this account or principal just now."""
        if self._grace:
            self._facts.put(self._proof_key(registry, who), who.hex(), self._grace)

    def disproved(self, registry: Registry, who: bytes) -> None:
        """It did not."""
        self._facts.drop(self._proof_key(registry, who))

    async def remembered(self, registry: Registry, who: bytes) -> bool:
        """Was this account or principal accepted within the grace for outages, and not refused since?

        Or does the operator vouch for it?
        """
        known = await self._facts.get(self._proof_key(registry, who), self._grace)
        if isinstance(known, str) and hmac.compare_digest(known.encode(errors="replace"), who.hex().encode()):
            return True
        return self._grace > 0 and await self._facts.get(_vouched_key(self._fingerprint, registry, who)) is True

    def local(self, registry: Registry, account: bytes, repositories: Iterable[str]) -> str:
        """A token of our own for an account that was `remembered`, good for `LOCAL_LIFE` seconds."""
        expires = int(self._now()) + LOCAL_LIFE + _LATE
        return localtoken.mint(self._signing, LocalToken(account, str(registry), frozenset(repositories), expires))

    # -- fingerprints

    def _proof_key(self, registry: Registry, who: bytes) -> str:
        return f"proof {self._fingerprint('proof', str(registry), who.hex()).hex()}"

    def _refresh_key(self, registry: Registry, token: str) -> str:
        return f"refresh {self._fingerprint('refresh', str(registry), token).hex()}"


def anonymous(secret: bytes, registry: Registry) -> bytes:
    """The principal of who asks `registry` with a token for anonymous use, in the installation with this secret."""
    fingerprint = _Fingerprints(secret)
    return _principal(fingerprint, _claimed(fingerprint, registry, Claim("anonymous")), Headers())


def vouched(secret: bytes, registry: Registry, now: float) -> dict[str, Row]:
    """To be noted in the store: the operator says that there is something for anonymous clients at `registry`.

    From `now` on (seconds since the epoch) they get a token in an outage, or an answer to `/v2/`.
    """
    fingerprint = _Fingerprints(secret)
    account = _claimed(fingerprint, registry, Claim("anonymous"))
    return {_vouched_key(fingerprint, registry, account): row_of(now, LASTING, True)}


class _Fingerprints:
    """Fingerprints under the secret of this installation."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"fingerprints", "sha256")

    def __call__(self, *parts: str) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8) + data)
        return mac.digest()


def _claimed(fingerprint: _Fingerprints, registry: Registry, claim: Claim) -> bytes:
    return fingerprint("claim", str(registry), claim.kind, claim.user, claim.secret)


def _principal(fingerprint: _Fingerprints, account: bytes, headers: Headers) -> bytes:
    fields = (part for field in headers.without("Authorization").credentials() for part in field)
    return fingerprint("account", account.hex(), *fields)


def _vouched_key(fingerprint: _Fingerprints, registry: Registry, who: bytes) -> str:
    return f"vouched {fingerprint('vouched', str(registry), who.hex()).hex()}"


def _covers(repositories: frozenset[str], repository: str) -> bool:
    return not repository or repository in repositories
