"""A state machine that drives the inside of the proxy before an upstream whose rights, contents and health change.

Every answer is compared with what `lab.ledger` allows and demands (issue 3, parts 6 and 8). Its rules are what chance
does; a test that knows what it wants calls them, or `pull`, by itself.
"""

import asyncio
import dataclasses
import itertools
import json
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from lab.fake_registry import LAYER, MANIFEST, basic, digest_of
from lab.inside import GRACE, Inside, digest_in, inside, whole
from lab.ledger import SURE, Ledger
from lab.logins import token_path
from lab.rightful import BADGE, PASSWORDS, TAG, TROUBLES, Login, RightfulRegistry, Said, Show, Ways
from pullthrough.messages import Answer
from pullthrough.upstream import UpstreamError

REPOSITORIES = ("team/app", "eve/app")
USERS = ("alice", "eve")
BLOBS = {digest_of(data): data for data in (b"layer one", b"another layer")}
MANIFESTS = {
    digest_of(body): body
    for body in (
        json.dumps({"mediaType": MANIFEST, "layers": [{"mediaType": LAYER, "digest": digest}]}).encode()
        for digest in BLOBS
    )
}
EVERYTHING = {**BLOBS, **MANIFESTS}
PASSWORD = "password"
FORM = "application/x-www-form-urlencoded"
MINUTE, HOUR, DAY = 60.0, 3600.0, 24 * 3600.0

#: What is the case at first, but for a little.
ALLOWED = frozenset({("alice", "team/app"), ("alice", "eve/app"), ("eve", "eve/app"), (BADGE, "eve/app")})
HOLDS = frozenset(itertools.product(REPOSITORIES, EVERYTHING))

repositories = st.sampled_from(REPOSITORIES)
scopes = st.sets(repositories, min_size=1).map(frozenset)
rights = st.tuples(st.sampled_from(("", *USERS, BADGE)), repositories)
logins = st.sampled_from([Login(), *[Login(user, word) for word in (*PASSWORDS[:1] * 2, *PASSWORDS) for user in USERS]])
cookies = st.sampled_from([None, None, None, BADGE])
methods = st.sampled_from(["GET", "GET", "GET", "HEAD"])
contents = st.sampled_from(sorted(EVERYTHING))
manifests = st.sampled_from(sorted(MANIFESTS))
tags = manifests.map(lambda digest: f"tag {digest}")
passwords = st.tuples(st.sampled_from(USERS), st.sampled_from(PASSWORDS))
changes = st.one_of(passwords, st.tuples(repositories, contents), st.tuples(repositories, tags))
ways = st.sampled_from(["basic", "basic", "form", "refresh", "elsewhere"])
troubles = st.sampled_from([*[None] * len(TROUBLES), *TROUBLES])


@dataclasses.dataclass(frozen=True)
class Episode:
    """What is wrong for a while, after a while; the scope of a token; where a right has changed, or PASSWORD."""

    registry: str | None
    tokens: str | None
    seconds: float
    scope: frozenset[str]
    changed: str | None


episodes = st.builds(
    Episode,
    troubles,
    troubles,
    st.sampled_from([1.0, 6.0, 6.0, MINUTE, MINUTE, HOUR, DAY / 2]),
    scopes,
    st.sampled_from([None, None, *REPOSITORIES, PASSWORD]),
)


@dataclasses.dataclass(frozen=True)
class Given:
    """What a client got; `own` if it was the proxy's answer, and not the upstream's itself."""

    status: int
    body: bytes
    digest: str | None
    own: bool

    @property
    def content(self) -> str | None:
        """The digest of content that came, or of which something was told."""
        if self.status in (200, 304) and self.digest in EVERYTHING:
            return self.digest
        return digest_of(self.body) if self.body in EVERYTHING.values() else None


