"""Challenges: which realms lead to us, what is remembered of them, and in whose mouth nobody may put one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.fake_registry import FakeRegistry, basic, digest_of
from lab.inside import Clock, Inside
from lab.logins import challenge
from lab.stores import Stores
from lab.tokens import TokenServer
from pullthrough.core.headers import Headers
from pullthrough.facts import Facts
from pullthrough.messages import Pass, Registry, Request
from pullthrough.realms import Realms

REGISTRY = Registry("https", "registry.test", 443)
ELSEWHERE = Registry("https", "registry2.test", 443)
PLAIN = Registry("http", "registry.test", 80)
REALM = "https://auth.test/jwt/auth"
BEARER = f'Bearer realm="{REALM}",service="s",scope="repository:team/app:pull"'
DAY = 24 * 3600.0


class Mind:
    """Realms, and the facts that they are remembered in."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self._stores = Stores(folder)
        self.start()

    def start(self, *, brokered: bool = True) -> None:
        """As a new process finds it."""
        self.store = self._stores()
        self.facts = Facts(self.store, self.clock)
        self.realms = Realms(self.facts, brokered=brokered)

    async def stop(self) -> None:
        await self.facts.flush()
        await self.store.aclose()

    def hear(
        self, *lines: str, registry: Registry = REGISTRY, target: str = "/v2/", asked: Headers | None = None
    ) -> list[str]:
        """The challenges of a 401 as they are sent on; `asked` are the fields of the request."""
        request = Request(registry, "GET", target, asked or Headers())
        headers = Headers([("Content-Type", "a/b"), *(("WWW-Authenticate", line) for line in lines)])
        heard = self.realms.heard(request, headers)
        assert heard.get("content-type") == "a/b"
        return list(heard.all("www-authenticate"))

    async def knows(self, realm: str = REALM, registry: Registry = REGISTRY) -> bool:
        known = await self.realms.realm(registry, identifier(realm))
        assert known in (None, realm)
        return known is not None


@pytest.fixture
async def mind(tmp_path: Path) -> AsyncIterator[Mind]:
    made = Mind(tmp_path)
    yield made
    await made.stop()


def identifier(realm: str) -> str:
    return hashlib.sha256(realm.encode()).hexdigest()[:16]


def ours(realm: str = REALM, registry: Registry = REGISTRY) -> str:
    return f"{registry}/v2/_pullthrough/token/{identifier(realm)}"


# -- which realms lead to us


@pytest.mark.parametrize(
    ("said", "realm"),
    [
        (REALM, REALM),
        ("https://registry.test/token", "https://registry.test/token"),
        ("https://auth.test:8443/token", "https://auth.test:8443/token"),
        ("https://[fd00::1]:8443/token", "https://[fd00::1]:8443/token"),
        ("https://auth.test/token?tenant=a&x=%2F", "https://auth.test/token?tenant=a&x=%2F"),
        ("https://auth.test/token#part", "https://auth.test/token"),
        ("https://auth.test", "https://auth.test"),
        ("/token", "https://registry.test/token"),
        ("token", "https://registry.test/v2/team/app/tags/token"),
        ("../token", "https://registry.test/v2/team/app/token"),
        ("//auth.test/token", "https://auth.test/token"),
        ("?a=b", "https://registry.test/v2/team/app/tags/list?a=b"),
    ],
)
async def test_a_realm_leads_to_us(mind: Mind, said: str, realm: str) -> None:
    (line,) = mind.hear(f'Bearer realm="{said}",service="s",scope="x"', target="/v2/team/app/tags/list")

    assert line == f'Bearer realm="{ours(realm)}",service="s",scope="x"'
    assert await mind.knows(realm)


@pytest.mark.parametrize(
    "line",
    [
        f"Bearer realm={REALM}",
        f'bearer REALM="{REALM}"',
        f'Bearer realm = "{REALM}" ,',
        f'Bearer realm="{REALM}",realm="https://other.test/"',
    ],
)
async def test_a_realm_as_only_clients_read_it(mind: Mind, line: str) -> None:
    (heard,) = mind.hear(line)

    assert ours() in heard
    assert REALM not in heard
    assert "other.test" not in heard, "clients differ in which of two they believe"
    assert await mind.knows()


async def test_a_registry_on_a_port_of_its_own_is_led_to_by_it(mind: Mind) -> None:
    registry = Registry("https", "registry.test", 5000)
    (line,) = mind.hear('Bearer realm="/token"', registry=registry)

    assert line == f'Bearer realm="{ours("https://registry.test:5000/token", registry)}"'
    assert ":5000/v2/_pullthrough/" in line


async def test_several_challenges_in_one_line(mind: Mind) -> None:
    others = 'Basic realm="files", Negotiate'
    (line,) = mind.hear(f'{others}, Bearer realm="{REALM}",service="s", Bearer realm="https://two.test/"')

    assert line == f'{others}, Bearer realm="{ours()}",service="s", Bearer realm="{ours("https://two.test/")}"'
    assert await mind.knows()
    assert await mind.knows("https://two.test/")


