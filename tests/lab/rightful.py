"""A registry and its token server, with accounts whose rights change, and a record of what they said to whom.

One server plays both: tokens are to be had at `TOKENS`. It can be silent, fail or limit its callers, each part on its
own. Whatever it decides, it decides by what the request shows and what is the case at that moment.
"""

import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from lab.deadline import eventually
from lab.fake_registry import CONTENT, MANIFEST, FakeRegistry, basic
from lab.pki import Identity
from lab.web import Exchange

TOKENS: Final = "/tokens"
TAG: Final = "v1"
#: A cookie that opens repositories to whoever sends it, next to what the sender may have anyway.
BADGE: Final = "badge=gold"
#: Seconds for which a rate limit asks to wait.
WAIT: Final = 30
PAGE: Final = b"<html>please log in"
#: How the proxy's own tokens begin, which nobody else must see.
OURS: Final = "pullthrough."
#: The passwords that an account has by turns.
PASSWORDS: Final = ("old", "new")
SILENCE: Final = 0
#: What may be wrong with a server: it hangs up, it answers so, it limits (and says for how long), or pulls alone.
TROUBLES: Final = ("silence", "500", "502", "429", "wait", "pulls")

type Right = tuple[str, str]  # whose (a user, "" for everybody, or BADGE), and the repository


@dataclass(frozen=True)
class Show:
    """What a request shows of who sends it."""

    authorization: str | None = None
    cookie: str | None = None


@dataclass(frozen=True)
class Login:
    """User and password; without a user it is nobody."""

    user: str = ""
    password: str = ""

    @property
    def authorization(self) -> str | None:
        """As Basic."""
        return basic(self.user, self.password) if self.user else None


@dataclass(frozen=True)
class Token:
    """What a token opens until when: `frozen` are the rights at its making, None those of the moment."""

    login: Login
    scope: frozenset[str]
    frozen: frozenset[str] | None
    until: float


@dataclass(frozen=True)
class Said:
    """An answer about content, or none (`SILENCE`); `digest` is what was given, "" if nothing was."""

    at: float
    show: Show
    repository: str
    reference: str
    method: str
    status: int
    digest: str

    @property
    def trouble(self) -> bool:
        """Was that no word about content?"""
        return self.status in (SILENCE, 429) or self.status >= 500


@dataclass(frozen=True)
class LoggedIn:
    """An answer of the token server."""

    at: float
    login: Login
    scope: frozenset[str]
    status: int


@dataclass
class Ways:
    """How this upstream does things; all of it may be so somewhere."""

    refusal: str = "401"  # or another status, or a "page" or "redirect" to one
    freezes: bool = False  # tokens keep the rights of their making
    forbids: bool = False  # no token for those who may do nothing with it
    life: int = 300  # seconds of a token


