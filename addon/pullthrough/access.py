"""Who may have what from the cache: grants by principal and repository.

Responsible for the rule that nothing leaves the cache unless the upstream lately gave something of the same
repository to the same credentials (issue 2, part 13). Must not know requests, answers or storage, and never
keeps a credential: a principal is a keyed fingerprint. Fails closed: what is not remembered is not granted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

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

    def principal(self, headers: Headers) -> bytes:
        """Who sent these fields: a fingerprint of every field that may hold a credential. Anonymous is one too."""
        mac = hmac.new(self._secret, digestmod=hashlib.sha256)
        for name, value in headers.credentials():
            for part in (name.encode(), value.encode("utf-8", "surrogateescape")):
                mac.update(len(part).to_bytes(4) + part)
        return mac.digest()

    def now(self) -> float:
        """The time to give to `grant`: taken before the upstream is asked, as its answer is no younger."""
        return self._clock()

    def grant(self, principal: bytes, repository: Repository, asked: float) -> None:
        """The upstream answered 2xx to `principal` in `repository`, to a request sent at `asked`."""
        key = principal, repository
        self._until[key] = max(asked + GRANT_TTL, self._until.pop(key, 0.0))
        while len(self._until) > MAX_GRANTS:
            self._until.popitem(last=False)

    def granted(self, principal: bytes, repository: Repository) -> bool:
        """May `principal` be given cached content of `repository` now?"""
        return self._until.get((principal, repository), 0.0) > self._clock()

    def revoke(self, principal: bytes, repository: Repository) -> None:
        """The upstream refused: forget what it allowed before."""
        self._until.pop((principal, repository), None)