async def test_several_lines(mind: Mind) -> None:
    lines = mind.hear('Basic realm="files"', f'Bearer realm="{REALM}"', 'Bearer realm="/two"')

    assert lines == [
        'Basic realm="files"',
        f'Bearer realm="{ours()}"',
        f'Bearer realm="{ours("https://registry.test/two")}"',
    ]


@pytest.mark.parametrize(
    "line",
    [
        'Basic realm="https://auth.test/jwt/auth"',
        'Bearer realm="http://auth.test/token",service="s"',
        'Bearer realm="ftp://auth.test/token"',
        'Bearer realm="https://user:word@auth.test/token"',
        'Bearer realm="https://auth.test:0/token"',
        'Bearer realm="https://auth.test:99999/token"',
        'Bearer realm="https://auth.test:x/token"',
        'Bearer realm="https://[::1/token"',
        'Bearer realm="https://:443/token"',
        'Bearer realm="https://auth.test/a b"',
        'Bearer realm="https://auth.test/é"',
        'Bearer realm=""',
        'Bearer service="s"',
        "Bearer",
        f'Bearer realm="https://auth.test/{"x" * 2048}"',
    ],
)
async def test_a_realm_that_we_do_not_relay_to_is_left_as_it_is(mind: Mind, line: str) -> None:
    assert mind.hear(line) == [line]
    assert await mind.realms.current(REGISTRY) is None


@pytest.mark.parametrize("line", ["", '"', 'realm="x"', 'Bearer realm="https://auth.test/token', "Bearer =,=,"])
async def test_a_challenge_that_nobody_understands_is_passed_on(mind: Mind, line: str) -> None:
    assert mind.hear(line, BEARER)[0] == line


async def test_a_realm_of_a_registry_without_tls_is_left_as_it_is(mind: Mind) -> None:
    """Whoever is on the wire could have named it."""
    assert mind.hear(BEARER, registry=PLAIN) == [BEARER]
    assert not await mind.knows(registry=PLAIN)
    assert not await mind.knows()


async def test_without_the_broker_challenges_are_left_as_they_are(mind: Mind) -> None:
    await mind.stop()
    mind.start(brokered=False)

    assert mind.hear(BEARER) == [BEARER]
    assert not await mind.knows()
    assert await mind.realms.current(REGISTRY) is None
    assert await mind.realms.challenge(REGISTRY, "a/b", invalid=False) == [
        f'Bearer realm="{REALM}",service="s",scope="repository:a/b:pull"'
    ]


async def test_a_401_without_a_challenge(mind: Mind) -> None:
    assert mind.hear() == []
    assert await mind.realms.challenge(REGISTRY, "", invalid=False) == []


# -- who may name one


@pytest.mark.parametrize(
    "field",
    [
        "Host",
        "Forwarded",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Original-URL",
        "X-Original-Host",
        "X-Rewrite-URL",
        "X-Host",
        "X-Real-IP",
        "X_Forwarded_Host",
        "X-Forwarded_Host",
        "X-JFrog-Override-Base-Url",
        "X-Scheme",
        "Cookie",
        "x-forwarded-server",
    ],
)
async def test_a_client_has_no_say(mind: Mind, field: str) -> None:
    """Registries build their realm from such fields: somebody's password would be sent there."""
    evil = 'Bearer realm="https://evil.test/token"'

    assert mind.hear(evil, asked=Headers(((field, "evil.test"),))) == [evil]
    assert not await mind.knows("https://evil.test/token")
    assert await mind.realms.challenge(REGISTRY, "", invalid=False) == []


async def test_nor_does_it_change_what_was_heard_before(mind: Mind) -> None:
    mind.hear(BEARER)
    asked = Headers((("X-Forwarded-Host", "evil.test"),))
    mind.hear('Bearer realm="https://evil.test/token"', asked=asked)

    assert await mind.realms.current(REGISTRY) == REALM
    assert "evil" not in "".join(await mind.realms.challenge(REGISTRY, "", invalid=False))


@pytest.mark.parametrize("host", ["registry.test", "registry.test:443", "Registry.Test", ""])
async def test_the_registrys_own_name_in_the_host_field_is_none(mind: Mind, host: str) -> None:
    assert ours() in mind.hear(BEARER, asked=Headers((("Host", host),)))[0]


async def test_one_registry_does_not_speak_for_another(mind: Mind) -> None:
    mind.hear(BEARER)

    assert not await mind.knows(registry=ELSEWHERE)
    assert not await mind.knows(registry=Registry("https", "registry.test", 5000))
    assert not await mind.knows(registry=PLAIN)
    assert await mind.realms.challenge(ELSEWHERE, "", invalid=False) == []


# -- what is remembered


async def test_a_realm_that_nobody_named(mind: Mind) -> None:
    assert await mind.realms.realm(REGISTRY, "0123456789abcdef") is None


async def test_a_restart_forgets_nothing(mind: Mind) -> None:
    mind.hear(BEARER)
    await mind.stop()
    mind.start()

    assert await mind.knows()
    assert not await mind.knows(registry=ELSEWHERE)
    assert await mind.realms.current(REGISTRY) == REALM
    assert await mind.realms.challenge(REGISTRY, "", invalid=False) == [f'Bearer realm="{ours()}",service="s"']


