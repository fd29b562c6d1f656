"""What may be given to whom, worked out from what the upstream said: issue by issue, and without looking inside.

Responsible for the rules of access and of outages as a reader of the design would state them. Must not know how the
proxy keeps them: it sees what the upstream answered to which request, and what clients were given.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from lab.inside import GRACE, GRANT_TTL, MAX_STALE
from lab.rightful import TAG, WAIT, LoggedIn, Login, Said, Show

#: Seconds by which clocks may differ that were read one after the other.
MOMENT: Final = 0.01
#: Seconds for which it may be taken for granted that somebody answers, or does not.
PROBED: Final = 5.0
#: Seconds by which a token is a stranger's before its time is over.
EARLY: Final = 5
#: Seconds for which a token of the proxy's own may be honoured.
LOCAL_LIFE: Final = 90
#: A proof of access may count for so much less than the grace, so that it needs not be written down each time.
SURE: Final = GRACE * 23 / 24 - 1

type Who = tuple[Login | Show, str | None]  # an account or what stands for one, and the cookie next to it
#: What anybody may have, somebody may have as well, where nobody can be asked.
ANYBODY: Final[tuple[Who, ...]] = ((Show(), None), (Login(), None))
type Place = tuple[str, str]  # a repository and a digest


@dataclass(frozen=True)
class Known:
    """A token of which the proxy knows whose it is, for which repositories, and until when."""

    login: Login
    scope: frozenset[str]
    until: float


class Ledger:
    """One upstream's word, as far as the proxy heard it. Times are those of the test's clock."""

    def __init__(self) -> None:
        self.now = self.begun = 0.0
        self._brokered: dict[str, Known] = {}
        self._local: dict[str, Known] = {}
        self._proved: dict[tuple[Who, str], float] = {}
        self._refused: dict[tuple[Who, str], float] = {}
        self._refused_before = self._refused  # this step, in which nobody knows what came first
        self._sure: dict[tuple[Who, str], float] = {}
        self._paused: dict[Who, float] = {}
        self._logins: dict[Login, float] = {}
        self._down = -math.inf  # when the registry or its token server last could not be asked
        self._up = 0.0
        self._given: set[Place] = set()  # by the upstream, since it was last deleted
        self._kept: set[Place] = set()  # ... to a client through the proxy
        self.stored: set[str] = set()
        self._named: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by a tag, and when last
        self._tagged: dict[str, tuple[str, float]] = {}  # what a client last got by tag
        self._step: list[Said] = []
        self._gone: set[str] = set()  # repositories whose tag the upstream said to be missing in this step

    # -- what happens

    def begin(self, now: float, *, down: bool) -> None:
        """Something is done; `down` says whether the registry or its token server is out of order meanwhile."""
        self.now = self.begun = now
        self._step, self._gone = [], set()
        self._refused_before = dict(self._refused)
        if down:
            self._down = now
        else:
            self._up = now

    def heard(self, said: Said | LoggedIn, wait: bool, final: bool) -> None:
        """The upstream's next answer; `wait` if it asked for a pause, not `final` if it was overtaken by trouble."""
        if isinstance(said, LoggedIn):
            self._login(said)
            return
        key = who, repository = self.who(said.show, said.repository), said.repository
        if not final:
            if said.status in (401, 403):
                self._refuse(who, repository, said.at)
            return
        self._step.append(said)
        if said.digest:
            self._proved[key] = said.at
            self._given.add((repository, said.digest))
            if said.reference == TAG:
                self._named[repository][said.digest] = said.at
        elif said.status in (401, 403) or (said.status == 404 and self._knew(said)):
            self._refuse(who, repository, said.at)
        if wait and said.status == 429:
            self._paused[who] = said.at + WAIT
        if said.status == 404 and said.reference == TAG and self._knew(said):
            self._gone.add(repository)  # at the same time as others get it, perhaps: who knows which was later
            self._forget(repository, before=self.begun)

    def _knew(self, said: Said) -> bool:
        """Had the proxy given that out before?"""
        if said.reference == TAG:
            _, seen = self._tagged.get(said.repository, ("", -math.inf))
            return said.at - seen < MAX_STALE * 23 / 24
        return (said.repository, said.reference) in self._kept

    def _login(self, said: LoggedIn) -> None:
        if said.status == 200:
            self._logins[said.login] = said.at
        if said.status in (401, 403) and said.login.user:
            if (
                said.status == 401 or not said.scope
            ):  # else it is about the repositories: GitLab says so to who is known
                self._logins.pop(said.login, None)
            for repository in said.scope:
                self._refuse((said.login, None), repository, said.at)

    def _refuse(self, who: Who, repository: str, at: float) -> None:
        self._refused[who, repository] = at
        self._sure.pop((who, repository), None)

    def brokered(self, authorization: str, login: Login, scope: frozenset[str], life: float) -> None:
        """The proxy relayed this token."""
        self._brokered[authorization] = Known(login, scope, self.now + life - EARLY)

    def local(self, authorization: str, login: Login, scope: frozenset[str]) -> None:
        """The proxy made this token."""
        self._local[authorization] = Known(login, scope, self.now + LOCAL_LIFE)

    def restarted(self) -> None:
        """The proxy forgot whose tokens are, and who is to wait."""
        self._brokered.clear()
        self._paused.clear()

    def deleted(self, repository: str, digest: str) -> None:
        """By way of the proxy."""
        self._given.discard((repository, digest))
        self._kept.discard((repository, digest))

    def untagged(self, repository: str) -> None:
        """What the tag named counts no more."""
        self._forget(repository, before=math.inf)

    def _forget(self, repository: str, *, before: float) -> None:
        named = self._named[repository]
        self._named[repository] = {digest: at for digest, at in named.items() if at >= before}
        self._tagged.pop(repository, None)

    def pulled(self, show: Show, repository: str, digest: str, *, tag: bool) -> None:
        """A client got this with GET from the proxy, while everything was in order."""
        key = self.who(show, repository), repository
        self._kept.add((repository, digest))
        self.stored.add(digest)
        if tag and repository not in self._gone:
            self._tagged[repository] = digest, self.now
        if self._proved.get(key, -math.inf) >= self.begun > self._refused.get(key, -math.inf):
            self._sure[key] = self._proved[key]

    # -- what may be

    def who(self, show: Show, repository: str) -> Who:
        """Tokens stand for their account where they were asked for; everything else stands for itself."""
        token = show.authorization or ""
        known = self._local.get(token) or self._brokered.get(token)
        if known is not None and known.until > self.now and repository in known.scope:
            return known.login, show.cookie
        return Show(show.authorization), show.cookie

    def paused(self, show: Show, repository: str) -> bool:
        """Did the registry ask this one to wait?"""
        return self._paused.get(self.who(show, repository), 0.0) > self.now - MOMENT

    def is_local(self, show: Show) -> bool:
        """Is this a token of the proxy's own?"""
        return show.authorization in self._local

    def objection(self, show: Show, repository: str, digest: str, *, tag: bool, scarce: bool) -> str | None:
        """Why this content should not have been given, just now."""
        key = self.who(show, repository), repository
        if (repository, digest) not in self._given:
            return "the upstream did not give it out there, or deleted it since"
        heard = [said for said in self._step if (self.who(said.show, said.repository), said.repository) == key]
        if self.is_local(show):
            if not isinstance(key[0][0], Login):
                return "this token is of no use here"
            excused = self.now - self._down < PROBED + MOMENT
            if not excused:
                return "a token for outages is of no use when there is none"
        else:
            excused = any(said.trouble for said in heard) or self.paused(show, repository) or (tag and scarce)
        asked = [said for said in heard if said.show == show and said.reference == (TAG if tag else digest)]
        if any(said.status in (401, 403, 404) for said in asked):
            return "the upstream refused it just now"
        named = self.now - self._named[repository].get(digest, -math.inf)
        if tag and named > MAX_STALE + MOMENT:
            return f"the tag named it {named:.0f} s ago"
        whose = (key[0], *(ANYBODY if excused else ()))
        age = min(self._age(who, repository) for who in whose)
        return None if age < (GRACE if excused else GRANT_TTL) + MOMENT else f"the last proof is {age:.0f} s old"

    def _age(self, who: Who, repository: str) -> float:
        """Seconds since the upstream last gave something, and refused nothing since."""
        proved = self._proved.get((who, repository), -math.inf)
        in_force = proved >= self.begun or proved > self._refused_before.get((who, repository), -math.inf)
        return self.now - proved if in_force else math.inf

    # -- what has to be

    def certain(self, show: Show, repository: str, digest: str | None) -> str | None:
        """The digest that has to be served although the registry cannot be asked; None if nobody can tell.

        `digest` None stands for the tag.
        """
        if digest is None:
            digest, seen = self._tagged.get(repository, ("", -math.inf))
            if self.now - seen > MAX_STALE * 23 / 24 or digest not in self._named[repository]:
                return None
        key = self.who(show, repository), repository
        if self.is_local(show) and self.now - self._up < PROBED + 1:
            return None
        known = self.now - self._sure.get(key, -math.inf) < SURE
        return digest if known and digest in self.stored and (repository, digest) in self._kept else None

    def shaken(self, show: Show, repository: str, *, tag: bool) -> bool:
        """Has this step itself put an end to what was certain at its beginning, perhaps by another's question?"""
        refused = self._refused.get((self.who(show, repository), repository), -math.inf)
        return refused >= self.begun or (tag and repository in self._gone)

    def logged_in(self, login: Login, within: float) -> bool:
        """Did the token server accept this one so lately, and not refuse since?"""
        return self.now - self._logins.get(login, -math.inf) < within + MOMENT
