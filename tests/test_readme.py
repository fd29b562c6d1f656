"""The README and its companions say what is so: commands are run or checked, names exist, tables are complete.

A block of the README's `sh` is run through a real proxy in front of a fake registry; `sh serves` runs until it is
stopped, and is asked meanwhile; `sh elsewhere` needs root or other machines and is only checked.
"""

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lab.clients import POLICY, Home
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.names import NameMap
from lab.pki import Pki
from lab.ports import free_port
from lab.programs import environment, need
from lab.proxy import Proxies, Proxy
from pullthrough.ca import Authority
from pullthrough.cli import app
from pullthrough.config import CONFIG_VARIABLE, load
from pullthrough.core.cachestatus import FORWARDED
from pullthrough.core.children import MAX_MANIFEST
from pullthrough.logs import FIELDS
from pullthrough.options import OPTIONS, Option
from pullthrough.upstream import MAX_REDIRECTS
from pullthrough.visits import Allowance

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "addon" / "pullthrough"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "certs/README.md")] + sorted(ROOT.glob("docs/*.md"))
README = (ROOT / "README.md").read_text()
CERTS = (ROOT / "certs" / "README.md").read_text()
FENCE = re.compile(r"^```(?P<kind>[a-z]*)(?: (?P<mode>[a-z]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def flags_of(command: Any) -> set[str]:
    """Every flag of a command, and of those below it."""
    own = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*(flags_of(below) for below in getattr(command, "commands", {}).values()))


FLAGS = flags_of(typer.main.get_command(app)) | {"--help"}
VARIABLES = {option.variable for option in OPTIONS.values()} | {CONFIG_VARIABLE, "PULLTHROUGH_PYTHON"}
OTHERS_FLAGS = {"--hosts-dir", "--tlscacert", "--fingerprint", "--uninstall", "--dry-run", "--yes"}
EXAMPLE_CA = "/etc/ssl/certs/corp.pem"
EXAMPLE_CONFIG = "/etc/pullthrough.toml"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    mode: str
    text: str

    def __str__(self) -> str:
        return self.text.splitlines()[0][:60]


def blocks(page: str, kind: str = "", mode: str | None = None) -> list[Block]:
    found = [Block(match["kind"], match["mode"] or "", match["text"]) for match in FENCE.finditer(page)]
    return [block for block in found if kind in ("", block.kind) and mode in (None, block.mode)]


def block_with(page: str, words: str) -> Block:
    return next(block for block in blocks(page) if words in block.text)


RUN, SERVES = blocks(README, "sh", ""), blocks(README, "sh", "serves")
SHELL = [block for page in PAGES for block in blocks(page.read_text(), "sh")]


# -- what is run


