"""`pullthrough doctor` and `pullthrough env`, as typed."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from doctor.patient import Patient
from lab.fake_registry import FakeRegistry
from lab.programs import need
from lab.proxy import Proxies
from pullthrough.commands.doctor import doctor
from pullthrough.commands.env import env
from pullthrough.doctor import Place, Verdict, condition, examine, parse_cache, parse_target
from pullthrough.doctor.case import Case
from pullthrough.doctor.finding import Finding

CHECKS = [
    "cache",
    "health",
    "clock",
    "proxy of this shell",
    "proxy of podman",
    "proxy of dockerd",
    "proxy of containerd",
    "NO_PROXY",
    "DNS",
    "CA in the system",
    "CA in this shell",
    "CA in docker",
    "CA in containerd",
    "CA in podman",
    "pull",
    "disk",
]

app = typer.Typer()
app.command("doctor")(doctor)
app.command("env")(env)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PULLTHROUGH_") or name.upper() in {"HTTPS_PROXY", "NO_PROXY"}:
            monkeypatch.delenv(name)


def typed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


# -- doctor


def test_every_check_is_one_line_and_trouble_has_a_remedy(fake: FakeRegistry, proxy_factory: Proxies) -> None:
    proxy = proxy_factory(fake)
    ran = typed("doctor", fake.host, "--cache", proxy.url, "--data-dir", proxy.data_dir)
    lines = ran.output.splitlines()
    remedies = [line for line in lines if line.lstrip().startswith("-> ")]
    shown = [line for line in lines[:-1] if line not in remedies]
    assert [line[9:29].strip() for line in shown] == CHECKS
    assert "\x1b" not in ran.output, "no colours without a terminal"
    assert lines[-1].startswith(f"{sum(line.startswith('ok ') for line in shown)} ok")


def test_json_is_a_list_of_objects_and_the_exit_code_tells_of_failures(
    fake: FakeRegistry, proxy_factory: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxy_factory(fake)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)  # so that it need not be said
    ran = typed("doctor", fake.host, "--json", "--data-dir", proxy.data_dir)
    findings = {each["name"]: each for each in json.loads(ran.output)}
    assert list(findings) == CHECKS
    assert {tuple(each) for each in findings.values()} == {("name", "verdict", "text", "remedy")}
    verdicts = {name: findings[name]["verdict"] for name in ("cache", "clock", "proxy of this shell", "pull", "disk")}
    assert set(verdicts.values()) == {"ok"}
    assert ran.exit_code == any(each["verdict"] == "failed" for each in findings.values())
    assert all(each["remedy"] for each in findings.values() if each["verdict"] in ("warning", "failed"))


def test_no_cache_at_all_is_failures_and_no_traceback(tmp_path: Path) -> None:
    ran = typed("doctor", "registry.corp.invalid", "--cache", "127.0.0.1:1", "--data-dir", tmp_path)
    assert ran.exit_code == 1
    assert ran.output.startswith("failed   cache                http://127.0.0.1:1: Connection refused")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cache", "ftp://cache"],
        ["--cache", "http://me:geheim@cache:3128"],
        ["--cache", "http://cache:3128;id"],
        ["*.corp.test"],
        ["ghcr.io", "--image", "quay.io/a/b"],
        ["--image", "UPPER"],
        ["--image", "a:b:c"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str]) -> None:
    ran = typed("doctor", *arguments)
    assert ran.exit_code == 2
    assert "geheim" not in ran.output


def test_an_ordinary_user_is_told_what_needs_root(
    patient: Patient, ordinary: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    patient.runs("dockerd", {"HTTPS_PROXY": "http://192.0.2.7:3128"})
    patient.write("/etc/containerd/config.toml", "").chmod(0)
    patient.write("/etc/systemd/system/docker.service.d/proxy.conf", "[Service]\nEnvironment=HTTPS_PROXY=http://x:1\n")
    target = parse_target("10.1.2.3", None)
    with ordinary():
        made = list(examine(patient.machine({}), Place("127.0.0.1", 1), target, tmp_path))
    found = {finding.name: finding for finding in made}
    assert list(found) == CHECKS
    for name, words in {"proxy of dockerd": "its files name a proxy", "CA in containerd": "/config.toml"}.items():
        assert (found[name].verdict, found[name].remedy) == (
            Verdict.SKIPPED,
            "run it as root: sudo pullthrough doctor",
        )
        assert "only root may" in found[name].text
        assert words in found[name].text


def test_a_check_that_fails_itself_hides_no_other(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: Case) -> Finding:
        raise KeyError("geheim")

    def forbidden(case: Case) -> Finding:
        raise PermissionError(13, "Permission denied", "/etc/docker/daemon.json")

    monkeypatch.setattr(condition, "healthy", broken)
    monkeypatch.setattr(condition, "clock", forbidden)
    target = parse_target("10.1.2.3", None)
    found = {each.name: each for each in examine(patient.machine({}), Place("127.0.0.1", 1), target, tmp_path)}
    assert list(found) == CHECKS
    assert (found["health"].verdict, found["health"].text) == (Verdict.FAILED, "the check itself failed: KeyError")
    assert (found["clock"].verdict, found["clock"].remedy) == (
        Verdict.SKIPPED,
        "run it as root: sudo pullthrough doctor",
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("cache", Place("cache", 3128)),
        ("http://cache.corp.test:8080/", Place("cache.corp.test", 8080)),
        ("[fd00::1]", Place("fd00::1", 3128)),
        ("10.0.0.5:1", Place("10.0.0.5", 1)),
    ],
)
def test_addresses_of_the_cache(text: str, place: Place) -> None:
    assert parse_cache(text) == place
    assert parse_cache(place.url) == place


@pytest.mark.parametrize(
    ("host", "image", "expected"),
    [
        (None, None, ("docker.io", "library/hello-world", "latest")),
        ("docker.io", "alpine", ("docker.io", "library/alpine", "latest")),
        (None, "grafana/grafana:11.0.0", ("docker.io", "grafana/grafana", "11.0.0")),
        (None, "registry.corp.test:5050/a/b", ("registry.corp.test:5050", "a/b", "latest")),
        ("ghcr.io", "a/b:1", ("ghcr.io", "a/b", "1")),
        ("quay.io", f"quay.io/a@sha256:{'0' * 64}", ("quay.io", "a", f"sha256:{'0' * 64}")),
        ("ghcr.io", None, ("ghcr.io", "", "")),
    ],
)
def test_registries_and_images(host: str | None, image: str | None, expected: tuple[str, str, str]) -> None:
    target = parse_target(host, image)
    assert (target.name, target.repository, target.reference) == expected


# -- env


def test_a_real_shell_takes_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "a.test, $(id)'b")
    lines = typed("env", "cache.corp.test").output
    script = 'eval "$1" && printf "%s\\n" "$HTTPS_PROXY" "$https_proxy" "$NO_PROXY" "$no_proxy"'
    ran = subprocess.run([need("sh"), "-euc", script, "sh", lines], env={}, capture_output=True, text=True, check=True)
    direct = "a.test,$(id)'b,localhost,127.0.0.0/8,::1,.svc,.cluster.local"
    assert ran.stdout.splitlines() == ["http://cache.corp.test:3128"] * 2 + [direct] * 2


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("sh", "export HTTPS_PROXY=http://cache:3128"),
        ("fish", "set -gx HTTPS_PROXY 'http://cache:3128'"),
        ("powershell", "$Env:HTTPS_PROXY = 'http://cache:3128'"),
    ],
)
def test_each_shell_has_its_syntax(shell: str, line: str) -> None:
    lines = typed("env", "http://cache:3128", "--shell", shell).output.splitlines()
    assert lines[0] == line
    assert [each for each in lines if not each.startswith("#")] == lines[:4]


@pytest.mark.parametrize(
    ("listen", "url"),
    [("", "http://127.0.0.1:3128"), ("10.0.0.5:8080", "http://10.0.0.5:8080"), ("[::]:1", "http://[::1]:1")],
)
def test_without_a_cache_it_is_this_machine(listen: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLTHROUGH_LISTEN", listen)
    assert typed("env").output.startswith(f"export HTTPS_PROXY={url}\n".replace(url, f"'{url}'" if "[" in url else url))


def test_a_cache_that_is_none_is_a_usage_error() -> None:
    assert typed("env", "http://cache/$(id)").exit_code == 2
