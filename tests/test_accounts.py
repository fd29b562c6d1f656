"""Accounts: who is the same as before, who is somebody else, and who is taken at their word in an outage."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.memory import Clock, Memory
from pullthrough import accounts as module
from pullthrough.access import Access
from pullthrough.accounts import LOCAL_LIFE, Accounts, Caller, Credential
from pullthrough.core import credentials
from pullthrough.core.headers import Headers
from pullthrough.facts import Facts
from pullthrough.messages import Registry, Repository, Request

REGISTRY = Registry("https", "registry.test", 443)
OTHER = Registry("https", "other.test", 443)
SECRET = b"the secret of this installation!"
GRACE = 3600.0
NOBODY = Headers()

type Fields = tuple[tuple[str, str], ...]


@pytest.fixture
def accounts(memory: Memory, clock: Clock) -> Accounts:
    return make(memory, clock)


def make(
    memory: Memory, clock: Clock, *, facts: Facts | None = None, secret: bytes = SECRET, grace: float = GRACE
) -> Accounts:
    return Accounts(secret, facts or memory.facts, clock, memory.clock, grace=grace)


async def restarted(memory: Memory, *, secret: bytes = SECRET, grace: float = GRACE) -> Accounts:
    """The next process, whose clock has nothing to do with the last one's."""
    await memory.restart()
    return make(memory, Clock(5.0), secret=secret, grace=grace)


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def caller(accounts: Accounts, *fields: tuple[str, str], at: Registry = REGISTRY, repository: str = "app") -> Caller:
    return accounts.caller(Request(at, "GET", f"/v2/{repository}/manifests/v1", Headers(fields)), repository)


def showing(accounts: Accounts, token: str, *more: tuple[str, str], at: Registry = REGISTRY, of: str = "app") -> Caller:
    return caller(accounts, ("Authorization", f"Bearer {token}"), *more, at=at, repository=of)


async def account(accounts: Accounts, headers: Fields = (), form: str = "", *, at: Registry = REGISTRY) -> bytes:
    """Whose the token request with these fields and this form is."""
    fields = Headers(headers)
    said = credentials.form(form.encode(), credentials.FORM)
    return await accounts.account(at, credentials.claim(fields, said))


async def alice(accounts: Accounts, *, at: Registry = REGISTRY) -> bytes:
    return await account(accounts, (("Authorization", basic("alice", "pw")),), at=at)


# -- principals of those who show no token of ours


def test_credentials_tell_principals_apart(accounts: Accounts) -> None:
    senders: list[Fields] = [
        (),
        (("Authorization", "Bearer a"),),
        (("Authorization", "Bearer b"),),
        (("Authorization", basic("a", "b")),),
        (("Cookie", "Bearer a"),),
        (("Authorization", "Bearer a"), ("Cookie", "s")),
        (("Authorization", "Bearer a"), ("Authorization", "Bearer a")),
        (("Private-Token", "a"),),
        (("X-JFrog-Art-Api", "a"),),
    ]

    assert len({caller(accounts, *fields).principal for fields in senders}) == len(senders)


@pytest.mark.parametrize(
    ("fields", "credential"),
    [
        ((), Credential.NONE),
        ((("Accept", "x"), ("User-Agent", "docker")), Credential.NONE),
        ((("Authorization", "Bearer a"),), Credential.STRANGE_TOKEN),
        ((("Authorization", "bearer a"), ("Cookie", "s")), Credential.STRANGE_TOKEN),
        ((("Authorization", "Bearer pullthrough.v1.x"),), Credential.VOID),
        ((("Authorization", basic("a", "b")),), Credential.OTHER),
        ((("Authorization", "Bearer a"), ("Authorization", "Bearer a")), Credential.OTHER),
        ((("Cookie", "s"),), Credential.OTHER),
    ],
)
def test_what_a_request_shows(accounts: Accounts, fields: Fields, credential: Credential) -> None:
    assert caller(accounts, *fields).credential is credential


def test_only_our_own_tokens_are_of_our_making() -> None:
    assert {credential for credential in Credential if credential.ours} == {Credential.LOCAL, Credential.VOID}


def test_a_field_cannot_be_moved_into_its_neighbour(accounts: Accounts) -> None:
    one, other = (("Cookie", "ab"), ("X-Key", "c")), (("Cookie", "a"), ("X-Key", "bc"))
    assert caller(accounts, *one).principal != caller(accounts, *other).principal
    assert caller(accounts, ("X-A", "b")).principal != caller(accounts, ("X-", "ab")).principal


