"""The cache itself, and names: what it says, its clock, its disk, where DNS leads."""

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from doctor.patient import CACHE, Patient
from lab.fake_registry import FakeRegistry
from lab.names import NameMap, resolver
from lab.proxy import Proxies
from lab.web import served
from pullthrough.doctor import Place, condition, names
from pullthrough.doctor.case import Case, Interview, interview
from pullthrough.doctor.certificates import parse, validity
from pullthrough.doctor.finding import Verdict

DAY = 24 * 3600.0


def at(case: Case, moment: float) -> Case:
    return replace(case, machine=replace(case.machine, now=lambda: moment))


# -- is it there, and is it pullthrough?


def test_the_real_cache_is_recognised(patient: Patient, proxy_factory: Proxies) -> None:
    proxy = proxy_factory()
    said = interview(Place(*proxy.address), time.time)
    assert said.ca == parse(proxy.ca_file.read_text())
    case = patient.case(cache=Place(*proxy.address), said=said)
    checks = condition.reachable, condition.healthy, condition.clock
    assert [check(case).verdict for check in checks] == [Verdict.OK] * 3


def test_another_server_is_not_taken_for_it(patient: Patient, names: NameMap) -> None:
    with served(FakeRegistry("fake.test"), names) as other:
        said = interview(Place(other.address, other.port), time.time)
    finding = condition.reachable(patient.case(said=said))
    assert finding.verdict is Verdict.FAILED
    assert "something answers that is no pullthrough" in finding.text
    assert "--cache" in finding.remedy


