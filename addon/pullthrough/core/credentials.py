"""Who a request claims to be, and for what it asks a token server.

Reads Authorization (RFC 7617 and RFC 6750), the forms of token requests (RFC 6749) and the scopes of the distribution
project's token specification. A claim is what was said, whether it is true is for the upstream to say. Only what is
understood to the last field is named: everything else is a claim of its own kind, so that no two senders whom an
upstream could tell apart make the same claim. Keeps nothing, and shows no secret in a repr.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qs

from pullthrough.core.headers import Headers
from pullthrough.core.routes import is_repository

#: The media type of forms, and of the query of a URL.
FORM: Final = "application/x-www-form-urlencoded"
#: Characters of an Authorization field that is read at all; ECR's passwords and Google's JSON keys have 2,500.
MAX_AUTHORIZATION: Final = 32768
#: Bytes and fields of a form that is read at all.
MAX_FORM: Final = 65536
MAX_FORM_FIELDS: Final = 64
#: Repositories that one token request can ask for; clients ask for one, or for two to mount a blob from the other.
MAX_REPOSITORIES: Final = 32
#: The field that stands for a body that could not be read as a form; no claim is anonymous with it.
UNREAD: Final = ""

_BASIC: Final = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)
_BEARER: Final = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)
_SCOPE: Final = re.compile(r"repository:([^:]+):([^:]*)")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2})")

#: Fields of a token request that say nothing of who sends it. Every other one may.
IMPERSONAL: Final = frozenset(
    {"access_type", "account", "client_id", "grant_type", "offline_token", "scope", "service"}
)


@dataclass(frozen=True, slots=True)
class Claim:
    """An account as a request names it. Claims are equal exactly if their senders cannot be told apart.

    "password" has `user` and `secret`, from Basic or a form alike; "refresh" has a refresh token as `secret`; "other"
    has everything that may say who asks, as one opaque text.
    """

    kind: Literal["anonymous", "password", "refresh", "other"]
    user: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


def basic(headers: Headers) -> tuple[str, str] | None:
    """User and password of the one Authorization field, if that is well-formed Basic in UTF-8; None otherwise."""
    found = _BASIC.fullmatch(_authorization(headers))
    text = _decoded(found[1]) if found else None
    if text is None or ":" not in text:
        return None
    user, _, password = text.partition(":")
    return user, password


def bearer(headers: Headers) -> str | None:
    """The token of the one Authorization field, if that is Bearer; None otherwise.

    Other fields of the request may hold credentials as well (`Headers.credentials`).
    """
    found = _BEARER.fullmatch(_authorization(headers))
    return found[1] if found else None


def _authorization(headers: Headers) -> str:
    """The value of the only Authorization field; "" for none, several, and one that is too long."""
    values = headers.all("authorization")
    return values[0].strip(" \t") if len(values) == 1 and len(values[0]) <= MAX_AUTHORIZATION else ""


def _decoded(encoded: str) -> str | None:
    """The UTF-8 text that `encoded` is the one canonical base64 of."""
    try:
        data = base64.b64decode(encoded, validate=True)
        return data.decode() if base64.b64encode(data).decode("ascii") == encoded else None
    except ValueError:
        return None


def claim(headers: Headers, form: Mapping[str, Sequence[str]]) -> Claim:
    """Who a token request claims to be, from its fields and its form, to which the query is best added.

    Any doubt makes it "other": two kinds of credentials at once, repeated fields, another scheme, another grant type,
    a field that may be a credential (`Headers.credentials`), and a form that could not be read.
    """
    lines = headers.credentials()
    personal = {name: tuple(values) for name, values in form.items() if name not in IMPERSONAL}
    if not lines and not personal:
        return Claim("anonymous")
    named = _from_headers(headers, lines) if not personal else None if lines else _from_form(form, personal)
    return named or Claim("other", secret=json.dumps([lines, sorted(personal.items())]))


def _from_headers(headers: Headers, lines: Sequence[tuple[str, str]]) -> Claim | None:
    account = basic(headers)
    return Claim("password", *account) if account and len(lines) == 1 else None


def _from_form(form: Mapping[str, Sequence[str]], personal: Mapping[str, Sequence[str]]) -> Claim | None:
    grant = tuple(form.get("grant_type", ()))
    match personal:
        case {"username": [user], "password": [password]} if len(personal) == 2 and grant in ((), ("password",)):
            return Claim("password", user, password)
        case {"refresh_token": [token]} if len(personal) == 1 and grant in ((), ("refresh_token",)):
            return Claim("refresh", secret=token)
    return None


def pullable(scopes: Iterable[str]) -> frozenset[str]:
    """The repositories that `scopes` ask to pull from, each "repository:NAME:ACTIONS" or several with spaces between.

    Any other form (a class, a tag after the name) gives no right to the repository upstream, and none here. At most
    `MAX_REPOSITORIES`, and none whose name no repository can have.
    """
    found: set[str] = set()
    for scope in (part for text in scopes for part in text.split(" ")):
        asked = _SCOPE.fullmatch(scope)
        if asked and not {"pull", "*"}.isdisjoint(asked[2].split(",")) and is_repository(asked[1]):
            found.add(asked[1])
        if len(found) == MAX_REPOSITORIES:
            break
    return frozenset(found)


def form(body: bytes, content_type: str | None) -> dict[str, list[str]]:
    """The fields of a body of the type `FORM`, in order; {} for no body. Never raises.

    A body that is anything else, or too large, or that servers could read in two ways, has the one field `UNREAD`,
    whose value is equal for equal bodies only.
    """
    media = (content_type or "").partition(";")[0].strip(" \t").lower()
    if media == FORM or not body:
        fields = _fields(body)
        if fields is not None:
            return fields
    return {UNREAD: [hashlib.sha256(body).hexdigest()]}


def _fields(body: bytes) -> dict[str, list[str]] | None:
    if len(body) > MAX_FORM or _BROKEN_ESCAPE.search(body):
        return None
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        return None
