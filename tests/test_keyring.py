"""Logins of the operator's: in docker's file, and from credential helpers, which are real programs here."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from lab.memory import Clock
from pullthrough import keyring as module
from pullthrough.keyring import Keyring, KeyringError, Login


def encoded(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


def write(folder: Path, **sections: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(sections))
    file.chmod(0o600)
    return file


class Helpers:
    """Credential helpers on the PATH: shell scripts that note what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked = folder / "asked"

    def make(self, name: str, script: str) -> None:
        program = self.folder / f"docker-credential-{name}"
        noting = f'printf "%s %s %s\\n" {shlex.quote(name)} "$*" "$server" >> {shlex.quote(str(self._asked))}'
        program.write_text(f"#!/bin/sh\nread -r server\n{noting}\n{script}\n")
        program.chmod(0o755)

    def giving(self, name: str, user: str, secret: str) -> None:
        self.make(name, f"echo {shlex.quote(json.dumps({'ServerURL': 'x', 'Username': user, 'Secret': secret}))}")

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helpers:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Helpers(folder)


async def test_an_empty_keyring_has_nothing() -> None:
    assert await Keyring.load(None, None).credential("registry.test") is None


async def test_the_file_of_docker_login(tmp_path: Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": encoded("hub", "h:p€")},
        "registry.test:5050": {"auth": encoded("five", "5"), "email": "x@y.test"},
        "registry.test": {"username": "plain", "password": "p"},
        "https://old.test/v2/": {"auth": base64.b64encode(b"old:o\0\0").decode()},
        "[2001:db8::7]:5000": {"auth": encoded("six", "6")},
        "helped.test": {},
        "cleared.test": {"auth": ""},
    }
    keyring = Keyring.load(write(tmp_path, auths=auths, HttpHeaders={"x": "y"}), None)
    assert {
        authority: await keyring.credential(authority)
        for authority in (
            *["registry-1.docker.io", "docker.io:443", "registry.test:5050", "REGISTRY.test.", "registry.test:443"],
            *["old.test", "[2001:DB8:0::7]:5000", "helped.test", "cleared.test", "registry.test:5000", "other.test"],
            *["*.test", "", "registry.test/x", "registry.test\nother.test"],
        )
    } == {
        "registry-1.docker.io": Login("hub", "h:p€"),
        "docker.io:443": Login("hub", "h:p€"),
        "registry.test:5050": Login("five", "5"),
        "REGISTRY.test.": Login("plain", "p"),
        "registry.test:443": Login("plain", "p"),
        "old.test": Login("old", "o"),
        "[2001:DB8:0::7]:5000": Login("six", "6"),
        **dict.fromkeys(("helped.test", "cleared.test", "registry.test:5000", "other.test"), None),
        **dict.fromkeys(("*.test", "", "registry.test/x", "registry.test\nother.test"), None),
    }


