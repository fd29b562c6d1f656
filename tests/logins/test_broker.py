"""Token requests: relayed to the last byte, remembered for whom they were answered, and worth what was asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lab.fake_registry import MANIFEST, FakeImage, FakeRegistry, basic
from lab.faults import Fault
from lab.inside import Chosen, Got, Inside, until
from lab.logins import ALICE, BOB, WRONG, ask_token, bearer, challenge, form, post_form, token_in, token_path
from lab.names import NameMap, resolver
from lab.signer import SERVICE
from lab.tokens import TokenServer
from pullthrough.accounts import Credential

V1 = "/v2/team/app/manifests/v1"
LAYER = b"layer" * 1000
WAN = "93.184.215.14"


@pytest.fixture
def image(proxy: Inside) -> FakeImage:
    """An image in each of two repositories; alice and bob may have the one, alice alone the other."""
    proxy.fake.add_image("priv/app", "v1", [LAYER])
    return proxy.fake.add_image("team/app", "v1", [LAYER])


def words(got: Got) -> tuple[int, bytes]:
    return got.status, got.body


async def pull(proxy: Inside, target: str, authorization: str | None) -> Got:
    return await proxy.get(target, authorization=authorization, accept=MANIFEST)


def who(proxy: Inside, authorization: str, repository: str = "team/app") -> tuple[bytes, Credential]:
    caller = proxy.accounts.caller(proxy.request("/v2/", authorization=authorization), repository)
    return caller.principal, caller.credential


# -- relayed


async def test_a_query_goes_out_as_it_came(proxy: Inside, tokens: TokenServer) -> None:
    query = (
        "service=container_registry&scope=repository%3ateam/app:push,pull&scope=repository:priv%2Fapp:pull&&x=+%20y;z"
    )
    got = await proxy.get(f"{await token_path(proxy)}?{query}", authorization=ALICE)

    assert got.status == 200
    (asked,) = tokens.asked
    assert (asked.method, asked.account, asked.query) == ("GET", "alice", query)
    assert tokens.journal.requests()[-1].target == f"/jwt/auth?{query}"
    assert got.outcome == 'fwd=bypass; fwd-status=200; detail="token"'
    assert proxy.counted == {"relayed": 1}


async def test_no_query_stays_none(proxy: Inside, tokens: TokenServer) -> None:
    assert (await proxy.get(await token_path(proxy), authorization=ALICE)).status == 200
    assert tokens.journal.requests()[-1].target == "/jwt/auth"


async def test_a_realm_may_have_a_query_of_its_own(proxy: Inside, fake: FakeRegistry, tokens: TokenServer) -> None:
    fake.manners.challenge = challenge(f"{tokens.realm}?tenant=a%2Fb")
    path = await token_path(proxy)
    await proxy.get(path)
    await proxy.get(f"{path}?scope=x&tenant=c")

    targets = [request.target for request in tokens.journal.requests()]
    assert targets == ["/jwt/auth?tenant=a%2Fb", "/jwt/auth?tenant=a%2Fb&scope=x&tenant=c"]


async def test_a_form_goes_out_as_it_came(proxy: Inside, tokens: TokenServer) -> None:
    body = (
        b"grant_type=password&service=container_registry&client_id=containerd-client&username=alice&password=%73ecret"
        b"&scope=repository%3Ateam%2Fapp%3Apull+repository:priv/app:pull&"
    )
    got = await proxy.send(form(proxy, f"{await token_path(proxy)}?a=b", body))

    assert got.status == 200
    (asked,) = tokens.asked
    assert (asked.method, asked.account, asked.query, asked.body) == ("POST", "alice", "a=b", body)
    assert asked.scopes == ("repository:team/app:pull", "repository:priv/app:pull")
    assert tokens.journal.requests()[-1].headers["content-type"] == "application/x-www-form-urlencoded"


async def test_the_fields_that_a_token_server_gets(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    await proxy.get(
        path,
        authorization=ALICE,
        host=proxy.registry.authority,
        cookie="of=the-registry",
        accept="application/json",
        accept_encoding="gzip",
        user_agent="docker/26",
        x_own="kept",
        connection="x-hop",
        x_hop="left",
        proxy_authorization="Basic proxy",
    )

    fields = dict(tokens.journal.requests()[-1].headers)
    assert fields == {
        "host": "auth.test",
        "authorization": ALICE,
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "docker/26",
        "x-own": "kept",
    }


async def test_the_answer_comes_as_it_was_given(proxy: Inside, tokens: TokenServer) -> None:
    said = b'{ "token":"abc", "expires_in": 3600, "issued_at":"2030-01-01T00:00:00Z","more":[1] }'
    fields = {"Content-Type": "application/json; charset=utf-8", "X-Own": "kept", "Cache-Control": "no-store"}
    tokens.fault("/jwt/auth", Fault(status=200, headers=fields, body=said))
    got = await ask_token(proxy, ALICE)

    assert words(got) == (200, said)
    assert {(name, value) for name, value in got.headers if name.lower() not in ("content-length", "date")} == set(
        fields.items()
    )


async def test_a_refresh_token_stands_for_its_account(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    got = await ask_token(proxy, ALICE, offline_token="true", client_id="docker")
    refresh = json.loads(got.body)["refresh_token"]
    scope = "repository:team/app:pull"
    again = await post_form(
        proxy, path, grant_type="refresh_token", refresh_token=refresh, scope=scope, service=SERVICE
    )

    assert [asked.status for asked in tokens.asked] == [200, 200]
    assert who(proxy, f"Bearer {token_in(again)}") == who(proxy, f"Bearer {token_in(got)}")
    assert who(proxy, f"Bearer {token_in(again)}")[1] is Credential.TOKEN


async def test_a_password_is_the_same_account_whatever_way_it_is_sent(proxy: Inside) -> None:
    login = {"username": "alice", "password": "secret", "scope": "repository:team/app:pull", "service": SERVICE}
    posted = f"Bearer {token_in(await post_form(proxy, await token_path(proxy), grant_type='password', **login))}"
    got = await bearer(proxy, ALICE)

    assert posted != got
    assert who(proxy, posted) == who(proxy, got)


async def test_nobody_is_an_account_too(proxy: Inside, tokens: TokenServer) -> None:
    first = await bearer(proxy, repository="open/app")

    assert tokens.asked[-1].account is None
    assert who(proxy, first, "open/app")[1] is Credential.TOKEN
    assert who(proxy, first, "open/app") != who(proxy, await bearer(proxy, ALICE, "open/app"), "open/app")


@pytest.mark.parametrize("name", ["token", "access_token"])
async def test_the_token_may_have_either_name(proxy: Inside, tokens: TokenServer, name: str) -> None:
    tokens.keys = (name,)
    got = await ask_token(proxy, ALICE)
    token = json.loads(got.body)[name]

    assert who(proxy, f"Bearer {token}")[1] is Credential.TOKEN


@pytest.mark.parametrize(
    ("status", "method"), [(400, "GET"), (401, "GET"), (403, "GET"), (404, "GET"), (405, "POST"), (501, "GET")]
)
async def test_a_refusal_is_in_the_token_servers_own_words(
    proxy: Inside, tokens: TokenServer, status: int, method: str
) -> None:
    body = f'{{"errors":[{{"code":"LAB","message":"no {status}"}}]}}\n'.encode()
    fields = {"Content-Type": "application/problem+json", "X-Own": "kept", "WWW-Authenticate": 'Basic realm="lab"'}
    tokens.fault("/jwt/auth", Fault(status=status, headers=fields, body=body), method=method)
    request = proxy.request(f"{await token_path(proxy)}?scope=repository:team/app:pull", method, authorization=ALICE)
    got = await proxy.send(request)

    assert words(got) == (status, body)
    assert {name: got.headers.get(name) for name in fields} == fields
    assert proxy.counted == {"refused": 1}
    assert len(tokens.journal.requests()) == 1


async def test_the_challenge_of_a_token_server_is_not_the_registrys(
    proxy: Inside, fake: FakeRegistry, tokens: TokenServer
) -> None:
    """In an outage clients would be told to log in at the wrong place."""
    before = (await proxy.get("/v2/")).headers.get("www-authenticate")
    for said in ('Basic realm="lab"', challenge("https://evil.test/token")):
        tokens.fault("/jwt/auth", Fault(status=401, headers={"WWW-Authenticate": said}))
        assert (await ask_token(proxy, WRONG)).headers.get("www-authenticate") == said
    fake.stop()

    got = await proxy.get(V1)
    assert (got.status, got.headers.get("www-authenticate")) == (401, before)


async def test_a_wrong_password_is_the_token_servers_business(proxy: Inside, tokens: TokenServer) -> None:
    assert (await ask_token(proxy, WRONG)).status == 401
    assert tokens.asked[-1].status == 401


@pytest.mark.parametrize(
    ("location", "absolute"),
    [
        ("/login?next=a%2Fb", "https://auth.test/login?next=a%2Fb"),
        ("login", "https://auth.test/jwt/login"),
        ("//other.test/x", "https://other.test/x"),
        ("https://other.test/x", "https://other.test/x"),
    ],
)
async def test_a_redirect_is_the_clients_to_follow(
    proxy: Inside, tokens: TokenServer, location: str, absolute: str
) -> None:
    """It would take a relative one for a path of the registry."""
    tokens.fault("/jwt/auth", Fault(status=307, headers={"Location": location}))
    got = await ask_token(proxy, ALICE)

    assert (got.status, got.headers.get("location")) == (307, absolute)
    assert len(tokens.journal.requests()) == 1


@pytest.mark.parametrize("status", [200, 401])
async def test_fields_that_would_stick_to_the_registrys_host(proxy: Inside, tokens: TokenServer, status: int) -> None:
    fields = {"Set-Cookie": "session=1", "Strict-Transport-Security": "max-age=1", "Connection": "x-hop", "X-Hop": "1"}
    tokens.fault("/jwt/auth", Fault(status=status, headers=fields, body=b'{"token":"abc"}'))
    got = await ask_token(proxy, ALICE)

    assert got.status == status
    assert not any(name in got.headers for name in fields)


async def test_an_answer_without_end(proxy: Inside, tokens: TokenServer) -> None:
    tokens.fault("/jwt/auth", Fault(status=200, body=b" " * ((1 << 20) + 1)))
    got = await ask_token(proxy, ALICE)

    assert got.status == 502
    assert b"longer than" in got.body


@pytest.mark.parametrize(
    "body", [b"", b"<html>please log in", b"[]", b'{"token":1}', b"[" * 100_000, b'{"token":null,"access_token":{}}']
)
async def test_an_answer_without_a_token_is_relayed_and_proves_nothing(
    proxy: Inside, tokens: TokenServer, body: bytes
) -> None:
    tokens.fault("/jwt/auth", Fault(status=200, body=body))
    assert words(await ask_token(proxy, ALICE)) == (200, body)
    tokens.stop()

    assert (await ask_token(proxy, ALICE)).status == 503, "neither remembered nor proved"


async def test_a_compressed_answer_is_relayed_unread(proxy: Inside, tokens: TokenServer) -> None:
    fields = {"Content-Encoding": "x-lab"}
    tokens.fault("/jwt/auth", Fault(status=200, headers=fields, body=b'{"token":"abc"}'))
    got = await ask_token(proxy, ALICE)

    assert got.headers.get("content-encoding") == "x-lab"
    assert who(proxy, "Bearer abc")[1] is Credential.STRANGE_TOKEN


# -- what is not relayed


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_realm_that_nobody_named(proxy: Inside, tokens: TokenServer, method: str) -> None:
    got = await proxy.get("/v2/_pullthrough/token/0123456789abcdef?scope=a", method, authorization=ALICE)

    assert got.status == 404
    assert b"no registry named this token server" in got.body
    assert tokens.journal.requests() == proxy.fake.journal.requests() == []


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods(proxy: Inside, tokens: TokenServer, method: str) -> None:
    got = await proxy.get(await token_path(proxy), method, authorization=ALICE)

    assert (got.status, got.headers.get("allow")) == (405, "GET, POST")
    assert tokens.journal.requests() == []


@pytest.mark.parametrize(
    "path", ["/v2/_pullthrough/", "/v2/_pullthrough/token/", "/v2/_pullthrough/token/XYZ", "/v2/_pullthrough/x/y"]
)
async def test_paths_of_ours_never_go_to_the_registry(proxy: Inside, path: str) -> None:
    assert (await proxy.get(path, authorization=ALICE)).status == 404
    assert proxy.fake.journal.requests() == []


async def test_another_registrys_realm(proxy: Inside, tokens: TokenServer) -> None:
    request = proxy.request(await token_path(proxy), authorization=ALICE)
    elsewhere = dataclasses.replace(request.registry, host="registry2.test")

    assert (await proxy.send(dataclasses.replace(request, registry=elsewhere))).status == 404
    assert tokens.journal.requests() == []


async def test_a_public_registry_does_not_lead_into_our_network(
    proxy: Inside, names: NameMap, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await token_path(proxy)
    known = resolver(names)

    def moved(host: str, port: int, *args: object, **options: object) -> list[object]:
        if host == "fake.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (WAN, port))]
        return known(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", moved)
    got = await proxy.get(f"{path}?scope=repository:team/app:pull", authorization=ALICE)

    assert got.status == 502
    assert b"may not lead to auth.test" in got.body
    assert tokens.journal.requests() == []
    assert proxy.counted == {"failed": 1}


@pytest.mark.parametrize("chosen", [Chosen(brokered=False)], ids=["off"])
async def test_without_the_broker_nothing_is_relayed(proxy: Inside, tokens: TokenServer, image: FakeImage) -> None:
    got = await proxy.get("/v2/", authorization=None)
    assert f'realm="{tokens.realm}"' in (got.headers.get("www-authenticate") or "")
    token = f"Bearer {tokens.mint('alice', ['repository:team/app:pull'])}"

    assert who(proxy, token)[1] is Credential.STRANGE_TOKEN
    assert (await pull(proxy, V1, token)).status == 200
    assert (await pull(proxy, f"/v2/team/app/manifests/{image.digest}", token)).outcome == "hit"


# -- given again


async def test_the_same_question_of_the_same_account_is_answered_from_memory(
    proxy: Inside, tokens: TokenServer
) -> None:
    first = await ask_token(proxy, ALICE)
    proxy.clock.time += 10
    second = await ask_token(proxy, ALICE)

    assert len(tokens.asked) == 1
    assert token_in(second) == token_in(first)
    assert json.loads(first.body)["expires_in"] == 300
    assert json.loads(second.body)["expires_in"] == 289, "rounded down"
    assert second.headers.get("content-type") == "application/json"
    assert second.outcome == 'hit; detail="token"'
    assert proxy.counted == {"relayed": 1, "cached": 1}


@pytest.mark.parametrize(
    "more",
    [
        {"authorization": BOB},
        {"authorization": None},
        {"authorization": WRONG},
        {"authorization": basic("Alice", "secret")},
        {"scope": "repository:team/other:pull"},
        {"scope": "repository:team/app:pull,push"},
        {"scope": None},
        {"service": "another"},
        {"account": "alice"},
        {"offline_token": "true"},
        {"password": "x"},
    ],
)
async def test_any_other_question_is_asked(proxy: Inside, tokens: TokenServer, more: dict[str, str | None]) -> None:
    given = token_in(await ask_token(proxy, ALICE))
    query = {name: value for name, value in more.items() if name != "authorization"}
    got = await ask_token(proxy, more.get("authorization", ALICE), "team/app", **query)

    assert len(tokens.asked) == 2
    assert given.encode() not in got.body


async def test_a_key_in_a_field_of_its_own_is_another_account(proxy: Inside, tokens: TokenServer) -> None:
    target = f"{await token_path(proxy)}?scope=repository:team/app:pull"
    for key in (None, "a", "b"):
        await proxy.get(target, authorization=ALICE, private_token=key)

    assert len(tokens.asked) == 3


async def test_a_form_that_somebody_else_sends(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    login = {"username": "alice", "password": "secret", "scope": "repository:team/app:pull"}
    given = token_in(await post_form(proxy, path, **login))
    assert token_in(await post_form(proxy, path, **login)) == given
    answers = [
        await post_form(proxy, path, **{**login, "password": "guessed"}),
        await post_form(proxy, path, **{**login, "username": "bob"}),
        await post_form(proxy, path, scope=login["scope"]),
    ]

    assert len(tokens.asked) == 4
    assert [got.status for got in answers] == [401, 401, 200]
    assert not any(given.encode() in got.body for got in answers)


@pytest.mark.parametrize("more", [{"offline_token": "true"}, {"access_type": "offline"}])
async def test_who_wants_a_refresh_token_gets_a_new_one(
    proxy: Inside, tokens: TokenServer, more: dict[str, str]
) -> None:
    answers = [await ask_token(proxy, ALICE, **more) for _ in range(2)]

    assert len(tokens.asked) == 2
    assert len({json.loads(got.body)["refresh_token"] for got in answers}) == 2


async def test_a_token_is_given_again_for_a_quarter_of_the_time_that_a_grant_counts(
    proxy: Inside, tokens: TokenServer
) -> None:
    first = await ask_token(proxy, ALICE)
    proxy.clock.time += 14
    assert token_in(await ask_token(proxy, ALICE)) == token_in(first)
    proxy.clock.time += 2

    assert token_in(await ask_token(proxy, ALICE)) != token_in(first)
    assert len(tokens.asked) == 2


async def test_a_token_that_the_registry_refused_is_not_given_again(proxy: Inside, tokens: TokenServer) -> None:
    """The right to what it was asked for may have been given just now."""
    tokens.revoke("alice")
    token = token_in(await ask_token(proxy, ALICE))
    assert (await proxy.get("/v2/team/app/manifests/v1", authorization=f"Bearer {token}")).status == 401
    tokens.permit("alice")

    assert token_in(await ask_token(proxy, ALICE)) != token
    assert len(tokens.asked) == 2


@pytest.mark.parametrize(("ttl", "seconds", "asked"), [(70, 9, 1), (70, 11, 2), (60, 0, 2), (10, 0, 2)])
async def test_a_token_that_is_given_again_lives_as_long_as_clients_count_on(
    proxy: Inside, tokens: TokenServer, ttl: int, seconds: int, asked: int
) -> None:
    tokens.ttl = ttl
    await ask_token(proxy, ALICE)
    proxy.clock.time += seconds
    got = await ask_token(proxy, ALICE)

    assert len(tokens.asked) == asked
    assert json.loads(got.body)["expires_in"] >= min(60, ttl)


@pytest.mark.parametrize("lifetime", [b"", b',"expires_in":0', b',"expires_in":-5', b',"expires_in":"300"'])
async def test_a_token_without_a_lifetime_has_a_minute(proxy: Inside, tokens: TokenServer, lifetime: bytes) -> None:
    tokens.fault("/jwt/auth", Fault(status=200, body=b'{"token":"abc"%s}' % lifetime), times=None)
    for _ in range(2):
        await ask_token(proxy, ALICE)

    assert len(tokens.journal.requests()) == 2, "too short to be given again"
    proxy.clock.time += 54
    assert who(proxy, "Bearer abc")[1] is Credential.TOKEN
    proxy.clock.time += 2
    assert who(proxy, "Bearer abc")[1] is Credential.STRANGE_TOKEN


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_a_refusal_is_not_remembered(proxy: Inside, tokens: TokenServer, status: int) -> None:
    tokens.failing = status
    assert (await ask_token(proxy, ALICE)).status == status
    tokens.failing = None

    assert (await ask_token(proxy, ALICE)).status == 200


# -- at once


async def test_identical_requests_at_once_are_one(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    held = tokens.hang()
    target = f"{path}?scope=repository:team/app:pull"
    asking = [asyncio.ensure_future(proxy.get(target, authorization=ALICE)) for _ in range(20)]
    await until(held.reached.is_set)
    asking += [asyncio.ensure_future(proxy.get(target, authorization=ALICE)) for _ in range(20)]
    await asyncio.sleep(0)
    tokens.release()
    answers = await asyncio.gather(*asking)

    assert len(tokens.asked) == 1
    assert len({token_in(got) for got in answers}) == 1


async def test_requests_of_others_at_once_are_not(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    held = tokens.hang()
    target = f"{path}?scope=repository:team/app:pull"
    asking = [asyncio.ensure_future(proxy.get(target, authorization=login)) for login in (ALICE, BOB, WRONG, None)]
    await until(lambda: held.reached.is_set() and len(held.hits) == 4)
    tokens.release()
    answers = await asyncio.gather(*asking)

    assert sorted(str(asked.account) for asked in tokens.asked) == ["None", "alice", "alice", "bob"]
    assert [got.status for got in answers] == [200, 200, 401, 200]
    assert len({got.body for got in answers}) == 4


async def test_who_leaves_does_not_take_the_answer_along(proxy: Inside, tokens: TokenServer) -> None:
    path = await token_path(proxy)
    held = tokens.hang()
    target = f"{path}?scope=repository:team/app:pull"
    first, second = (asyncio.ensure_future(proxy.get(target, authorization=ALICE)) for _ in range(2))
    await until(held.reached.is_set)
    first.cancel()
    await asyncio.wait((first,))
    tokens.release()

    assert (await second).status == 200
    assert len(tokens.asked) == 1


# -- what a token is worth


async def test_another_token_of_the_account_is_as_good(proxy: Inside, fake: FakeRegistry, image: FakeImage) -> None:
    assert (await pull(proxy, V1, await bearer(proxy, ALICE))).status == 200
    proxy.clock.time += 1
    other = token_in(await ask_token(proxy, ALICE, scope="repository:team/app:pull,push"))
    fake.journal.clear()
    got = await pull(proxy, f"/v2/team/app/manifests/{image.digest}", f"Bearer {other}")

    assert got.outcome == "hit"
    assert fake.journal.requests() == []


async def test_a_token_is_worth_nothing_where_it_was_not_asked_for(
    proxy: Inside, fake: FakeRegistry, image: FakeImage
) -> None:
    private = f"/v2/priv/app/manifests/{image.digest}"
    wide, narrow = await bearer(proxy, ALICE, "priv/app"), await bearer(proxy, ALICE, "team/app")
    assert (await pull(proxy, private, wide)).status == 200
    assert (await pull(proxy, private, wide)).outcome == "hit"
    fake.journal.clear()
    got = await pull(proxy, private, narrow)

    assert got.status == 401
    assert fake.journal.requests() != []
    assert who(proxy, narrow, "priv/app")[1] is Credential.STRANGE_TOKEN
    assert (await pull(proxy, private, wide)).outcome == "hit", "the account is none the worse"


async def test_a_token_for_two_repositories(proxy: Inside, image: FakeImage) -> None:
    scope = "repository:team/app:pull,push repository:priv/app:pull"
    mount = f"Bearer {token_in(await ask_token(proxy, ALICE, scope=scope))}"

    assert {who(proxy, mount, name)[1] for name in ("team/app", "priv/app")} == {Credential.TOKEN}
    for name in ("team/app", "priv/app"):
        assert (await pull(proxy, f"/v2/{name}/manifests/v1", mount)).status == 200


@pytest.mark.parametrize("scope", ["repository:team/app:push", "registry:catalog:*", None])
async def test_a_token_that_is_not_for_pulling(proxy: Inside, scope: str | None) -> None:
    token = token_in(await ask_token(proxy, ALICE, scope=scope))

    assert who(proxy, f"Bearer {token}")[1] is Credential.STRANGE_TOKEN
    assert who(proxy, f"Bearer {token}", "")[1] is Credential.TOKEN, "it opens /v2/"


@pytest.mark.parametrize("service", ["another", None])
async def test_a_token_for_another_service_stands_for_nobody(proxy: Inside, service: str | None) -> None:
    """It is worth nothing at the registry, whose 401 then would be the account's."""
    token = f"Bearer {token_in(await ask_token(proxy, ALICE, service=service))}"

    assert who(proxy, token)[1] is Credential.STRANGE_TOKEN


