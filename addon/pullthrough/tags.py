"""The last digest that each tag had: for the time in which nobody can ask for the present one.

Responsible for remembering what the upstream last said a tag names, for clients that accept the same media types (a
registry may answer them differently). Must not decide when that is good enough, nor for whom.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from pullthrough.core import media
from pullthrough.core.digest import Digest
from pullthrough.facts import Facts
from pullthrough.messages import Repository

#: By the key of a tag: the tag, what was accepted, what it names.
type _Said = OrderedDict[str, tuple[str, tuple[str, ...], Digest]]

#: Repositories, and tags of each, of which is remembered what somebody asked for but did not get yet.
_MAX_REPOSITORIES: Final = 1024
_MAX_NAMED: Final = 64


class Tags:
    """What tags named, for `max_stale` seconds since they were last checked; for 0 nothing is remembered."""

    def __init__(self, facts: Facts, max_stale: float) -> None:
        self._facts = facts
        self._max_stale = max_stale
        self._named: OrderedDict[Repository, _Said] = OrderedDict()

    def named(self, repository: Repository, tag: str, accept: Sequence[str], digest: Digest) -> None:
        """The upstream said just now that `tag` names `digest`, of which nobody here got the content yet.

        Most clients ask so, and then for the digest (`got`). Before that, what the tag named last is the better answer.
        """
        if not self._max_stale:
            return
        said = self._named.setdefault(repository, OrderedDict())
        key = _key(repository, tag, accept)
        said[key] = tag, tuple(accept), digest
        said.move_to_end(key)
        self._named.move_to_end(repository)
        if len(said) > _MAX_NAMED:
            said.popitem(last=False)
        if len(self._named) > _MAX_REPOSITORIES:
            self._named.popitem(last=False)

    def got(self, repository: Repository, digest: Digest) -> None:
        """A client got this manifest of `repository`: the tags that were said to name it do so."""
        for tag, accept, named in list(self._said(repository).values()):
            if named == digest:
                self.seen(repository, tag, accept, digest)

    def seen(self, repository: Repository, tag: str, accept: Sequence[str], digest: Digest) -> None:
        """The upstream said just now that `tag` names `digest`, and that is what the client got, or can get here."""
        key = _key(repository, tag, accept)
        self._said(repository).pop(key, None)
        if self._max_stale:
            self._facts.put(key, str(digest), self._max_stale)
            self._facts.drop(_gone(repository, tag))

    async def last(self, repository: Repository, tag: str, accept: Sequence[str]) -> Digest | None:
        """What it named when it was last seen."""
        known = await self._facts.get(_key(repository, tag, accept), self._max_stale)
        if not isinstance(known, str) or await self._facts.get(_gone(repository, tag)) is not None:
            return None
        return Digest.parse(known)

    def gone(self, repository: Repository, tag: str) -> None:
        """It was deleted or moved: what it named counts no more, whatever media types somebody accepts."""
        said = self._said(repository)
        for key in [key for key, (named, _, _) in said.items() if named == tag]:
            del said[key]
        if self._max_stale:
            self._facts.put(_gone(repository, tag), True, self._max_stale)

    def _said(self, repository: Repository) -> _Said:
        return self._named.get(repository, OrderedDict())


def _key(repository: Repository, tag: str, accept: Sequence[str]) -> str:
    types = "\n".join(media.accept_key(accept))
    return f"tag {repository}:{tag} {hashlib.sha256(types.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def _gone(repository: Repository, tag: str) -> str:
    return f"gone {repository}:{tag}"