async def test_what_the_disk_says_of_another_realm_counts_for_nothing(mind: Mind) -> None:
    mind.facts.put(f"realm {REGISTRY} {identifier(REALM)}", "https://evil.test/token", DAY)

    assert await mind.realms.realm(REGISTRY, identifier(REALM)) is None


@pytest.mark.parametrize(
    ("repository", "invalid", "more"),
    [
        ("", False, ""),
        ("team/app", False, ',scope="repository:team/app:pull"'),
        ("team/app", True, ',scope="repository:team/app:pull",error="invalid_token"'),
        ("", True, ',error="invalid_token"'),
    ],
)
async def test_a_challenge_from_memory(mind: Mind, repository: str, invalid: bool, more: str) -> None:
    said = 'scope="repository:priv/secret:pull,push",error="insufficient_scope",error_description="no"'
    mind.hear(f'Basic realm="files", Bearer realm="{REALM}",{said},service="s"')

    assert await mind.realms.challenge(REGISTRY, repository, invalid=invalid) == [
        f'Basic realm="files", Bearer realm="{ours()}",service="s"{more}'
    ]


async def test_a_challenge_of_several_lines_from_memory(mind: Mind) -> None:
    mind.hear('Basic realm="files"', BEARER)

    assert await mind.realms.challenge(REGISTRY, "a/b", invalid=False) == [
        'Basic realm="files"',
        f'Bearer realm="{ours()}",service="s",scope="repository:a/b:pull"',
    ]


async def test_the_last_challenge_counts_and_older_realms_go_on_leading_somewhere(mind: Mind) -> None:
    mind.hear(BEARER)
    mind.hear('Bearer realm="https://new.test/token"')

    assert await mind.realms.current(REGISTRY) == "https://new.test/token"
    assert await mind.knows(), "a client may have been sent there a moment ago"


async def test_words_that_were_not_heard_for_months_are_forgotten(mind: Mind) -> None:
    mind.hear(BEARER)
    mind.clock.time += 89 * DAY
    assert await mind.realms.current(REGISTRY) == REALM
    mind.clock.time += 2 * DAY

    assert await mind.realms.current(REGISTRY) is None
    assert await mind.realms.challenge(REGISTRY, "", invalid=False) == []


async def test_nothing_secret_is_written_down(mind: Mind, tmp_path: Path) -> None:
    """A realm and a challenge are what anybody can ask for."""
    asked = Headers((("Authorization", basic("alice", "pass-word")),))
    mind.hear(BEARER, asked=asked)
    await mind.stop()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    mind.start()

    assert REALM.encode() in written
    assert basic("alice", "pass-word").encode() not in written


# -- on the road


DATA = b"layer" * 100
DIGEST = digest_of(DATA)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/v2/", "/v2/team/app/manifests/v1", f"/v2/team/app/manifests/{DIGEST}"])
async def test_every_401_of_ours_leads_to_us(proxy: Inside, tokens: TokenServer, target: str, method: str) -> None:
    got = await proxy.get(target, method)

    assert got.status == 401
    assert ours(tokens.realm, proxy.registry) in (got.headers.get("www-authenticate") or "")


async def test_so_does_that_for_a_blob(proxy: Inside, tokens: TokenServer) -> None:
    got = await proxy.get(f"/v2/team/app/blobs/{DIGEST}")

    assert got.status == 401
    assert ours(tokens.realm, proxy.registry) in (got.headers.get("www-authenticate") or "")


async def test_and_that_of_what_passes(proxy: Inside) -> None:
    request = proxy.request("/v2/team/app/tags/list")
    assert isinstance(await proxy.pulls.answer(request), Pass)
    fields = Headers((("WWW-Authenticate", 'Basic realm="x"'), ("X-Own", "kept"), ("WWW-Authenticate", BEARER)))
    heard = await proxy.pulls.observe(request, 401, fields)

    assert heard.get("x-own") == "kept"
    assert heard.all("www-authenticate")[0] == 'Basic realm="x"'
    assert ours(registry=proxy.registry) in heard.all("www-authenticate")[1]


@pytest.mark.parametrize("status", [200, 307, 403, 404])
async def test_other_answers_name_nobody(proxy: Inside, status: int) -> None:
    fields = Headers((("WWW-Authenticate", BEARER),))

    assert await proxy.pulls.observe(proxy.request("/v2/team/app/tags/list"), status, fields) is fields
    path = f"/v2/_pullthrough/token/{identifier(REALM)}"
    assert (await proxy.get(path)).status == 404


async def test_two_lines_on_the_wire_are_two_lines(proxy: Inside, fake: FakeRegistry, tokens: TokenServer) -> None:
    fake.manners.challenge = f'Basic realm="x"\r\nWWW-Authenticate: {fake.manners.challenge}'
    got = await proxy.get("/v2/team/app/manifests/v1")

    assert got.headers.all("www-authenticate") == ('Basic realm="x"', challenge(ours(tokens.realm, proxy.registry)))
