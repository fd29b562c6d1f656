"""The commands, as a person types them."""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from ruamel.yaml import YAML

from lab.programs import need
from pullthrough import __version__
from pullthrough.cli import app, main
from pullthrough.commands.formats import P12_PASSWORD
from pullthrough.config import load
from pullthrough.keypair import KEY_NAME
from pullthrough.options import OPTIONS, Option

#: Flags that are no settings.
OF_THE_COMMANDS = {"--config", "--help", "--permit", "--unconstrained", "--overlap", "--format"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PULLTHROUGH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "300")


class Ran:
    """One command: its exit code and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        self.code = left.value.code
        self.out, self.err = capsys.readouterr()


def commands() -> dict[str, Any]:
    """Every command by its words."""
    root: Any = typer.main.get_command(app)
    below = {f"ca {name}": each for name, each in root.commands["ca"].commands.items()}
    return below | {name: each for name, each in root.commands.items() if name != "ca"}


def flags(command: str) -> set[str]:
    return {flag for parameter in commands()[command].params for flag in parameter.opts}


def test_the_commands() -> None:
    of_the_ca = {"ca init", "ca show", "ca export", "ca rotate"}
    of_the_store = {"ls", "show", "du", "pin", "unpin", "pins", "purge", "verify", "export", "import"}
    assert {"run", "version", "env", "doctor"} | of_the_ca | of_the_store == commands().keys()


def test_run_has_a_flag_for_every_setting_and_no_other() -> None:
    assert flags("run") - OF_THE_COMMANDS == {option.flag for option in OPTIONS.values()}


def test_flags_of_other_commands_are_settings_too() -> None:
    of_the_ca = set().union(*(flags(name) for name in commands() if name.startswith("ca ")))
    assert of_the_ca <= flags("run") | OF_THE_COMMANDS


@pytest.fixture(scope="module")
def of_the_module() -> dict[str, str]:
    return {}


@pytest.fixture
def help_of_run(of_the_module: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `run --help` prints, asked for once."""
    if "help" not in of_the_module:
        of_the_module["help"] = Ran(capsys, "run", "--help").out
    return of_the_module["help"]


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_help_tells_flag_value_variable_and_default(help_of_run: str, option: Option) -> None:
    shown = re.sub(r"\s+", " ", help_of_run)
    assert f"{option.flag} {option.opposite or option.metavar} {option.explained}" in shown
    assert f"[default: {option.default or option.unset}] [env: {option.variable}]" in shown


def test_help_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = Ran(capsys, "run", "--help").out
    assert "…" not in shown
    assert [option.name for option in OPTIONS.values() if f"{option.variable}]" not in shown] == []


def test_help_tells_how_times_and_switches_are_written(help_of_run: str) -> None:
    assert "A TIME is 500ms, 10s, 2m, 24h or 7d." in help_of_run
    assert "is true or false in a variable or the file." in help_of_run


def test_help_has_examples_a_file_and_the_precedence(help_of_run: str) -> None:
    assert "pullthrough run --size 200GiB --registry registry.corp.test:5050" in help_of_run
    assert 'registry = ["registry.corp.test:5050"]' in help_of_run
    assert "A flag wins over its environment variable" in help_of_run
    assert "[env: PULLTHROUGH_CONFIG]" in help_of_run
    assert "[dim]" not in help_of_run


@pytest.mark.parametrize("arguments", [[], ["ca"]])
def test_without_arguments_help_is_shown(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    ran = Ran(capsys, *arguments)
    assert "Usage" in ran.out
    assert "Commands" in ran.out


def test_version_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "version")
    assert ran.code == 0
    assert re.search(rf"^pullthrough +{re.escape(__version__)}$", ran.out, re.MULTILINE)
    assert re.search(r"^Python +3\.", ran.out, re.MULTILINE)
    assert re.search(r"^mitmproxy +\d+\.", ran.out, re.MULTILINE)
    assert len(re.findall(r" OpenSSL ", ran.out)) == 2


def test_the_version_alone_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "--version").out == f"pullthrough {__version__}\n"