@pytest.mark.parametrize("scope", ["repository:team/app:v1:pull", "repository(plugin):team/app:pull"])
async def test_a_token_without_a_right_stands_for_nobody(proxy: Inside, scope: str) -> None:
    token = f"Bearer {token_in(await ask_token(proxy, ALICE, scope=scope))}"

    assert who(proxy, token)[1] is Credential.STRANGE_TOKEN


@pytest.mark.parametrize("status", [400, 401])
async def test_a_login_that_was_refused_gets_nothing_in_an_outage(
    proxy: Inside, tokens: TokenServer, status: int
) -> None:
    await ask_token(proxy, ALICE)
    proxy.clock.time += 61
    tokens.refuse(status)
    assert (await ask_token(proxy, ALICE)).status == status
    tokens.release()
    tokens.refuse(503)

    assert (await ask_token(proxy, ALICE)).status == 503


@pytest.mark.parametrize(
    "body",
    [
        b'{"token":"abc","expires_in":1%s}' % (b"0" * 400),
        b'{"token":"\\ud800x"}',
        b'{"token":"abc","refresh_token":"\\ud800"}',
        b'{"token":"abc","expires_in":1e999}',
    ],
)
async def test_a_strange_answer_is_relayed_as_it_is(proxy: Inside, tokens: TokenServer, body: bytes) -> None:
    tokens.fault("/jwt/auth", Fault(status=200, body=body), times=None)
    got = await ask_token(proxy, ALICE)

    assert (got.status, got.body) == (200, body)