def test_nobody_listens(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    case = patient.case(said=interview(Place("127.0.0.1", port), time.time))
    assert condition.reachable(case).verdict is Verdict.FAILED
    assert "refused" in condition.reachable(case).text
    assert condition.healthy(case).verdict is Verdict.SKIPPED


def test_somebody_listens_and_says_nothing(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = interview(Place(*silent.getsockname()), time.time)
    assert condition.reachable(patient.case(said=said)).text.endswith("no answer in time")


# -- is it well?


def test_a_degraded_cache_says_why(patient: Patient) -> None:
    ready = {"status": "degraded", "reasons": {"store": "the disk is full\x1b[31m"}}
    finding = condition.healthy(patient.case(said=Interview(ready=ready)))
    assert finding.verdict is Verdict.WARNING
    assert "store: the disk is full" in finding.text
    assert "\x1b" not in finding.text
    assert finding.remedy == "mend that on the cache; it recovers by itself"


def test_an_upstream_that_is_silent_is_named(patient: Patient) -> None:
    ready = {"status": "ok", "reasons": {}, "unreachable": [{"upstream": "https://ghcr.io", "since": "..."}]}
    finding = condition.healthy(patient.case(said=Interview(ready=ready)))
    assert (finding.verdict, "https://ghcr.io" in finding.text) == (Verdict.WARNING, True)
    assert finding.remedy == "try the way there on the machine that runs the cache: curl -I https://ghcr.io/v2/"


# -- the clock


def test_a_clock_before_the_ca_or_after_it(patient: Patient) -> None:
    begin, end = validity(parse(patient.ca_pem))
    early, late = (condition.clock(at(patient.case(), moment)) for moment in (begin - 1, end + 1))
    assert (early.verdict, early.remedy.rpartition(": ")[2]) == (Verdict.FAILED, "sudo timedatectl set-ntp true")
    assert (late.verdict, late.remedy) == (Verdict.FAILED, "on the cache: pullthrough ca rotate")
    soon = condition.clock(at(patient.case(), end - 29 * DAY))
    assert (soon.verdict, soon.remedy) == (Verdict.WARNING, "on the cache: pullthrough ca rotate")


@pytest.mark.parametrize(("skew", "words"), [(301.0, "301 s ahead"), (-301.0, "301 s behind")])
def test_clocks_that_differ_by_more_than_five_minutes(patient: Patient, skew: float, words: str) -> None:
    ca = parse(patient.ca_pem)
    finding = condition.clock(patient.case(said=Interview(ca=ca, skew=skew)))
    assert (finding.verdict, words in finding.text) == (Verdict.FAILED, True)
    assert condition.clock(patient.case(said=Interview(ca=ca, skew=skew / 2))).verdict is Verdict.OK


def test_a_clock_that_is_years_ahead_does_not_call_for_another_ca(patient: Patient) -> None:
    ca = parse(patient.ca_pem)
    _, end = validity(ca)
    finding = condition.clock(at(patient.case(said=Interview(ca=ca, skew=-20 * 365 * DAY)), end + 1))
    assert (finding.verdict, finding.remedy.rpartition(": ")[2]) == (Verdict.FAILED, "sudo timedatectl set-ntp true")
    agreed = condition.clock(at(patient.case(said=Interview(ca=ca, skew=0.0)), end + 1))
    assert agreed.remedy == "on the cache: pullthrough ca rotate"


def test_the_cache_tells_its_time(proxy_factory: Proxies) -> None:
    place = Place(*proxy_factory().address)
    skew = interview(place, lambda: time.time() + 600).skew
    assert skew is not None
    assert -605 < skew < -595


# -- the disk


def test_the_disk_of_the_cache_s_machine(patient: Patient, tmp_path: Path) -> None:
    assert condition.disk(patient.case(), tmp_path).verdict is Verdict.OK
    absent = condition.disk(patient.case(), tmp_path / "absent")
    assert (absent.verdict, "--data-dir" in absent.text) == (Verdict.SKIPPED, True)


def test_a_disk_smaller_than_size_promises(patient: Patient, tmp_path: Path) -> None:
    ready = {"status": "ok", "store": {"size": 2**62, "bytes": 2**61}}
    finding = condition.disk(patient.case(said=Interview(ready=ready)), tmp_path)
    assert (finding.verdict, "--size" in finding.remedy) == (Verdict.WARNING, True)


def test_a_full_disk(patient: Patient) -> None:
    finding = condition.disk(patient.case(), Path("/proc"))  # a file system without any room
    assert (finding.verdict, "--size" in finding.remedy) == (Verdict.FAILED, True)


# -- names


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> NameMap:
    entries = NameMap()
    monkeypatch.setattr(socket, "getaddrinfo", resolver(entries))
    return entries


def test_a_name_that_leads_to_the_registry(patient: Patient, dns: NameMap) -> None:
    dns.publish("registry.corp.test", 0, "198.51.100.1", 0)
    finding = names.resolved(patient.case())
    assert (finding.verdict, "198.51.100.1, the registry itself" in finding.text) == (Verdict.OK, True)


def test_a_name_that_does_not_resolve(patient: Patient, dns: NameMap) -> None:
    finding = names.resolved(patient.case())
    assert (finding.verdict, finding.remedy.startswith("check /etc/resolv.conf")) == (Verdict.WARNING, True)


def test_a_name_that_leads_to_the_cache(patient: Patient, dns: NameMap) -> None:
    dns.publish("registry.corp.test", 0, CACHE.host, 0)
    finding = names.resolved(patient.case())
    assert (finding.verdict, finding.remedy) == (
        Verdict.FAILED,
        "on the cache: pullthrough run --tls-listen 0.0.0.0:5050",
    )
    assert names.resolved(patient.case(redirected=True)).verdict is Verdict.OK


def test_a_name_that_leads_to_the_cache_by_halves(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def both(host: str, *args: object, **kwargs: object) -> list[object]:
        hosts = [CACHE.host, "198.51.100.1"] if host == "registry.corp.test" else [host]
        return [info for each in hosts for info in real(each, None, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    finding = names.resolved(patient.case(redirected=True))
    assert (finding.verdict, "--advertise" in finding.remedy) == (Verdict.FAILED, True)


def test_an_address_needs_no_name(patient: Patient) -> None:
    assert names.resolved(patient.case(registry="10.1.2.3:5000")).verdict is Verdict.OK
