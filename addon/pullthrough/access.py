"""Who may have what from the cache: grants by principal and repository.

Responsible for the rule that nothing leaves the cache unless the upstream lately gave something of the same
repository to the same account (issues 2 and 3), and for the order of what the upstream said: an answer never counts
against a refusal or a deletion that came after its question. Must not know requests, answers or storage, nor who a
principal is: that is a fingerprint. Fails closed: what is not remembered is not granted.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.facts import LASTING, Facts, Row, row_of
from pullthrough.messages import Repository

#: Grants that are remembered; beyond, the oldest go, and their holders are checked anew.
MAX_GRANTS: Final = 65536


class Access:
    """The grants of this process; proofs for an outage are kept as facts.

    `clock` counts seconds and never goes back. Evidence counts for `ttl` seconds, and while the upstream cannot be
    asked, for `grace`.
    """

    def __init__(self, facts: Facts, clock: Callable[[], float], *, ttl: float, grace: float) -> None:
        self._facts = facts
        self._clock = clock
        self._ttl = ttl
        self._grace = grace
        self._until: OrderedDict[tuple[bytes, Repository], float] = OrderedDict()
        self._refused = _Times[tuple[bytes, Repository]]()
        self._changed = _Times[tuple[Repository, Digest]]()
        self._severed = _Times[tuple[Repository, Digest]]()

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
        self._until[key] = max(asked + self._ttl, self._until.pop(key, 0.0))
        while len(self._until) > MAX_GRANTS:
            self._until.popitem(last=False)
        if self._grace:
            self._facts.put(_fact(principal, repository), True, self._grace)

    def granted(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` now?"""
        return self._until.get((principal, repository), -math.inf) > self._clock()

    async def remembered(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` while the upstream cannot be asked?"""
        if await self._facts.get(_fact(principal, repository), self._grace) is True:
            return True
        return self._grace > 0 and await self._facts.get(_vouched(principal, repository), shared=True) is True

    def revoke(self, principal: bytes, repository: Repository) -> None:
        """The upstream refused: forget what it allowed before, and what it was asked before."""
        self._until.pop((principal, repository), None)
        self._refused.note((principal, repository), self._clock())
        self._facts.drop(_fact(principal, repository))
        self._facts.drop(_vouched(principal, repository), shared=True)

    def changed(self, repository: Repository, digest: Digest) -> None:
        """The upstream deleted or replaced `digest` in `repository` just now."""
        self._changed.note((repository, digest), self._clock())
        self._severed.note((repository, digest), math.inf)

    def settled(self, repository: Repository, digest: Digest) -> None:
        """The store knows of the change."""
        self._severed.forget((repository, digest))

    def severed(self, repository: Repository, digest: Digest) -> bool:
        """Was there a change of which the store may not know?"""
        return self._severed.last((repository, digest)) == math.inf

    def overtaken(self, repository: Repository, digest: Digest, asked: float) -> bool:
        """May what the upstream said of `digest`, to a question sent at `asked`, be out of date by a change since?"""
        return asked <= self._changed.last((repository, digest))


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

    def last(self, key: K) -> float:
        return self._at.get(key, self._floor)