def test_a_principal_says_nothing_without_the_secret(accounts: Accounts, memory: Memory, clock: Clock) -> None:
    others = make(memory, clock, secret=b"another")

    assert caller(accounts, ("Authorization", "a")).principal != caller(others, ("Authorization", "a")).principal


def test_any_bytes_can_be_a_credential(accounts: Accounts) -> None:
    one, other = caller(accounts, ("X-K\udcff", "\udcff")), caller(accounts, ("X-K\udcff", "\udcfe"))

    assert one.principal != other.principal


FIELDS = [("Accept", "x"), ("User-Agent", "docker"), ("Authorization", "a"), ("Cookie", "c")]


@given(fields=st.permutations(FIELDS))
def test_a_principal_is_the_same_however_the_request_is_written(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, str]]
) -> None:
    store = Memory(tmp_path_factory.getbasetemp() / "unused", lambda root: None)  # type: ignore[arg-type,return-value]
    accounts = make(store, Clock())

    assert caller(accounts, *fields) == caller(accounts, ("Authorization", "a"), ("Cookie", "c"))


# -- accounts


async def test_an_account_is_the_same_by_basic_and_by_form(accounts: Accounts) -> None:
    ways = [
        await alice(accounts),
        await account(accounts, form="username=alice&password=pw"),
        await account(accounts, form="grant_type=password&service=s&client_id=c&username=alice&password=pw"),
        await account(accounts, (("Authorization", basic("alice", "pw")),), "scope=repository:app:pull&account=alice"),
        await account(accounts, (("Authorization", basic("alice", "pw")), ("User-Agent", "docker"))),
    ]

    assert len(set(ways)) == 1


async def test_accounts_are_apart(accounts: Accounts) -> None:
    claims: list[tuple[Fields, str]] = [
        ((), ""),
        ((("Authorization", basic("alice", "pw")),), ""),
        ((("Authorization", basic("alice", "wrong")),), ""),
        ((("Authorization", basic("alicep", "w")),), ""),
        ((("Authorization", basic("bob", "pw")),), ""),
        ((("Authorization", "Bearer pw"),), ""),
        ((("Authorization", basic("alice", "pw")), ("Cookie", "s")), ""),
        ((), "grant_type=refresh_token&refresh_token=pw"),
        ((), "username=&password=pw"),
        ((), "username=&password="),
        ((), "username=alice&password=pw&password=pw"),
    ]
    found = [await account(accounts, headers, form) for headers, form in claims]

    assert len(set(found)) == len(claims)


async def test_an_account_is_one_of_one_registry(accounts: Accounts) -> None:
    assert await alice(accounts) != await alice(accounts, at=OTHER)
    assert await account(accounts) != await account(accounts, at=OTHER)


async def test_an_account_is_the_same_after_a_restart(accounts: Accounts, memory: Memory) -> None:
    before = await alice(accounts)

    assert await alice(await restarted(memory)) == before
    assert await alice(await restarted(memory, secret=b"another")) != before


async def test_a_name_is_the_same_whatever_the_password_and_no_account(accounts: Accounts) -> None:
    name = accounts.name(REGISTRY, "alice")

    assert accounts.name(REGISTRY, "alice") == name
    others = (accounts.name(REGISTRY, "bob"), accounts.name(OTHER, "alice"), await alice(accounts))
    assert name not in others


# -- tokens that were relayed


async def test_a_token_stands_for_its_account(accounts: Accounts) -> None:
    who = await alice(accounts)
    for token in ("t1", "t2"):
        accounts.issued(REGISTRY, token, who, ["app"], 300)

    first, second = showing(accounts, "t1"), showing(accounts, "t2")
    assert first == second == Caller(accounts.principal(who, NOBODY), Credential.TOKEN)
    assert showing(accounts, "t3").credential is Credential.STRANGE_TOKEN


async def test_tokens_of_different_accounts_are_different_principals(accounts: Accounts) -> None:
    accounts.issued(REGISTRY, "alice's", await alice(accounts), ["app"], 300)
    accounts.issued(REGISTRY, "anonymous", await account(accounts), ["app"], 300)
    accounts.issued(REGISTRY, "a typo's", await account(accounts, form="username=alice&password=wp"), ["app"], 300)

    assert len({showing(accounts, token).principal for token in ("alice's", "anonymous", "a typo's")}) == 3


