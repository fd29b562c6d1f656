"""Which of the stored images a person means: IMAGE, REPOSITORY, REGISTRY, DIGEST, or a glob over them.

    alpine:3                         one tag, at Docker Hub
    ghcr.io/team/app:1.*             tags by a glob
    ghcr.io/team/app@sha256:...      one manifest of a repository
    ghcr.io/team/app                 a repository, with all that it has
    ghcr.io/team/*                   repositories by a glob, as core.filters has it
    registry.corp.test:5000          a registry; * is every one
    sha256:...                       a digest, wherever it is

A name without a slash is a registry if it has a dot or is localhost, as in image references, else an image of Docker
Hub. Without a tag every tag is meant, not `latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from pullthrough.core import hub
from pullthrough.core.digest import Digest
from pullthrough.core.filters import Glob, fits, parse_glob

#: A tag (OCI distribution specification 1.1, "Pulling manifests"), in which stars may stand.
_TAG: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._*-]{0,127}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is meant. `glob` is None for a digest that may be anywhere; `tag` may have stars, None means all tags.

    Equal ones mean the same, however they were written.
    """

    text: str = field(compare=False)
    glob: Glob | None = None
    tag: str | None = None
    digest: Digest | None = None

    @property
    def whole(self) -> bool:
        """Are whole repositories meant, with all that they have?"""
        return self.glob is not None and self.tag is None and self.digest is None

    @property
    def single(self) -> bool:
        """Is one image meant, not all of some form?"""
        return not self.whole and "*" not in self.text

    def covers(self, host: str, port: int, repository: str) -> bool:
        """Is something of this repository meant? `host` as in `Glob.covers`."""
        return self.glob is None or self.glob.covers(host, port, repository)

    def names(self, tag: str) -> bool:
        """Are images with this tag meant, in a repository that is covered?"""
        return self.digest is None and (self.tag is None or fits(self.tag, tag))

    def __str__(self) -> str:
        return self.text


def parse_selection(text: str) -> Selection:
    """What `text` means; ValueError, with a sentence for the operator, if that is nothing."""
    digest = Digest.parse(text)
    if digest is not None:
        return Selection(text, digest=digest)
    name, at, reference = text.partition("@")
    if at:
        digest = Digest.parse(reference)
        if digest is None:
            raise ValueError(f"{text!r}: {reference!r} is not a digest, such as sha256: with 64 hexadecimal digits")
        return Selection(text, _glob(_split_tag(name)[0]), digest=digest)
    name, tag = _split_tag(text)
    if tag is not None and not _TAG.fullmatch(tag):
        raise ValueError(f"{text!r}: {tag!r} is not a tag")
    return Selection(text, _glob(name), tag)


def _split_tag(text: str) -> tuple[str, str | None]:
    """Name and tag. What follows the colon of a bare host is a port."""
    head, colon, tag = text.rpartition(":")
    if not colon or "/" in tag or ("/" not in head and _is_host(head)) or text.endswith("]"):
        return text, None
    return head, tag


def _glob(name: str) -> Glob:
    first, slash, _ = name.partition("/")
    host = first if first.startswith("[") else first.partition(":")[0]
    somewhere = _is_host(host) or set(name) == {"*"} or (slash and ("*" in host or ":" in first))
    return parse_glob(name if somewhere else f"{hub.NAMES[0]}/{name}")


def _is_host(name: str) -> bool:
    return "." in name or name == "localhost" or name.startswith("[")