@pytest.mark.parametrize(
    "value",
    [
        {"auth": encoded("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "refresh"},
        {"auth": encoded("<token>", "refresh")},
        {"username": "<token>", "password": "refresh"},
    ],
)
async def test_an_identity_token_is_no_password(tmp_path: Path, value: dict[str, str]) -> None:
    keyring = Keyring.load(write(tmp_path, auths={"registry.test": value}), None)
    assert await keyring.credential("registry.test") == Login("<token>", "refresh", identity=True)


@pytest.mark.parametrize("reverse", [False, True])
async def test_docker_s_own_key_counts_before_other_names(tmp_path: Path, reverse: bool) -> None:
    auths = [
        ("docker.io", {"auth": encoded("short", "1")}),
        ("https://index.docker.io/v1/", {"auth": encoded("own", "2")}),
        ("registry-1.docker.io", {"auth": encoded("host", "3")}),
    ]
    keyring = Keyring.load(write(tmp_path, auths=dict(auths[::-1] if reverse else auths)), None)
    assert await keyring.credential("docker.io") == Login("own", "2")


async def test_a_key_for_a_part_of_a_registry_is_not_used_for_all_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auths = {key: {"auth": encoded("a", "b")} for key in ("registry.test/group", "*.corp.test", "", "https://")}
    keyring = Keyring.load(write(tmp_path, auths=auths), None)
    assert await keyring.credential("registry.test") is None
    assert re.findall("auths of '(.*)' is not for a whole registry", caplog.text) == list(auths)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON"),
        ('{"auths": {"secret', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a config.json"),
        ('{"auths": ["secret"]}', "auths is not an object"),
        (
            '{"auths": {"a.test": "secret"}}',
            "auths of 'a.test' holds no user and password; repeat: docker login a.test",
        ),
        ('{"auths": {"a.test": {"auth": "secret!"}}}', "holds no user and password"),
        ('{"auths": {"a.test": {"auth": "c2VjcmV0"}}}', "holds no user and password"),
        ('{"auths": {"a.test": {"auth": 7}}}', "holds no user and password"),
        ('{"auths": {"a.test": {"username": "secret"}}}', "holds no user and password"),
        ('{"credHelpers": "secret"}', "credHelpers is not an object"),
        ('{"credHelpers": {"a.test": "../x"}}', "credHelpers of 'a.test': '../x' is not the NAME of a program"),
        ('{"credHelpers": {"a.test": null}}', "None is not the NAME"),
        ('{"credsStore": "a b"}', "credsStore: 'a b' is not the NAME"),
        (" " * (1 << 20) + "{}", "is larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(KeyringError, match=re.escape(sentence)) as refusal:
        Keyring.load(file, None)
    assert str(file) in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match=r"cannot read the credentials in .*none: No such file"):
        Keyring.load(tmp_path / "none", None)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_for_everybody_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    file = write(tmp_path, auths={"a.test": {"auth": encoded("a", "secret")}})
    file.chmod(mode)
    Keyring.load(file, None)
    assert (f"run: chmod 600 {file}" in caplog.text) is warned
    assert "secret" not in caplog.text


async def test_a_helper_is_asked_as_docker_does(helpers: Helpers) -> None:
    helpers.giving("lab", "alice", "s3cret")
    keyring = Keyring.load(None, "lab")
    for authority in ("registry.test:5050", "registry.test", "docker.io", "[::1]:5000"):
        assert await keyring.credential(authority) == Login("alice", "s3cret")
    assert helpers.asked == [
        "lab get registry.test:5050",
        "lab get registry.test",
        "lab get https://index.docker.io/v1/",
        "lab get [::1]:5000",
    ]


async def test_a_helper_may_have_an_identity_token(helpers: Helpers) -> None:
    helpers.giving("lab", "<token>", "refresh")
    assert await Keyring.load(None, "lab").credential("a.test") == Login("<token>", "refresh", identity=True)


async def test_the_file_says_which_helper_is_asked_for_what(tmp_path: Path, helpers: Helpers) -> None:
    helpers.giving("one", "one", "1")
    helpers.giving("all", "all", "a")
    chosen = {"https://one.test:5000/v2/": "one", "docker.io": "one"}
    auths = {name: {"auth": encoded("file", "f")} for name in ("one.test:5000", "other.test")}
    file = write(tmp_path, auths=auths, credHelpers=chosen)
    keyring = Keyring.load(file, None)
    assert await keyring.credential("one.test:5000") == Login("one", "1")
    assert await keyring.credential("index.docker.io") == Login("one", "1")
    assert await keyring.credential("one.test") is None
    assert await keyring.credential("other.test") == Login("file", "f")

    keyring = Keyring.load(write(tmp_path, auths=auths, credHelpers=chosen, credsStore="all"), None)
    assert await keyring.credential("one.test:5000") == Login("one", "1")
    assert await keyring.credential("other.test") == Login("all", "a")


async def test_a_login_is_kept_for_some_minutes(helpers: Helpers, clock: Clock) -> None:
    helpers.giving("lab", "alice", "old")
    keyring = Keyring.load(None, "lab", clock=clock)
    assert await keyring.credential("a.test") == Login("alice", "old")
    helpers.giving("lab", "alice", "new")
    clock.time += 299.0
    assert await keyring.credential("A.test:443") == Login("alice", "old")
    clock.time += 1.0
    assert await keyring.credential("a.test") == Login("alice", "new")
    assert len(helpers.asked) == 2


async def test_that_there_is_none_is_kept_for_one(
    helpers: Helpers, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    helpers.make("lab", "echo credentials not found in native keychain; exit 1")
    keyring = Keyring.load(None, "lab", clock=clock)
    assert await keyring.credential("a.test") is None
    helpers.giving("lab", "alice", "new")
    clock.time += 59.0
    assert await keyring.credential("a.test") is None
    clock.time += 1.0
    assert await keyring.credential("a.test") == Login("alice", "new")
    assert caplog.text == "", "to know nothing is no fault"


async def test_many_askers_run_a_helper_once(helpers: Helpers) -> None:
    helpers.giving("lab", "alice", "s3cret")
    keyring = Keyring.load(None, "lab")
    answers = await asyncio.gather(*(keyring.credential("a.test") for _ in range(20)))
    assert set(answers) == {Login("alice", "s3cret")}
    assert len(helpers.asked) == 1


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "echo s3cret; echo s3cret >&2; exit 3",
            "ended with status 3; to see why: echo a.test:1 | docker-credential-lab get",
        ),
        ("kill -9 $$", "ended with status -9"),
        ("echo s3cret", "did not answer with Username and Secret in JSON"),
        ("""echo '{"Username": "s3cret"}'""", "did not answer with Username and Secret"),
        ("""echo '["s3cret"]'""", "did not answer with Username and Secret"),
        ("exit 0", "did not answer with Username and Secret"),
        ("""printf '\\377'""", "did not answer with Username and Secret"),
        ("yes s3cret", "said more than 65536 bytes"),
        ('rm "$0"', "did not answer with Username and Secret"),
    ],
)
async def test_a_fault_is_said_once_and_shows_nothing(
    helpers: Helpers, clock: Clock, caplog: pytest.LogCaptureFixture, script: str, sentence: str
) -> None:
    helpers.make("lab", script)
    keyring = Keyring.load(None, "lab", clock=clock)
    for _ in range(3):
        assert await keyring.credential("a.test:1") is None
        clock.time += 60.0
    assert caplog.text.count("no credentials for a.test:1: docker-credential-lab ") == 1
    assert sentence in caplog.text
    assert "s3cret" not in caplog.text
    await keyring.credential("b.test")
    assert "no credentials for b.test:" in caplog.text


async def test_what_works_again_may_fail_again(
    helpers: Helpers, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = Keyring.load(write(helpers.folder, credsStore="lab"), None, clock=clock)
    for script in ("exit 1", "exit 1", 'echo \'{"Username": "a", "Secret": "b"}\'', "exit 1"):
        helpers.make("lab", script)
        await keyring.credential("a.test")
        clock.time += 300.0
    assert caplog.text.count("ended with status 1") == 2


async def test_a_helper_of_the_file_that_is_missing_is_a_fault_of_its_registries(
    tmp_path: Path, helpers: Helpers, caplog: pytest.LogCaptureFixture
) -> None:
    (helpers.folder / "docker-credential-broken").write_text("#!/nowhere/sh\n")
    (helpers.folder / "docker-credential-broken").chmod(0o755)
    chosen = {"a.test": "missing", "b.test": "broken"}
    keyring = Keyring.load(write(tmp_path, credHelpers=chosen, auths={"c.test": {"auth": encoded("c", "d")}}), None)
    assert await keyring.credential("a.test") is None
    assert await keyring.credential("b.test") is None
    assert await keyring.credential("c.test") == Login("c", "d")
    assert "docker-credential-missing is not on the PATH" in caplog.text
    assert "docker-credential-broken cannot be started (No such file" in caplog.text


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "a b", "a;b", "-a", "a\n", "x" * 65, "ü"])
def test_the_name_of_a_helper_is_a_name(name: str) -> None:
    with pytest.raises(KeyringError, match=r"the credential helper: .* is not the NAME"):
        Keyring.load(None, name)