class RightfulRegistry(FakeRegistry):
    """`rights`, `passwords`, `holds` and `tags` are the case now; `clock` tells when that is."""

    def __init__(self, name: str, identity: Identity | None) -> None:
        super().__init__(name, identity)
        self.clock: Callable[[], float] = lambda: 0.0
        self._recording = threading.Lock()
        self.start_anew(Ways(), {})

    def start_anew(self, ways: Ways, contents: Mapping[str, bytes]) -> None:
        """Nobody may do anything, and there is nothing of `contents` in any repository yet."""
        self.ways = ways
        self.rights: set[Right] = set()
        self.passwords: dict[str, str] = {}
        self.holds: set[tuple[str, str]] = set()
        self.tags: dict[str, str] = {}
        self.trouble: str | None = None
        self.token_trouble: str | None = None
        self.scarce = False
        self._said: list[Said | LoggedIn] = []
        self.strange: list[str] = []  # tokens that are none of this upstream's making
        self.tokens: dict[str, Token] = {}
        self._refresh: dict[str, Login] = {}
        self._contents = contents

    def heard(self) -> list[Said | LoggedIn]:
        """What was said since this was last asked; nothing must be under way any more but the ends of answers."""
        eventually(lambda: all(request.done for request in self.journal.requests()), "the end of every answer")
        self.journal.clear()
        said, self._said = self._said, []
        return said

    # -- what is the case

    def accepts(self, show: Show, repository: str) -> bool:
        """May whoever shows this pull from there, by the upstream's own judgement?"""
        if show.authorization is None:
            may = ("", repository) in self.rights
        elif token := self.tokens.get(show.authorization):
            may = self._opens(token, repository)
            if token.until <= self.clock():
                return False
        else:
            logins = itertools.starmap(Login, self.passwords.items())
            user = next((login.user for login in logins if login.authorization == show.authorization), None)
            if user is None:
                return False
            may = self._has_right(user, repository)
        return may or (show.cookie == BADGE and (BADGE, repository) in self.rights)

    def give_token(self, login: Login, scope: Iterable[str]) -> str:
        """A token, as the value of Authorization."""
        wanted = frozenset(scope)
        opened = frozenset(name for name in wanted if self._has_right(login.user, name))
        authorization = f"Bearer {uuid.uuid4().hex}"
        frozen = opened if self.ways.freezes else None
        self.tokens[authorization] = Token(login, wanted, frozen, self.clock() + self.ways.life)
        return authorization

    def knows(self, login: Login) -> bool:
        """Is the password right?"""
        return not login.user or self.passwords.get(login.user) == login.password

    def _has_right(self, user: str, repository: str) -> bool:
        return not {(user, repository), ("", repository)}.isdisjoint(self.rights)

    def _opens(self, token: Token, repository: str) -> bool:
        if token.frozen is not None:
            return repository in token.frozen
        return repository in token.scope and self._has_right(token.login.user, repository)

    # -- what is said

    def answer(self, exchange: Exchange) -> None:
        """As FakeRegistry, if the client may have it."""
        path = exchange.request.path
        if OURS in exchange.request.headers.get("authorization", ""):
            self.strange.append(path)
        if path == TOKENS:
            self._token_request(exchange)
        elif found := CONTENT.match(path):
            self._content_request(exchange, found["repository"], found["reference"])
        elif self.trouble is not None and self._fails(exchange, self.trouble):
            pass
        elif path == "/v2/":
            self._refuse(exchange, "401")
        else:  # where a refusal leads: a page that is for everybody
            exchange.reply(200, {"Content-Type": "text/html"}, PAGE)

    def _content_request(self, exchange: Exchange, repository: str, reference: str) -> None:
        fields = exchange.request.headers
        show = Show(fields.get("authorization"), fields.get("cookie"))
        digest = self.tags.get(repository, "") if reference == TAG else reference
        given = ""
        try:
            if self.trouble is not None and self._fails(exchange, self.trouble):
                pass
            elif not self.accepts(show, repository):
                self._refuse(exchange, self.ways.refusal)
            elif (repository, digest) not in self.holds:
                exchange.reply(404, self._budget())
            else:
                self._give(exchange, repository, digest)
                given = digest if exchange.request.status in (200, 206, 304) else ""
        finally:
            status = exchange.request.status or SILENCE
            self._record(Said(self.clock(), show, repository, reference, exchange.request.method, status, given))

    def _give(self, exchange: Exchange, repository: str, digest: str) -> None:
        body = self._contents[digest]
        if "/manifests/" in exchange.request.path:
            for reference in (TAG, digest):
                self.content.manifests[repository, reference] = MANIFEST, body
        else:
            self.content.blobs[digest] = body
        super().answer(exchange)

    def _validators(self, body: bytes, *, head: bool) -> dict[str, str]:
        return {**super()._validators(body, head=head), **self._budget()}

    def _budget(self) -> dict[str, str]:
        return {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"} if self.scarce else {}

    def _refuse(self, exchange: Exchange, how: str) -> None:
        if how == "page":
            exchange.reply(200, {"Content-Type": "text/html"}, PAGE)
        elif how == "redirect":
            exchange.reply(302, {"Location": "/login"})
        elif how == "401":
            exchange.reply(401, {"WWW-Authenticate": f'Bearer realm="{self.url}{TOKENS}",service="fake"'})
        else:
            exchange.reply(int(how), self._budget())

    @staticmethod
    def _fails(exchange: Exchange, trouble: str) -> bool:
        """Whether that was all."""
        if trouble == "silence":
            exchange.cut()
        if trouble == "pulls" and (exchange.request.method != "GET" or "/manifests/" not in exchange.request.path):
            return False
        status = 429 if trouble in ("wait", "pulls") else int(trouble)
        exchange.reply(status, {"Retry-After": str(WAIT)} if trouble == "wait" else {})
        return True

    # -- tokens

    def _token_request(self, exchange: Exchange) -> None:
        form = parse_qs(urlsplit(exchange.request.target).query)
        form |= parse_qs(b"".join(exchange.body()).decode())
        login = self._login(exchange.request.headers.get("authorization"), form)
        scope = frozenset(part.split(":")[1] for part in " ".join(form.get("scope", [])).split())
        status = SILENCE
        try:
            if self.token_trouble is None or not self._fails(exchange, self.token_trouble):
                self._token_answer(exchange, login, scope, lasting="offline_token" in form)
        finally:
            status = exchange.request.status or SILENCE
            if login is not None and exchange.request.method != "HEAD":  # that asks whether we are well
                self._record(LoggedIn(self.clock(), login, scope, status))

    def _token_answer(self, exchange: Exchange, login: Login | None, scope: frozenset[str], *, lasting: bool) -> None:
        if login is None or not self.knows(login):
            exchange.reply(401)
        elif self.ways.forbids and scope and not any(self._has_right(login.user, name) for name in scope):
            exchange.reply(403)
        else:
            token = self.give_token(login, scope).removeprefix("Bearer ")
            said: dict[str, Any] = {"token": token, "expires_in": self.ways.life}
            if lasting and login.user:
                said["refresh_token"] = uuid.uuid4().hex
                self._refresh[said["refresh_token"]] = login
            exchange.reply(200, {"Content-Type": "application/json"}, json.dumps(said).encode())

    def _login(self, authorization: str | None, form: Mapping[str, list[str]]) -> Login | None:
        if "refresh_token" in form:
            return self._refresh.get(form["refresh_token"][0])
        if "username" in form:
            return Login(form["username"][0], form["password"][0])
        if authorization is None:
            return Login()
        known = [Login(user, word) for user in self.passwords for word in PASSWORDS]
        return next((login for login in known if login.authorization == authorization), None)

    def _record(self, said: Said | LoggedIn) -> None:
        with self._recording:
            self._said.append(said)
