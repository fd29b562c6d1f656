"""Proxy variables: of this shell, and of real processes with environments of their own."""

import socket

import pytest

from doctor.patient import Patient
from lab.names import NameMap, resolver
from pullthrough.doctor import variables
from pullthrough.doctor.finding import Verdict

OURS = "http://192.0.2.7:3128"
PROXIED = {"HTTPS_PROXY": OURS}
SETUP = f"curl -fsS {OURS}/setup.sh | sudo sh -s --"
RESTART = "sudo systemctl daemon-reload && sudo systemctl restart docker"
DROP_IN = "/etc/systemd/system/docker.service.d/pullthrough.conf"


# -- this shell


def test_a_shell_that_has_it_is_well(patient: Patient) -> None:
    assert variables.shell(patient.case(PROXIED)).verdict is Verdict.OK
    assert variables.shell(patient.case({"https_proxy": OURS})).verdict is Verdict.OK


def test_a_shell_without_is_told_the_command(patient: Patient) -> None:
    finding = variables.shell(patient.case())
    assert (finding.verdict, finding.remedy) == (
        Verdict.FAILED,
        f'in the shell that pulls: eval "$(pullthrough env {OURS})"',
    )


def test_nothing_need_be_set_where_connections_are_redirected(patient: Patient) -> None:
    patient.runs("dockerd", {})
    case = patient.case(redirected=True)
    assert {variables.shell(case).verdict, variables.dockerd(case).verdict} == {Verdict.OK}


def test_the_cache_s_own_machine_needs_no_proxy(patient: Patient) -> None:
    assert variables.shell(patient.case(client=False)).verdict is Verdict.WARNING


def test_another_proxy_is_named_without_its_password(patient: Patient) -> None:
    finding = variables.shell(patient.case({"HTTPS_PROXY": "http://me:geheim@192.0.2.9:8080"}))
    assert finding.verdict is Verdict.FAILED
    assert "http://192.0.2.9:8080, which is not the cache" in finding.text
    assert "geheim" not in str(finding)


def test_a_value_that_is_no_proxy_is_not_repeated(patient: Patient) -> None:
    finding = variables.shell(patient.case({"HTTPS_PROXY": "socks5://me:geheim@192.0.2.9"}))
    assert finding.verdict is Verdict.FAILED
    assert "geheim" not in str(finding)


def test_two_spellings_with_two_values(patient: Patient) -> None:
    finding = variables.shell(patient.case({"HTTPS_PROXY": OURS, "https_proxy": "http://192.0.2.9:1"}))
    assert (finding.verdict, finding.remedy) == (
        Verdict.WARNING,
        "set both to the same value, or unset https_proxy",
    )


# -- podman

CONF = "[engine]\nenv = ['HTTPS_PROXY={}', 'A=b']\n"


def test_podman_takes_what_the_shell_does_not_set_from_its_own_file(patient: Patient) -> None:
    patient.write("/etc/containers/policy.json", "{}")
    finding = variables.podman(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} podman")
    patient.write("/etc/containers/containers.conf", CONF.format("http://192.0.2.9:1"))
    patient.write("/etc/containers/containers.conf.d/pullthrough.conf", CONF.format(OURS))
    assert variables.podman(patient.case()).verdict is Verdict.OK
    assert variables.podman(patient.case({"HTTPS_PROXY": "http://192.0.2.9:1"})).verdict is Verdict.FAILED
    patient.write("/me/.config/containers/containers.conf", CONF.format("http://192.0.2.9:1"))
    assert variables.podman(patient.case({"HOME": "/me"})).verdict is Verdict.FAILED


def test_without_podman_it_is_no_matter(patient: Patient) -> None:
    assert variables.podman(patient.case()).verdict is Verdict.SKIPPED


@pytest.mark.parametrize("text", ["[", "engine = 1", "[engine]\nenv = 1", "[engine]\nenv = [1, '']"])
def test_a_containers_conf_that_is_odd(patient: Patient, text: str) -> None:
    patient.write("/etc/containers/containers.conf", text)
    assert variables.podman(patient.case(PROXIED)).verdict is Verdict.OK


# -- daemons


def test_a_daemon_s_own_environment_counts_and_not_the_shell_s(patient: Patient) -> None:
    patient.runs("dockerd", {"PATH": "/bin"})
    finding = variables.dockerd(patient.case(PROXIED))
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} docker")


def test_a_daemon_that_was_started_with_it_is_well(patient: Patient) -> None:
    patient.runs("dockerd", PROXIED)
    patient.runs("containerd", PROXIED)
    case = patient.case()
    assert [variables.dockerd(case).verdict, variables.containerd(case).verdict] == [Verdict.OK] * 2


