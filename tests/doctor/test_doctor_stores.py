"""Trust: real certificates in the files that each client reads."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from doctor.patient import REGISTRY, Authorities, Patient
from pullthrough.doctor import stores
from pullthrough.doctor.case import Interview
from pullthrough.doctor.certificates import parse
from pullthrough.doctor.finding import Verdict

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SETUP = "curl -fsS http://192.0.2.7:3128/setup.sh | sudo sh -s --"
CHECKS = (stores.system, stores.shell, stores.docker, stores.containerd, stores.podman)


# -- the system's store


def test_a_bundle_with_the_ca_is_enough_for_everybody(patient: Patient, authorities: Authorities) -> None:
    patient.write(BUNDLE, authorities("other") + patient.ca_pem)
    for folder in ("docker", "containerd", "containers"):
        patient.write(f"/etc/{folder}/placeholder", "")
    case = patient.case()
    checked = stores.system, stores.docker, stores.containerd, stores.podman
    assert [check(case).verdict for check in checked] == [Verdict.OK] * 4


def test_another_cache_s_ca_is_not_ours(patient: Patient, authorities: Authorities) -> None:
    patient.write(BUNDLE, authorities("other"))
    finding = stores.system(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} system")


def test_a_machine_that_only_runs_the_cache_is_warned_and_no_more(patient: Patient) -> None:
    assert stores.system(patient.case(client=False)).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("anchor", "command"),
    [
        ("/usr/local/share/ca-certificates/pullthrough.crt", "sudo update-ca-certificates"),
        ("/etc/pki/ca-trust/source/anchors/pullthrough.pem", "sudo update-ca-trust"),
    ],
)
def test_a_ca_that_was_put_there_and_not_taken_over(patient: Patient, anchor: str, command: str) -> None:
    patient.write(anchor, patient.ca_pem)
    finding = stores.system(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, command)


def test_while_the_ca_is_replaced_both_belong_in_the_store(patient: Patient, authorities: Authorities) -> None:
    both = parse(patient.ca_pem + authorities("next"))
    patient.write(BUNDLE, patient.ca_pem)
    finding = stores.system(patient.case(said=Interview(ca=both)))
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, f"{SETUP} system")
    patient.write(BUNDLE, patient.ca_pem + authorities("next"))
    assert stores.system(patient.case(said=Interview(ca=both))).verdict is Verdict.OK


def test_a_folder_of_certificates_counts_as_go_reads_it(patient: Patient) -> None:
    patient.write("/etc/ssl/certs/pullthrough.pem", patient.ca_pem)
    assert stores.system(patient.case()).verdict is Verdict.OK


@pytest.mark.parametrize("bundle", ["/etc/ssl/certs/pullthrough.pem", BUNDLE])
def test_a_folder_among_the_certificates_is_passed_over(patient: Patient, bundle: str) -> None:
    patient.write(bundle, patient.ca_pem)
    (patient.root / "etc/ssl/certs/java").mkdir()
    (patient.root / "etc/ssl/certs/gone.pem").symlink_to("nowhere")
    for folder in ("docker", "containerd", "containers"):
        patient.write(f"/etc/{folder}/placeholder", "")
    checked = stores.system, stores.docker, stores.containerd, stores.podman
    assert [check(patient.case()).verdict for check in checked] == [Verdict.OK] * 4


def test_without_the_cache_s_ca_nothing_is_said(patient: Patient) -> None:
    patient.write(BUNDLE, patient.ca_pem)
    for folder in ("docker", "containerd", "containers"):
        patient.write(f"/etc/{folder}/placeholder", "")
    case = patient.case(said=Interview(fault="no answer in time"))
    assert {check(case).verdict for check in CHECKS} == {Verdict.SKIPPED}


# -- this shell


def test_ssl_cert_file_hides_the_system_s_store(patient: Patient, authorities: Authorities) -> None:
    patient.write(BUNDLE, patient.ca_pem)
    patient.write("/etc/bundle.pem", authorities("other"))
    (patient.root / "empty").mkdir()
    variables = {"SSL_CERT_FILE": "/etc/bundle.pem", "SSL_CERT_DIR": "/empty"}
    finding = stores.shell(patient.case(variables))
    assert finding.verdict is Verdict.FAILED
    assert finding.remedy == "add http://192.0.2.7:3128/ca.pem to that bundle, or unset SSL_CERT_FILE and SSL_CERT_DIR"
    patient.write("/etc/bundle.pem", authorities("other") + patient.ca_pem)
    assert stores.shell(patient.case(variables)).verdict is Verdict.OK


def test_without_these_variables_the_shell_is_no_matter(patient: Patient) -> None:
    assert stores.shell(patient.case()).verdict is Verdict.SKIPPED


def test_a_variable_that_names_a_device_or_a_pipe_is_not_read_for_ever(patient: Patient) -> None:
    os.mkfifo(patient.root / "pipe")
    assert stores.shell(patient.case({"SSL_CERT_FILE": "/pipe"})).verdict is Verdict.FAILED


def test_a_file_that_is_not_there_is_not_made_up_for_by_the_folder_beside_it(patient: Patient) -> None:
    patient.write("/etc/ssl/certs/pullthrough.pem", patient.ca_pem)
    finding = stores.shell(patient.case({"SSL_CERT_FILE": "/nope"}))
    assert (finding.verdict, "/nope" in finding.text) == (Verdict.FAILED, True)
    assert finding.remedy == "name a bundle that has http://192.0.2.7:3128/ca.pem in it, or unset SSL_CERT_FILE"


def test_a_file_that_only_others_may_read_fails_this_shell_s_clients(
    patient: Patient, ordinary: Callable[[], AbstractContextManager[None]]
) -> None:
    patient.write("/bundle.pem", patient.ca_pem).chmod(0o600)
    with ordinary():
        assert stores.shell(patient.case({"SSL_CERT_FILE": "/bundle.pem"})).verdict is Verdict.FAILED


def test_a_file_without_the_ca_fails_curl_whatever_the_folder_beside_it_has(
    patient: Patient, authorities: Authorities
) -> None:
    patient.write("/etc/ssl/certs/pullthrough.pem", patient.ca_pem)
    patient.write("/bundle.pem", authorities("other"))
    finding = stores.shell(patient.case({"SSL_CERT_FILE": "/bundle.pem"}))
    assert finding.verdict is Verdict.FAILED
    assert finding.remedy == "add http://192.0.2.7:3128/ca.pem to that bundle, or unset SSL_CERT_FILE"


# -- docker


def test_docker_reads_certs_d_for_this_registry_alone(patient: Patient) -> None:
    patient.write("/etc/docker/certs.d/other.test/ca.crt", patient.ca_pem)
    finding = stores.docker(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} docker")
    patient.write(f"/etc/docker/certs.d/{REGISTRY}/ca.crt", patient.ca_pem)
    assert stores.docker(patient.case()).verdict is Verdict.OK


def test_docker_takes_files_that_end_in_crt_only(patient: Patient) -> None:
    patient.write(f"/etc/docker/certs.d/{REGISTRY}/ca.pem", patient.ca_pem)
    assert stores.docker(patient.case()).verdict is Verdict.FAILED


def test_docker_has_no_certs_d_for_docker_hub(patient: Patient) -> None:
    patient.write("/etc/docker/certs.d/docker.io/ca.crt", patient.ca_pem)
    finding = stores.docker(patient.case(registry="docker.io"))
    assert finding.verdict is Verdict.FAILED
    assert "system's store alone" in finding.text


def test_certs_d_is_not_enough_for_the_containerd_image_store(patient: Patient) -> None:
    patient.write(f"/etc/docker/certs.d/{REGISTRY}/ca.crt", patient.ca_pem)
    patient.write("/etc/docker/daemon.json", '{"features": {"containerd-snapshotter": true}}')
    finding = stores.docker(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, f"{SETUP} system")


def test_a_dockerd_older_than_the_bundle_must_be_started_again(patient: Patient) -> None:
    patient.runs("dockerd", {})
    bundle = patient.write(BUNDLE, patient.ca_pem)
    started = patient.machine({}).processes("dockerd")[0].started
    os.utime(bundle, (started + 60, started + 60))
    finding = stores.docker(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.WARNING, "sudo systemctl restart docker")
    os.utime(bundle, (started - 60, started - 60))
    assert stores.docker(patient.case()).verdict is Verdict.OK


# -- containerd

HOSTS = '[host."https://registry.corp.test:5050"]\nca = {}\n'


@pytest.mark.parametrize("named", ['"/etc/ssl/pt.pem"', '["/etc/ssl/pt.pem"]', '"../../../ssl/pt.pem"'])
def test_containerd_reads_the_file_that_hosts_toml_names(patient: Patient, named: str) -> None:
    patient.write("/etc/containerd/config.toml", _config("/etc/containerd/certs.d"))
    patient.write(f"/etc/containerd/certs.d/{REGISTRY}/hosts.toml", HOSTS.format(named))
    finding = stores.containerd(patient.case())
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} containerd")
    patient.write("/etc/ssl/pt.pem", patient.ca_pem)
    assert stores.containerd(patient.case()).verdict is Verdict.OK


def test_containerd_looks_where_its_config_path_points(patient: Patient) -> None:
    patient.write("/etc/ssl/pt.pem", patient.ca_pem)
    patient.write("/srv/hosts/_default/hosts.toml", HOSTS.format('"/etc/ssl/pt.pem"'))
    patient.write("/etc/containerd/config.toml", _config("/etc/containerd/certs.d"))
    assert stores.containerd(patient.case()).verdict is Verdict.FAILED
    patient.write("/etc/containerd/config.toml", _config("/srv/hosts"))
    assert stores.containerd(patient.case()).verdict is Verdict.OK


def test_hosts_toml_without_a_config_path_is_warned_about(patient: Patient) -> None:
    patient.write("/etc/ssl/pt.pem", patient.ca_pem)
    patient.write(f"/etc/containerd/certs.d/{REGISTRY}/hosts.toml", HOSTS.format('"/etc/ssl/pt.pem"'))
    patient.write("/etc/containerd/config.toml", "version = 2\n")
    finding = stores.containerd(patient.case())
    assert finding.verdict is Verdict.WARNING
    assert 'config_path = "/etc/containerd/certs.d"' in finding.remedy


def test_docker_s_containerd_pulls_for_nobody(patient: Patient) -> None:
    patient.write("/etc/containerd/config.toml", 'disabled_plugins = ["cri"]\n')
    assert stores.containerd(patient.case()).verdict is Verdict.SKIPPED


@pytest.mark.parametrize("text", ["[", "plugins = 1\n", 'plugins = { "x" = 1 }\n', "disabled_plugins = []\n"])
def test_a_configuration_that_is_odd_is_no_traceback(patient: Patient, text: str) -> None:
    patient.write("/etc/containerd/config.toml", text)
    patient.write(f"/etc/containerd/certs.d/{REGISTRY}/hosts.toml", text)
    assert stores.containerd(patient.case()).verdict is Verdict.FAILED


def _config(path: str) -> str:
    return f"version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{path}'\n"


# -- podman


@pytest.mark.parametrize(
    ("folder", "registry"),
    [
        (f"/etc/containers/certs.d/{REGISTRY}", REGISTRY),
        (f"/home/someone/.config/containers/certs.d/{REGISTRY}", REGISTRY),
        (f"/etc/docker/certs.d/{REGISTRY}", REGISTRY),
        ("/etc/containers/certs.d/docker.io", "docker.io"),
    ],
)
def test_podman_has_three_folders(patient: Patient, folder: str, registry: str) -> None:
    patient.write("/etc/containers/policy.json", "{}")
    case = patient.case({"HOME": "/home/someone"}, registry=registry)
    finding = stores.podman(case)
    assert (finding.verdict, finding.remedy) == (Verdict.FAILED, f"{SETUP} podman")
    patient.write(f"{folder}/ca.crt", patient.ca_pem)
    assert stores.podman(case).verdict is Verdict.OK


def test_podman_believes_the_shell_s_bundle(patient: Patient) -> None:
    patient.write("/etc/containers/policy.json", "{}")
    patient.write("/etc/bundle.pem", patient.ca_pem)
    assert stores.podman(patient.case({"SSL_CERT_FILE": "/etc/bundle.pem"})).verdict is Verdict.OK


def test_podman_believes_the_folder_that_containers_conf_names(patient: Patient) -> None:
    folders = "/etc/ssl/certs:/etc/containers/pullthrough"
    patient.write("/etc/containers/containers.conf.d/pt.conf", f"[engine]\nenv = ['SSL_CERT_DIR={folders}']\n")
    assert stores.podman(patient.case()).verdict is Verdict.FAILED
    patient.write("/etc/containers/pullthrough/ca.pem", patient.ca_pem)
    assert stores.podman(patient.case()).verdict is Verdict.OK


def test_what_is_not_installed_is_skipped(patient: Patient) -> None:
    case = patient.case()
    assert {check(case).verdict for check in (stores.docker, stores.containerd, stores.podman)} == {Verdict.SKIPPED}