async def test_a_redirect_that_is_none_leads_nowhere(proxy: Inside, tokens: TokenServer) -> None:
    tokens.fault("/jwt/auth", Fault(status=302, headers={"Location": "http://["}), times=None)
    got = await ask_token(proxy, ALICE)

    assert (got.status, got.headers.get("location")) == (302, None)


async def test_a_token_ends(proxy: Inside) -> None:
    token = await bearer(proxy, ALICE)
    proxy.clock.time += 294
    assert who(proxy, token)[1] is Credential.TOKEN
    proxy.clock.time += 2  # sooner than its server says: its 401 for being old is nobody's refusal

    assert who(proxy, token)[1] is Credential.STRANGE_TOKEN


async def test_a_token_of_one_registry_is_none_of_anothers(proxy: Inside) -> None:
    token = await bearer(proxy, ALICE)
    request = proxy.request("/v2/", authorization=token)
    for change in ({"host": "registry2.test"}, {"port": 1}, {"scheme": "http"}):
        elsewhere = dataclasses.replace(request, registry=dataclasses.replace(request.registry, **change))
        assert proxy.accounts.caller(elsewhere, "team/app").credential is Credential.STRANGE_TOKEN


@pytest.mark.parametrize("status", [401, 403])
async def test_who_is_refused_a_token_has_no_grant_either(
    proxy: Inside, tokens: TokenServer, image: FakeImage, status: int
) -> None:
    token = await bearer(proxy, ALICE)
    manifest = f"/v2/team/app/manifests/{image.digest}"
    assert (await pull(proxy, V1, token)).status == 200
    assert (await pull(proxy, manifest, token)).outcome == "hit"
    proxy.clock.time += 59.5  # the token is asked for anew, the grant counts still
    await pull(proxy, V1, token)
    proxy.clock.time += 1
    tokens.failing = status
    assert (await ask_token(proxy, ALICE)).status == status
    proxy.fake.manners.accepts = lambda request: False

    assert (await pull(proxy, manifest, token)).status == 401