@pytest.mark.parametrize(
    "line",
    [
        f'Environment="A=b c" "HTTPS_PROXY={OURS}"',
        f"Environment=HTTPS_PROXY={OURS}",
        f"Environment = https_proxy={OURS}",
    ],
)
def test_a_drop_in_that_the_running_daemon_never_saw(patient: Patient, line: str) -> None:
    patient.runs("dockerd", {})
    patient.write(DROP_IN, f"[Service]\n{line}\n")
    finding = variables.dockerd(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, RESTART)


def test_daemon_json_goes_before_the_environment(patient: Patient) -> None:
    patient.runs("dockerd", {"HTTPS_PROXY": "http://192.0.2.9:1"})
    assert variables.dockerd(patient.case()).verdict is Verdict.FAILED
    patient.write("/etc/docker/daemon.json", f'{{"proxies": {{"https-proxy": "{OURS}"}}}}')
    assert variables.dockerd(patient.case()).verdict is Verdict.OK


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proxies": 1}', '{"proxies": {"https-proxy": null}}'])
def test_a_daemon_json_without_proxies(patient: Patient, text: str) -> None:
    patient.runs("dockerd", PROXIED)
    patient.write("/etc/docker/daemon.json", text)
    assert variables.dockerd(patient.case()).verdict is Verdict.OK


def test_containerd_beside_dockerd_pulls_for_kubernetes_alone(patient: Patient) -> None:
    patient.runs("containerd", {})
    assert variables.containerd(patient.case()).verdict is Verdict.FAILED
    patient.runs("dockerd", PROXIED)
    assert variables.containerd(patient.case()).verdict is Verdict.SKIPPED


def test_no_daemon_no_finding(patient: Patient) -> None:
    case = patient.case()
    assert {variables.dockerd(case).verdict, variables.containerd(case).verdict} == {Verdict.SKIPPED}


# -- NO_PROXY


def trap(patient: Patient, value: str, registry: str = "registry.corp.test:5050") -> tuple[Verdict, str]:
    finding = variables.no_proxy(patient.case({**PROXIED, "NO_PROXY": value}, registry=registry))
    return finding.verdict, finding.remedy


@pytest.mark.parametrize(
    "entry", ["*", "corp.test", ".corp.test", "*.corp.test", "registry.corp.test:5050", "CORP.test"]
)
def test_an_entry_that_covers_the_registry_is_named(patient: Patient, entry: str) -> None:
    verdict, remedy = trap(patient, f"localhost, {entry}")
    assert verdict is Verdict.FAILED
    assert f"take {entry.lower()} out of NO_PROXY" in remedy


@pytest.mark.parametrize(
    "entry", ["localhost,127.0.0.0/8", "orp.test", "registry.corp.test:443", "other.corp.test", ""]
)
def test_an_entry_that_does_not(patient: Patient, entry: str) -> None:
    assert trap(patient, entry) == (Verdict.OK, "")


def test_a_network_covers_an_address(patient: Patient) -> None:
    assert trap(patient, "10.0.0.0/8", "10.1.2.3:5000")[0] is Verdict.FAILED


def test_a_network_covers_no_name_that_resolves_into_it(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(NameMap({"registry.corp.test": "10.1.2.3"})))
    assert trap(patient, "10.0.0.0/8") == (
        Verdict.WARNING,
        "leave it so to have registry.corp.test cached; to go direct name registry.corp.test itself",
    )


def test_a_leading_dot_means_two_things(patient: Patient) -> None:
    assert trap(patient, ".corp.test", "corp.test")[0] is Verdict.WARNING


def test_an_entry_with_a_scheme_has_no_effect(patient: Patient) -> None:
    assert trap(patient, "https://registry.corp.test") == (Verdict.WARNING, "write the name alone")


def test_upper_and_lower_case_that_differ(patient: Patient) -> None:
    both = {**PROXIED, "NO_PROXY": "a.test, b.test", "no_proxy": "b.test"}
    assert variables.no_proxy(patient.case(both)).remedy == "set both to the same value"
    assert variables.no_proxy(patient.case({**both, "no_proxy": "b.test,A.test"})).verdict is Verdict.OK


def test_a_registry_on_loopback_never_has_a_proxy(patient: Patient) -> None:
    verdict, remedy = trap(patient, "", "127.0.0.1:5000")
    assert verdict is Verdict.FAILED
    assert "another name" in remedy


def test_the_trap_of_a_daemon_is_found_and_named(patient: Patient) -> None:
    patient.runs("dockerd", {**PROXIED, "NO_PROXY": "corp.test"})
    finding = variables.no_proxy(patient.case(PROXIED))
    assert finding.verdict is Verdict.FAILED
    assert finding.text.startswith("dockerd: corp.test")


def test_exceptions_without_a_proxy_do_nothing(patient: Patient) -> None:
    assert variables.no_proxy(patient.case({"NO_PROXY": "*"})).verdict is Verdict.OK