@pytest.mark.parametrize("command", [[], ["run"], ["ca"], ["ca", "show"]])
def test_help_has_a_short_name(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert Ran(capsys, *command, "-h").out == Ran(capsys, *command, "--help").out != ""


def test_python_dash_m_works() -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    command = [sys.executable, "-m", "pullthrough", "version"]
    ran = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    assert ran.stdout.startswith("pullthrough ")
    assert ran.stderr == ""


def test_run_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    environ = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent / "addon"),
        "PULLTHROUGH_LOG_FORMAT": "json",
    }
    command = [
        sys.executable,
        "-m",
        "pullthrough",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environ, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "listening on 127.0.0.1:" in line)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert line.startswith("{"), "what the environment set has no effect"
    assert process.returncode == 0
    assert (tmp_path / "data" / "ca" / KEY_NAME).exists()


def test_a_password_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text("somebody:$apr1$salt$hash\n")
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    command = [
        sys.executable,
        "-m",
        "pullthrough",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    ran = subprocess.run(
        [*command, "--mirror-htpasswd", str(tmp_path / "htpasswd")],
        env=environ,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("pullthrough: ")
    assert ran.stderr.count("\n") == 1


def test_a_port_to_which_clients_are_led_and_where_nobody_listens_is_told_at_start(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    doors = ["--listen", "127.0.0.1:0", "--dns-listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "pullthrough", "run", "--data-dir", str(tmp_path), "--registry", "r.test:5050"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *doors], env=environ, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        told = list(itertools.takewhile(lambda line: "listening on" not in line, process.stdout))
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert [line for line in told if "--dns-listen" in line and line.endswith("add --tls-listen 0.0.0.0:5050\n")]


# The CA


def test_init_makes_the_ca_once_and_says_what_comes_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--listen", "8080")
    assert first.code == 0
    assert f"{tmp_path}/ca/ca-cert.pem" in first.out
    assert "http://CACHE:8080/ca.pem" in first.out
    assert "update-ca-certificates" in first.out
    assert re.search(r"^SHA-256 +([0-9A-F]{2}:){31}[0-9A-F]{2}$", first.out, re.MULTILINE)
    assert Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--listen", "8080").out == first.out


def test_show_describes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--permit", "cache.corp.test").out
    shown = Ran(capsys, "ca", "show", "--data-dir", tmp_path)
    assert shown.code == 0
    assert made.startswith(shown.out)
    assert labels(shown.out) == ["Subject", "SHA-256", "Valid from", "Valid until", "Signs for", "File"]
    listed = re.split(r"[,\s]+", shown.out)
    assert {"ghcr.io", "cache.corp.test", "10.0.0.0/8"} <= set(listed)
    assert max(len(line) for line in shown.out.splitlines() if not line.startswith("File ")) <= 110


def labels(shown: str) -> list[str]:
    """The first words of each row of a table."""
    return [line.split("  ")[0] for line in shown.splitlines() if line and not line.startswith(" ")]


def test_show_says_that_a_ca_has_no_constraints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--unconstrained")
    shown = Ran(capsys, "ca", "show", "--data-dir", tmp_path).out
    assert re.search("^Signs for +every host: it has no name constraints$", shown, re.MULTILINE)


def test_what_init_is_to_permit_has_to_be_permitted_by_the_ca_that_there_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--registry", "*.r.test:5000", "--name", "cache.test")
    assert Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--permit", "a.cache.test").out == first.out
    refused = Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--permit", "other.test", "--permit", "8.8.8.0/24")
    assert refused.code == 2
    assert refused.out == ""
    command = f"ca rotate --data-dir {tmp_path} --permit other.test --permit 8.8.8.0/24"
    assert refused.err.endswith(f"do not let it sign for other.test, 8.8.8.0/24; run: pullthrough {command}\n")
    mended = Ran(capsys, *command.split())
    assert mended.code == 0
    assert Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--permit", "other.test", "--permit", "8.8.8.8").code == 0


@pytest.mark.parametrize("command", ["init", "rotate"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--permit", "https://a.test"], "flag --permit: 'https://a.test' is not a domain, an IP address or a network"),
        (
            ["--permit", "r.corp.test:5050"],
            (
                "flag --permit: 'r.corp.test:5050' is not a domain, an IP address or a network such as 10.1.0.0/16; "
                "give it without the port: r.corp.test\n"
            ),
        ),
        (["--permit", "[fd00::1]:5050"], "flag --permit: '[fd00::1]:5050' is not a domain"),
        (
            ["--permit", "a.test", "--unconstrained"],
            "flag --unconstrained: permits every host, so --permit says nothing",
        ),
    ],
)
def test_a_bad_permission_is_explained_and_nothing_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, arguments: list[str], sentence: str
) -> None:
    refused = Ran(capsys, "ca", command, "--data-dir", tmp_path, *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"pullthrough: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_rotate_makes_a_second_ca_and_says_what_comes_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    ran = Ran(capsys, "ca", "rotate", "--data-dir", tmp_path, "--overlap", "7d", "--registry", "r.corp.test")
    assert ran.code == 0
    assert labels(ran.out).count("SHA-256") == 2
    assert "Signs until" in ran.out
    assert "Have every client trust both by then" in ran.out
    assert "Hosts that the old CA may not sign for are signed by the new one at once" in ran.out
    assert "r.corp.test" in Ran(capsys, "ca", "show", "--data-dir", tmp_path).out
    again = Ran(capsys, "ca", "rotate", "--data-dir", tmp_path)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith("pullthrough: a new CA takes over on ")
    assert again.err.count("\n") == 1


def test_rotate_without_overlap(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    before = Ran(capsys, "ca", "export", "--data-dir", tmp_path).out
    ran = Ran(capsys, "ca", "rotate", "--data-dir", tmp_path, "--overlap", "0")
    assert "The new CA signs from now on, and the old key is gone" in ran.out
    after = Ran(capsys, "ca", "export", "--data-dir", tmp_path).out
    assert after.count("BEGIN") == 1
    assert after != before


def test_rotate_refuses_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ran(capsys, "ca", "rotate", "--data-dir", tmp_path).err.endswith("make one with: pullthrough ca init\n")
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    bad = Ran(capsys, "ca", "rotate", "--data-dir", tmp_path, "--overlap", "2y")
    assert bad.err == "pullthrough: flag --overlap: '2y' is not a duration in ms, s, m, h or d; for example 30d\n"
    monkeypatch.setenv("PULLTHROUGH_CA_CERT", str(tmp_path / "ca/ca-cert.pem"))
    monkeypatch.setenv("PULLTHROUGH_CA_KEY", str(tmp_path / "ca/ca-key.pem"))
    assert "renew it where it was made" in Ran(capsys, "ca", "rotate", "--data-dir", tmp_path).err


# What clients take


@functools.cache  # a CA that does not change; each export is a process of its own
def exported(data_dir: Path, form: str) -> bytes:
    """What `ca export --format` writes into a pipe."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    command = [sys.executable, "-m", "pullthrough", "ca", "export", "--data-dir", str(data_dir), "--format", form]
    return subprocess.run(command, env=environ, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def folder_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rotating")


@pytest.fixture
def rotating(folder_of_the_module: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The data folder of a CA that is being rotated; only to be read."""
    if not (folder_of_the_module / "ca").exists():
        Ran(capsys, "ca", "init", "--data-dir", folder_of_the_module)
        Ran(capsys, "ca", "rotate", "--data-dir", folder_of_the_module)
    return folder_of_the_module


@pytest.fixture
def two(rotating: Path) -> list[x509.Certificate]:
    """Its certificates."""
    files = (rotating / "ca/ca-cert.pem", rotating / "ca/next/ca-cert.pem")
    return [x509.load_pem_x509_certificate(file.read_bytes()) for file in files]


def has_a_key(content: bytes, folder: Path) -> bool:
    """Is one of the private keys below `folder` in there, as text or as it is?"""
    keys = [serialization.load_pem_private_key(file.read_bytes(), None) for file in folder.rglob(KEY_NAME)]
    assert keys
    secrets = []
    for key in keys:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        secrets.append(key.private_numbers().private_value.to_bytes(32, "big"))
    return any(secret in content for secret in (b"PRIVATE", *secrets))


def test_export_pem_has_the_old_and_the_new_one(two: list[x509.Certificate], rotating: Path) -> None:
    assert x509.load_pem_x509_certificates(exported(rotating, "pem")) == two


def test_export_der_has_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    content = exported(tmp_path, "der")
    assert not has_a_key(content, tmp_path)
    cert = x509.load_der_x509_certificate(content)
    assert cert == x509.load_pem_x509_certificate((tmp_path / "ca/ca-cert.pem").read_bytes())
    Ran(capsys, "ca", "rotate", "--data-dir", tmp_path)
    refused = Ran(capsys, "ca", "export", "--data-dir", tmp_path, "--format", "der")
    assert (refused.code, refused.out) == (2, "")
    assert "during a rotation there are two; use --format pem or p12" in refused.err


def test_export_k8s_configmap_is_what_kubectl_applies(two: list[x509.Certificate], rotating: Path) -> None:
    found = YAML(typ="safe").load(exported(rotating, "k8s-configmap"))
    assert (found["apiVersion"], found["kind"], found["metadata"]) == ("v1", "ConfigMap", {"name": "pullthrough-ca"})
    assert x509.load_pem_x509_certificates(found["data"]["ca.crt"].encode()) == two


def test_export_p12_is_a_trust_store_for_java_and_openssl(
    two: list[x509.Certificate], rotating: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store.p12"
    store.write_bytes(exported(rotating, "p12"))
    keytool, openssl = need("keytool"), need("openssl")
    listing = [keytool, "-list", "-v", "-keystore", str(store), "-storepass", P12_PASSWORD]
    shown = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    assert shown.count("trustedCertEntry") == 2
    for cert in two:
        assert cert.fingerprint(hashes.SHA256()).hex(":").upper() in shown
    reading = [openssl, "pkcs12", "-in", str(store), "-passin", f"pass:{P12_PASSWORD}", "-nokeys"]
    pem = subprocess.run(reading, check=True, capture_output=True).stdout
    assert {cert.serial_number for cert in x509.load_pem_x509_certificates(pem)} == {cert.serial_number for cert in two}


@pytest.mark.parametrize("form", ["pem", "p12", "k8s-configmap"])
def test_no_export_has_the_key(rotating: Path, form: str) -> None:
    content = exported(rotating, form)
    assert not has_a_key(content, rotating)
    if form == "p12":
        found, _, certs = pkcs12.load_key_and_certificates(content, P12_PASSWORD.encode())
        assert found is None
        assert len(certs) == 2


@pytest.mark.parametrize("form", ["der", "p12"])
def test_binary_formats_are_not_written_to_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str
) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "addon")}
    command = [sys.executable, "-m", "pullthrough", "ca", "export", "--data-dir", str(tmp_path), "--format", form]
    ours, terminal = os.openpty()
    try:
        ran = subprocess.run(command, env=environ, check=False, stdout=terminal, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(ours)
        os.close(terminal)
    assert ran.returncode == 2
    assert ran.stderr.endswith(f"is nothing for a terminal; for example add > pullthrough-ca.{form}\n")


def test_show_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, "ca", "show", "--data-dir", tmp_path)
    assert ran.code == 2
    assert ran.err == f"pullthrough: there is no CA in {tmp_path}/ca; make one with: pullthrough ca init\n"
    assert list(tmp_path.iterdir()) == []


def test_a_ca_brought_along_is_shown_and_none_is_made_beside_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path / "brought")
    folder = tmp_path / "brought" / "ca"
    brought: list[str | Path] = ["--ca-cert", folder / "ca-cert.pem", "--ca-key", folder / "ca-key.pem"]
    shown = Ran(capsys, "ca", "show", "--data-dir", tmp_path / "data", *brought)
    assert shown.code == 0
    assert str(folder / "ca-cert.pem") in shown.out
    monkeypatch.setenv("PULLTHROUGH_CA_CERT", str(folder / "ca-cert.pem"))
    monkeypatch.setenv("PULLTHROUGH_CA_KEY", str(folder / "ca-key.pem"))
    refused = Ran(capsys, "ca", "init", "--data-dir", tmp_path / "data")
    assert refused.code == 2
    assert "so no CA is made; see it with: pullthrough ca show" in refused.err
    assert not (tmp_path / "data").exists()


# What a person got wrong


def test_a_bad_setting_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "run", "--size", "lots")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("pullthrough: flag --size: 'lots' is not a size")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-stale", "11y"], "flag --max-stale: '11y' is not a duration in ms, s, m, h or d; for example 7d"),
        (
            ["--upstream-mirror", "g.test=https://m.test"],
            "flag --upstream-mirror: g.test:443 is no registry that is known here; for example --registry g.test:443",
        ),
        (["--grant-ttl", "0"], "flag --grant-ttl: '0' is not between 1s and 10m; for example 60s"),
        (
            ["--max-fills", "0"],
            "flag --max-fills: '0' is not a whole number from 1 to 999999999; for example 64",
        ),
        (
            ["--rate-limit-floor", "-1"],
            "flag --rate-limit-floor: '-1' is not a whole number from 0 to 999999999; for example 1",
        ),
    ],
)
def test_bad_limits_are_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    ran = Ran(capsys, "run", *arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", f"pullthrough: {sentence}\n")


def test_a_bad_switch_in_a_variable_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLTHROUGH_OFFLINE", "perhaps")
    ran = Ran(capsys, "run")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.err.startswith("pullthrough: environment PULLTHROUGH_OFFLINE: 'perhaps' is not true or false,")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--offline=true"], "Option '--offline' does not take a value"),
        (["--no-auth-broker=1"], "Option '--no-auth-broker' does not take a value"),
        (["--offline", "true"], "unexpected extra argument"),
    ],
)
def test_the_flag_of_a_switch_takes_no_value(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    ran = Ran(capsys, "run", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        ([], "", (True, False)),
        (["--offline"], "", (True, True)),
        (["--no-auth-broker", "--offline"], "", (False, True)),
        (["--auth-broker", "--no-offline"], "true", (True, False)),
        ([], "true", (True, True)),
        (["--offline", "--no-offline"], "", (True, False)),
    ],
)
def test_switches_are_flags_without_a_value(arguments: list[str], variable: str, expected: tuple[bool, bool]) -> None:
    typed = commands()["run"].make_context("run", arguments).params
    flags_given = {name: typed[name] for name in OPTIONS}
    settings = load(flags_given, {"HOME": "/home/someone", "PULLTHROUGH_OFFLINE": variable})
    assert (settings.auth_broker, settings.offline) == expected