# -- in an outage


async def outage_token(proxy: Inside, tokens: TokenServer, login: str | None = ALICE) -> Got:
    """A token request while the token server is away, of an account that had a token a while ago."""
    await ask_token(proxy, login)
    proxy.clock.time += 61
    tokens.stop()
    return await ask_token(proxy, login)


async def test_an_account_that_was_accepted_before_gets_a_token_of_ours(proxy: Inside, tokens: TokenServer) -> None:
    got = await outage_token(proxy, tokens)
    said = json.loads(got.body)

    assert got.status == 200
    assert set(said) == {"token", "access_token", "expires_in"}
    assert said["token"] == said["access_token"]
    assert said["token"].startswith("pullthrough.v1.")
    assert said["expires_in"] == 60
    assert got.headers.get("cache-control") == "no-store"
    assert got.outcome.startswith('fwd=stale; detail="cannot connect to https://auth.test')
    assert proxy.counted["local"] == 1


async def test_so_does_nobody_where_nobody_was_accepted(proxy: Inside, tokens: TokenServer) -> None:
    assert token_in(await outage_token(proxy, tokens, None)).startswith("pullthrough.v1.")


async def test_and_whoever_sends_a_form_or_a_refresh_token(proxy: Inside, tokens: TokenServer) -> None:
    path, scope = await token_path(proxy), "repository:team/app:pull"
    got = await ask_token(proxy, ALICE, offline_token="true")
    refresh = json.loads(got.body)["refresh_token"]
    tokens.stop()
    logins = (
        {"username": "alice", "password": "secret", "grant_type": "password"},
        {"refresh_token": refresh, "grant_type": "refresh_token"},
    )
    for login in logins:
        said = json.loads((await post_form(proxy, path, scope=scope, **login)).body)
        assert said["access_token"].startswith("pullthrough.v1.")
        assert who(proxy, f"Bearer {said['access_token']}")[1] is Credential.LOCAL


