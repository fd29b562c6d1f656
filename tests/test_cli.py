"""The commands, as a person types them."""

from __future__ import annotations

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

from pullthrough import __version__
from pullthrough.cli import app, main
from pullthrough.config import load
from pullthrough.keypair import KEY_NAME
from pullthrough.options import OPTIONS, Option

#: Flags that are no settings.
OF_THE_COMMANDS = {"--config", "--help", "--pem"}


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
    assert commands().keys() == {"run", "ca init", "ca show", "version"}


def test_run_has_a_flag_for_every_setting_and_no_other() -> None:
    assert flags("run") - OF_THE_COMMANDS == {option.flag for option in OPTIONS.values()}


def test_flags_of_other_commands_are_settings_too() -> None:
    assert flags("ca init") | flags("ca show") <= flags("run") | OF_THE_COMMANDS


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_help_tells_flag_value_variable_and_default(capsys: pytest.CaptureFixture[str], option: Option) -> None:
    shown = re.sub(r"\s+", " ", Ran(capsys, "run", "--help").out)
    assert f"{option.flag} {option.opposite or option.metavar} {option.explained}" in shown
    assert f"[default: {option.default or option.unset}] [env: {option.variable}]" in shown


def test_help_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = Ran(capsys, "run", "--help").out
    assert "…" not in shown
    assert [option.name for option in OPTIONS.values() if f"{option.variable}]" not in shown] == []


def test_help_tells_how_times_and_switches_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Ran(capsys, "run", "--help").out
    assert "A TIME is 500ms, 10s, 2m, 24h or 7d." in shown
    assert "is true or false in a variable or the file." in shown


def test_help_has_examples_a_file_and_the_precedence(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Ran(capsys, "run", "--help").out
    assert "pullthrough run --size 200GiB --registry registry.corp.test:5050" in shown
    assert 'registry = ["registry.corp.test:5050"]' in shown
    assert "A flag wins over its environment variable" in shown
    assert "[env: PULLTHROUGH_CONFIG]" in shown
    assert "[dim]" not in shown


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


# The CA


def test_init_makes_the_ca_once_and_says_what_comes_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--listen", "8080")
    assert first.code == 0
    assert f"{tmp_path}/ca/ca-cert.pem" in first.out
    assert "http://CACHE:8080/ca.pem" in first.out
    assert "update-ca-certificates" in first.out
    assert re.search(r"^SHA-256 +([0-9A-F]{2}:){31}[0-9A-F]{2}$", first.out, re.MULTILINE)
    assert Ran(capsys, "ca", "init", "--data-dir", tmp_path, "--listen", "8080").out == first.out


def test_show_describes_it_or_prints_it_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = Ran(capsys, "ca", "init", "--data-dir", tmp_path).out
    shown = Ran(capsys, "ca", "show", "--data-dir", tmp_path)
    assert shown.code == 0
    assert made.startswith(shown.out)
    assert [line.split("  ")[0] for line in shown.out.splitlines()] == [
        "Subject",
        "SHA-256",
        "Valid from",
        "Valid until",
        "File",
    ]
    pem = Ran(capsys, "ca", "show", "--data-dir", tmp_path, "--pem").out
    assert pem == (tmp_path / "ca/ca-cert.pem").read_text()
    x509.load_pem_x509_certificate(pem.encode())


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
        (["--grant-ttl", "0"], "flag --grant-ttl: '0' is not between 1s and 10m; for example 60s"),
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
