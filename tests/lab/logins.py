"""A registry over TLS that wants tokens of the lab's token server, and the road of a client that gets them.

For tests of the inside (`lab.inside`): what docker and the others do between a 401 and the content.
"""

import base64
import dataclasses
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

from lab.fake_registry import CONTENT, FakeRegistry, basic
from lab.inside import REPOSITORY, Chosen, Got, Inside, inside
from lab.journal import Request
from lab.pki import Pki
from lab.signer import SERVICE
from lab.tokens import TokenServer
from pullthrough.messages import Request as Question
from pullthrough.siblings import Siblings
from pullthrough.trust import client_context

ALICE, BOB = basic("alice", "secret"), basic("bob", "hunter2")
"""With the passwords that the token server knows."""
WRONG = basic("alice", "guessed")
OUR_REALM = re.compile(r'realm="https://[^/"]+(?P<path>/v2/_pullthrough/token/[0-9a-f]{16})"')


@asynccontextmanager
async def behind_tls(
    folder: Path,
    fake: FakeRegistry,
    tokens: TokenServer,
    *authorities: Pki,
    chosen: Chosen | None = None,
    siblings: Siblings | None = None,
) -> AsyncIterator[Inside]:
    """`inside` before a registry over TLS that wants tokens of `tokens`."""
    tls = trusting(*authorities)
    async with inside(folder, fake, eager=True, tls=tls, chosen=chosen, siblings=siblings) as made:
        wants_tokens(fake, tokens.realm)
        yield made


def trusting(*authorities: Pki) -> ssl.SSLContext:
    """For an upstream whose certificate is one of theirs."""
    return client_context(b"".join(authority.ca_file.read_bytes() for authority in authorities))


def wants_tokens(fake: FakeRegistry, realm: str) -> None:
    """Let `fake` answer to those alone whose token permits what they ask for."""
    fake.manners.challenge = challenge(realm)
    fake.manners.accepts = permits


def challenge(realm: str, repository: str = REPOSITORY) -> str:
    """As distribution writes it."""
    return f'Bearer realm="{realm}",service="{SERVICE}",scope="repository:{repository}:pull"'


def permits(request: Request) -> bool:
    """Does the request's token permit to pull what it is for? For `/v2/` any token does."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    parts = token.split(".")
    if scheme != "Bearer" or len(parts) != 3:
        return False
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    found = CONTENT.match(request.path)
    return found is None or any(
        entry["name"] == found["repository"] and "pull" in entry["actions"] for entry in claims["access"]
    )


async def token_path(proxy: Inside) -> str:
    """Where the registry's challenge sends a client."""
    got = await proxy.get("/v2/")
    found = OUR_REALM.search(got.headers.get("www-authenticate") or "")
    assert found, got
    return found["path"]


async def ask_token(
    proxy: Inside, authorization: str | None = None, repository: str = REPOSITORY, **more: str | None
) -> Got:
    """A token request, as by GET; `more` is added to its query, None takes a parameter out."""
    query = {"service": SERVICE, "scope": f"repository:{repository}:pull", **more}
    text = urlencode({name: value for name, value in query.items() if value is not None})
    return await proxy.get(f"{await token_path(proxy)}?{text}", authorization=authorization)


async def post_form(proxy: Inside, path: str, **fields: str) -> Got:
    """A token request, as by POST."""
    return await proxy.send(form(proxy, path, urlencode(fields).encode()))


def form(proxy: Inside, path: str, body: bytes) -> Question:
    """A form as it is to be sent: to the last byte."""
    request = proxy.request(path, "POST", content_type="application/x-www-form-urlencoded")
    return dataclasses.replace(request, body=body)


def token_in(got: Got) -> str:
    """The token that was given."""
    assert got.status == 200, got.body
    token = json.loads(got.body)["token"]
    assert isinstance(token, str)
    return token


async def bearer(proxy: Inside, authorization: str | None = None, repository: str = REPOSITORY) -> str:
    """The value of Authorization with a token for this login."""
    return f"Bearer {token_in(await ask_token(proxy, authorization, repository))}"
