"""A token server as GitLab's `/jwt/auth`: RS256 tokens with x5c that distribution 2.8 accepts.

alice (password secret) may do everything; repositories below `priv/` are hers alone, those below
`team/` hers and bob's (hunter2), every other one anybody may pull from. Credentials come by GET
with Basic, in a POST form or as a refresh token, as different clients send them. It can also refuse,
hang and limit its callers (`lab.faulty`), and take away what an account may do.
"""

import base64
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lab.faulty import FaultyServer
from lab.pki import Identity
from lab.signer import LEEWAY_SECONDS, Signer
from lab.web import Exchange

OWNERS: Mapping[str, frozenset[str]] = {
    "priv": frozenset({"alice"}),
    "team": frozenset({"alice", "bob"}),
}
ANYTHING = "*"


@dataclass(frozen=True)
class Asked:
    """One token request. `account` is the name that was claimed, None for anonymous and for a refresh token."""

    method: str
    account: str | None
    scopes: tuple[str, ...]
    status: int
    query: str = ""  # as it arrived
    body: bytes = field(default=b"", repr=False)  # as it arrived, with the password if that was in it


class TokenServer(FaultyServer):
    """`https://auth.test/jwt/auth`."""

    ttl: int  # seconds; the registry is generous and gives LEEWAY_SECONDS more, see `exact`
    exact: bool  # the registry refuses a token when its `ttl` is over, and not a minute later
    failing: int | None  # answer every request with this status
    refuses_post: bool
    forbids: bool  # 403 if nothing of a scope is permitted, as GitLab; else a token without access
    keys: tuple[str, ...]  # under which the answer has the token
    tells_ttl: bool  # expires_in is in the answer

    def __init__(self, identity: Identity, signer: Identity) -> None:
        super().__init__(identity.name, identity)
        self.passwords = {"alice": "secret", "bob": "hunter2"}
        self.asked: list[Asked] = []
        self._signer = Signer(signer)
        self._denied: set[str] = set()
        self._revoked: set[tuple[str, str]] = set()
        self._refresh: dict[str, str] = {}
        self._behave()

    @property
    def realm(self) -> str:
        """The realm that a registry names in its challenge."""
        return f"{self.url}/jwt/auth"

    def deny(self, account: str) -> None:
        """Accept this account's password and refresh tokens no longer."""
        self._denied.add(account)

    def revoke(self, account: str, repository: str = ANYTHING) -> None:
        """Log this account in, but permit it nothing (of one repository), where anybody may pull too."""
        self._revoked.add((account, repository))

    def permit(self, account: str) -> None:
        """Take back `deny` and `revoke`."""
        self._denied.discard(account)
        self._revoked = {(revoked, repository) for revoked, repository in self._revoked if revoked != account}

    def reset(self) -> None:
        """As new: accounts and their rights, faults, behaviour and record."""
        super().reset()
        for memory in (self.asked, self._denied, self._revoked, self._refresh):
            memory.clear()
        self._behave()

    def mint(self, account: str | None, scopes: Iterable[str]) -> str:
        """A token with what `account` may do of `scopes`, without any request and whatever was revoked."""
        return self._token(account, [_access(account, scope) for scope in scopes])

    def answer(self, exchange: Exchange) -> None:
        """Check the credentials and give a token."""
        request = exchange.request
        login = _login(request.method, request.target, request.headers, b"".join(exchange.body()))
        fault = self.held(exchange).fault
        status = fault.status or self._verdict(login)
        self.asked.append(Asked(request.method, login.account, login.scopes, status, login.query, login.body))
        if fault.status:
            exchange.reply(fault.status, fault.headers, fault.body)
        else:
            self._reply(exchange, status, login)

    def _behave(self) -> None:
        self.ttl, self.exact, self.tells_ttl, self.keys = 300, False, True, ("token", "access_token")
        self.failing, self.refuses_post, self.forbids = None, False, False

    def _verdict(self, login: "_Login") -> int:
        if login.method == "POST" and self.refuses_post:
            return 405
        if self.failing is not None:
            return self.failing
        if not self._known(login):
            return 401
        return 403 if self.forbids and self._nothing(login) else 200

    def _known(self, login: "_Login") -> bool:
        account = self._who(login)
        if login.refresh is not None:
            return account is not None and account not in self._denied
        return account is None or (account not in self._denied and self.passwords.get(account) == login.password)

    def _nothing(self, login: "_Login") -> bool:
        access = self._permitted(self._who(login), login.scopes)
        return bool(access) and not any(entry["actions"] for entry in access)

    def _who(self, login: "_Login") -> str | None:
        return login.account if login.refresh is None else self._refresh.get(login.refresh)

    def _permitted(self, account: str | None, scopes: Iterable[str]) -> list[dict[str, Any]]:
        access = [_access(account, scope) for scope in scopes]
        for entry in access:
            if {(account, ANYTHING), (account, entry["name"])} & self._revoked:
                entry["actions"] = []
        return access

    def _reply(self, exchange: Exchange, status: int, login: "_Login") -> None:
        if status == 405:
            exchange.reply(405)
            return
        answer = self._granted(login) if status == 200 else _refused(status)
        exchange.reply(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _granted(self, login: "_Login") -> dict[str, Any]:
        account = self._who(login)
        token = self._token(account, self._permitted(account, login.scopes))
        answer: dict[str, Any] = dict.fromkeys(self.keys, token)
        if self.tells_ttl:
            answer["expires_in"] = self.ttl
        if login.offline and account is not None:
            answer["refresh_token"] = login.refresh or self._refresh_token(account)
        return answer

    def _refresh_token(self, account: str) -> str:
        token = uuid.uuid4().hex
        self._refresh[token] = account
        return token

    def _token(self, account: str | None, access: list[dict[str, Any]]) -> str:
        return self._signer.token(account or "", access, self.ttl - (LEEWAY_SECONDS if self.exact else 0))


@dataclass(frozen=True)
class _Login:
    """A token request taken apart."""

    method: str
    query: str
    body: bytes
    account: str | None
    password: str | None
    refresh: str | None
    scopes: tuple[str, ...]
    offline: bool  # a refresh token is wanted


def _login(method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Login:
    query = urlsplit(target).query
    form = parse_qs(body.decode() if method == "POST" else query)
    if method == "POST":
        account, password = _first(form, "username"), _first(form, "password")
    else:
        account, password = _basic(headers.get("authorization"))
    return _Login(
        method=method,
        query=query,
        body=body,
        account=account,
        password=password,
        refresh=_first(form, "refresh_token") if _first(form, "grant_type") == "refresh_token" else None,
        scopes=tuple(" ".join(form.get("scope", [])).split()),
        offline=_first(form, "offline_token") == "true" or _first(form, "access_type") == "offline",
    )


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


def _refused(status: int) -> dict[str, Any]:
    """GitLab's words for 403, and an error body for anything else."""
    if status == 403:
        return {"errors": [{"code": "DENIED", "message": "access forbidden"}]}
    return {"errors": [{"code": "UNAUTHORIZED" if status == 401 else "UNAVAILABLE"}]}


def _basic(header: str | None) -> tuple[str | None, str | None]:
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None, None
    account, _, password = base64.b64decode(value).decode().partition(":")
    return account, password


def _first(form: Mapping[str, list[str]], key: str) -> str | None:
    return next(iter(form.get(key, ())), None)
