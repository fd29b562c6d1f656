"""A real HEAD through a real proxy: what answers come to, and what each failure calls for."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from doctor.patient import Patient
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.images import Layout
from lab.names import NameMap, resolver
from lab.parent import ParentProxy
from lab.pki import Identity, Pki
from lab.proxy import Proxies, Proxy
from lab.registry import Registry
from lab.web import served
from pullthrough.ca import Authority
from pullthrough.doctor import Place, certificates, parse_target, pulling
from pullthrough.doctor.case import Case, Interview, gather, interview
from pullthrough.doctor.finding import Verdict


def case_of(patient: Patient, proxy: Proxy, host: str, image: str | None = None) -> Case:
    place = Place(*proxy.address)
    case = patient.case(cache=place, said=interview(place, time.time))
    return replace(case, target=parse_target(host, image))


def test_an_image_is_found_with_an_anonymous_token(
    patient: Patient, registry: Registry, proxy_factory: Proxies, layout: Layout, repository: str
) -> None:
    registry.seed(layout.image("doctor", [1000], seed="doctor"), repository, "1")
    proxy = proxy_factory(registry)
    finding = pulling.pulled(case_of(patient, proxy, registry.host, f"{repository}:1"))
    assert finding.verdict is Verdict.OK
    assert f"HEAD {registry.host}/v2/{repository}/manifests/1 gave 200 (pullthrough; " in finding.text


def test_a_token_server_elsewhere_is_asked_through_the_tunnel_and_believed_by_public_cas(
    patient: Patient,
    registry: Registry,
    proxy_factory: Proxies,
    layout: Layout,
    repository: str,
    public: Pki,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(public.ca_file))
    registry.seed(layout.image("doctor", [1000], seed="doctor"), repository, "1")
    proxy = proxy_factory(registry, flags=["--no-auth-broker"])
    finding = pulling.pulled(case_of(patient, proxy, registry.host, f"{repository}:1"))
    assert (finding.verdict, " gave 200 " in finding.text) == (Verdict.OK, True)


def test_a_refusal_of_the_registry_is_an_answer(patient: Patient, registry: Registry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(registry)
    finding = pulling.pulled(case_of(patient, proxy, registry.host, "priv/app:1"))
    assert (finding.verdict, "wants a login" in finding.text) == (Verdict.OK, True)


def test_without_an_image_the_registry_is_asked_for_itself(
    patient: Patient, fake: FakeRegistry, proxy_factory: Proxies
) -> None:
    finding = pulling.pulled(case_of(patient, proxy_factory(fake), fake.host))
    assert (finding.verdict, f"GET {fake.host}/v2/ gave 200" in finding.text) == (Verdict.OK, True)


def test_an_image_that_is_not_there(patient: Patient, fake: FakeRegistry, proxy_factory: Proxies) -> None:
    finding = pulling.pulled(case_of(patient, proxy_factory(fake), fake.host, "team/app:1"))
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, "try --image REF")


def test_a_registry_that_the_cache_cannot_reach(patient: Patient, fake: FakeRegistry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(fake)
    fake.stop()
    finding = pulling.pulled(case_of(patient, proxy, fake.host, "team/app:1"))
    assert (finding.verdict, finding.remedy) == (
        Verdict.FAILED,
        f"see what is said on the cache: curl -sS {proxy.url}/readyz",
    )


def test_what_the_cache_itself_refuses(patient: Patient, fake: FakeRegistry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(fake, flags=["--deny", f"{fake.host}/team/*"])
    finding = pulling.pulled(case_of(patient, proxy, fake.host, "team/app:1"))
    assert (finding.verdict, "the cache itself refuses this" in finding.text) == (Verdict.FAILED, True)
    assert finding.remedy.startswith("on the cache: change --allow and --deny")


def test_what_the_registry_refuses(patient: Patient, fake: FakeRegistry, proxy_factory: Proxies) -> None:
    fake.fault("manifests/1", Fault(status=403), times=None, method=None)
    finding = pulling.pulled(case_of(patient, proxy_factory(fake), fake.host, "team/app:1"))
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, "try --image REF")


def test_a_registry_whose_ca_the_cache_does_not_trust(
    patient: Patient, proxy_factory: Proxies, names: NameMap, tmp_path: Path
) -> None:
    with served(FakeRegistry("fake.test", Pki(tmp_path / "stranger").identity("fake.test")), names) as server:
        finding = pulling.pulled(case_of(patient, proxy_factory(server), server.host, "a-team/with/a/long/name:1"))
    assert (finding.verdict, "is not trusted" in finding.text) == (Verdict.FAILED, True)
    assert "--upstream-ca FILE" in finding.remedy


def test_a_registry_on_a_port_that_the_cache_was_not_told_of(patient: Patient, proxy_factory: Proxies) -> None:
    finding = pulling.pulled(case_of(patient, proxy_factory(), "fake.test:5050"))
    assert (finding.verdict, "tunnels lead to port 443 only" in finding.text) == (Verdict.FAILED, True)
    assert "pullthrough run --registry fake.test:5050;" in finding.remedy


def test_a_tunnel_that_is_refused_in_the_words_of_the_cache(patient: Patient, proxy_factory: Proxies) -> None:
    finding = pulling.pulled(case_of(patient, proxy_factory(flags=["--offline"]), "fake.test"))
    assert (finding.verdict, "--offline" in finding.text) == (Verdict.FAILED, True)


def test_a_rate_limit_that_is_used_up(patient: Patient, fake: FakeRegistry, proxy_factory: Proxies) -> None:
    fake.fault("manifests/1", Fault(status=429), times=None, method=None)
    finding = pulling.pulled(case_of(patient, proxy_factory(fake), fake.host, "team/app:1"))
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, "log in, or wait: what is cached is served")


def test_a_cache_that_went_away(patient: Patient) -> None:
    case = patient.case(cache=Place("127.0.0.1", 1))
    finding = pulling.pulled(case)
    assert (finding.verdict, "Connection refused" in finding.text) == (Verdict.FAILED, True)


def test_a_certificate_that_is_out_of_date_means_a_wrong_clock(
    patient: Patient, parent: ParentProxy, names: NameMap, tmp_path: Path
) -> None:
    then = datetime.now(UTC) - timedelta(days=400)
    authority = Authority.load_or_create(tmp_path / "old", now=lambda: then)
    with served(FakeRegistry("fake.test", _identity(authority, "fake.test", tmp_path)), names) as server:
        case = patient.case(cache=Place(parent.address, parent.port), registry=server.host)
        said = Interview(ca=certificates.parse(authority.certificate_pem.decode()))
        finding = pulling.pulled(replace(case, said=said))
    assert (finding.verdict, "expired" in finding.text, "set-ntp" in finding.remedy) == (Verdict.FAILED, True, True)


@pytest.fixture
def tunnelled(pki: Pki, names: NameMap) -> Iterator[FakeRegistry]:
    """A registry on port 443 that the cache was not told of."""
    with served(FakeRegistry("fake.test", pki.identity("fake.test"), public_port=443), names) as server:
        yield server


def test_a_registry_that_the_cache_does_not_open(
    patient: Patient, tunnelled: FakeRegistry, proxy_factory: Proxies
) -> None:
    finding = pulling.pulled(case_of(patient, proxy_factory(), tunnelled.host))
    assert (finding.verdict, "unable to get" in finding.text) == (Verdict.FAILED, True)
    assert finding.remedy.endswith("pullthrough run --registry fake.test:443")


# -- connections that reach the cache by themselves


@pytest.mark.parametrize("whose", ["cache", "registry"])
def test_a_redirected_connection_is_known_by_its_certificate(
    whose: str,
    patient: Patient,
    proxy_factory: Proxies,
    pki: Pki,
    names: NameMap,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = proxy_factory(flags=["--registry", "storage.test"])
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))
    identity = _leaf(proxy, tmp_path) if whose == "cache" else pki.identity("storage.test")
    with served(FakeRegistry("storage.test", identity), names) as server:
        case = gather(patient.machine({}), Place(*proxy.address), parse_target(server.host, None))
    assert (case.redirected, case.client) == (whose == "cache",) * 2


def _leaf(proxy: Proxy, folder: Path) -> Identity:
    """What the cache's own door for redirected connections shows."""
    authority = Authority.load_from(proxy.data_dir / "ca", now=lambda: datetime.now(UTC))
    return _identity(authority, "storage.test", folder)


def _identity(authority: Authority, name: str, folder: Path) -> Identity:
    leaf = authority.issue(name)
    identity = Identity(name, folder / "leaf.pem", folder / "leaf.key")
    identity.chain.write_bytes(leaf.chain_pem)
    identity.key.write_bytes(leaf.key_pem)
    return identity
