"""What the operator allows, refuses and caches: globs over HOST[:PORT]/REPOSITORY.

`*` stands for any characters within one component of the path, `**` for any number of components, none included. A
glob without a `/` is a host and means all that is below it. Without a port it holds on every port, so that nobody is
around a refusal by asking another one. `**/alpine` is that repository at any depth of any host.

Docker Hub goes by each of its names, and `docker.io/alpine` is `docker.io/library/alpine`, as in image references.

Responsible for the verdict. Must not know who asks, what is cached, or in what words something is refused. A verdict
takes time in proportion to the lengths of glob and name, multiplied at worst: nothing is tried twice.
"""

import enum
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pullthrough.core import hub
from pullthrough.core.concerns import Concerns

#: Characters of a glob; a repository's name has 255 at most.
MAX_GLOB: Final = 512

_ANY_COMPONENTS: Final = "**"
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[a-z0-9_.*-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_COMPONENT: Final = re.compile(r"[a-z0-9._*-]+")
_FORM: Final = "a glob is HOST[:PORT][/REPOSITORY], such as ghcr.io, *.corp.test:5050 or docker.io/library/*"


class Verdict(enum.StrEnum):
    """What becomes of a request: refused, passed through without the cache, or taken care of by it. Strictest first."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 -- no secret
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern, as `parse_glob` reads it. `runs` are the components of the path between one `**` and the next."""

    host: str
    port: int | None
    runs: tuple[tuple[str, ...], ...]

    def covers(self, host: str, port: int, repository: str) -> bool:
        """Whether this is meant; `host` in any case, with or without brackets and trailing dot."""
        return self.reaches(host, port) and _path_fits(self.runs, repository.split("/"))

    def reaches(self, host: str, port: int) -> bool:
        """Whether a repository of this host may be meant; `host` as in `covers`."""
        return self.port in (None, port) and any(fits(self.host, name) for name in _names(host))

    @property
    def whole(self) -> bool:
        """Whether all that the host has is meant."""
        return len(self.runs) > 1 and not any(self.runs)


def parse_glob(text: str) -> Glob:
    """The glob that `text` spells; ValueError, with a sentence for the operator, for others."""
    if len(text) > MAX_GLOB:
        raise ValueError(f"a glob has at most {MAX_GLOB} characters")
    if "://" in text:
        raise ValueError(f"{text!r}: leave the scheme out; {_FORM}")
    authority, slash, path = text.strip().partition("/")
    host, port = _authority(text, authority)
    if not slash:
        return Glob(host, port, ((), ()))
    components = path.split("/")
    for component in components:
        _check(text, component)
    if authority == _ANY_COMPONENTS:
        components = [_ANY_COMPONENTS, *components]
    elif host in hub.NAMES and len(components) == 1 and components != [_ANY_COMPONENTS]:
        components = [hub.OFFICIAL, *components]
    return Glob(host, port, _runs(components))


def _authority(text: str, authority: str) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError(f"{text!r}: {authority!r} is not a host or a glob of one; {_FORM}")
    host = _canonical(found[1])
    if found[1].startswith("[") and _ipv6(host) is None:
        raise ValueError(f"{text!r}: {found[1]} is not an IPv6 address")
    if host == _ANY_COMPONENTS:
        host = "*"
    if _ANY_COMPONENTS in host or not host:
        raise ValueError(f"{text!r}: ** stands for whole components only; {_FORM}")
    port = int(found[2]) if found[2] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{text!r}: the port must be a number from 1 to 65535")
    return host, port


def _check(text: str, component: str) -> None:
    """ValueError for what no repository's name could fit: a glob that can mean nothing is a mistake."""
    if not component:
        raise ValueError(f"{text!r}: there is nothing before, after or between two slashes; {_FORM}")
    if ":" in component or "@" in component:
        raise ValueError(f"{text!r}: give the repository alone, without a tag or a digest")
    if component != component.lower():
        raise ValueError(f"{text!r}: repositories are in lower case")
    if component != _ANY_COMPONENTS and _ANY_COMPONENTS in component:
        raise ValueError(f"{text!r}: ** stands for whole components only; {_FORM}")
    if not _COMPONENT.fullmatch(component):
        raise ValueError(f"{text!r}: {component!r} is in no repository's name; {_FORM}")


def _runs(components: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    runs: list[list[str]] = [[]]
    for component in components:
        if component == _ANY_COMPONENTS:
            runs.append([])
        else:
            runs[-1].append(component)
    return tuple(tuple(run) for run in runs)


def _canonical(host: str) -> str:
    """A host as `registries.Entry` has it: lower case, no trailing dot, an IPv6 address short and without brackets."""
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    return _ipv6(name) or name


def _ipv6(name: str) -> str | None:
    try:
        return ipaddress.IPv6Address(name).compressed
    except ValueError:
        return None


def _names(host: str) -> tuple[str, ...]:
    name = _canonical(host)
    return hub.NAMES if name in hub.NAMES else (name,)


def fits(pattern: str, text: str) -> bool:
    """Whether `text` is of this pattern, in which `*` is any number of characters.

    What stands between two stars is looked for once, from where the one before it ended: the first place that it is
    found at leaves most for the others, so no second one need be tried.
    """
    first, *others = pattern.split("*")
    if not others:
        return text == pattern
    *middle, last = others
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _path_fits(runs: Sequence[Sequence[str]], names: Sequence[str]) -> bool:
    """The same one level up: between two runs is any number of components."""
    first, *others = runs
    if not others:
        return len(first) == len(names) and _begins(first, names, 0)
    *middle, last = others
    at, end = len(first), len(names) - len(last)
    if at > end or not _begins(first, names, 0) or not _begins(last, names, end):
        return False
    for run in middle:
        found = next((start for start in range(at, end - len(run) + 1) if _begins(run, names, start)), None)
        if found is None:
            return False
        at = found + len(run)
    return True


def _begins(run: Sequence[str], names: Sequence[str], start: int) -> bool:
    return all(fits(pattern, name) for pattern, name in zip(run, names[start : start + len(run)], strict=True))


type _Among = Callable[[Sequence[Glob]], bool]


@dataclass(frozen=True, slots=True)
class Filters:
    """The operator's globs. An empty `allow` allows all, an empty `cache` caches all.

    `deny` wins over `allow`, and `bypass` over `cache`.
    """

    allow: tuple[Glob, ...] = ()
    deny: tuple[Glob, ...] = ()
    cache: tuple[Glob, ...] = ()
    bypass: tuple[Glob, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether anything is refused at all."""
        return bool(self.allow or self.deny)

    def judged(self, host: str, port: int, concerned: Concerns) -> Verdict:
        """What becomes of a request that could concern these: the strictest that any of them gets."""
        verdicts = {self.verdict(host, port, repository) for repository in concerned.repositories}
        if concerned.unknown:
            verdicts.add(self._of_any(host, port))
        return next((verdict for verdict in Verdict if verdict in verdicts), Verdict.CACHE)

    def verdict(self, host: str, port: int, repository: str) -> Verdict:
        """What becomes of a request for this repository; `host` as in `Glob.covers`."""
        names = _spellings(host, repository)

        def some(globs: Sequence[Glob]) -> bool:
            return any(glob.covers(host, port, name) for glob in globs for name in names)

        return self._strictest(some, lambda globs: any(glob.covers(host, port, repository) for glob in globs))

    def _of_any(self, host: str, port: int) -> Verdict:
        """The strictest that a repository of this host could get."""
        return self._strictest(
            lambda globs: any(glob.reaches(host, port) for glob in globs),
            lambda globs: any(glob.whole and glob.reaches(host, port) for glob in globs),
        )

    def _strictest(self, may_be: _Among, is_surely: _Among) -> Verdict:
        if may_be(self.deny) or (self.allow and not is_surely(self.allow)):
            return Verdict.REFUSE
        if may_be(self.bypass) or (self.cache and not is_surely(self.cache)):
            return Verdict.PASS
        return Verdict.CACHE


def _spellings(host: str, repository: str) -> tuple[str, ...]:
    """Docker Hub's `alpine` is `library/alpine`, should it ever be served under that name."""
    if "/" in repository or _canonical(host) not in hub.NAMES:
        return (repository,)
    return repository, f"{hub.OFFICIAL}/{repository}"
