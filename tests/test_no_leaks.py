"""Whatever happens in whatever order: nobody gets what the upstream would have refused for the last minute.

A state machine drives the whole inside of the proxy against a registry whose rights and contents change, and
compares every answer with what that registry would have said.
"""

import asyncio
import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from lab.fake_registry import CONTENT, LAYER, MANIFEST, FakeRegistry, basic, digest_of
from lab.inside import Inside, digest_in, inside, whole
from lab.web import Exchange
from pullthrough.access import GRANT_TTL
from pullthrough.messages import Answer

REPOSITORIES = ("team/app", "eve/app")
CLIENTS = (None, basic("alice", "a"), basic("eve", "e"))
BLOBS = {digest_of(data): data for data in (b"layer one", b"another layer")}
MANIFESTS = {
    digest_of(body): body
    for body in (
        json.dumps({"mediaType": MANIFEST, "layers": [{"mediaType": LAYER, "digest": digest}]}).encode()
        for digest in BLOBS
    )
}
EVERYTHING = {**BLOBS, **MANIFESTS}
PAGE = b"<html>please log in"

type Client = str | None
repositories = st.sampled_from(REPOSITORIES)
clients = st.sampled_from(CLIENTS)
methods = st.sampled_from(["GET", "GET", "HEAD"])
contents = st.sampled_from(sorted(EVERYTHING))


class RightfulRegistry(FakeRegistry):
    """A registry with rights: who may pull from which repository, and what there is in it."""

    def __init__(self) -> None:
        super().__init__("fake.test", None, public_port=None)
        self.allowed: set[tuple[Client, str]] = set()
        self.holds: set[tuple[str, str]] = set()
        self.tags: dict[str, str] = {}
        self.refusal = "401"

    def start_anew(self, allowed: set[tuple[Client, str]], holds: set[tuple[str, str]], refusal: str) -> None:
        """As told, and without tags."""
        self.allowed, self.holds, self.refusal = allowed, holds, refusal
        self.tags = {}
        self.content.blobs = dict(BLOBS)
        self.content.manifests = {
            (repository, digest): (MANIFEST, body)
            for repository, (digest, body) in itertools.product(REPOSITORIES, MANIFESTS.items())
        }

    def tag(self, repository: str, digest: str) -> None:
        """Let `v1` name this."""
        self.tags[repository] = digest
        self.content.manifests[repository, "v1"] = MANIFEST, MANIFESTS[digest]

    def answer(self, exchange: Exchange) -> None:
        """As FakeRegistry, if the client may have it."""
        request = exchange.request
        found = CONTENT.match(request.path)
        if found is None:  # where the refusal leads: a page that is for everybody
            exchange.reply(200, {"Content-Type": "text/html"}, PAGE)
            return
        repository, reference = found["repository"], found["reference"]
        if (request.headers.get("authorization"), repository) not in self.allowed:
            self._refuse(exchange)
        elif (repository, self.tags.get(repository) if reference == "v1" else reference) not in self.holds:
            exchange.reply(404)
        else:
            super().answer(exchange)

    def _refuse(self, exchange: Exchange) -> None:
        if self.refusal == "page":
            exchange.reply(200, {"Content-Type": "text/html"}, PAGE)
        elif self.refusal == "redirect":
            exchange.reply(302, {"Location": "/login"})
        else:
            exchange.reply(int(self.refusal))