def pullthrough_command(folder: Path) -> str:
    """A PATH that begins with a `pullthrough` of this source tree."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "pullthrough"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={PACKAGE.parent} exec {sys.executable} -m pullthrough "$@"\n')
    command.chmod(0o755)
    return os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


@dataclass(frozen=True)
class Reader:
    """Somebody who typed every plain command of the README, one block after the other."""

    folder: Path
    proxy: Proxy
    results: Mapping[Block, subprocess.CompletedProcess[str]]

    def output(self, words: str) -> str:
        """What the block with these words in it printed."""
        return self.results[block_with(README, words)].stdout


@pytest.fixture(scope="module")
def reader(pki: Pki, public: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    for program in ("curl", "openssl", "skopeo"):
        need(program)
    folder, names = tmp_path_factory.mktemp("reader"), NameMap()
    registry = FakeRegistry("fake.test", pki.identity("fake.test"))
    registry.start()
    registry.publish(names)
    registry.add_image("team/app", "1.0", [b"one layer" * 1000])
    proxies = Proxies(folder, names, upstream_ca=pki.ca_file, system_ca=public.ca_file)
    try:
        proxy = proxies(registry, flags=["--log-format", "text"])
        yield Reader(folder / "cwd", proxy, typed(folder, proxy, registry))
    finally:
        proxies.end()
        registry.stop()


def typed(folder: Path, proxy: Proxy, registry: FakeRegistry) -> dict[Block, subprocess.CompletedProcess[str]]:
    home = Home(folder / "home", None)
    policy = home.folder / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps(POLICY))
    path = pullthrough_command(folder / "bin")
    env = home.env | {"PATH": path, "PULLTHROUGH_DATA_DIR": str(proxy.data_dir)}
    places = {"CACHE:3128": proxy.url.removeprefix("http://"), "registry.corp.test:5050": registry.host}
    (folder / "cwd").mkdir()
    results = {}
    for block in RUN:
        text = block.text
        for example, real in places.items():
            text = text.replace(example, real)
        results[block] = subprocess.run(
            ["sh", "-eu", "-c", text],
            cwd=folder / "cwd",
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    return results


@pytest.mark.e2e
def test_every_plain_command_works(reader: Reader) -> None:
    failed = {str(block): done.stderr for block, done in reader.results.items() if done.returncode != 0}

    assert failed == {}
    assert (reader.folder / "app" / "manifest.json").is_file()


@pytest.mark.e2e
def test_the_fingerprint_to_compare_is_the_one_that_ca_show_prints(reader: Reader) -> None:
    fetched = reader.output("openssl x509").partition("Fingerprint=")[2].split()[0]

    assert fetched in reader.output("pullthrough ca show")
    assert fetched in reader.proxy.log_text()


@pytest.mark.e2e
def test_readyz_is_shown_as_it_is(reader: Reader) -> None:
    shown = json.loads(block_with(README, '"blobs"').text)
    got = json.loads(reader.output("/readyz"))

    assert (shown["status"], shown["reasons"]) == (got["status"], got["reasons"])
    assert shown["store"].keys() == got["store"].keys()


@pytest.mark.e2e
def test_the_shown_cache_status_is_what_a_second_pull_gets(reader: Reader) -> None:
    (shown,) = blocks(README, "http")

    assert shown.text.strip() in reader.output("-D -").replace("\r", "").splitlines()


@pytest.mark.e2e
def test_the_shown_log_line_has_the_fields_of_a_real_one(reader: Reader) -> None:
    shown = block_with(README, "outcome=hit").text
    lines = reader.proxy.log_text().splitlines()
    real = next(line for line in lines if "repository=team/app reference=sha256:" in line)

    assert re.findall(r" (\w+)=", shown) == re.findall(r" (\w+)=", real)
    assert set(re.findall(r" (\w+)=", shown)) <= set(FIELDS)
    assert [len(word) for word in shown.split()[:3]] == [len(word) for word in real.split()[:3]]


@pytest.mark.e2e
def test_a_refused_port_is_explained(reader: Reader) -> None:
    said = reader.output("CONNECT other.corp.test")

    assert "tunnels lead to port 443 only" in said
    assert "--registry other.corp.test:5050" in said


@pytest.mark.e2e
@pytest.mark.parametrize("block", SERVES, ids=str)
def test_what_serves_answers_and_stops_when_told_to(block: Block, pki: Pki, tmp_path: Path) -> None:
    if "scripts/serve" in block.text and not (ROOT / ".venv").is_dir():
        pytest.skip("scripts/serve: there is no .venv in this clone")
    if "mitmdump" in block.text and not (Path(sys.executable).parent / "mitmdump").is_file():
        pytest.skip("mitmdump is not installed beside this Python")
    port, log = free_port(), tmp_path / "log"
    example = block_with(README, f"# {EXAMPLE_CONFIG}").text.replace(EXAMPLE_CA, str(pki.ca_file))
    (tmp_path / "example.toml").write_text(example)
    text = block.text.replace(EXAMPLE_CONFIG, str(tmp_path / "example.toml"))
    text = text.replace("--listen-port 3128", f"--listen-host 127.0.0.1 --listen-port {port}")
    env = environment(
        tmp_path,
        PATH=pullthrough_command(tmp_path / "bin"),
        PULLTHROUGH_LISTEN=f"127.0.0.1:{port}",
        PULLTHROUGH_DATA_DIR=str(tmp_path / "data"),
    )
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["sh", "-c", text],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        ready = eventually(lambda: answer_of(server, port, log), f"{block} answers", 60)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        code = server.wait(30)

    assert ready["status"] == ("degraded" if "--offline" in text else "ok")
    assert (tmp_path / "data" / "ca" / "ca-key.pem").is_file()
    assert code in (0, -signal.SIGTERM), log.read_text()  # the latter is the shell's own, where it waits
    assert "Traceback" not in log.read_text()


def answer_of(server: "subprocess.Popen[bytes]", port: int, log: Path) -> dict[str, Any]:
    """What it says of itself; nothing while it does not answer."""
    if server.poll() is not None:
        raise RuntimeError(f"it ended with {server.returncode}: {log.read_text()[-2000:]}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            ready: dict[str, Any] = json.load(answer)
            return ready
    except OSError:
        return {}


def test_the_example_of_a_ca_with_name_constraints_is_accepted(tmp_path: Path) -> None:
    need("openssl")
    text = block_with(CERTS, "nameConstraints").text
    subprocess.run(["sh", "-eu", "-c", text], cwd=tmp_path, check=True, capture_output=True)

    authority = Authority.load(tmp_path / "ca-cert.pem", tmp_path / "ca-key.pem", now=lambda: datetime.now(UTC))

    assert authority.issue("ghcr.io").chain


# -- what is checked


def test_every_block_is_of_a_kind_that_is_run_or_checked() -> None:
    kinds = {(block.kind, block.mode) for page in PAGES for block in blocks(page.read_text())}

    assert kinds <= {("sh", ""), ("sh", "serves"), ("sh", "elsewhere")} | {
        (kind, "") for kind in ("json", "toml", "ini", "http", "text")
    }
    assert README.count("```") == 2 * len(blocks(README))
    assert RUN
    assert SERVES[0].text == "scripts/serve\n"
    assert "scripts/test\n" in [block.text for block in blocks(README, "sh", "elsewhere")]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_is_well_formed_and_names_what_there_is(block: Block) -> None:
    subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)

    for script in re.findall(r"(?<![\w/.])(?:scripts|addon)/[\w/.-]+", block.text):
        to_run = script.startswith("scripts/") and not script.endswith(".nft")
        assert os.access(ROOT / script, os.X_OK if to_run else os.R_OK), script
    for line in block.text.splitlines():
        if line.startswith(("pullthrough ", "scripts/serve ")):
            assert set(re.findall(r"(?<= )--[a-z-]+", line)) <= FLAGS, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_variables_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)

    assert set(re.findall(r"PULLTHROUGH_[A-Z_]+", text)) <= VARIABLES
    assert set(re.findall(r"`(--[a-z-]+)[^`]*`", text)) - {"--driver-opt"} <= FLAGS | OTHERS_FLAGS
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_table_of_settings_is_the_one_of_the_program() -> None:
    rows = "\n".join(map(table_row, OPTIONS.values()))

    assert f"| flag | variable | default | meaning |\n|---|---|---|---|\n{rows}\n\n" in README, rows


def table_row(option: Option) -> str:
    metavar = option.metavar.replace("|", r"\|")
    default = f"`{option.default}`" if option.default else option.unset
    return f"| `{option.flag} {metavar}` | `{option.variable}` | {default} | {option.explained} |"


def test_the_example_of_a_configuration_file_is_loaded(pki: Pki, tmp_path: Path) -> None:
    text = block_with(README, f"# {EXAMPLE_CONFIG}").text
    (tmp_path / "pullthrough.toml").write_text(text.replace(EXAMPLE_CA, str(pki.ca_file)))

    settings = load({}, {"HOME": str(tmp_path)}, tmp_path / "pullthrough.toml")

    assert settings.size.bytes == 200 * 2**30
    assert "registry.corp.test:5050" in settings.registry


def test_configuration_of_clients_can_be_parsed() -> None:
    for page in PAGES:
        for block in blocks(page.read_text()):
            if block.kind == "toml":
                assert tomllib.loads(block.text)
            elif block.kind == "json":
                assert json.loads(block.text)
            elif block.kind == "ini":
                assert_is_unit(block.text)
    for heredoc in re.findall(r"<<'TOML'\n(.*?)^TOML$", CERTS, re.MULTILINE | re.DOTALL):
        assert tomllib.loads(heredoc)


def assert_is_unit(text: str) -> None:
    """systemd.syntax(7), as far as a drop-in with Environment= goes."""
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert unit.sections() == ["Service"]
    assert set(unit["Service"]) == {"Environment"}
    for value in re.findall(r"^Environment=(.*)$", text, re.MULTILINE):
        assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in shlex.split(value))


def test_numbers_in_the_readme_are_those_of_the_program() -> None:
    security = (ROOT / "docs" / "SECURITY.md").read_text()

    assert f"for {OPTIONS['grant_ttl'].initial():g} seconds" in README
    assert f"up to {MAX_MANIFEST >> 20} MiB" in README
    assert f"{MAX_REDIRECTS} redirects" in security
    assert f"cut after {Allowance().taking:g} seconds" in security


def test_every_reason_to_forward_in_the_readme_is_one() -> None:
    assert set(re.findall(r"fwd=([a-z]+)", README)) <= FORWARDED


def test_the_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}

    named = set(re.findall(r"`((?:\w+/)?\w+\.py)`", text))
    whole = set(re.findall(r"`(\w+/)`", text)) & {f"{module.rpartition('/')[0]}/" for module in modules}

    assert {"commands/", "doctor/"} <= whole, "folders whose modules are all of one kind"
    named |= {module for module in modules if any(module.startswith(folder) for folder in whole)}
    assert named == modules - {"__init__.py", "core/__init__.py"}
