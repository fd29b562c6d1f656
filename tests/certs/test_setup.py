"""setup.sh on a machine of its own: what it changes, what it refuses, and that it takes everything back."""

import configparser
import json
import os
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certs.conftest import StubCache
from certs.machine import Done, Machine, tree_of
from lab.clients import POLICY
from lab.fake_registry import FakeRegistry
from lab.names import ADDRESSES, NameMap
from lab.pki import Pki
from lab.programs import SYSTEM_PATH, need
from lab.proxy import Proxies
from pullthrough.ca import Authority

STATE = "/var/lib/pullthrough-client"
ANCHOR = "/usr/local/share/ca-certificates/pullthrough.crt"
DROP_IN = "/etc/systemd/system/{}.service.d/pullthrough.conf"
ENGINE = "/etc/containers/containers.conf.d/pullthrough.conf"
NOBODY = 65534
BAD = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
#: Beside them: curl or wget, openssl or sha256sum and base64, and the distribution's own for its trust store.
NEEDED = [
    *("awk", "cat", "chmod", "cp", "cut", "dirname", "fold", "grep", "head", "id", "ls", "mkdir", "mktemp", "mv"),
    *("rm", "rmdir", "sed", "sh", "sort", "tr", "uname"),
]


def setup(machine: Machine, cache: StubCache, *arguments: str) -> Done:
    """The one line, without questions."""
    command = f"curl -fsS {cache.url}/setup.sh | sh -s -- {shlex.join(arguments)}"
    return machine.run("sh", "-c", command)


def made(machine: Machine, cache: StubCache, *arguments: str) -> Done:
    done = setup(machine, cache, *arguments, "--yes")
    assert done, done.err
    return done