class Leaks(RuleBasedStateMachine):
    """What may be given out follows from what the upstream gave out."""

    upstream: RightfulRegistry
    tls: ssl.SSLContext

    shows = Bundle("shows")

    @initialize(
        target=shows,
        eager=st.booleans(),
        ways=st.builds(
            Ways,
            refusal=st.sampled_from(["401", "401", "401", "403", "404", "page", "redirect"]),
            freezes=st.booleans(),
            forbids=st.booleans(),
            life=st.sampled_from([60, 300]),
        ),
        changed=st.sets(rights, max_size=3),
        lacking=st.sets(st.tuples(repositories, contents), max_size=2),
        head_status=st.sampled_from([None, None, 405]),
        digest_on_head=st.booleans(),
    )
    def start(
        self,
        eager: bool,
        ways: Ways,
        changed: set[tuple[str, str]],
        lacking: set[tuple[str, str]],
        head_status: int | None,
        digest_on_head: bool,
    ) -> object:
        self.set_up(ways, eager=eager)
        self.upstream.manners.head_status = head_status
        self.upstream.manners.digest_on_head = digest_on_head
        self.upstream.rights ^= changed
        self.upstream.holds -= lacking
        return multiple(Show(), *(Show(basic(user, PASSWORDS[0])) for user in USERS))

    def set_up(self, ways: Ways, *, eager: bool = True) -> None:
        """A new proxy with an empty store before an upstream as it is at first."""
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.eager = eager
        self.ledger = Ledger()
        self.refresh: dict[Login, str] = {}
        self.upstream.start_anew(ways, EVERYTHING)
        self.open()
        self.upstream.passwords = dict.fromkeys(USERS, PASSWORDS[0])
        self.upstream.rights, self.upstream.holds = set(ALLOWED), set(HOLDS)
        self.upstream.tags = dict.fromkeys(REPOSITORIES, min(MANIFESTS))
        self.token_path = self.runner.run(token_path(self.proxy))

    def open(self) -> None:
        """Start the proxy on what an earlier one left."""
        self.stack = AsyncExitStack()
        made = inside(Path(self.folder.name), self.upstream, eager=self.eager, tls=self.tls)
        self.proxy: Inside = self.runner.run(self.stack.enter_async_context(made))
        self.upstream.clock = self.proxy.clock

    def teardown(self) -> None:
        if hasattr(self, "runner"):  # not if there was nothing but the setting up of one
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.folder.cleanup()

    @invariant()
    def no_token_of_ours_goes_upstream(self) -> None:
        assert not self.upstream.strange, self.upstream.strange

    # -- what happens upstream

    @rule(right=rights)
    def a_right_is_given_or_taken(self, right: tuple[str, str]) -> None:
        self.upstream.rights ^= {right}

    @rule(
        what=st.one_of(passwords, st.tuples(repositories, contents), st.tuples(repositories, tags)), here=st.booleans()
    )
    def something_changes(self, what: tuple[str, str], here: bool) -> None:
        """A password, a tag, or what is in a repository; by way of the proxy, or behind its back."""
        name, value = what
        here = here and not self.upstream.trouble
        if name in USERS:
            self.upstream.passwords[name] = value
        elif value.startswith("tag "):
            self._move_tag(name, value.removeprefix("tag "), here=here)
        else:
            self._push_or_delete(name, value, here=here)

    def _push_or_delete(self, repository: str, digest: str, *, here: bool) -> None:
        self.upstream.holds ^= {(repository, digest)}
        if here and (repository, digest) not in self.upstream.holds:
            self.ledger.deleted(repository, digest)
            self.runner.run(self.proxy.observe(_target(repository, digest), "DELETE", 202))

    def _move_tag(self, repository: str, digest: str, *, here: bool) -> None:
        self.upstream.tags[repository] = digest
        if here:
            self.ledger.untagged(repository)
            self.runner.run(self.proxy.observe(_target(repository, TAG), "PUT", 201))

    @rule(registry=troubles, tokens=troubles, scarce=st.sampled_from([False, False, True]))
    def servers_fail_or_recover(self, registry: str | None, tokens: str | None, scarce: bool) -> None:
        self.upstream.trouble, self.upstream.token_trouble, self.upstream.scarce = registry, tokens, scarce

    # -- what happens here

    @rule(seconds=st.sampled_from([1.0, 6.0, MINUTE - 1, MINUTE, MINUTE, HOUR, DAY / 2, DAY, 8 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.proxy.clock.time += seconds

    @rule(digest=st.one_of(st.none(), contents))
    def the_proxy_restarts_or_evicts(self, digest: str | None) -> None:
        if digest is not None:
            self.runner.run(self.proxy.store.drop(digest_in(digest)))
            self.ledger.stored.discard(digest)
            return
        time, manners = self.proxy.clock.time, self.upstream.manners
        self.runner.run(self.stack.aclose())
        self.open()
        self.proxy.clock.time, self.upstream.manners = time, manners
        self.ledger.restarted()

    # -- who asks

    @rule(target=shows, login=logins, scope=scopes, way=ways)
    def somebody_gets_a_token(self, login: Login, scope: frozenset[str], way: str) -> object:
        form = {}
        if way == "elsewhere":
            return Show(self.upstream.give_token(login, scope))
        if way == "form" and login.user:
            form = {"username": login.user, "password": login.password, "offline_token": "true"}
        elif way == "refresh" and login in self.refresh:
            form = {"grant_type": "refresh_token", "refresh_token": self.refresh[login]}
        return self._log_in(login, scope, form)

    def _log_in(self, login: Login, scope: frozenset[str], form: dict[str, str]) -> object:
        status, answer = self._ask_token(login, scope, form)
        trouble = self.upstream.token_trouble not in (None, "pulls")
        if status != 200:
            assert not (trouble and self.ledger.logged_in(login, SURE)), "who was known gets a token in an outage"
            assert trouble or not self.upstream.knows(login) or self.upstream.ways.forbids, status
            return multiple()
        if "refresh_token" in answer:
            self.refresh[login] = answer["refresh_token"]
        authorization = f"Bearer {answer['token']}"
        known = self.upstream.tokens.get(authorization)
        if known is not None:
            assert (known.login, known.scope) == (login, scope), "a token of another"
            self.ledger.brokered(authorization, login, scope, known.until - self.proxy.clock.time)
        else:
            assert trouble, "there is no outage"
            assert self.ledger.logged_in(login, GRACE), "it was not known before"
            self.ledger.local(authorization, login, scope)
        return Show(authorization)

    def _ask_token(self, login: Login, scope: frozenset[str], form: dict[str, str]) -> tuple[int, dict[str, str]]:
        said = urlencode([("service", "fake"), *(("scope", f"repository:{name}:pull") for name in sorted(scope))])
        if form.keys() & {"username", "refresh_token"}:
            request = self.proxy.request(self.token_path, "POST", content_type=FORM)
            request = dataclasses.replace(request, body=f"{said}&{urlencode(form)}".encode())
        else:
            target = f"{self.token_path}?{said}&{urlencode(form)}".rstrip("&")
            request = self.proxy.request(target, authorization=login.authorization)
        self._begin()
        got = self.runner.run(self.proxy.send(request))
        self._end()
        return got.status, json.loads(got.body) if got.status == 200 else {}

    # -- what is asked

    @rule(show=shows, cookie=cookies, repository=repositories, digest=st.one_of(st.none(), contents), method=methods)
    def somebody_pulls(self, show: Show, cookie: str | None, repository: str, digest: str | None, method: str) -> None:
        self.pull([dataclasses.replace(show, cookie=cookie)], [repository], digest, method)

    @rule(show=shows, cookie=cookies, repository=repositories, digest=manifests)
    def somebody_pulls_an_image(self, show: Show, cookie: str | None, repository: str, digest: str) -> None:
        for reference in (None, digest, json.loads(MANIFESTS[digest])["layers"][0]["digest"]):
            self.pull([dataclasses.replace(show, cookie=cookie)], [repository], reference, "GET")

    @rule(
        target=shows, login=logins, digest=manifests, scope=scopes, episodes=st.lists(episodes, min_size=1, max_size=3)
    )
    def somebody_goes_on_pulling(
        self, login: Login, digest: str, scope: frozenset[str], episodes: list[Episode]
    ) -> object:
        """What chance alone would seldom do: one account, with one token after the other, in good times and bad."""
        found: list[Show] = []
        for episode in (Episode(None, None, 0.0, scope, None), *episodes):
            self.servers_fail_or_recover(episode.registry, episode.tokens, scarce=False)
            self._change(login.user, episode.changed)
            self.time_passes(episode.seconds)
            show = self._log_in(login, episode.scope, {})
            found += [show] if isinstance(show, Show) else []
            for reference in (None, digest, json.loads(MANIFESTS[digest])["layers"][0]["digest"]):
                self.pull(found, REPOSITORIES, reference, "GET")
        return multiple(*found)

    def _change(self, user: str, changed: str | None) -> None:
        if changed == PASSWORD and user:
            self.upstream.passwords[user] = next(
                word for word in PASSWORDS if word != self.upstream.passwords.get(user)
            )
        elif changed in REPOSITORIES:
            self.upstream.rights ^= {(user, changed)}

    @rule(asking=st.lists(shows, min_size=2, max_size=5), cookie=cookies, digest=contents)
    def many_pull_at_once(self, asking: list[Show], cookie: str | None, digest: str) -> None:
        some = [*dict.fromkeys(asking), dataclasses.replace(asking[0], cookie=cookie)]
        self.pull(list(dict.fromkeys(some)), REPOSITORIES, digest, "GET")

    def pull(self, shows: Sequence[Show], places: Sequence[str], digest: str | None, method: str) -> None:
        """Everybody everywhere at once; by tag without a digest."""
        asking = list(itertools.product(shows, places))

        async def together() -> list[Given]:
            got = await asyncio.gather(*(self._asked(*who, digest or TAG, method) for who in asking))
            await self.proxy.landed()
            return got

        self._begin()
        certain = [self._certain(*who, digest, method) for who in asking]
        rightful = self._agreed(asking, [self._rightful(*who, digest) for who in asking])
        got = self.runner.run(together())
        self._end()
        for who, given, offline, online in zip(asking, got, certain, rightful, strict=True):
            self._judge_content(*who, digest, given)
            if online is not None:
                self._judge_online(*who, digest, given, method, online)
            if offline is not None and not self.ledger.shaken(*who, tag=digest is None):
                assert given.body == EVERYTHING[offline], f"{given.status}: it is here, and nobody can be asked"

    def _certain(self, show: Show, repository: str, digest: str | None, method: str) -> str | None:
        """What has to be given although the upstream cannot be asked."""
        if self.upstream.trouble in (None, "pulls") and not self.ledger.is_local(show):
            return None
        return self.ledger.certain(show, repository, digest) if method == "GET" else None

    def _rightful(self, show: Show, repository: str, digest: str | None) -> bool | None:
        """Would the upstream give it? None if it cannot be asked, or need not be."""
        if self.upstream.trouble or self.ledger.is_local(show) or self.ledger.paused(show, repository):
            return None
        named = digest or self.upstream.tags.get(repository, "")
        return self.upstream.accepts(show, repository) and (repository, named) in self.upstream.holds

    def _agreed(self, asking: Sequence[tuple[Show, str]], rightful: Sequence[bool | None]) -> list[bool | None]:
        """None where one account asks with tokens of unlike power: it is asked for once, by any of them."""
        whose = [(self.ledger.who(*who), who[1]) for who in asking]
        said: dict[object, set[bool | None]] = {}
        for one, right in zip(whose, rightful, strict=True):
            said.setdefault(one, set()).add(right)
        return [right if len(said[one]) == 1 else None for one, right in zip(whose, rightful, strict=True)]

    def _judge_content(self, show: Show, repository: str, digest: str | None, given: Given) -> None:
        content = given.content
        if content is None or not given.own:
            return
        if given.body:
            assert given.body == EVERYTHING[content]
        assert digest in (None, content)
        scarce = self.upstream.scarce
        objection = self.ledger.objection(show, repository, content, tag=digest is None, scarce=scarce)
        assert objection is None, f"{show} got {content} of {repository}: {objection}"

    def _judge_online(
        self, show: Show, repository: str, digest: str | None, given: Given, method: str, rightful: bool
    ) -> None:
        if method == "HEAD":
            head_fails = digest not in BLOBS and self.upstream.manners.head_status is not None
            assert given.status == 200 or head_fails or not rightful
            return
        if digest is None and not self.upstream.scarce:
            assert given.content == (self.upstream.tags[repository] if rightful else None), given
        if rightful:
            assert given.content is not None, given
            if given.own:
                self.ledger.pulled(show, repository, given.content, tag=digest is None)

    def _begin(self) -> None:
        down = {self.upstream.trouble, self.upstream.token_trouble} - {None, "pulls"}
        self.ledger.begin(self.proxy.clock(), down=bool(down))

    def _end(self) -> None:
        self.ledger.now = self.proxy.clock()
        trouble = self.upstream.trouble
        for said in self.upstream.heard():
            # Where GET is beyond the limit, what HEAD was told is not the last word.
            refused = isinstance(said, Said) and said.method == "HEAD" and said.status in (401, 403, 404)
            self.ledger.heard(said, wait=trouble == "wait", final=trouble != "pulls" or not refused)

    async def _asked(self, show: Show, repository: str, reference: str, method: str) -> Given:
        target = _target(repository, reference)
        fields = {"authorization": show.authorization, "cookie": show.cookie, "accept": MANIFEST}
        answer = await self.proxy.ask(target, method, **fields)
        if isinstance(answer, Answer):
            body = await whole(answer.body)
            return Given(answer.status, body, answer.headers.get("docker-content-digest"), own=True)
        return await self._passed(target, method, fields)

    async def _passed(self, target: str, method: str, fields: dict[str, str | None]) -> Given:
        """What the client gets from the upstream itself, by way of `Pass`."""
        request = self.proxy.request(target, method, **fields)
        try:
            reply = await self.proxy.upstream.ask(method, f"{request.registry}{target}", request.headers)
        except UpstreamError:
            return Given(502, b"", None, own=False)
        body = await reply.body(1 << 20)
        reply.close()
        await self.proxy.pulls.observe(request, reply.status, reply.headers)
        return Given(reply.status, body or b"", reply.headers.get("docker-content-digest"), own=False)


def _target(repository: str, reference: str) -> str:
    return f"/v2/{repository}/{'blobs' if reference in BLOBS else 'manifests'}/{reference}"
