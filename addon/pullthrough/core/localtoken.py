"""Bearer tokens that we sign ourselves while the upstream's token server does not answer (issue 3, part 8).

Responsible for making them, for telling them from others', and for believing none but our own. The key and the time
are the caller's; who deserves a token, and what it opens, is decided elsewhere.
"""

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Final

#: Characters of a token that is read at all, and so of one that is made.
MAX_TOKEN: Final = 16384

# Whatever begins so is ours, also if a later version made it: no other issuer has a use for the name.
_OURS: Final = "pullthrough."
_PREFIX: Final = f"{_OURS}v1."
_TOKEN: Final = re.compile(rf"({re.escape(_PREFIX)}([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class LocalToken:
    """What a token says: whose it is, at which registry, for which repositories, until when (epoch seconds)."""

    account: bytes = field(repr=False)
    registry: str
    repositories: frozenset[str]
    expires: int


def mint(key: bytes, token: LocalToken) -> str:
    """The signed text of `token`, good as a Bearer token.

    ValueError beyond `MAX_TOKEN` characters, which what `credentials.pullable` gives never comes to.
    """
    said = {
        "account": token.account.hex(),
        "registry": token.registry,
        "repositories": sorted(token.repositories),
        "expires": token.expires,
    }
    signed = _PREFIX + _base64url(json.dumps(said, separators=(",", ":")).encode("ascii"))
    text = f"{signed}.{_signature(key, signed)}"
    if len(text) > MAX_TOKEN:
        raise ValueError(f"a local token has at most {MAX_TOKEN} characters")
    return text


def is_local(text: str) -> bool:
    """Whether a token is one of ours by its beginning, valid or not: it must never go upstream, where it is refused."""
    return text.startswith(_OURS)


def read(key: bytes, text: str, now: float) -> LocalToken | None:
    """What `text` says, if it was signed with `key` and has not expired at `now` (epoch seconds). Never raises."""
    found = _TOKEN.fullmatch(text) if len(text) <= MAX_TOKEN else None
    # The signature is compared as it is spelt: base64 has several spellings of the same bytes.
    if not found or not hmac.compare_digest(found[3], _signature(key, found[1])):
        return None
    token = _said(found[2])
    return token if token and now < token.expires else None


def _said(payload: str) -> LocalToken | None:
    """What a signed payload says; None for one of another shape, as a later version may sign."""
    try:
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return _shaped(said)
    except (ValueError, RecursionError):
        return None


def _shaped(said: object) -> LocalToken | None:
    match said:
        case {
            "account": str(account),
            "registry": str(registry),
            "repositories": [*repositories],
            "expires": int(expires),
        } if all(isinstance(repository, str) for repository in repositories):
            return LocalToken(bytes.fromhex(account), registry, frozenset(repositories), expires)
    return None


def _signature(key: bytes, signed: str) -> str:
    return _base64url(hmac.digest(key, signed.encode("ascii"), hashlib.sha256))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