def test_variables_and_the_file_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('sise = "1GB"\n')
    ran = Ran(capsys, "run", "--config", file)
    assert (ran.code, ran.err) == (
        2,
        f"pullthrough: file {file} key 'sise': there is no such setting, did you mean size?\n",
    )
    monkeypatch.setenv("PULLTHROUGH_LISTEN", "nowhere")
    assert "environment PULLTHROUGH_LISTEN: 'nowhere'" in Ran(capsys, "ca", "show").err


def test_repeated_registries_are_all_read(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "run", "--registry", "a.test", "--registry", "b.test:0")
    assert ran.code == 2
    assert "flag --registry: " in ran.err
    assert "b.test:0" in ran.err


def test_a_ca_that_cannot_be_used_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Ran(capsys, "ca", "init", "--data-dir", tmp_path)
    (tmp_path / "ca" / KEY_NAME).chmod(0o644)
    for command in ("init", "show"):
        ran = Ran(capsys, "ca", command, "--data-dir", tmp_path)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.startswith(f"pullthrough: {tmp_path}/ca/{KEY_NAME} is a private key that other users can reach")
        assert ran.err.count("\n") == 1


def test_an_unknown_flag_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "run", "--siz", "1GB")
    assert ran.code == 2
    assert "--siz" in ran.err
    assert "--size" in ran.err
