"""Who may have what from the cache: grants by principal and repository.

Responsible for the rule that nothing leaves the cache unless the upstream lately gave something of the same
repository to the same credentials (issue 2, part 13), and for the order of what the upstream said: an answer never
counts against a refusal or a deletion that came after its question. Must not know requests, answers or storage, and
never keeps a credential: a principal is a keyed fingerprint. Fails closed: what is not remembered is not granted.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.messages import Repository

#: Seconds for which one piece of evidence counts.
GRANT_TTL: Final = 60.0
#: Grants that are remembered; beyond, the oldest go, and their holders are checked anew.
MAX_GRANTS: Final = 65536


class Access:
    """The grants of this process. `clock` counts seconds and never goes back."""

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self._until: OrderedDict[tuple[bytes, Repository], float] = OrderedDict()
        self._refused = _Times[tuple[bytes, Repository]]()
        self._changed = _Times[tuple[Repository, Digest]]()
        self._severed = _Times[tuple[Repository, Digest]]()

    def principal(self, headers: Headers) -> bytes:
        """Who sent these fields: a fingerprint of every field that may hold a credential. Anonymous is one too."""
        mac = hmac.new(self._secret, digestmod=hashlib.sha256)
        for name, value in headers.credentials():
            for part in (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")):
                mac.update(len(part).to_bytes(4) + part)
        return mac.digest()

    def now(self) -> float:
        """The time to give to `grant`: taken before the upstream is asked, as its answer is no younger."""
        return self._clock()

    def grant(self, principal: bytes, repository: Repository, asked: float) -> None:
        """The upstream gave content of `repository` to `principal`, to a request sent at `asked`.

        Has no effect if it refused meanwhile: nobody knows which of the two it said last.
        """
        key = principal, repository
        if asked > self._refused.last(key):
            self._until[key] = max(asked + GRANT_TTL, self._until.pop(key, 0.0))
            while len(self._until) > MAX_GRANTS:
                self._until.popitem(last=False)

    def granted(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` now?"""
        return self._until.get((principal, repository), -math.inf) > self._clock()

    def revoke(self, principal: bytes, repository: Repository) -> None:
        """The upstream refused: forget what it allowed before, and what it was asked before."""
        self._until.pop((principal, repository), None)
        self._refused.note((principal, repository), self._clock())

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