def test_the_one_helper_must_be_there(helpers: Helpers) -> None:
    with pytest.raises(KeyringError, match="docker-credential-missing is not on the PATH; install it"):
        Keyring.load(None, "missing")


def test_a_file_and_a_helper_are_one_too_many(tmp_path: Path, helpers: Helpers) -> None:
    helpers.giving("lab", "a", "b")
    with pytest.raises(KeyringError, match="give one of"):
        Keyring.load(write(tmp_path), "lab")


async def test_a_helper_may_answer_without_listening(helpers: Helpers) -> None:
    (helpers.folder / "docker-credential-lab").write_text(
        '#!/bin/sh\nexec 0<&-\necho \'{"Username":"a","Secret":"b"}\'\n'
    )
    (helpers.folder / "docker-credential-lab").chmod(0o755)
    assert await Keyring.load(None, "lab").credential("a.test") == Login("a", "b")


async def test_few_helpers_run_at_a_time(helpers: Helpers, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    helpers.make("lab", f"echo begin >> {journal}; sleep 0.05; echo end >> {journal}; exit 1")
    keyring = Keyring.load(None, "lab")
    await asyncio.gather(*(keyring.credential(f"{number}.test") for number in range(16)))
    at_once = list(itertools.accumulate(1 if line == "begin" else -1 for line in journal.read_text().splitlines()))
    assert len(at_once) == 32
    assert max(at_once) <= 4


async def test_what_strangers_ask_for_is_not_remembered_without_end(
    helpers: Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REMEMBERED", 2)
    helpers.giving("lab", "alice", "s3cret")
    keyring = Keyring.load(None, "lab")
    for name in ("a.test", "b.test", "c.test", "b.test", "a.test"):
        await keyring.credential(name)
    assert [line.split()[-1] for line in helpers.asked] == ["a.test", "b.test", "c.test", "a.test"]


async def test_a_helper_that_hangs_is_ended_with_what_it_started(
    helpers: Helpers, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 3.0)
    helpers.make("lab", f"sleep 300 & echo $! > {tmp_path}/child; wait")
    assert await Keyring.load(None, "lab").credential("a.test") is None
    assert "docker-credential-lab took longer than 3 s" in caplog.text
    child = int((tmp_path / "child").read_text())
    for _ in range(500):
        if not alive(child):
            break
        await asyncio.sleep(0.01)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Does this process run? A dead one that nobody has taken note of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_login_shows_nothing() -> None:
    assert repr(Login("alice", "s3cret")) == "Login(identity=False)"
