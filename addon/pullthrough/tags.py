"""The last digest that each tag had: for the time in which nobody can ask for the present one.

Responsible for remembering what the upstream last said a tag names, for clients that accept the same media types (a
registry may answer them differently). Must not decide when that is good enough, nor for whom.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pullthrough.core import media
from pullthrough.core.digest import Digest
from pullthrough.facts import LASTING, Facts, Row, fact_of, row_of
from pullthrough.messages import Repository
from pullthrough.siblings import Siblings

#: Repositories, and tags of each, of which is remembered what somebody asked for but did not get yet.
_MAX_REPOSITORIES: Final = 1024
_MAX_NAMED: Final = 64
#: Seconds within which a client that heard what a tag names asks for that.
_RECENT: Final = 600.0
#: Begins the keys of what tags named.
_TAG: Final = "tag "


@dataclass(frozen=True, slots=True)
class _Named:
    """What the upstream said of a tag."""

    tag: str
    accept: tuple[str, ...]
    digest: Digest
    asked: float


@dataclass(frozen=True, slots=True)
class _Brought:
    """What an archive said of a tag, and when that was imported (seconds since the epoch, 0 if never)."""

    at: float = 0.0
    digest: Digest | None = None


class Tags:
    """What tags named, for `max_stale` seconds since they were last checked; for 0 nothing is remembered.

    What was said counts with the time of the question: an answer to one from before a tag was deleted or moved says
    nothing. `now` counts seconds since the epoch.
    """

    def __init__(
        self, facts: Facts, max_stale: float, now: Callable[[], float], siblings: Siblings | None = None
    ) -> None:
        self._facts = facts
        self._max_stale = max_stale
        self.now = now
        #: By the key of the tag: the tag, what was accepted, what it names, and when that was asked.
        self._named: OrderedDict[Repository, OrderedDict[str, _Named]] = OrderedDict()
        self._siblings = siblings or Siblings()
        self._siblings.hear("named", self._hear_named)
        self._siblings.hear("gone", self._hear_gone)

    def named(self, repository: Repository, tag: str, accept: Sequence[str], digest: Digest, asked: float) -> None:
        """The upstream said that `tag` names `digest`, of which nobody here got the content yet.

        Most clients ask so, and then for the digest (`got`). Before that, what the tag named last is the better answer.
        """
        if not self._max_stale:
            return
        self._siblings.tell("named", str(repository), tag, list(accept), str(digest), asked)
        self._remember(repository, _Named(tag, tuple(accept), digest, asked))

    def _hear_named(self, text: str, tag: str, accept: list[str], name: str, asked: float) -> None:
        repository, digest = Repository.parse(text), Digest.parse(name)
        if repository is not None and digest is not None:
            self._remember(repository, _Named(tag, tuple(accept), digest, asked))

    def _remember(self, repository: Repository, named: _Named) -> None:
        said = self._named.setdefault(repository, OrderedDict())
        key = _key(repository, named.tag, named.accept)
        said[key] = named
        said.move_to_end(key)
        self._named.move_to_end(repository)
        if len(said) > _MAX_NAMED:
            said.popitem(last=False)
        if len(self._named) > _MAX_REPOSITORIES:
            self._named.popitem(last=False)

    async def got(self, repository: Repository, digest: Digest) -> None:
        """A client got this manifest of `repository`: the tags that were just said to name it do so."""
        for said in list(self._named.get(repository, {}).values()):
            if said.digest == digest and self.now() - said.asked < _RECENT:
                await self.seen(repository, said.tag, said.accept, digest, said.asked)

    async def seen(self, repository: Repository, tag: str, accept: Sequence[str], digest: Digest, asked: float) -> None:
        """The upstream said that `tag` names `digest`, and that is what the client got, or can get here."""
        key = _key(repository, tag, accept)
        if repository in self._named:
            self._named[repository].pop(key, None)
        if not self._max_stale:
            return
        brought = await self._brought(repository, tag)
        over = max(await self._gone(repository, tag), brought.at)
        if asked > over:
            self._facts.put(key, [str(digest), over], self._max_stale)
            if brought.digest is not None:
                self._facts.drop(_brought_key(repository, tag), shared=True)

    async def last(self, repository: Repository, tag: str, accept: Sequence[str]) -> Digest | None:
        """What it named when it was last seen, unless something was imported since."""
        match await self._facts.get(_key(repository, tag, accept), self._max_stale):
            case [str() as digest, int() | float() as over] if over >= await self._over(repository, tag):
                return Digest.parse(digest)
        return None

    async def brought(self, repository: Repository, tag: str) -> Digest | None:
        """What an archive said it names, if that was imported since the upstream was last heard on it."""
        brought = await self._brought(repository, tag)
        current = self._max_stale and brought.at >= await self._gone(repository, tag)
        return brought.digest if current else None

    def gone(self, repository: Repository, tag: str) -> None:
        """It was deleted or moved: what it named counts no more, whatever media types somebody accepts."""
        self._forget(repository, tag)
        self._siblings.tell("gone", str(repository), tag)
        if self._max_stale:
            self._facts.put(_gone_key(repository, tag), self.now(), max(self._max_stale, LASTING))

    def _hear_gone(self, text: str, tag: str) -> None:
        repository = Repository.parse(text)
        if repository is not None:
            self._forget(repository, tag)

    def _forget(self, repository: Repository, tag: str) -> None:
        said = self._named.get(repository)
        for key in [key for key, one in said.items() if one.tag == tag] if said else ():
            del self._named[repository][key]

    async def _gone(self, repository: Repository, tag: str) -> float:
        """When it was last deleted or moved through here; 0 if never."""
        gone = await self._facts.get(_gone_key(repository, tag))
        return float(gone) if isinstance(gone, int | float) else 0.0

    async def _brought(self, repository: Repository, tag: str) -> _Brought:
        """What it was imported as, and when."""
        return _imported(await self._facts.get(_brought_key(repository, tag), shared=True))

    async def _over(self, repository: Repository, tag: str) -> float:
        """When it was last deleted, moved or imported; 0 if never. It marks what was seen since."""
        return max(await self._gone(repository, tag), (await self._brought(repository, tag)).at)


def brought(repository: Repository, tag: str, digest: Digest, now: float) -> dict[str, Row]:
    """To be noted in the store: an archive says that `tag` names `digest`, which is stored.

    It counts from `now` (seconds since the epoch), until the upstream says what the tag names.
    """
    return {_brought_key(repository, tag): row_of(now, LASTING, [str(digest), now])}


def tags_of(repository: str, facts: Callable[[str], Iterable[tuple[str, Any]]]) -> dict[str, Digest]:
    """What each tag of `repository` named last, however long ago; `facts` gives the store's rows by a prefix.

    For those who look after the store. Clients that accept other media types may have got another digest: the latest
    counts.
    """
    gone = {key.rpartition(":")[2]: fact for key, row in facts(_gone_key(repository, "")) if (fact := fact_of(row))}
    found: dict[str, tuple[float, Digest]] = {}
    for key, row in facts(_brought_key(repository, "")):
        fact, tag = fact_of(row), key.rpartition(":")[2]
        brought = _imported(None if fact is None else fact[2])
        if brought.digest is not None and (tag not in gone or gone[tag][2] <= brought.at):
            found[tag] = brought.at, brought.digest
    for key, row in facts(f"{_TAG}{repository}:"):
        tag, fact = key.removeprefix(f"{_TAG}{repository}:").partition(" ")[0], fact_of(row)
        match fact:
            case (since, _, [str() as text, int() | float() as seen]) if (digest := Digest.parse(text)) is not None:
                overtaken = tag in gone and gone[tag][2] > seen
                if not overtaken and since >= found.get(tag, (0.0, digest))[0]:
                    found[tag] = since, digest
    return {tag: digest for tag, (_, digest) in sorted(found.items())}


def _key(repository: Repository, tag: str, accept: Sequence[str]) -> str:
    types = "\n".join(media.accept_key(accept))
    return f"{_TAG}{repository}:{tag} {hashlib.sha256(types.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def _gone_key(repository: Repository | str, tag: str) -> str:
    return f"gone {repository}:{tag}"


def _brought_key(repository: Repository | str, tag: str) -> str:
    return f"brought {repository}:{tag}"


def _imported(value: Any) -> _Brought:
    match value:
        case [str() as text, int() | float() as at]:
            return _Brought(float(at), Digest.parse(text))
    return _Brought()
