"""The token server gives what its table of owners says, by GET and by POST, and nothing when told so."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from lab.fake_registry import basic
from lab.http import Client, Fetched
from lab.names import NameMap
from lab.pki import Pki
from lab.tokens import ISSUER, SERVICE, TokenServer

SECRETS = {"alice": "secret", "bob": "hunter2", None: ""}


@pytest.fixture
def server(pki: Pki, names: NameMap) -> Iterator[TokenServer]:
    server = TokenServer(pki.identity("auth.test"), pki.signer())
    server.start()
    server.publish(names)
    yield server
    server.stop()


@pytest.fixture
def client(server: TokenServer, pki: Pki, names: NameMap) -> Client:
    assert server.port
    return Client(pki.ca_file, names=names)


async def ask(client: Client, account: str | None, scope: str) -> Fetched:
    headers = {"Authorization": basic(account, SECRETS[account])} if account else {}
    query = urlencode({"service": SERVICE, "scope": scope})
    return await client.fetch(f"https://auth.test/jwt/auth?{query}", headers=headers)


def claims(answer: Fetched) -> dict[str, Any]:
    body = json.loads(answer.body)
    assert body["token"] == body["access_token"]
    payload = body["token"].split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return decoded


@pytest.mark.parametrize(
    ("account", "name", "actions"),
    [
        ("alice", "priv/app", ["pull", "push"]),
        ("alice", "team/app", ["pull", "push"]),
        ("alice", "open/app", ["pull", "push"]),
        ("bob", "priv/app", []),
        ("bob", "team/app", ["pull"]),
        ("bob", "open/app", ["pull"]),
        (None, "priv/app", []),
        (None, "team/app", []),
        (None, "open/app", ["pull"]),
    ],
)
async def test_who_may_do_what(client: Client, account: str | None, name: str, actions: list[str]) -> None:
    token = claims(await ask(client, account, f"repository:{name}:pull,push"))

    assert token["access"] == [{"type": "repository", "name": name, "actions": actions}]
    assert (token["iss"], token["aud"], token["sub"]) == (ISSUER, SERVICE, account or "")


async def test_a_form_is_answered_like_basic(server: TokenServer, client: Client) -> None:
    form = {
        "username": "bob",
        "password": "hunter2",
        "scope": "repository:team/a:pull repository:priv/b:pull",
    }

    answer = await client.fetch("https://auth.test/jwt/auth", method="POST", body=urlencode(form).encode())

    assert [entry["actions"] for entry in claims(answer)["access"]] == [["pull"], []]
    (asked,) = server.asked
    assert (asked.method, asked.account, asked.status) == ("POST", "bob", 200)
    assert asked.scopes == ("repository:team/a:pull", "repository:priv/b:pull")


async def test_a_wrong_password_and_a_denied_account_are_refused(server: TokenServer, client: Client) -> None:
    wrong = await client.fetch("https://auth.test/jwt/auth", headers={"Authorization": basic("bob", "x")})
    server.deny("alice")
    denied = await ask(client, "alice", "repository:open/a:pull")

    assert (wrong.status, denied.status) == (401, 401)
    assert (await ask(client, "bob", "repository:open/a:pull")).status == 200


async def test_it_may_fail_or_refuse_forms_and_be_as_new_again(server: TokenServer, client: Client) -> None:
    server.failing, server.refuses_post = 503, True
    form = await client.fetch("https://auth.test/jwt/auth", method="POST", body=b"username=bob")
    failing = await ask(client, "bob", "repository:open/a:pull")
    server.reset()
    again = await ask(client, "bob", "repository:open/a:pull")

    assert (form.status, failing.status, again.status) == (405, 503, 200)


async def test_tokens_live_as_long_as_they_say(server: TokenServer, client: Client) -> None:
    server.ttl = 7
    answer = await ask(client, "bob", "repository:open/a:pull")

    token = claims(answer)
    assert json.loads(answer.body)["expires_in"] == token["exp"] - token["iat"] == 7