async def test_a_token_of_ours_stands_for_the_account(proxy: Inside, tokens: TokenServer) -> None:
    real = await bearer(proxy, ALICE)
    proxy.clock.time += 61
    tokens.stop()
    ours = await bearer(proxy, ALICE)

    assert who(proxy, ours) == (who(proxy, real)[0], Credential.LOCAL)
    assert who(proxy, ours, "priv/app")[1] is Credential.VOID, "it was not asked for that"
    assert who(proxy, ours, "")[1] is Credential.LOCAL
    proxy.clock.time += 89
    assert who(proxy, ours)[1] is Credential.LOCAL, "a minute, and some time to arrive"
    proxy.clock.time += 2
    assert who(proxy, ours)[1] is Credential.VOID


@pytest.mark.parametrize("login", [BOB, WRONG, None, basic("alice", ""), "Bearer abc", "Digest abc"])
async def test_whoever_was_not_accepted_before_gets_none(proxy: Inside, tokens: TokenServer, login: str | None) -> None:
    await outage_token(proxy, tokens)
    got = await ask_token(proxy, login)

    assert got.status == 503
    assert b"auth.test" in got.body
    assert b"unreachable since" in got.body
    assert b"pullthrough.v1" not in got.body


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_token_server_in_trouble_is_bridged_for_those_whom_it_accepted(
    proxy: Inside, tokens: TokenServer, status: int
) -> None:
    await ask_token(proxy, ALICE)
    proxy.clock.time += 61
    tokens.refuse(status, retry_after="7")
    known, stranger = await ask_token(proxy, ALICE), await ask_token(proxy, BOB)

    assert token_in(known).startswith("pullthrough.v1.")
    assert known.outcome == f'fwd=stale; detail="https://auth.test answers {status}"'
    assert (stranger.status, stranger.headers.get("retry-after")) == (status, "7")
    assert b"the lab says" in stranger.body