async def test_a_token_stands_for_its_account_only_where_it_was_asked_for(accounts: Accounts) -> None:
    accounts.issued(REGISTRY, "t", await alice(accounts), ["app", "team/lib"], 300)

    shown = {
        name: showing(accounts, "t", of=name).credential for name in ("", "app", "team/lib", "team", "ap", "other")
    }
    assert [name for name, credential in shown.items() if credential is Credential.TOKEN] == ["", "app", "team/lib"]
    narrow = showing(accounts, "t", of="other")
    assert narrow.credential is Credential.STRANGE_TOKEN
    assert narrow.principal != showing(accounts, "t").principal


async def test_a_token_for_no_repository_stands_for_its_account_at_the_registry_alone(accounts: Accounts) -> None:
    accounts.issued(REGISTRY, "t", await alice(accounts), [], 300)

    assert showing(accounts, "t", of="").credential is Credential.TOKEN
    assert showing(accounts, "t", of="app").credential is Credential.STRANGE_TOKEN


async def test_a_token_stands_for_its_account_until_it_expires(accounts: Accounts, clock: Clock) -> None:
    accounts.issued(REGISTRY, "t", await alice(accounts), ["app"], 300)
    clock.time += 299.9
    assert showing(accounts, "t").credential is Credential.TOKEN
    clock.time += 0.1
    assert showing(accounts, "t").credential is Credential.STRANGE_TOKEN


async def test_a_token_of_another_registry_is_a_strangers(accounts: Accounts) -> None:
    accounts.issued(REGISTRY, "t", await alice(accounts), ["app"], 300)

    for registry in (OTHER, Registry("https", "registry.test", 5000), Registry("http", "registry.test", 443)):
        elsewhere = showing(accounts, "t", at=registry)
        assert elsewhere.credential is Credential.STRANGE_TOKEN
        assert elsewhere.principal != showing(accounts, "t").principal


async def test_a_token_next_to_other_credentials_is_another_principal(accounts: Accounts) -> None:
    who = await alice(accounts)
    accounts.issued(REGISTRY, "t", who, ["app"], 300)

    both = showing(accounts, "t", ("Private-Token", "x"))
    assert both.credential is Credential.TOKEN
    assert both.principal == accounts.principal(who, Headers((("Private-Token", "x"), ("Authorization", "any"))))
    principals = {both.principal, showing(accounts, "t").principal}
    assert len(principals | {showing(accounts, "t", ("Private-Token", "y")).principal}) == 3


async def test_a_token_that_is_given_again_is_whose_it_was_given_last(accounts: Accounts, clock: Clock) -> None:
    who, nobody = await alice(accounts), await account(accounts)
    accounts.issued(REGISTRY, "t", who, ["app"], 300)
    accounts.issued(REGISTRY, "t", nobody, ["app"], 600)
    clock.time += 500

    assert showing(accounts, "t").principal == accounts.principal(nobody, NOBODY)


async def test_a_token_is_a_strangers_after_a_restart(accounts: Accounts, memory: Memory) -> None:
    accounts.issued(REGISTRY, "t", await alice(accounts), ["app"], 300)

    assert showing(await restarted(memory), "t").credential is Credential.STRANGE_TOKEN


