"""How a client gets a token: the challenge of a 401, then the realm that it names, asked with credentials.

Says what registry clients do there (distribution's token specification), one step at a time, so that a test can
leave a step out, repeat one or keep what it got.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from lab.asking import Asking
from lab.http import Fetched
from lab.signer import SERVICE

PARAMETER = re.compile(r'(\w+)="([^"]*)"')
FORM = "application/x-www-form-urlencoded"


def challenge(answer: Fetched) -> dict[str, str]:
    """The parameters of a 401's Bearer challenge; fails if there is none."""
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    if scheme != "Bearer":
        raise ValueError(f"no Bearer challenge: {scheme}")
    return dict(PARAMETER.findall(rest))


def basic(creds: str) -> str:
    """The value of Authorization for USER:PASSWORD."""
    return f"Basic {base64.b64encode(creds.encode()).decode()}"


def pull(*repositories: str) -> list[str]:
    """The scopes of a pull from them."""
    return [f"repository:{repository}:pull" for repository in repositories]


async def ask_token(anybody: Asking, creds: str | None, scopes: Sequence[str], *, post: bool = False) -> Fetched:
    """The answer to a token request, where the registry's challenge leads; `post` is containerd's way."""
    realm = urlsplit(challenge(await anybody.fetch("/v2/"))["realm"]).path
    if not post:
        query = urlencode([("service", SERVICE), *(("scope", scope) for scope in scopes)])
        return await anybody.as_account(basic(creds) if creds else None).fetch(f"{realm}?{query}")
    account, _, password = (creds or "").partition(":")
    form = {"grant_type": "password", "service": SERVICE, "client_id": "lab", "scope": " ".join(scopes)}
    body = urlencode({**form, "username": account, "password": password}).encode()
    return await anybody.fetch(realm, method="POST", body=body, headers={"Content-Type": FORM})


async def token(anybody: Asking, creds: str | None, *repositories: str, post: bool = False) -> str:
    """The token for a pull from these repositories; fails if there is none."""
    answer = await ask_token(anybody, creds, pull(*repositories), post=post)
    said: dict[str, Any] = json.loads(answer.body)
    if answer.status != 200:
        raise ValueError(f"no token: {answer.status} {answer.body!r}")
    return str(said["access_token"] if post else said["token"])


async def login(anybody: Asking, creds: str | None, *repositories: str, post: bool = False) -> Asking:
    """The same road with a token for a pull from these repositories."""
    return anybody.as_account(f"Bearer {await token(anybody, creds, *repositories, post=post)}")
