"""The inside of the proxy without its doors: store, flights, access and what answers, before a fake registry.

Everything is real and in this process, the registry too; only the clock of access is the test's. What
may go wrong on command is in `TroubledStore`. Whoever leaves `inside` has to leave nothing behind: no
open file of the store, no task, no exception that nobody looked at.
"""

import asyncio
import dataclasses
import gc
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.fake_registry import Content, FakeRegistry, Manners
from lab.faults import Armed
from pullthrough import config
from pullthrough import inside as inside_of_the_proxy
from pullthrough.config import Settings
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.fetch import Source, repeated
from pullthrough.guard import Guard
from pullthrough.health import Health
from pullthrough.messages import Answer, Body, BodyError, Pass, Registry, Repository, Request
from pullthrough.metrics import Metrics
from pullthrough.parent import ParentProxies
from pullthrough.siblings import Siblings
from pullthrough.store import Link, Partial, Store, StoredBlob, StoreError
from pullthrough.upstream import Timeouts, Upstream

REPOSITORY = "team/app"
PATIENCE = 20.0
POLL_SECONDS = 0.002
STORE_SIZE = 1 << 30
GRANT_TTL = 60.0
GRACE = 24 * 3600.0
MAX_STALE = 7 * 24 * 3600.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; TimeoutError if it never does."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(POLL_SECONDS)


async def reached(armed: Armed) -> None:
    """Wait until this fault holds an answer back."""
    await until(armed.reached.is_set)


class Clock:
    """The clock of access: goes on by itself only as much as two readings must differ."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        self.time += 1e-6
        return self.time


@dataclass(frozen=True)
class Chosen:
    """What an operator may choose. Seconds; `patience` is that for an upstream to say anything."""

    grant_ttl: float = GRANT_TTL
    grace: float = GRACE
    max_stale: float = MAX_STALE
    floor: int = 1
    brokered: bool = True
    offline: bool = False
    patience: float = PATIENCE
    #: Flags of any other setting.
    more: Mapping[str, object] = field(default_factory=dict)

    def settings(self) -> Settings:
        """With the defaults for all else."""
        return dataclasses.replace(
            config.load({"data_dir": "/nowhere", **self.more}, {}),
            grant_ttl=self.grant_ttl,
            offline_grace=self.grace,
            max_stale=self.max_stale,
            rate_limit_floor=self.floor,
            auth_broker=self.brokered,
            offline=self.offline,
        )


class TroubledStore(Store):
    """A real store that fails or waits where a test says so, by the name of the call."""

    def __init__(self, root: Path, size: int = STORE_SIZE) -> None:
        super().__init__(root, size, Health())
        self.failing: dict[str, int] = {}  # fails from the n-th call on
        self.failure: Exception = StoreError("No space left on device", full=True)
        self.holding: dict[str, asyncio.Event] = {}  # waits for the event before it does anything
        self.lingering: dict[str, asyncio.Event] = {}  # ... after it has done it
        self.calls: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.begun: list[Partial] = []

    @asynccontextmanager
    async def _trouble(self, name: str) -> AsyncIterator[None]:
        self.calls[name] += 1
        if name in self.holding:
            await self.holding[name].wait()
        if self.calls[name] >= self.failing.get(name, 1 << 60):
            raise self.failure
        yield
        self.done[name] += 1
        if name in self.lingering:
            await self.lingering[name].wait()

    async def open(self, digest: Digest) -> StoredBlob | None:
        async with self._trouble("open"):
            return await super().open(digest)

    async def has(self, digest: Digest) -> bool:
        async with self._trouble("has"):
            return await super().has(digest)

    async def link(self, repository: str, digest: Digest, media_type: str = "") -> None:
        async with self._trouble("link"):
            await super().link(repository, digest, media_type)

    async def linked(self, repository: str, digest: Digest) -> Link | None:
        async with self._trouble("linked"):
            return await super().linked(repository, digest)

    async def look(self, repository: str, digest: Digest) -> tuple[Link | None, bool]:
        async with self._trouble("look"):
            return await super().look(repository, digest)

    async def unlink(self, repository: str, digest: Digest) -> None:
        async with self._trouble("unlink"):
            await super().unlink(repository, digest)

    async def begin(self, digest: Digest, *, missed: bool = False) -> Partial:
        async with self._trouble("begin"):
            self.begun.append(await super().begin(digest, missed=missed))
            return self.begun[-1]

    async def follow(self, digest: Digest) -> Partial | None:
        async with self._trouble("follow"):
            return await super().follow(digest)

    async def reserve(self, partial: Partial, size: int) -> None:
        async with self._trouble("reserve"):
            await super().reserve(partial, size)

    async def write(self, partial: Partial, data: bytes) -> None:
        async with self._trouble("write"):
            await super().write(partial, data)

    async def commit(self, partial: Partial) -> None:
        async with self._trouble("commit"):
            await super().commit(partial)

    async def end(self, partial: Partial, *, keep: bool) -> None:
        async with self._trouble("end"):
            await super().end(partial, keep=keep)

    async def put(self, digest: Digest, content: bytes) -> None:
        async with self._trouble("put"):
            await super().put(digest, content)

    async def recall(self, key: str) -> Any:
        async with self._trouble("recall"):
            return await super().recall(key)

    async def note(self, facts: Mapping[str, tuple[Any, float] | None]) -> None:
        async with self._trouble("note"):
            await super().note(facts)


class Counted(Metrics):
    """Metrics of which a test reads how token requests were answered."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Counter[str] = Counter()

    def token(self, answer: str) -> None:
        super().token(answer)
        self.tokens[answer] += 1