async def test_only_so_many_tokens_are_remembered_and_the_oldest_goes(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_TOKENS", 2)
    who = await alice(accounts)
    for token in ("a", "b", "a", "c"):
        accounts.issued(REGISTRY, token, who, ["app"], 300)

    shown = {token: showing(accounts, token).credential for token in "abc"}
    assert shown == {"a": Credential.TOKEN, "b": Credential.STRANGE_TOKEN, "c": Credential.TOKEN}


# -- refresh tokens


REFRESH = "grant_type=refresh_token&refresh_token=r1"


async def test_a_refresh_token_stands_for_whom_it_was_given_to(accounts: Accounts, memory: Memory) -> None:
    who = await alice(accounts)
    assert await account(accounts, form=REFRESH) != who
    accounts.refreshes(REGISTRY, "r1", who)

    for now in (accounts, await restarted(memory)):
        assert await account(now, form=REFRESH) == who
        assert await account(now, form=REFRESH, at=OTHER) != who
        assert await account(now, form="grant_type=refresh_token&refresh_token=r2") != who
    assert await account(await restarted(memory, secret=b"another"), form=REFRESH) != who


async def test_whose_a_refresh_token_is_may_be_forgotten_but_it_stays_one_account(
    accounts: Accounts, memory: Memory
) -> None:
    accounts.refreshes(REGISTRY, "r1", await alice(accounts))
    memory.clock.time += 91 * 24 * 3600

    assert await account(accounts, form=REFRESH) == await account(accounts, form=REFRESH)
    assert await account(accounts, form=REFRESH) != await alice(accounts)


async def test_a_password_that_reads_like_a_refresh_token_is_none(accounts: Accounts) -> None:
    accounts.refreshes(REGISTRY, "r1", await alice(accounts))

    assert await account(accounts, form="username=&password=r1") != await alice(accounts)


# -- who was known before an outage


async def test_who_proved_themselves_is_remembered_for_the_grace(accounts: Accounts, memory: Memory) -> None:
    who = await alice(accounts)
    assert not await accounts.remembered(REGISTRY, who)
    accounts.proved(REGISTRY, who)
    assert await accounts.remembered(REGISTRY, who)

    after = await restarted(memory)
    memory.clock.time += GRACE - 1
    assert await after.remembered(REGISTRY, who)
    memory.clock.time += 1
    assert not await after.remembered(REGISTRY, who)


async def test_a_proof_is_one_account_s_at_one_registry(accounts: Accounts) -> None:
    who = await alice(accounts)
    accounts.proved(REGISTRY, who)

    assert not await accounts.remembered(OTHER, who)
    assert not await accounts.remembered(REGISTRY, await account(accounts))
    assert not await accounts.remembered(REGISTRY, await account(accounts, form="username=alice&password=wrong"))


async def test_who_was_refused_is_remembered_no_more(accounts: Accounts, memory: Memory) -> None:
    who, nobody = await alice(accounts), await account(accounts)
    for one in (who, nobody):
        accounts.proved(REGISTRY, one)
    accounts.disproved(REGISTRY, who)
    assert not await accounts.remembered(REGISTRY, who)

    after = await restarted(memory)
    assert not await after.remembered(REGISTRY, who)
    assert await after.remembered(REGISTRY, nobody)


async def test_without_grace_nobody_is_remembered(memory: Memory, clock: Clock) -> None:
    accounts = make(memory, clock, grace=0)
    accounts.proved(REGISTRY, await alice(accounts))
    assert not await accounts.remembered(REGISTRY, await alice(accounts))

    await memory.facts.flush()
    assert memory.rows().keys() == []


async def test_a_shorter_grace_counts_for_who_was_remembered_before(accounts: Accounts, memory: Memory) -> None:
    who = await alice(accounts)
    accounts.proved(REGISTRY, who)
    memory.clock.time += GRACE / 2

    assert not await (await restarted(memory, grace=0)).remembered(REGISTRY, who)
    assert not await (await restarted(memory, grace=GRACE / 4)).remembered(REGISTRY, who)
    assert await (await restarted(memory)).remembered(REGISTRY, who)


async def test_under_another_secret_nobody_is_remembered(accounts: Accounts, memory: Memory) -> None:
    accounts.proved(REGISTRY, await alice(accounts))
    after = await restarted(memory, secret=b"another")

    assert not await after.remembered(REGISTRY, await alice(after))


async def test_a_proof_that_somebody_copied_proves_nothing(accounts: Accounts, memory: Memory) -> None:
    who, nobody = await alice(accounts), await account(accounts)
    accounts.proved(REGISTRY, who)
    await memory.facts.flush()
    (key,) = memory.rows().keys()
    row = await memory.store.recall(key)
    accounts.proved(REGISTRY, nobody)
    await memory.facts.flush()
    (other,) = set(memory.rows().keys()) - {key}
    await memory.store.note({other: (row, GRACE)})
    after = await restarted(memory)

    assert await after.remembered(REGISTRY, who)
    assert not await after.remembered(REGISTRY, nobody)


@pytest.mark.parametrize("value", [True, "", "00", "\u00e9", "\ud800", ["00"], None])
async def test_a_row_that_says_something_else_proves_nothing(accounts: Accounts, memory: Memory, value: object) -> None:
    who = await alice(accounts)
    accounts.proved(REGISTRY, who)
    accounts.refreshes(REGISTRY, "r1", who)
    await memory.facts.flush()
    rows = {key: ([memory.clock.time, GRACE, value], GRACE) for key in memory.rows().keys()}  # noqa: SIM118
    await memory.store.note(rows)
    after = await restarted(memory)

    assert len(rows) == 2
    assert not await after.remembered(REGISTRY, who)
    assert await account(after, form=REFRESH) != who


# -- tokens of our own


async def test_a_local_token_stands_for_its_account(accounts: Accounts) -> None:
    who = await alice(accounts)
    accounts.issued(REGISTRY, "t", who, ["app"], 300)
    token = accounts.local(REGISTRY, who, ["app"])

    assert showing(accounts, token).credential is Credential.LOCAL
    assert showing(accounts, token).principal == showing(accounts, "t").principal
    both = showing(accounts, token, ("Private-Token", "x"))
    assert both.credential is Credential.LOCAL
    assert both.principal != showing(accounts, token).principal


async def test_a_local_token_is_good_where_it_was_asked_for(accounts: Accounts) -> None:
    who = await alice(accounts)
    token = accounts.local(REGISTRY, who, ["app"])

    assert showing(accounts, token, of="").credential is Credential.LOCAL
    for elsewhere in (showing(accounts, token, of="other"), showing(accounts, token, at=OTHER)):
        assert elsewhere.credential is Credential.VOID
        assert elsewhere.principal != accounts.principal(who, NOBODY)


async def test_a_local_token_lives_as_long_as_it_says_and_a_little_longer(accounts: Accounts, memory: Memory) -> None:
    token = accounts.local(REGISTRY, await alice(accounts), ["app"])
    memory.clock.time += LOCAL_LIFE + 29
    assert showing(accounts, token).credential is Credential.LOCAL
    memory.clock.time += 1
    assert showing(accounts, token).credential is Credential.VOID


async def test_a_local_token_that_was_changed_is_void(accounts: Accounts) -> None:
    who = await alice(accounts)
    token = accounts.local(REGISTRY, who, ["app"])
    other = accounts.local(REGISTRY, await account(accounts), ["app"])
    forged = [token[:-1], token + "A", token.rpartition(".")[0] + "." + other.rpartition(".")[2], "pullthrough.v2.x"]

    for text in forged:
        shown = showing(accounts, text)
        assert shown.credential is Credential.VOID, text
        assert shown.principal != accounts.principal(who, NOBODY)


async def test_a_local_token_outlives_a_restart_but_not_the_secret(accounts: Accounts, memory: Memory) -> None:
    who = await alice(accounts)
    token = accounts.local(REGISTRY, who, ["app"])

    after = await restarted(memory)
    assert showing(after, token) == Caller(after.principal(who, NOBODY), Credential.LOCAL)
    assert showing(await restarted(memory, secret=b"another"), token).credential is Credential.VOID


# -- nothing but fingerprints


async def test_nothing_but_fingerprints_is_kept(accounts: Accounts, memory: Memory) -> None:
    access = Access(memory.facts, Clock(), ttl=60, grace=GRACE)
    headers = (("Authorization", basic("alice", "correct-horse")),)
    who = await account(accounts, headers)
    accounts.issued(REGISTRY, "an-access-token", who, ["app"], 300)
    accounts.refreshes(REGISTRY, "a-refresh-token", who)
    accounts.proved(REGISTRY, who)
    accounts.proved(REGISTRY, caller(accounts, *headers).principal)
    access.grant(showing(accounts, "an-access-token").principal, Repository(REGISTRY, "app"), access.now())
    local = accounts.local(REGISTRY, who, ["app"])
    await memory.facts.flush()
    told = ["alice", "correct-horse", headers[0][1], "an-access-token", "a-refresh-token", local, SECRET.decode()]
    secrets = [text.encode() for text in told] + [basic("alice", "correct-horse").encode().split()[1]]
    digests = [hashlib.sha256(text).hexdigest().encode() for text in secrets]

    assert [key.partition(" ")[0] for key in memory.rows().keys()] == ["grant", "proof", "proof", "refresh"]  # noqa: SIM118
    on_disk, in_memory = memory.content(), repr([vars(accounts), vars(memory.facts)]).encode()
    assert [text for text in secrets + digests if text in on_disk] == []
    assert [text for text in secrets + digests if text in in_memory] == []


# -- the operator's word


async def test_the_operator_vouches_for_anonymous_clients_of_a_registry(
    accounts: Accounts, memory: Memory, clock: Clock
) -> None:
    anybody = accounts.anonymous(REGISTRY)
    assert not await accounts.remembered(REGISTRY, anybody)
    await memory.store.note(dict(module.vouched(SECRET, REGISTRY, memory.clock())))
    memory.clock.time += 2 * GRACE

    assert await accounts.remembered(REGISTRY, anybody)
    assert not await accounts.remembered(OTHER, accounts.anonymous(OTHER))
    assert not await accounts.remembered(REGISTRY, await alice(accounts))
    assert not await make(memory, clock, grace=0).remembered(REGISTRY, anybody)
    assert not await make(memory, clock, secret=b"another").remembered(REGISTRY, anybody)


def test_who_the_operator_vouches_for_is_who_asks_with_a_token_for_anybody(accounts: Accounts) -> None:
    assert module.anonymous(SECRET, REGISTRY) == accounts.anybody(REGISTRY)[1]
    assert module.anonymous(b"another", REGISTRY) != accounts.anybody(REGISTRY)[1]
