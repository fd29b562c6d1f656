"""The clients of the soak: each does one thing after another, chosen by chance, and checks every byte that it gets.

They check as real clients do, and more: these know the right bytes of every range. What they see goes to the score.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.fake_registry import MANIFEST
from lab.http import Client, ConnectRefused, Cut, Fetched
from soak.score import Score
from soak.stock import ALICE, ANYBODY, BOB, GUESSER, KIB, MIB, Account, Stock, Tag, may_read
from soak.troubles import Asked, Error

#: Seconds until a client gives up. Bodies are small, and silent upstreams have to be given up long before that.
PATIENCE = 60.0
#: `lab.http` keeps no more of a body.
LONGEST_RANGE = 3 * MIB
ABSENT = f"sha256:{'0' * 64}"
ACCOUNTS = (ANYBODY, ALICE, BOB, GUESSER)


class Door(Protocol):
    """A proxy, as its clients know it."""

    @property
    def number(self) -> int: ...
    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def ca_file(self) -> Path: ...


@dataclass(frozen=True)
class Wish:
    """One request: in which repository, for which content, by whom."""

    what: str
    repository: str
    kind: str  # "blobs" or "manifests"
    reference: str
    account: Account
    method: str = "GET"
    range: tuple[int, int] | None = None  # first and last byte
    rate: int | None = None

    @property
    def target(self) -> str:
        return f"/v2/{self.repository}/{self.kind}/{self.reference}"

    @property
    def headers(self) -> Mapping[str, str]:
        fields = {**self.account.headers, "Accept": MANIFEST}
        if self.range is not None:
            fields["Range"] = f"bytes={self.range[0]}-{self.range[1]}"
        return fields


class Crowd:
    """All clients. They may be asked to stand still."""

    def __init__(self, stock: Stock, origin: str, servers: Sequence[Door], score: Score) -> None:
        self._stock = stock
        self._origin = origin
        self._servers = servers
        self._score = score
        self._going = asyncio.Event()
        self._busy: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, seed: int, workers: int) -> None:
        """Let them come."""
        self._going.set()
        for number in range(workers):
            chance = random.Random(f"{seed} client {number}")
            self._tasks.append(asyncio.create_task(self._work(chance), name=f"client {number}"))

    def join(self, work: Callable[[], Awaitable[None]]) -> None:
        """One more, who does only this, again and again."""
        self._tasks.append(asyncio.create_task(self._repeat(work)))

    async def pause(self) -> None:
        """Nobody begins anything, and what was begun is over."""
        self._going.clear()
        while self._busy:
            await asyncio.wait(self._busy)

    def hold(self) -> None:
        """Nobody begins anything; what was begun goes on."""
        self._going.clear()

    def go_on(self) -> None:
        """After `pause` or `hold`."""
        self._going.set()

    async def end(self) -> None:
        """Send them home."""
        for task in (*self._tasks, *self._busy):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._busy, return_exceptions=True)

    # -- how they work

    async def _work(self, chance: random.Random) -> None:
        deeds = Deeds(self._stock, self._origin, self._servers, self._score, chance)
        await self._repeat(deeds.one)

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._going.wait()
            deed = asyncio.ensure_future(work())
            self._busy.add(deed)
            deed.add_done_callback(self._busy.discard)
            try:
                await asyncio.shield(deed)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - a fault of the soak itself must not go by unseen
                self._score.found("faults of the soak", repr(error))


class Deeds:
    """What one client can do."""

    def __init__(self, stock: Stock, origin: str, servers: Sequence[Door], score: Score, chance: random.Random) -> None:
        self._stock = stock
        self._origin = origin
        self._servers = servers
        self._score = score
        self._chance = chance
        self._clients: dict[tuple[str, int], Client] = {}

    async def one(self) -> None:
        """Any of them."""
        [deed] = self._chance.choices(
            (
                self.image,
                self.whole,
                self.parts,
                self.part,
                self.head,
                self.look,
                self.leave,
                self.slowly,
                self.crowd,
                self.steal,
            ),
            (4, 4, 2, 3, 2, 2, 2, 1, 1, 3),
        )
        await deed()

    async def image(self) -> None:
        """A pull: tag, manifest, config and layers, three at a time."""
        tag, server = self._tag(), self._server()
        account = self._reader(tag.repository)
        digest = await self._resolve(server, tag, account)
        image = next((image for image in self._stock.images[tag.repository] if image.digest == digest), None)
        if image is None:
            return
        limit = asyncio.Semaphore(3)

        async def pull(blob: str) -> None:
            async with limit:
                await self._blob(server, Wish("layer of a pull", tag.repository, "blobs", blob, account))

        await asyncio.gather(*(pull(blob) for blob in (image.config, *image.layers)))

    async def whole(self) -> None:
        """One blob."""
        await self._blob(self._server(), self._wish("whole blob"))

    async def parts(self) -> None:
        """One blob in parts, one after the other, as containerd gets large layers."""
        wish, server = self._wish("blob in parts"), self._server()
        size, at = len(self._stock.blobs[wish.reference]), 0
        while at < size:
            step = self._chance.randint(1, max(1, min(LONGEST_RANGE, size)))
            if not await self._range(server, wish, at, min(at + step, size) - 1):
                return
            at += step

    async def part(self) -> None:
        """Some bytes of a blob."""
        wish = self._wish("part of a blob")
        size = len(self._stock.blobs[wish.reference])
        if size:
            first = self._chance.randrange(size)
            length = self._chance.randint(1, LONGEST_RANGE)
            await self._range(self._server(), wish, first, min(first + length, size) - 1)

    async def head(self) -> None:
        """HEAD of a blob."""
        wish, server = self._wish("HEAD of a blob", method="HEAD"), self._server()
        got = await self._ask(server, wish)
        if got is None:
            return
        asked, answer = got
        size = str(len(self._stock.blobs[wish.reference]))
        if self._succeeded(asked, answer, wish) and answer.headers.get("content-length") != size:
            self._score.wrong(Error.WRONG, asked, f"Content-Length {answer.headers.get('content-length')}, not {size}")
        elif answer.status == 200:
            self._score.right(wish.what)

    async def look(self) -> None:
        """What does a tag name now?"""
        tag = self._tag()
        await self._resolve(self._server(), tag, self._reader(tag.repository))

    async def leave(self) -> None:
        """Begin to read a blob and go away."""
        wish, server = self._wish("abandoned download"), self._server()
        much = self._chance.randint(1, max(1, len(self._stock.blobs[wish.reference])))
        await self._attempt(server, wish, self._leave_after(server, wish, much))

    async def slowly(self) -> None:
        """A blob at a slow client's pace."""
        wish = self._wish("slow reader")
        rate = max(64 * KIB, len(self._stock.blobs[wish.reference]) // 6)
        await self._blob(
            self._server(), Wish(wish.what, wish.repository, "blobs", wish.reference, wish.account, rate=rate)
        )

    async def crowd(self) -> None:
        """The same blob by many at once, at all servers."""
        wish = self._wish("same blob at once")
        await asyncio.gather(*(self._blob(self._server(), wish) for _ in range(8)))

    async def steal(self) -> None:
        """What the account has no right to: it has to be refused."""
        repository = self._chance.choice([name for name in self._stock.images if not name.startswith("open/")])
        thief = self._chance.choice([account for account in ACCOUNTS if not may_read(account, repository)])
        image = self._chance.choice(self._stock.images[repository])
        secret = self._chance.choice((image.config, *image.layers))
        member = any(secret in self._stock.members[name] for name in self._stock.members if may_read(thief, name))
        wishes = [
            Wish("private blob, no right", repository, "blobs", secret, thief),
            Wish("private manifest, no right", repository, "manifests", image.digest, thief),
            Wish("private tag, no right", repository, "manifests", self._tag(repository).name, thief),
        ]
        # By a repository that has not got it. What anybody gets there in an outage, a guesser gets as anybody.
        others = [name for name, members in self._stock.members.items() if secret not in members]
        own = [name for name in others if thief is GUESSER or may_read(thief, name)]
        if own and not member:
            name = self._chance.choice(own)
            wishes.append(Wish("private blob by another repository", name, "blobs", secret, thief))
        server, wish = self._server(), self._chance.choice(wishes)
        got = await self._ask(server, wish)
        if got is None:
            return
        asked, answer = got
        if answer.status in (401, 403, 404):
            self._score.right(wish.what)
        elif answer.status < 400:
            self._score.wrong(Error.LEAK, asked, f"{wish.account.name} got {answer.status} for {wish.target}")
        else:
            self._fail(asked, answer, wish)

    # -- requests

    async def _resolve(self, server: Door, tag: Tag, account: Account) -> str | None:
        """The manifest that a tag names now."""
        wish = Wish("manifest by tag", tag.repository, "manifests", tag.name, account)
        got = await self._ask(server, wish)
        if got is None:
            return None
        asked, answer = got
        if not self._succeeded(asked, answer, wish):
            return None
        if answer.headers.get("docker-content-digest") != answer.digest or answer.digest not in tag.ever():
            self._score.wrong(Error.WRONG, asked, f"{answer.digest} for {wish.target}")
            return None
        if answer.digest not in tag.during(asked.begin, asked.end):
            self._score.wrong(Error.STALE, asked, wish.target)
        else:
            self._score.right(wish.what, answer.size)
        return answer.digest

    async def _blob(self, server: Door, wish: Wish) -> None:
        got = await self._ask(server, wish)
        if got is None:
            return
        asked, answer = got
        if not self._succeeded(asked, answer, wish):
            return
        if answer.digest != wish.reference:
            self._score.wrong(Error.WRONG, asked, f"{answer.size} bytes of {wish.reference} {_source(answer)}")
        else:
            self._score.right(wish.what, answer.size)

    async def _range(self, server: Door, wish: Wish, first: int, last: int) -> bool:
        """Bytes first..last; is there a right answer?"""
        wish = Wish(wish.what, wish.repository, "blobs", wish.reference, wish.account, range=(first, last))
        got = await self._ask(server, wish)
        if got is None:
            return False
        asked, answer = got
        if not self._succeeded(asked, answer, wish):
            return False
        content = self._stock.blobs[wish.reference]
        described = answer.headers.get("content-range") == f"bytes {first}-{last}/{len(content)}"
        if answer.status != 206 or not described or answer.body != content[first : last + 1]:
            detail = f"bytes {first}-{last} of {wish.reference}: {answer.status} {answer.headers.get('content-range')}"
            self._score.wrong(Error.WRONG, asked, f"{detail} {_source(answer)}")
            return False
        self._score.right(wish.what, answer.size)
        return True

    async def _leave_after(self, server: Door, wish: Wish, size: int) -> None:
        async with self._client(server).open(self._origin + wish.target, headers=wish.headers) as answer:
            if answer.status == 200:
                await answer.read_at_least(size)
                self._score.right(wish.what, answer.size)
            else:
                await answer.read()

    async def _ask(self, server: Door, wish: Wish) -> tuple[Asked, Fetched] | None:
        """The whole answer; None if there is none, which is in the score then."""
        begin = time.monotonic()
        client = self._client(server)
        fetching = client.fetch(
            self._origin + wish.target, method=wish.method, headers=wish.headers, rate=wish.rate, deadline=PATIENCE
        )
        answer = await self._attempt(server, wish, fetching)
        return None if answer is None else (self._asked(server, wish, begin), answer)

    async def _attempt[T](self, server: Door, wish: Wish, doing: Awaitable[T]) -> T | None:
        begin = time.monotonic()
        try:
            return await doing
        except Cut as cut:
            error, detail = Error.CUT, str(cut)
        except TimeoutError:
            error, detail = Error.SILENCE, wish.target
        except (ConnectRefused, OSError, ssl.SSLError) as failure:
            error, detail = Error.CONNECTION, repr(failure)
        self._score.wrong(error, self._asked(server, wish, begin), f"{detail} {wish.target}")
        return None

    def _succeeded(self, asked: Asked, answer: Fetched, wish: Wish) -> bool:
        if answer.status in (200, 206):
            return True
        self._fail(asked, answer, wish)
        return False

    def _fail(self, asked: Asked, answer: Fetched, wish: Wish) -> None:
        if answer.status == 429:
            error = Error.LIMITED
        elif answer.status >= 500:
            error = Error.FAILED
        elif answer.status == 401 and wish.account is ANYBODY:
            error = Error.CHALLENGED
        elif answer.status in (401, 403, 404):
            error = Error.REFUSED
        else:
            error = Error.STRANGE
        self._score.wrong(error, asked, f"{answer.status} {wish.account.name} {wish.target} {answer.body[:200]!r}")

    # -- choices

    def _wish(self, what: str, method: str = "GET") -> Wish:
        repository = self._chance.choice(list(self._stock.images))
        image = self._chance.choice(self._stock.images[repository])
        blob = self._chance.choice((image.config, *image.layers))
        return Wish(what, repository, "blobs", blob, self._reader(repository), method)

    def _tag(self, repository: str | None = None) -> Tag:
        return self._chance.choice([tag for tag in self._stock.tags if repository in (None, tag.repository)])

    def _reader(self, repository: str) -> Account:
        return self._chance.choice([account for account in ACCOUNTS if may_read(account, repository)])

    def _server(self) -> Door:
        return self._chance.choice(self._servers)

    def _client(self, server: Door) -> Client:
        address = server.address
        if address not in self._clients:
            self._clients[address] = Client(server.ca_file, proxy=address)
        return self._clients[address]

    @staticmethod
    def _asked(server: Door, wish: Wish, begin: float) -> Asked:
        return Asked(wish.what, server.number, begin, time.monotonic(), frozenset((wish.reference,)))


def _source(answer: Fetched) -> str:
    """Where the proxy says that it has it from."""
    return f"({answer.headers.get('cache-status')})"