class Inside(inside_of_the_proxy.Inside):
    """One proxy without doors, and the registry before it."""

    def __init__(
        self,
        folder: Path,
        fake: FakeRegistry,
        size: int,
        trusted: bool,
        tls: ssl.SSLContext | None,
        chosen: Chosen,
        clock: Clock | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self.folder = folder
        self.fake = fake
        self.clock = clock or Clock()
        self.store = TroubledStore(folder, size)
        self.upstream = Upstream(
            tls=tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # a plain registry needs none
            timeouts=Timeouts(chosen.patience, chosen.patience, PATIENCE),
            parents=ParentProxies({}),
            guard=Guard(),
            agent="pullthrough/test",
            offline=chosen.offline,
            clock=self.clock,
        )
        #: Hosts of registries that nobody named.
        self.found: set[str] = set()
        counted = Counted()
        self.counted = counted.tokens
        super().__init__(
            chosen.settings(),
            store=self.store,
            upstream=self.upstream,
            metrics=counted,
            secret=b"secret",
            trusted=lambda registry: trusted,
            vouches=lambda registry: registry.host not in self.found,
            siblings=siblings,
            clock=self.clock,
            now=self.clock,
        )

    @property
    def registry(self) -> Registry:
        """As requests name it."""
        if self.fake.secure:
            return Registry("https", self.fake.name, self.fake.public_port)
        return Registry("http", self.fake.address, self.fake.port)

    def repository(self, name: str = REPOSITORY) -> Repository:
        """A repository of it."""
        return Repository(self.registry, name)

    def source(self, authorization: str | None = None, *, repository: str = REPOSITORY) -> Source:
        """Where a client with these credentials asks."""
        headers = Headers(() if authorization is None else (("Authorization", authorization),))
        caller = self.accounts.caller(Request(self.registry, "GET", "/v2/", headers), repository)
        return Source(self.repository(repository), repeated(headers), caller.principal)

    def request(self, target: str, method: str = "GET", **fields: str | None) -> Request:
        """A request; `if_none_match="..."` is a field."""
        headers = [(name.replace("_", "-"), value) for name, value in fields.items() if value is not None]
        return Request(self.registry, method, target, Headers(headers))

    async def ask(self, target: str, method: str = "GET", **fields: str | None) -> Answer | Pass:
        """What the proxy does with a request."""
        return await self.pulls.answer(self.request(target, method, **fields))

    async def get(self, target: str, method: str = "GET", **fields: str | None) -> "Got":
        """The whole answer; AssertionError if it passes."""
        return await self.send(self.request(target, method, **fields))

    async def send(self, request: Request) -> "Got":
        """The whole answer; AssertionError if it passes."""
        answer = await self.pulls.answer(request)
        assert isinstance(answer, Answer), answer
        return Got(answer, await whole(answer.body))

    async def observe(self, target: str, method: str, status: int, **fields: str | None) -> None:
        """An answer of the upstream to a request that passed."""
        await self.pulls.observe(self.request(target, method, **fields), status, Headers())

    async def landed(self) -> None:
        """Wait until nothing flies any more."""
        await until(lambda: not len(self.flights))

    def partials(self) -> list[Path]:
        """Files of fills that are not whole."""
        return [path for path in (self.folder / "partial").glob("*/*") if path.is_file()]

    async def has(self, digest: str) -> bool:
        """Is it stored?"""
        return await self.store.has(digest_in(digest))


@dataclass(frozen=True)
class Got:
    """An answer, read to its end."""

    answer: Answer
    body: bytes

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def headers(self) -> Headers:
        return self.answer.headers

    @property
    def outcome(self) -> str:
        """As Cache-Status has it."""
        return self.answer.cache.header().removeprefix("pullthrough; ")


def digest_in(text: str) -> Digest:
    """The digest that `text` spells."""
    digest = Digest.parse(text)
    assert digest is not None, text
    return digest


async def whole(body: bytes | Body, limit: int = 65536) -> bytes:
    """All of a body, which is closed; BodyError if it is cut."""
    if isinstance(body, bytes):
        return body
    got = bytearray()
    try:
        while chunk := await body.read(limit):
            assert len(chunk) <= limit
            got += chunk
    finally:
        await body.aclose()
    assert body.length in (None, len(got))
    return bytes(got)


async def until_cut(body: bytes | Body) -> bytes:
    """What comes of a body before it is cut; AssertionError if it is whole."""
    assert not isinstance(body, bytes)
    got = bytearray()
    try:
        while chunk := await body.read(65536):
            got += chunk
    except BodyError:
        return bytes(got)
    finally:
        await body.aclose()
    raise AssertionError(f"{len(got)} bytes and no cut")


@contextmanager
def plain_registry() -> Iterator[FakeRegistry]:
    """A registry without TLS, for `inside`."""
    fake = FakeRegistry("fake.test", None, public_port=None)
    fake.start()
    yield fake
    fake.stop()


@asynccontextmanager
async def inside(
    folder: Path,
    fake: FakeRegistry,
    *,
    eager: bool = False,
    size: int = STORE_SIZE,
    trusted: bool = True,
    tls: ssl.SSLContext | None = None,
    chosen: Chosen | None = None,
    siblings: Siblings | None = None,
) -> AsyncIterator[Inside]:
    """Everything built before `fake`, which is as new, and looked after when it is left.

    `eager`: with the task factory that mitmproxy uses. A registry with TLS needs `tls` to be trusted, and the lab's
    names (see `lab.logins`). In the same folder as one before, what that one stored is found again.
    """
    loop = asyncio.get_running_loop()
    if eager:
        loop.set_task_factory(asyncio.eager_task_factory)
    fake.reset()
    fake.manners, fake.content = Manners(), Content()
    with _no_unseen_errors(loop):
        made = Inside(folder / "store", fake, size, trusted, tls, chosen or Chosen(), None, siblings)
        try:
            yield made
        finally:
            fake.release()
            await made.aclose()
            opened = open_files(made.folder)
            await made.store.aclose()
            loop.set_task_factory(None)
        assert not opened, f"left open: {opened}"
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@asynccontextmanager
async def beside(proxy: Inside, siblings: Siblings, tls: ssl.SSLContext | None = None) -> AsyncIterator[Inside]:
    """Another process of the same installation, with the same clocks."""
    made = Inside(proxy.folder, proxy.fake, STORE_SIZE, True, tls, Chosen(), proxy.clock, siblings)
    yield made
    proxy.fake.release()
    await made.aclose()
    await made.store.aclose()


def open_files(folder: Path) -> list[str]:
    """Blob files and partials that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith((f"{folder}/blobs/", f"{folder}/partial/")) and not Path(target).is_dir():
            found.append(target)
    return found


@contextmanager
def _no_unseen_errors(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Fail for every exception that only the loop heard of."""
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    yield
    gc.collect()
    loop.set_exception_handler(None)
    assert not unseen, unseen