async def test_whom_the_token_server_refuses_meanwhile_it_does_not_know_any_more(
    proxy: Inside, tokens: TokenServer
) -> None:
    await ask_token(proxy, ALICE)
    proxy.clock.time += 61
    tokens.deny("alice")
    assert (await ask_token(proxy, ALICE)).status == 401
    tokens.stop()

    assert (await ask_token(proxy, ALICE)).status == 503


@pytest.mark.parametrize(("hours", "status"), [(23, 200), (25, 503)])
async def test_it_is_remembered_for_the_grace(proxy: Inside, tokens: TokenServer, hours: int, status: int) -> None:
    await ask_token(proxy, ALICE)
    tokens.stop()
    proxy.clock.time += hours * 3600

    assert (await ask_token(proxy, ALICE)).status == status


@pytest.mark.parametrize("chosen", [Chosen(grace=0)], ids=["none"])
async def test_without_a_grace_nobody_is_remembered(proxy: Inside, tokens: TokenServer) -> None:
    assert (await outage_token(proxy, tokens)).status == 503


async def test_tokens_of_the_time_before_the_outage_are_good_in_it(
    proxy: Inside, tokens: TokenServer, fake: FakeRegistry, image: FakeImage
) -> None:
    token = await bearer(proxy, ALICE)
    assert (await pull(proxy, V1, token)).status == 200
    tokens.stop()
    fake.stop()

    assert (await pull(proxy, V1, token)).outcome.startswith("fwd=stale")


async def test_the_token_server_is_asked_again_as_soon_as_it_is_back(proxy: Inside, tokens: TokenServer) -> None:
    assert token_in(await outage_token(proxy, tokens)).startswith("pullthrough.")
    tokens.start()

    assert not token_in(await ask_token(proxy, ALICE)).startswith("pullthrough.")


# -- secrets


async def test_no_credential_is_kept_or_logged(
    proxy: Inside, tokens: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    path = await token_path(proxy)
    got = await ask_token(proxy, ALICE, offline_token="true")
    refresh = json.loads(got.body)["refresh_token"]
    login = {"username": "bob", "password": "hunter2", "scope": "repository:team/app:pull"}
    await post_form(proxy, path, **login)
    await post_form(proxy, path, refresh_token=refresh, grant_type="refresh_token")
    await ask_token(proxy, WRONG)
    tokens.stop()
    await ask_token(proxy, WRONG)
    local = token_in(await ask_token(proxy, ALICE))
    await pull(proxy, V1, f"Bearer {local}")
    await proxy.facts.flush()

    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in ("secret", "hunter2", "guessed", refresh, token_in(got), local, ALICE, BOB, WRONG, urlencode(login)):
        assert secret not in caplog.text
        assert secret.encode() not in written