class Leaks(RuleBasedStateMachine):
    """What may be given out follows from what the registry would have given out."""

    fake: RightfulRegistry

    @initialize(
        eager=st.booleans(),
        allowed=st.sets(st.tuples(clients, repositories)),
        holds=st.sets(st.tuples(repositories, contents)),
        refusal=st.sampled_from(["401", "403", "404", "page", "redirect"]),
        head_status=st.sampled_from([None, None, 405]),
        digest_on_head=st.booleans(),
    )
    def start(
        self,
        eager: bool,
        allowed: set[tuple[Client, str]],
        holds: set[tuple[str, str]],
        refusal: str,
        head_status: int | None,
        digest_on_head: bool,
    ) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()
        self.proxy: Inside = self.runner.run(
            self.stack.enter_async_context(inside(Path(self.folder.name), self.fake, eager=eager))
        )
        self.fake.start_anew(allowed, holds, refusal)
        self.fake.manners.head_status = head_status
        self.fake.manners.digest_on_head = digest_on_head
        #: When each client was last allowed to pull from a repository.
        self.last_allowed: dict[tuple[Client, str], float] = {}
        #: What was in a repository at any time since its last deletion through the proxy.
        self.belonged: set[tuple[str, str]] = set()
        self.note()

    def teardown(self) -> None:
        if hasattr(self, "runner"):  # not if there was nothing but the setting up of one
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.folder.cleanup()

    def note(self) -> None:
        """What is the case now will have been the case."""
        now = self.proxy.clock.time
        self.last_allowed.update(dict.fromkeys(self.fake.allowed, now))
        self.belonged |= self.fake.holds

    # -- what happens upstream

    @rule(client=clients, repository=repositories)
    def a_right_is_given_or_taken(self, client: Client, repository: str) -> None:
        self.note()
        self.fake.allowed ^= {(client, repository)}
        self.note()

    @rule(repository=repositories, digest=contents)
    def something_is_pushed_or_disappears(self, repository: str, digest: str) -> None:
        self.fake.holds ^= {(repository, digest)}
        self.note()

    @rule(repository=repositories, digest=st.sampled_from(sorted(MANIFESTS)))
    def a_tag_moves(self, repository: str, digest: str) -> None:
        self.fake.tag(repository, digest)

    # -- what happens here

    @rule(seconds=st.sampled_from([1.0, GRANT_TTL - 1, GRANT_TTL]))
    def time_passes(self, seconds: float) -> None:
        self.proxy.clock.time += seconds
        self.note()

    @rule(digest=contents)
    def something_is_evicted(self, digest: str) -> None:
        self.runner.run(self.proxy.store.drop(digest_in(digest)))

    @rule(repository=repositories, digest=contents)
    def something_is_deleted_through_the_proxy(self, repository: str, digest: str) -> None:
        self.fake.holds.discard((repository, digest))
        self.belonged.discard((repository, digest))
        self.runner.run(self.proxy.observe(_target(repository, digest), "DELETE", 202))

    # -- what is asked

    @rule(client=clients, repository=repositories, digest=contents, method=methods)
    def somebody_pulls(self, client: Client, repository: str, digest: str, method: str) -> None:
        self.runner.run(self._pull(client, repository, digest, method))
        self.runner.run(self.proxy.landed())

    @rule(digest=contents, asking=st.permutations(list(itertools.product(CLIENTS, REPOSITORIES))))
    def all_pull_at_once(self, digest: str, asking: list[tuple[Client, str]]) -> None:
        async def together() -> None:
            await asyncio.gather(*(self._pull(client, repository, digest, "GET") for client, repository in asking))
            await self.proxy.landed()

        self.runner.run(together())

    @rule(client=clients, repository=repositories, method=methods)
    def somebody_pulls_a_tag(self, client: Client, repository: str, method: str) -> None:
        digest = self.fake.tags.get(repository, "")
        status, body = self.runner.run(self._asked(f"/v2/{repository}/manifests/v1", client, method))
        rightful = (client, repository) in self.fake.allowed and (repository, digest) in self.fake.holds
        if method == "GET":
            assert (status == 200 and body == MANIFESTS.get(digest)) == rightful, (status, body)
            assert rightful or body not in EVERYTHING.values()

    async def _pull(self, client: Client, repository: str, digest: str, method: str) -> None:
        status, body = await self._asked(_target(repository, digest), client, method)
        if (client, repository) in self.fake.allowed and (repository, digest) in self.fake.holds:
            head_fails = method == "HEAD" and digest in MANIFESTS and self.fake.manners.head_status is not None
            assert status == 200 or head_fails
            assert method == "HEAD" or body == EVERYTHING[digest]
        if body in EVERYTHING.values():
            assert body == EVERYTHING[digest]
            assert (repository, digest) in self.belonged, "it is not, or no more, part of the repository"
            age = self.proxy.clock.time - self.last_allowed.get((client, repository), -1e9)
            assert age < GRANT_TTL, f"the upstream has refused it for {age:.0f} s"

    async def _asked(self, target: str, client: Client, method: str) -> tuple[int, bytes]:
        """Status and body; (0, b"") if it passes: then the upstream itself answers."""
        answer = await self.proxy.ask(target, method, authorization=client)
        if not isinstance(answer, Answer):
            return await self._passed(target, client, method)
        return answer.status, await whole(answer.body)

    async def _passed(self, target: str, client: Client, method: str) -> tuple[int, bytes]:
        """What the client gets from the upstream itself, by way of `Pass`."""
        request = self.proxy.request(target, method, authorization=client)
        reply = await self.proxy.upstream.ask(method, f"{request.registry}{target}", request.headers)
        body = await reply.body(1 << 20)
        reply.close()
        await self.proxy.pulls.observe(request, reply.status, reply.headers)
        return reply.status, body or b""


def _target(repository: str, digest: str) -> str:
    return f"/v2/{repository}/{'blobs' if digest in BLOBS else 'manifests'}/{digest}"


@pytest.fixture(scope="module")
def fake() -> Iterator[RightfulRegistry]:
    server = RightfulRegistry()
    server.start()
    yield server
    server.stop()


def test_nobody_gets_what_the_upstream_would_refuse(fake: RightfulRegistry) -> None:
    class OfThisTest(Leaks):
        pass

    OfThisTest.fake = fake
    run_state_machine_as_test(
        OfThisTest,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
