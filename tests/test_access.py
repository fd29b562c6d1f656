"""Grants: who is asking, for how long an answer counts, and what an answer that comes late is worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough import access
from pullthrough.access import GRANT_TTL, Access
from pullthrough.core.digest import Digest
from pullthrough.core.headers import Headers
from pullthrough.messages import Registry, Repository

APP = Repository(Registry("https", "registry.test", 443), "team/app")
OTHER = Repository(Registry("https", "registry.test", 443), "team/other")
PLAIN = Repository(Registry("http", "registry.test", 443), "team/app")
DIGEST = Digest.of(b"layer")


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def grants(clock: Clock) -> Access:
    return Access(b"secret", clock)


def who(grants: Access, *fields: tuple[str, str]) -> bytes:
    return grants.principal(Headers(fields))


# -- principals


def test_credentials_tell_principals_apart(grants: Access) -> None:
    senders = [
        (),
        (("Authorization", "Bearer a"),),
        (("Authorization", "Bearer b"),),
        (("Cookie", "Bearer a"),),
        (("Authorization", "Bearer a"), ("Cookie", "s")),
        (("Private-Token", "a"),),
        (("X-JFrog-Art-Api", "a"),),
    ]

    assert len({who(grants, *fields) for fields in senders}) == len(senders)


def test_a_field_cannot_be_moved_into_its_neighbour(grants: Access) -> None:
    assert who(grants, ("Cookie", "ab"), ("X-Key", "c")) != who(grants, ("Cookie", "a"), ("X-Key", "bc"))
    assert who(grants, ("X-A", "b")) != who(grants, ("X-", "ab"))


def test_a_principal_says_nothing_without_the_secret(grants: Access, clock: Clock) -> None:
    assert who(grants, ("Authorization", "a")) != who(Access(b"other", clock), ("Authorization", "a"))


def test_any_bytes_can_be_a_credential(grants: Access) -> None:
    assert who(grants, ("X-K\udcff", "\udcff")) != who(grants, ("X-K\udcff", "\udcfe"))


@given(st.permutations([("Accept", "x"), ("User-Agent", "docker"), ("Authorization", "a"), ("Cookie", "c")]))
def test_a_principal_is_the_same_however_the_request_is_written(fields: list[tuple[str, str]]) -> None:
    grants = Access(b"secret", Clock())

    assert who(grants, *fields) == who(grants, ("Authorization", "a"), ("Cookie", "c"))


# -- grants


def test_nothing_is_granted_at_first(grants: Access) -> None:
    assert not grants.granted(b"p", APP)


def test_a_grant_counts_from_when_the_upstream_was_asked(grants: Access, clock: Clock) -> None:
    asked = grants.now()
    clock.time += 30
    grants.grant(b"p", APP, asked)

    clock.time = asked + GRANT_TTL - 0.001
    assert grants.granted(b"p", APP)
    clock.time = asked + GRANT_TTL
    assert not grants.granted(b"p", APP)


def test_an_answer_that_took_too_long_grants_nothing(grants: Access, clock: Clock) -> None:
    asked = grants.now()
    clock.time += GRANT_TTL
    grants.grant(b"p", APP, asked)

    assert not grants.granted(b"p", APP)


def test_older_evidence_does_not_shorten_a_grant(grants: Access, clock: Clock) -> None:
    early = grants.now()
    clock.time += 30
    grants.grant(b"p", APP, grants.now())
    grants.grant(b"p", APP, early)

    clock.time += GRANT_TTL - 1
    assert grants.granted(b"p", APP)


def test_a_grant_is_for_one_principal_in_one_repository_of_one_registry(grants: Access) -> None:
    grants.grant(b"p", APP, grants.now())

    assert not grants.granted(b"q", APP)
    assert not grants.granted(b"p", OTHER)
    assert not grants.granted(b"p", PLAIN)


def test_a_refusal_ends_a_grant_and_no_other(grants: Access, clock: Clock) -> None:
    for principal, repository in ((b"p", APP), (b"p", OTHER), (b"q", APP)):
        grants.grant(principal, repository, grants.now())
    grants.revoke(b"p", APP)

    assert not grants.granted(b"p", APP)
    assert grants.granted(b"p", OTHER)
    assert grants.granted(b"q", APP)


def test_an_answer_to_an_earlier_question_does_not_undo_a_refusal(grants: Access, clock: Clock) -> None:
    asked = grants.now()
    clock.time += 1
    grants.revoke(b"p", APP)
    grants.grant(b"p", APP, asked)

    assert not grants.granted(b"p", APP)
    clock.time += 1
    grants.grant(b"p", APP, grants.now())
    assert grants.granted(b"p", APP)


def test_only_so_many_grants_are_remembered_and_the_oldest_goes(
    grants: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_GRANTS", 2)
    for principal in (b"a", b"b", b"a", b"c"):
        clock.time += 1
        grants.grant(principal, APP, grants.now())

    assert [principal for principal in (b"a", b"b", b"c") if grants.granted(principal, APP)] == [b"a", b"c"]


def test_a_refusal_that_was_forgotten_still_counts(
    grants: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_GRANTS", 1)
    asked = grants.now()
    clock.time += 1
    grants.revoke(b"p", APP)
    grants.revoke(b"q", APP)
    grants.grant(b"p", APP, asked)

    assert not grants.granted(b"p", APP)


# -- changes


def test_what_was_said_before_a_change_is_overtaken(grants: Access, clock: Clock) -> None:
    before = grants.now()
    assert not grants.overtaken(APP, DIGEST, before)
    clock.time += 1
    grants.changed(APP, DIGEST)
    clock.time += 1

    assert grants.overtaken(APP, DIGEST, before)
    assert not grants.overtaken(APP, DIGEST, grants.now())
    assert not grants.overtaken(OTHER, DIGEST, before)
    assert not grants.overtaken(APP, Digest.of(b"other"), before)


def test_a_change_counts_until_the_store_knows_of_it(grants: Access) -> None:
    assert not grants.severed(APP, DIGEST)
    grants.changed(APP, DIGEST)
    assert grants.severed(APP, DIGEST)
    assert not grants.severed(OTHER, DIGEST)
    grants.settled(APP, DIGEST)
    assert not grants.severed(APP, DIGEST)


def test_changes_of_which_the_store_knows_none_end_in_no_link_at_all(
    grants: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_GRANTS", 1)
    grants.changed(APP, DIGEST)
    grants.changed(OTHER, DIGEST)

    assert grants.severed(APP, DIGEST)
    assert grants.severed(PLAIN, DIGEST)


def test_a_change_that_was_forgotten_overtakes_everybody(
    grants: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_GRANTS", 2)
    digests = [Digest.of(bytes([number])) for number in range(3)]
    before = grants.now()
    for digest in digests:
        clock.time += 1
        grants.changed(APP, digest)

    assert all(grants.overtaken(APP, digest, before) for digest in digests)
    assert not grants.overtaken(OTHER, DIGEST, grants.now())


@given(st.lists(st.sampled_from(["ask", "grant", "revoke", "later"]), max_size=12))
def test_a_grant_always_rests_on_a_question_after_the_last_refusal(steps: list[str]) -> None:
    clock = Clock()
    grants = Access(b"secret", clock)
    asked: list[float] = []
    refused = -1.0
    best = -1.0
    for step in steps:
        clock.time += 1
        match step:
            case "ask":
                asked.append(grants.now())
            case "grant" if asked:
                question = asked.pop(0)
                grants.grant(b"p", APP, question)
                best = max(best, question) if question > refused else best
            case "revoke":
                grants.revoke(b"p", APP)
                refused, best = clock.time, -1.0
            case "later":
                clock.time += GRANT_TTL / 2
        assert grants.granted(b"p", APP) == (best >= 0 and best + GRANT_TTL > clock.time)
