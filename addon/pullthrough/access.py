"""Who may have what from the cache: grants by principal and repository.

Responsible for the rule that nothing leaves the cache unless the upstream lately gave something of the same
repository to the same account (issues 2 and 3), and for the order of what the upstream said: an answer never counts
against a refusal or a deletion that came after its question, whichever process heard of it. Must not know requests,
answers or storage, nor who a principal is: that is a fingerprint. Fails closed: what is not remembered is not granted.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.facts import LASTING, Facts, Row, row_of
from pullthrough.messages import Repository
from pullthrough.siblings import Siblings

#: Grants that are remembered; beyond, the oldest go, and their holders are checked anew.
MAX_GRANTS: Final = 65536
#: Siblings hear of a grant again when it has grown by this part of its time: not with every pull.
_RENEW: Final = 1 / 8


@dataclass(frozen=True, slots=True)
class _Grant:
    until: float
    #: Until when it lasts for our siblings.
    told: float


class Access:
    """The grants of this process; proofs for an outage are kept as facts.

    `clock` counts seconds, never goes back, and is the same for all `siblings`. Evidence counts for `ttl` seconds, and
    while the upstream cannot be asked, for `grace`.
    """

    def __init__(
        self,
        facts: Facts,
        clock: Callable[[], float],
        *,
        ttl: float,
        grace: float,
        siblings: Siblings | None = None,
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._ttl = ttl
        self._grace = grace
        self._siblings = siblings or Siblings()
        self._grants: OrderedDict[tuple[bytes, Repository], _Grant] = OrderedDict()
        self._refused = _Times[tuple[bytes, Repository]]()
        self._changed = _Times[tuple[Repository, Digest]]()
        self._severed = _Times[tuple[Repository, Digest]]()
        self._siblings.hear("granted", self._hear_granted)
        self._siblings.hear("refused", self._hear_refused)
        self._siblings.hear("changed", self._hear_changed)
        self._siblings.hear("settled", self._hear_settled)
        self._siblings.missed(self._forget)

    def now(self) -> float:
        """The time to give to `grant`: taken before the upstream is asked, as its answer is no younger."""
        return self._clock()

    def grant(self, principal: bytes, repository: Repository, asked: float) -> None:
        """The upstream gave content of `repository` to `principal`, to a request sent at `asked`.

        Has no effect if it refused meanwhile: nobody knows which of the two it said last.
        """
        key = principal, repository
        if asked <= self._refused.last(key):
            return
        before = self._grants.get(key, _NEVER)
        until = max(asked + self._ttl, before.until)
        if until - before.told > self._ttl * _RENEW:
            self._siblings.tell("granted", principal.hex(), str(repository), until)
            before = _Grant(until, told=until)
        self._put(key, _Grant(until, before.told))
        if self._grace:
            self._facts.put(_fact(principal, repository), True, self._grace)

    def granted(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` now?"""
        return self._grants.get((principal, repository), _NEVER).until > self._clock()

    async def remembered(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` while the upstream cannot be asked?"""
        if await self._facts.get(_fact(principal, repository), self._grace) is True:
            return True
        return self._grace > 0 and await self._facts.get(_vouched(principal, repository), shared=True) is True

    def revoke(self, principal: bytes, repository: Repository) -> None:
        """The upstream refused: forget what it allowed before, and what it was asked before."""
        self._refuse((principal, repository))
        self._siblings.tell("refused", principal.hex(), str(repository))
        self._facts.drop(_fact(principal, repository))
        self._facts.drop(_vouched(principal, repository), shared=True)

    def changed(self, repository: Repository, digest: Digest) -> None:
        """The upstream deleted or replaced `digest` in `repository` just now."""
        self._change((repository, digest))
        self._siblings.tell("changed", str(repository), str(digest))

    async def agreed(self) -> None:
        """Wait until all processes know what we know."""
        await self._siblings.agreed()

    def settled(self, repository: Repository, digest: Digest) -> None:
        """The store knows of the change."""
        if self.severed(repository, digest):
            self._severed.forget((repository, digest))
            self._siblings.tell("settled", str(repository), str(digest))

    def severed(self, repository: Repository, digest: Digest) -> bool:
        """Was there a change of which the store may not know?"""
        return self._severed.last((repository, digest)) == math.inf

    def overtaken(self, repository: Repository, digest: Digest, asked: float) -> bool:
        """May what the upstream said of `digest`, to a question sent at `asked`, be out of date by a change since?"""
        return asked <= self._changed.last((repository, digest))

    # -- here, whoever learned it

    def _put(self, key: tuple[bytes, Repository], grant: _Grant) -> None:
        self._grants[key] = grant
        self._grants.move_to_end(key)
        while len(self._grants) > MAX_GRANTS:
            self._grants.popitem(last=False)

    def _refuse(self, key: tuple[bytes, Repository]) -> None:
        self._grants.pop(key, None)
        self._refused.note(key, self._clock())

    def _change(self, key: tuple[Repository, Digest]) -> None:
        self._changed.note(key, self._clock())
        self._severed.note(key, math.inf)

    # -- what siblings tell

    def _hear_granted(self, principal: str, text: str, until: float) -> None:
        repository = Repository.parse(text)
        key = bytes.fromhex(principal), repository
        if repository is not None and until - self._ttl > self._refused.last((key[0], repository)):
            before = self._grants.get((key[0], repository), _NEVER)
            self._put((key[0], repository), _Grant(max(until, before.until), told=until))

    def _hear_refused(self, principal: str, text: str) -> None:
        repository = Repository.parse(text)
        if repository is not None:
            self._refuse((bytes.fromhex(principal), repository))

    def _hear_changed(self, text: str, name: str) -> None:
        repository, digest = Repository.parse(text), Digest.parse(name)
        if repository is not None and digest is not None:
            self._change((repository, digest))

    def _hear_settled(self, text: str, name: str) -> None:
        repository, digest = Repository.parse(text), Digest.parse(name)
        if repository is not None and digest is not None:
            self._severed.forget((repository, digest))

    def _forget(self) -> None:
        """Siblings may have heard refusals and changes of which we do not know, up to now."""
        self._grants.clear()
        self._refused.forget_all(self._clock())
        self._changed.forget_all(self._clock())


_NEVER: Final = _Grant(-math.inf, -math.inf)


def vouched(principal: bytes, repository: Repository, now: float) -> dict[str, Row]:
    """To be noted in the store: the operator says that `principal` may have `repository` when nobody can be asked.

    From `now` on (seconds since the epoch), until the upstream refuses it.
    """
    return {_vouched(principal, repository): row_of(now, LASTING, True)}


def _fact(principal: bytes, repository: Repository) -> str:
    """Both as one fingerprint: what is on disk names nobody."""
    return f"grant {_fingerprint(principal, repository)}"


def _vouched(principal: bytes, repository: Repository) -> str:
    return f"vouched {_fingerprint(principal, repository)}"


def _fingerprint(principal: bytes, repository: Repository) -> str:
    return hashlib.sha256(principal + str(repository).encode()).hexdigest()


class _Times[K: Hashable]:
    """When something last happened to a key. Bounded: what was dropped counts as late as it can have happened."""

    def __init__(self) -> None:
        self._at: OrderedDict[K, float] = OrderedDict()
        self._floor = -math.inf

    def note(self, key: K, at: float) -> None:
        self._at.pop(key, None)
        self._at[key] = at
        if len(self._at) > MAX_GRANTS:
            _, self._floor = self._at.popitem(last=False)

    def forget(self, key: K) -> None:
        self._at.pop(key, None)

    def forget_all(self, now: float) -> None:
        """It may have happened to any key until now."""
        self._at.clear()
        self._floor = now

    def last(self, key: K) -> float:
        return self._at.get(key, self._floor)
