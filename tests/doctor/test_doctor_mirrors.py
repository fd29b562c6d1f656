"""Clients that name the cache as a mirror need no proxy."""

import pytest

from doctor.patient import REGISTRY, Patient
from pullthrough.doctor import stores, variables
from pullthrough.doctor.finding import Verdict

OURS = "http://192.0.2.7:3128"


def test_docker_s_mirrors_are_asked_for_docker_hub_alone(patient: Patient) -> None:
    patient.write("/etc/docker/daemon.json", f'{{"registry-mirrors": ["http://192.0.2.9", "{OURS}/"]}}')
    patient.runs("dockerd", {})
    for registry, verdict in {"docker.io": Verdict.OK, REGISTRY: Verdict.FAILED}.items():
        case = patient.case(registry=registry)
        assert (variables.dockerd(case).verdict, stores.docker(case).verdict) == (verdict, verdict)


@pytest.mark.parametrize(("url", "trust"), [(OURS, Verdict.OK), ("https://192.0.2.7:3128", Verdict.FAILED)])
def test_containerd_s_hosts(patient: Patient, url: str, trust: Verdict) -> None:
    patient.write("/etc/containerd/config.toml", "")
    patient.write(f"/etc/containerd/certs.d/{REGISTRY}/hosts.toml", f'[host."{url}"]\ncapabilities = ["pull"]\n')
    patient.runs("containerd", {})
    case = patient.case()
    assert (variables.containerd(case).verdict, stores.containerd(case).verdict) == (Verdict.OK, trust)


@pytest.mark.parametrize(("insecure", "trust"), [("true", Verdict.OK), ("false", Verdict.FAILED)])
@pytest.mark.parametrize(
    "file", ["/etc/containers/registries.conf.d/pt.conf", "/me/.config/containers/registries.conf"]
)
def test_podman_s_registries(patient: Patient, file: str, insecure: str, trust: Verdict) -> None:
    patient.write("/etc/containers/policy.json", "{}")
    mirror = f'[[registry.mirror]]\nlocation = "192.0.2.7:3128/x"\ninsecure = {insecure}\n'
    patient.write(file, f'[[registry]]\nlocation = "{REGISTRY}"\n{mirror}')
    assert stores.podman(patient.case({"HOME": "/me"})).verdict is trust
    assert stores.podman(patient.case({"HOME": "/me"}, registry="quay.io")).verdict is Verdict.FAILED


def test_a_shell_without_a_proxy_is_no_failure_where_others_have_a_way(patient: Patient) -> None:
    assert variables.shell(patient.case()).verdict is Verdict.FAILED
    patient.runs("dockerd", {"HTTPS_PROXY": OURS})
    assert variables.shell(patient.case()).verdict is Verdict.WARNING