def differences(machine: Machine, cache: StubCache, *arguments: str) -> set[str]:
    """Which paths the arguments change."""
    before = machine.tree()
    made(machine, cache, *arguments)
    after = machine.tree()
    return {f"/{path}" for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def new_ca(folder: Path) -> Authority:
    return Authority.load_or_create(folder, now=lambda: datetime.now(UTC))


# -- trust


def test_the_system_trusts_what_the_ca_signed_and_no_more_after_uninstall(
    machine: Machine, cache: StubCache, vouched: FakeRegistry
) -> None:
    skopeo, openssl = need("skopeo"), need("openssl")
    machine.write("/etc/hosts", f"{ADDRESSES['fake.test']} fake.test\n")
    machine.write("/etc/containers/policy.json", json.dumps(POLICY))
    asked = (
        ("curl", "-fsS", f"https://{vouched.host}/v2/"),
        (openssl, "s_client", "-brief", "-verify_return_error", "-connect", vouched.host, "-servername", "fake.test"),
        (skopeo, "inspect", "--raw", f"docker://{vouched.host}/team/app:1.0"),
    )

    assert not any(machine.run(*command) for command in asked)
    made(machine, cache, "system")
    assert [machine.run(*command).err for command in asked if not machine.run(*command)] == []
    made(machine, cache, "system", "--uninstall")
    assert not any(machine.run(*command) for command in asked)


def test_the_fingerprint_is_printed_as_the_cache_prints_it(machine: Machine, cache: StubCache) -> None:
    assert cache.fingerprint in setup(machine, cache, "system", "--dry-run").out


def test_an_earlier_ca_of_ours_is_replaced(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    before = machine.tree()
    made(machine, cache, "docker")
    first, second = cache.ca_pem, new_ca(tmp_path / "second")
    cache.give_out(second)
    made(machine, cache, "docker")
    bundle = machine.path("/etc/ssl/certs/ca-certificates.crt").read_bytes()

    assert second.certificate_pem in bundle
    assert first not in bundle
    made(machine, cache, "docker", "--uninstall")
    assert machine.tree() == before


def test_during_a_rotation_both_are_trusted_and_afterwards_the_new_one(
    machine: Machine, cache: StubCache, authority: Authority, tmp_path: Path
) -> None:
    before, second = machine.tree(), new_ca(tmp_path / "second")
    bundle = machine.path("/etc/ssl/certs/ca-certificates.crt")
    made(machine, cache, "docker", "podman")
    cache.give_out(authority, second)
    said = made(machine, cache, "docker", "podman").out
    assert said.index(authority.fingerprint) < said.index(second.fingerprint)
    assert "none" in made(machine, cache, "docker", "podman").out
    assert all(one.certificate_pem in bundle.read_bytes() for one in (authority, second))
    assert machine.path("/etc/containers/pullthrough/ca.pem").read_bytes() == cache.ca_pem
    verify = ("openssl", "verify", "-no-CAfile", "-no-CAstore", "-CApath", "/etc/ssl/certs")
    machine.write("/etc/new.pem", second.issue("fake.test").chain_pem)
    assert machine.run(*verify, "/etc/new.pem"), "each has a file of its own, or OpenSSL's folder lacks it"

    cache.give_out(second)
    made(machine, cache, "docker", "podman")
    assert second.certificate_pem in bundle.read_bytes()
    assert authority.certificate_pem not in bundle.read_bytes()
    machine.path("/etc/new.pem").unlink()
    made(machine, cache, "docker", "podman", "--uninstall")
    assert machine.tree() == before


def test_during_a_rotation_only_what_was_pinned_is_taken(
    machine: Machine, cache: StubCache, authority: Authority, tmp_path: Path
) -> None:
    second = new_ca(tmp_path / "second")
    cache.give_out(authority, second)
    trusted = machine.path("/etc/containers/pullthrough/ca.pem")

    made(machine, cache, "podman", "--fingerprint", second.fingerprint)
    assert trusted.read_bytes() == second.certificate_pem
    made(machine, cache, "podman", "--fingerprint", second.fingerprint, f"--fingerprint={authority.fingerprint}")
    assert trusted.read_bytes() == cache.ca_pem


@pytest.mark.e2e
def test_podman_pulls_through_the_cache_and_nobody_else_trusts_it(
    machine: Machine, names: NameMap, pki: Pki, public: Pki, fake: FakeRegistry, tmp_path: Path
) -> None:
    podman = need("podman")
    machine.write("/etc/containers/policy.json", json.dumps(POLICY))
    fake.add_image("team/app", "1.0", [])
    proxies = Proxies(tmp_path, names, upstream_ca=pki.ca_file, system_ca=public.ca_file)
    with tempfile.TemporaryDirectory() as short:  # podman takes no more than 50 characters
        storage = ["--root", str(tmp_path / "root"), "--runroot", short, "--storage-driver", "vfs"]
        pull = (podman, *storage, "--events-backend", "none", "pull", "--quiet", f"{fake.host}/team/app:1.0")
        try:
            proxy = proxies(fake)
            assert not machine.run(*pull)
            done = machine.run("sh", "-c", f"curl -fsS {proxy.url}/setup.sh | sh -s -- podman --yes")
            assert done, done.err
            pulled = machine.run(*pull)
        finally:
            proxies.end()

    assert pulled, pulled.err
    assert [line for line in proxy.log_lines() if line.get("repository") == "team/app"]
    assert not machine.path(ANCHOR).exists()


# -- what is changed, and taken back


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("system", {ANCHOR}),
        ("docker", {ANCHOR, DROP_IN.format("docker")}),
        ("containerd", {ANCHOR, DROP_IN.format("containerd")}),
        ("podman", {"/etc/containers/pullthrough/ca.pem", ENGINE}),
    ],
)
def test_a_target_writes_its_files_once_and_takes_them_back(
    machine: Machine, cache: StubCache, target: str, files: set[str]
) -> None:
    before = machine.tree()
    shown = setup(machine, cache, target, "--dry-run")
    assert shown
    assert machine.tree() == before, "a dry run changes nothing"
    changed = differences(machine, cache, target)

    assert files <= changed
    folders = {str(folder) for path in (*files, f"{STATE}/wanted/{target}") for folder in Path(path).parents}
    ours = files | folders | {path for path in changed if path.startswith((STATE, "/etc/ssl/certs/"))}
    assert changed <= ours, "and nothing else"
    assert {path for path in files if path in shown.out} == files, "it said so before"

    installed = machine.tree()
    assert "none" in made(machine, cache, target).out
    assert machine.tree() == installed, "a second time changes nothing"

    made(machine, cache, target, "--uninstall")
    assert machine.tree() == before
    assert "none" in made(machine, cache, target, "--uninstall").out
    assert machine.tree() == before


