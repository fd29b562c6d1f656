"""Whatever happens in whatever order: nobody gets what the upstream would have refused."""

import socket
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from lab.fake_registry import basic
from lab.inside import GRANT_TTL
from lab.leaks import BLOBS, MANIFESTS, MINUTE, REPOSITORIES, Episode, Leaks
from lab.names import NameMap, resolver
from lab.pki import Pki
from lab.rightful import PASSWORDS, Login, RightfulRegistry, Show, Ways

#: Always the same histories: other ones are for somebody who has time.
SEARCH = settings(
    max_examples=45,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def upstream(pki: Pki) -> Iterator[RightfulRegistry]:
    server = RightfulRegistry("fake.test", pki.identity("fake.test"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def machine(upstream: RightfulRegistry, pki: Pki, names: NameMap, monkeypatch: pytest.MonkeyPatch) -> type[Leaks]:
    """The state machine, in front of this upstream."""
    upstream.publish(names)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    trust = pki.client_context()
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as the program's own

    class OfThisTest(Leaks):
        tls = trust

    OfThisTest.upstream = upstream
    return OfThisTest


@pytest.fixture
def by_hand(machine: type[Leaks]) -> Iterator[Leaks]:
    """The machine, to be driven by a test."""
    made = machine()
    made.set_up(Ways())
    yield made
    made.teardown()


@pytest.mark.timeout(900)  # seconds to shrink a failure; without one it is done within a minute
def test_nobody_gets_what_the_upstream_would_refuse(machine: type[Leaks]) -> None:
    run_state_machine_as_test(machine, settings=SEARCH)


# What chance found at some time.

ALICE = Show(basic("alice", PASSWORDS[0]))
HERE = REPOSITORIES[0]


@pytest.mark.parametrize("refusal", ["401", "403", "404", "page", "redirect"])
@pytest.mark.parametrize("digest", [min(BLOBS), min(MANIFESTS)])
def test_a_way_to_refuse_is_no_outage(by_hand: Leaks, refusal: str, digest: str) -> None:
    by_hand.upstream.ways = Ways(refusal=refusal)
    by_hand.pull([ALICE], [HERE], digest, "GET")
    by_hand.upstream.rights.clear()
    by_hand.proxy.clock.time += GRANT_TTL

    by_hand.pull([ALICE], [HERE], digest, "GET")


def test_a_404_to_head_ends_what_an_outage_would_bridge(by_hand: Leaks) -> None:
    gone, other = sorted(BLOBS)
    for digest in (gone, other):
        by_hand.pull([ALICE], [HERE], digest, "GET")
    by_hand.upstream.holds.discard((HERE, gone))
    by_hand.proxy.clock.time += GRANT_TTL
    by_hand.pull([ALICE], [HERE], gone, "HEAD")
    by_hand.upstream.trouble = "silence"

    by_hand.pull([ALICE], [HERE], other, "GET")


def test_a_404_is_passed_on_when_the_rate_limit_is_used_up(by_hand: Leaks) -> None:
    by_hand.pull([ALICE], [HERE], None, "GET")
    by_hand.upstream.scarce = True
    by_hand.upstream.holds.clear()

    by_hand.pull([ALICE], [HERE], None, "GET")


def test_a_login_page_is_not_what_a_tag_names(by_hand: Leaks) -> None:
    """One client's refusal must not cost the others what they would get in an outage."""
    by_hand.upstream.ways = Ways(refusal="page")
    by_hand.pull([ALICE], [HERE], None, "GET")
    by_hand.pull([Show()], [HERE], None, "GET")
    by_hand.upstream.trouble = "silence"

    by_hand.pull([ALICE], [HERE], None, "GET")


def test_a_token_for_an_outage_is_of_no_use_after_it(by_hand: Leaks) -> None:
    scope = frozenset({HERE})
    outage, end = Episode(None, "silence", MINUTE, scope, None), Episode(None, None, 6.0, scope, None)

    by_hand.somebody_goes_on_pulling(
        login=Login("alice", PASSWORDS[0]), digest=min(MANIFESTS), scope=scope, episodes=[outage, end]
    )
