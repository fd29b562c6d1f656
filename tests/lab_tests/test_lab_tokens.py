"""The token server gives what its table of owners says, by GET and by POST, and nothing when told so."""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from lab.deadline import eventually
from lab.fake_registry import basic
from lab.http import Client, Cut, Fetched
from lab.names import NameMap
from lab.pki import Pki
from lab.signer import ISSUER, LEEWAY_SECONDS, SERVICE
from lab.tokens import TokenServer
from lab.web import served

REALM = "https://auth.test/jwt/auth"
SECRETS = {"alice": "secret", "bob": "hunter2", None: ""}


@pytest.fixture
def server(pki: Pki, names: NameMap) -> Iterator[TokenServer]:
    with served(TokenServer(pki.identity("auth.test"), pki.signer()), names) as server:
        yield server


@pytest.fixture
def client(server: TokenServer, pki: Pki, names: NameMap) -> Client:
    assert server.port
    return Client(pki.ca_file, names=names)


async def ask(client: Client, account: str | None, scope: str) -> Fetched:
    headers = {"Authorization": basic(account, SECRETS[account])} if account else {}
    query = urlencode({"service": SERVICE, "scope": scope})
    return await client.fetch(f"https://auth.test/jwt/auth?{query}", headers=headers)


async def post(client: Client, **form: str) -> Fetched:
    return await client.fetch(REALM, method="POST", body=urlencode(form).encode())


def actions(answer: Fetched) -> list[list[str]]:
    return [entry["actions"] for entry in claims(answer)["access"]]


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


async def test_exact_tokens_end_before_the_leeway_of_distribution_begins(server: TokenServer, client: Client) -> None:
    server.ttl, server.exact = 7, True
    answer = await ask(client, "bob", "repository:open/a:pull")

    token = claims(answer)
    assert token["exp"] - token["iat"] + LEEWAY_SECONDS == json.loads(answer.body)["expires_in"] == 7


async def test_a_request_is_recorded_as_it_arrived(server: TokenServer, client: Client) -> None:
    query, body = "scope=repository:open/a:pull&account=b%20b&scope=x", b"username=bob&password=hunter2&a=%7E~+"
    await client.fetch(f"{REALM}?{query}")
    await client.fetch(f"{REALM}?more", method="POST", body=body)

    assert [(asked.query, asked.body) for asked in server.asked] == [(query, b""), ("more", body)]
    assert "hunter2" not in repr(server.asked)


async def test_it_hangs_until_released(server: TokenServer, client: Client) -> None:
    armed = server.hang()
    answer = asyncio.ensure_future(ask(client, "bob", "repository:open/a:pull"))
    await asyncio.to_thread(armed.reached.wait, 10)

    assert not answer.done()
    assert server.asked == []
    server.release()
    assert (await answer).status == 200
    assert (await ask(client, "bob", "repository:open/a:pull")).status == 200


async def test_it_limits_its_callers_with_and_without_retry_after(server: TokenServer, client: Client) -> None:
    server.refuse(429, retry_after="3", method="GET")
    server.refuse(429, method="POST")

    told, untold = await ask(client, "bob", "repository:open/a:pull"), await post(client, username="bob")

    assert (told.status, told.headers["retry-after"]) == (429, "3")
    assert (untold.status, "retry-after" in untold.headers) == (429, False)
    assert json.loads(told.body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert [(asked.account, asked.status) for asked in server.asked] == [("bob", 429), ("bob", 429)]
    server.reset()
    assert (await ask(client, "bob", "repository:open/a:pull")).status == 200


async def test_who_lost_the_rights_still_logs_in_but_may_do_nothing(server: TokenServer, client: Client) -> None:
    server.revoke("alice")
    server.revoke("bob", "open/a")
    scopes = "repository:open/a:pull repository:open/b:pull"

    assert actions(await ask(client, "alice", scopes)) == [[], []]
    assert actions(await ask(client, "bob", scopes)) == [[], ["pull"]]
    assert actions(await ask(client, None, scopes)) == [["pull"], ["pull"]]
    server.permit("alice")
    assert actions(await ask(client, "alice", scopes)) == [["pull"], ["pull"]]
    server.reset()
    assert actions(await ask(client, "bob", scopes)) == [["pull"], ["pull"]]


async def test_it_forbids_as_gitlab_does_where_nothing_is_permitted(server: TokenServer, client: Client) -> None:
    server.forbids = True

    forbidden = await ask(client, "bob", "repository:priv/a:pull")
    partly = await ask(client, "bob", "repository:priv/a:pull repository:team/a:pull")
    login = await client.fetch(REALM, headers={"Authorization": basic("bob", "hunter2")})

    assert (forbidden.status, json.loads(forbidden.body)["errors"][0]["code"]) == (403, "DENIED")
    assert (partly.status, login.status) == (200, 200)
    assert (await ask(client, None, "repository:priv/a:pull")).status == 403


async def test_a_refresh_token_is_as_good_as_the_password(server: TokenServer, client: Client) -> None:
    login = {"Authorization": basic("bob", "hunter2")}
    by_get = json.loads((await client.fetch(f"{REALM}?offline_token=true", headers=login)).body)["refresh_token"]
    answer = await post(client, username="alice", password="secret", access_type="offline")
    by_post = json.loads(answer.body)["refresh_token"]

    async def refresh(token: str) -> Fetched:
        return await post(
            client,
            grant_type="refresh_token",
            refresh_token=token,
            scope="repository:priv/a:pull repository:team/a:pull",
        )

    assert actions(await refresh(by_get)) == [[], ["pull"]]
    assert actions(await refresh(by_post)) == [["pull"], ["pull"]]
    assert (await refresh("made-up")).status == 401
    server.deny("bob")
    assert (await refresh(by_get)).status == 401
    server.reset()
    assert (await refresh(by_post)).status == 401


async def test_nobody_gets_a_refresh_token_unasked_or_for_nothing(server: TokenServer, client: Client) -> None:
    unasked = await post(client, username="alice", password="secret")
    anonymous = await client.fetch(f"{REALM}?offline_token=true")

    assert "refresh_token" not in json.loads(unasked.body)
    assert "refresh_token" not in json.loads(anonymous.body)


async def test_an_answer_may_say_less(server: TokenServer, client: Client) -> None:
    server.keys, server.tells_ttl = ("access_token",), False
    terse = json.loads((await ask(client, "bob", "repository:open/a:pull")).body)
    server.reset()
    usual = json.loads((await ask(client, "bob", "repository:open/a:pull")).body)

    assert terse.keys() == {"access_token"}
    assert usual.keys() == {"token", "access_token", "expires_in"}


async def test_it_stops_and_starts_again_on_its_port(server: TokenServer, client: Client) -> None:
    port = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        await ask(client, "bob", "repository:open/a:pull")
    server.start_if_stopped()
    server.start_if_stopped()

    assert (await ask(client, "bob", "repository:open/a:pull")).status == 200
    assert server.port == port


async def test_a_stop_cuts_what_hangs(server: TokenServer, client: Client) -> None:
    armed = server.hang()
    answer = asyncio.ensure_future(ask(client, "bob", "repository:open/a:pull"))
    await asyncio.to_thread(armed.reached.wait, 10)

    await asyncio.to_thread(server.stop)

    with pytest.raises(Cut):
        await answer
    assert eventually(lambda: server.journal.requests()[-1].done, "the end of the request")