def test_all_is_what_is_installed_here(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    before = machine.tree()
    shown = setup(machine, cache, "all", "--dry-run").out
    for program, file in (("dockerd", "docker.service.d"), ("containerd", "containerd.service.d"), ("podman", ENGINE)):
        assert (file in shown) == bool(machine.run("sh", "-c", f"command -v {program}"))
    made(machine, cache, "all")
    made(machine, cache, "all", "--uninstall")

    assert machine.tree() == before


def test_the_ca_stays_while_somebody_needs_it(machine: Machine, cache: StubCache) -> None:
    before = machine.tree()
    made(machine, cache, "docker", "containerd")
    made(machine, cache, "docker", "--uninstall")

    assert machine.path(ANCHOR).exists()
    assert machine.path(DROP_IN.format("containerd")).exists()
    assert not machine.path(DROP_IN.format("docker")).parent.exists()
    made(machine, cache, "containerd", "--uninstall")
    assert machine.tree() == before


def test_a_trust_that_was_asked_for_by_name_outlives_docker(machine: Machine, cache: StubCache) -> None:
    before = machine.tree()
    made(machine, cache, "docker")
    made(machine, cache, "system")
    made(machine, cache, "docker", "--uninstall")
    assert machine.path(ANCHOR).exists()
    made(machine, cache, "system", "--uninstall")

    assert machine.tree() == before


def test_what_was_in_our_places_before_comes_back_as_it_was(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    old = new_ca(tmp_path / "old").certificate_pem
    machine.write(ANCHOR, old, 0o600)
    assert machine.run("update-ca-certificates", "--fresh")
    machine.write(DROP_IN.format("docker"), b"[Service]\nEnvironment=A=\xe9\n", 0o640)
    machine.path("/etc/containers/containers.conf.d").mkdir()
    machine.path(ENGINE).symlink_to("/etc/elsewhere")
    before = machine.tree()

    for _ in range(2):
        made(machine, cache, "docker", "podman")
    assert cache.ca_pem == machine.path(ANCHOR).read_bytes()
    made(machine, cache, "docker", "podman", "--uninstall")

    assert machine.tree() == before


def test_what_somebody_else_put_there_stays(machine: Machine, cache: StubCache) -> None:
    machine.write(ANCHOR, cache.ca_pem)
    assert machine.run("update-ca-certificates")
    before = machine.tree()

    assert "none" in made(machine, cache, "system").out
    made(machine, cache, "system", "--uninstall")
    assert machine.tree() == before


def test_an_interrupted_run_is_mended_by_the_next(machine: Machine, cache: StubCache) -> None:
    before = machine.tree()
    machine.write("/usr/sbin-stub/update-ca-certificates", "#!/bin/sh\necho broken disk >&2\nexit 1\n", 0o755)
    stub = f"PATH={machine.path('/usr/sbin-stub')}:$PATH"
    done = machine.run("sh", "-c", f"curl -fsS {cache.url}/setup.sh | {stub} sh -s -- docker --yes")
    shutil.rmtree(machine.path("/usr/sbin-stub"))

    assert not done
    assert "broken disk" in done.err
    assert "update-ca-certificates" in made(machine, cache, "docker").out
    assert cache.ca_pem in machine.path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    made(machine, cache, "docker", "--uninstall")
    assert machine.tree() == before


# -- what is cut

#: In front of a program: ends the script that calls it, when its turn has come. Who else calls it is let alone.
TRAP = """#!/bin/sh
case $(tr '\\0' ' ' </proc/$PPID/cmdline) in 'sh -s '*) ;; *) exec {real} "$@" ;; esac
turn=$(($(cat {turn}) - 1))
echo $turn >{turn}
[ $turn = 0 ] || exec {real} "$@"
{late}
kill -9 $PPID
"""
CHANGING = ("chmod", "cp", "mkdir", "mv", "rm", "rmdir", "update-ca-certificates")


class Traps:
    """A folder for PATH, with which the script is ended before or after one of its calls that change something."""

    def __init__(self, folder: Path, *, late: bool) -> None:
        self.folder = folder
        self._turn = folder / "turn"
        folder.mkdir()
        for name in CHANGING:
            real = need(name)
            shim = folder / name
            shim.write_text(TRAP.format(real=real, turn=self._turn, late=f'{real} "$@"' if late else ""))
            shim.chmod(0o755)

    def arm(self, turn: int) -> None:
        """For the call with this number."""
        self._turn.write_text(f"{turn}\n")
        self._turn.chmod(0o666)

    @property
    def struck(self) -> bool:
        return int(self._turn.read_text()) <= 0


@pytest.mark.parametrize("target", ["system", "podman", "podman of one user"])
@pytest.mark.parametrize(
    ("action", "late"),
    # What is written between two calls is missing after the first: a removal writes nothing.
    [pytest.param((), True, id="installing"), pytest.param(("--uninstall",), False, id="uninstalling")],
)
def test_wherever_a_run_is_cut_uninstalling_leaves_nothing(
    machine: Machine, cache: StubCache, tmp_path: Path, target: str, action: tuple[str, ...], late: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    traps = Traps(tmp_path / "traps", late=late)

    def run(*arguments: str, path: str = "") -> Done:
        words = (target.partition(" ")[0], *arguments, "--yes")
        env = {"PATH": f"{path}{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"}
        if "user" in target:
            return as_nobody(machine, cache, home, *words, env=env)
        return machine.run("sh", "-s", "--", *words, given=cache.script, env=env)

    assert run("--uninstall")
    before, turn = (machine.tree(), tree_of(home)), 0
    while turn == 0 or traps.struck:
        turn += 1
        assert not action or run()
        traps.arm(turn)
        run(*action, path=f"{traps.folder}:")
        done = run("--uninstall")

        assert done, done.err
        assert (machine.tree(), tree_of(home)) == before, f"cut at call {turn}"
    assert turn > 5


def test_a_folder_of_a_run_that_was_cut_is_found_although_others_put_theirs_in_its_place(
    machine: Machine, cache: StubCache, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    half = home / ".local.pullthrough-new/state/pullthrough-client/wanted"
    half.mkdir(parents=True)
    (home / ".local/share").mkdir(parents=True)
    for path in home.rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    before = tree_of(home)
    assert as_nobody(machine, cache, home, "podman", "--uninstall", "--yes")

    assert {path for path in before if not path.startswith(".local.pullthrough-new")} == tree_of(home).keys()


# -- what is refused


@pytest.mark.parametrize("tools", [("openssl",), ("sha256sum", "base64")])
def test_only_the_ca_with_the_given_fingerprint_is_taken(
    machine: Machine, cache: StubCache, tmp_path: Path, tools: tuple[str, ...]
) -> None:
    path = path_of(tmp_path, "curl", *tools)
    machine.write("/etc/setup.sh", cache.script)
    before = machine.tree()

    def dry(pin: str) -> Done:
        return machine.run("/bin/sh", "/etc/setup.sh", "podman", "--dry-run", "--fingerprint", pin, env={"PATH": path})

    right = cache.fingerprint
    for pin in (right, right.lower(), right.replace(":", ""), f"sha256:{right}", f"SHA256:{right.replace(':', '')}"):
        assert dry(pin), (pin, dry(pin).err)
    wrong = dry(right[:-1] + ("0" if right[-1] != "0" else "1"))
    assert wrong.code == 1
    assert "nothing was changed" in wrong.err
    assert machine.tree() == before


def path_of(tmp_path: Path, *programs: str) -> str:
    """A PATH with these and what the script cannot do without."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in (*NEEDED, *programs, "mount"):
        (folder / program).symlink_to(need(program))
    return str(folder)


@pytest.mark.parametrize("arguments", [("system",), ("all",), ("docker", "podman")])
def test_a_wrong_fingerprint_changes_nothing(machine: Machine, cache: StubCache, arguments: tuple[str, ...]) -> None:
    before = machine.tree()
    done = setup(machine, cache, *arguments, "--yes", "--fingerprint", "0" * 64)

    assert done.code == 1
    assert cache.fingerprint in done.out
    assert "not the CA of --fingerprint" in done.err
    assert machine.tree() == before


@pytest.mark.parametrize("pem", [b"", b"<html></html>", BAD, BAD * 3])
def test_what_is_no_certificate_is_not_installed(machine: Machine, cache: StubCache, pem: bytes) -> None:
    cache.ca_pem = pem
    before = machine.tree()

    assert setup(machine, cache, "system", "--yes").code == 1
    assert machine.tree() == before


def test_another_ca_than_the_announced_one_is_not_installed(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    cache.ca_pem += new_ca(tmp_path / "second").certificate_pem
    before = machine.tree()

    assert setup(machine, cache, "system", "--yes").code == 1
    assert machine.tree() == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--yes",),
        ("podmann",),
        ("system", "--force"),
        ("system", "--fingerprint"),
        ("system", "--fingerprint", ""),
        ("system", "--fingerprint="),
        ("system", "--fingerprint", "abc"),
        ("system", "--fingerprint", "g" * 64),
    ],
)
def test_arguments_that_mean_nothing_are_explained(
    machine: Machine, cache: StubCache, arguments: tuple[str, ...]
) -> None:
    before = machine.tree()
    done = setup(machine, cache, *arguments)

    assert done.code == 2
    assert "usage:" in done.err
    assert machine.tree() == before


def test_without_a_terminal_nothing_is_changed_unasked(machine: Machine, cache: StubCache) -> None:
    before = machine.tree()
    done = setup(machine, cache, "system")

    assert done.code == 1
    assert ANCHOR in done.out
    assert "--yes" in done.err
    assert machine.tree() == before


@pytest.mark.parametrize(("reply", "changes"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_it_asks(machine: Machine, cache: StubCache, reply: str, changes: bool) -> None:
    script = need("script")
    command = f"curl -fsS {cache.url}/setup.sh | sh -s -- podman"
    done = machine.run(script, "--quiet", "--return", "--command", command, "/dev/null", given=f"{reply}\n")

    assert "[y/N]" in done.out
    assert done.code == (0 if changes else 1)
    assert machine.path(ENGINE).exists() == changes


def test_a_script_that_arrived_in_part_does_nothing(machine: Machine, cache: StubCache) -> None:
    lines = cache.script.splitlines(keepends=True)
    before = machine.tree()
    for count in range(0, len(lines), 40):
        machine.run("sh", "-s", "--", "system", "--yes", given="".join(lines[:count]))
    machine.run("sh", "-s", "--", "system", "--yes", given=cache.script.rstrip()[: -len('main "$@"')])

    assert machine.tree() == before


def test_a_script_that_no_cache_filled_in_says_so(machine: Machine) -> None:
    script = Path(__file__).parents[2] / "addon" / "pullthrough" / "clients" / "setup.sh"
    done = machine.run("sh", str(script), "system", "--yes")

    assert done.code == 1
    assert "from a cache" in done.err


def test_where_there_is_no_systemd_docker_is_refused_and_told_why(machine: Machine, cache: StubCache) -> None:
    shutil.rmtree(machine.path("/etc/systemd"))
    before = machine.tree()
    done = setup(machine, cache, "docker", "--yes")

    assert done.code == 1
    assert f"HTTPS_PROXY={cache.url}" in done.err
    assert machine.tree() == before
    assert "docker.service.d" not in setup(machine, cache, "all", "--dry-run").out


def test_another_list_of_podman_is_not_overruled(machine: Machine, cache: StubCache) -> None:
    machine.write("/etc/containers/containers.conf", '[containers]\nenv = ["A=B"]\n')
    assert setup(machine, cache, "podman", "--dry-run"), "that list is for containers"
    machine.write("/etc/containers/containers.conf", '[containers]\n\n[engine]\n  env = ["A=B"]\n')
    before = machine.tree()
    done = setup(machine, cache, "podman", "--yes")

    assert done.code == 1
    assert "/etc/containers/containers.conf" in done.err
    assert machine.tree() == before


def test_what_overrules_the_environment_of_dockerd_is_noted(machine: Machine, cache: StubCache) -> None:
    machine.write("/etc/docker/daemon.json", '{"proxies": {"https-proxy": "http://other.test"}}')
    other = "/etc/systemd/system/docker.service.d/zz.conf"
    machine.write(other, '[Service]\nEnvironment="HTTPS_PROXY=http://other.test"\n')
    said = setup(machine, cache, "docker", "--dry-run").out

    assert "daemon.json" in said
    assert other in said


# -- without root


def as_nobody(
    machine: Machine, cache: StubCache, home: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Done:
    setpriv = need("setpriv")
    home.mkdir(exist_ok=True)
    os.chown(home, NOBODY, NOBODY)
    for folder in (home, *home.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):  # noqa: S108
            folder.chmod(folder.stat().st_mode | 0o011)
    user = [setpriv, "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return machine.run(*user, "sh", "-s", "--", *arguments, given=cache.script, env={"HOME": str(home), **(env or {})})


@pytest.mark.parametrize("target", ["system", "docker", "containerd", "all"])
def test_what_needs_root_says_so(machine: Machine, cache: StubCache, tmp_path: Path, target: str) -> None:
    before = machine.tree()
    done = as_nobody(machine, cache, tmp_path / "home", target, "--yes")

    assert done.code == 1
    assert "needs root" in done.err
    assert as_nobody(machine, cache, tmp_path / "home", target, "--dry-run")
    assert machine.tree() == before


def test_podman_can_be_set_up_for_one_user(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    before = machine.tree(), tree_of(home)
    done = as_nobody(machine, cache, home, "podman", "--yes")
    assert done, done.err
    engine = tomllib.loads((home / ".config/containers/containers.conf.d/pullthrough.conf").read_text())["engine"]

    assert engine["env"][0] == f"HTTPS_PROXY={cache.url}"
    folder = Path(engine["env"][1].rpartition(":")[2])
    assert [file.read_bytes() for file in folder.iterdir()] == [cache.ca_pem]
    assert as_nobody(machine, cache, home, "podman", "--uninstall", "--yes")
    assert (machine.tree(), tree_of(home)) == before


# -- what is written


@pytest.mark.parametrize("daemon", ["docker", "containerd"])
def test_a_drop_in_is_a_unit_with_the_proxy_in_the_daemons_environment(
    machine: Machine, cache: StubCache, daemon: str
) -> None:
    done = made(machine, cache, daemon)
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
    unit.read_string(machine.path(DROP_IN.format(daemon)).read_text())
    lines = machine.path(DROP_IN.format(daemon)).read_text().splitlines()
    variables = dict(shlex.split(line.partition("=")[2])[0].split("=", 1) for line in lines[1:])

    assert unit.sections() == ["Service"]
    assert variables["HTTPS_PROXY"] == cache.url
    assert "localhost" in variables["NO_PROXY"].split(",")
    assert f"systemctl restart {daemon}" in done.out


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_does_the_same(machine: Machine, cache: StubCache, shell: str) -> None:
    command = [need(shell), "sh"] if shell == "busybox" else [need(shell)]
    before = machine.tree()
    done = machine.run(*command, "-s", "--", "system", "podman", "--yes", given=cache.script)
    assert done, done.err
    assert machine.path(ANCHOR).read_bytes() == cache.ca_pem
    done = machine.run(*command, "-s", "--", "system", "podman", "--uninstall", "--yes", given=cache.script)
    assert done, done.err

    assert machine.tree() == before


def test_wget_does_where_there_is_no_curl(machine: Machine, cache: StubCache, tmp_path: Path) -> None:
    need("wget")
    path = path_of(tmp_path, "wget", "openssl")
    machine.write("/etc/setup.sh", cache.script)
    done = machine.run(
        "/bin/sh", "/etc/setup.sh", "podman", "--yes", env={"PATH": path, "http_proxy": "http://127.0.0.1:9"}
    )

    assert done, done.err
