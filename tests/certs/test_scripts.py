"""What lies in certs/: each script checks, installs and uninstalls, on every distribution that it names."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from certs.conftest import StubCache
from certs.machine import Done, Machine
from lab.programs import environment, need
from pullthrough.ca import Authority

ROOT = Path(__file__).resolve().parents[2]
CERTS = ROOT / "certs"
SETUP = ROOT / "addon" / "pullthrough" / "clients" / "setup.sh"
LINUX = CERTS / "install-linux.sh"
MACOS = CERTS / "install-macos.sh"
SCRIPTS = (SETUP, LINUX, MACOS)
#: Where administrators put CAs, the program that reads them in, what comes out: as each distribution documents it.
STORES = {
    "fedora": (
        "/etc/pki/ca-trust/source/anchors/pullthrough.pem",
        "update-ca-trust",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    ),
    "suse": ("/etc/pki/trust/anchors/pullthrough.pem", "update-ca-certificates", "/etc/ssl/ca-bundle.pem"),
    "arch": (
        "/etc/ca-certificates/trust-source/anchors/pullthrough.crt",
        "trust",
        "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    ),
    "alpine": (
        "/usr/local/share/ca-certificates/pullthrough.crt",
        "update-ca-certificates",
        "/etc/ssl/certs/ca-certificates.crt",
    ),
}


class Distribution:
    """A machine with the folders of one distribution, and a stand-in for its program."""

    def __init__(self, name: str, folder: Path) -> None:
        anchor, self.program, bundle = STORES[name]
        self.anchor, self.stubs = anchor, folder / "stubs"
        self.machine = Machine(folder / "machine")
        for path in (anchor, bundle):
            self.machine.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.machine.write(bundle, "")
        self.stubs.mkdir()
        stub = self.stubs / self.program
        source = Path(anchor).parent
        stub.write_text(f'#!/bin/sh\necho "$0 $*" >>{folder}/ran\ncat {source}/* >{bundle} 2>/dev/null || :\n')
        stub.chmod(0o755)
        self._ran = folder / "ran"

    @property
    def ran(self) -> list[str]:
        """How the stand-in was called."""
        return [line.rpartition("/")[2].strip() for line in self._ran.read_text().splitlines()]

    def run(self, script: str, *arguments: str) -> Done:
        path = f"{self.stubs}:/usr/bin:/bin:/usr/sbin"
        return self.machine.run("sh", "-s", "--", *arguments, given=script, env={"PATH": path})


@pytest.fixture(params=sorted(STORES))
def distribution(request: pytest.FixtureRequest, tmp_path: Path) -> Distribution:
    return Distribution(request.param, tmp_path)


def test_install_linux_knows_every_distribution(distribution: Distribution, ca_file: Path) -> None:
    script, before = LINUX.read_text(), distribution.machine.tree()

    assert distribution.run(script, "check", str(ca_file)).code == 1
    for _ in range(2):
        done = distribution.run(script, "install", str(ca_file))
        assert done, done.err
    assert len(distribution.ran) == 1, "the second time there is nothing to do"
    assert distribution.machine.path(distribution.anchor).read_bytes() == ca_file.read_bytes()
    assert distribution.run(script, "check", str(ca_file))
    for _ in range(2):
        assert distribution.run(script, "uninstall")
    assert distribution.run(script, "check", str(ca_file)).code == 1
    assert distribution.machine.tree() == before


def test_setup_knows_every_distribution(distribution: Distribution, cache: StubCache) -> None:
    before = distribution.machine.tree()

    for _ in range(2):
        done = distribution.run(cache.script, "system", "--yes")
        assert done, done.err
    assert len(distribution.ran) == 1
    assert distribution.machine.path(distribution.anchor).read_bytes() == cache.ca_pem
    assert distribution.run(cache.script, "system", "--uninstall", "--yes")
    assert distribution.machine.tree() == before


@pytest.mark.parametrize("distribution", ["fedora", "arch"], indirect=True)
def test_a_store_without_its_program_is_said_before_anything_is_changed(
    distribution: Distribution, cache: StubCache, ca_file: Path
) -> None:
    (distribution.stubs / distribution.program).unlink()
    before = distribution.machine.tree()
    both = (
        distribution.run(LINUX.read_text(), "install", str(ca_file)),
        distribution.run(cache.script, "system", "--yes"),
    )

    assert [done.code for done in both] == [1, 1]
    assert all("install the package ca-certificates" in done.err for done in both)
    assert distribution.machine.tree() == before


def test_a_system_without_any_store_is_told_so(tmp_path: Path, ca_file: Path) -> None:
    done = Machine(tmp_path / "machine").run("sh", str(LINUX), "install", str(ca_file))

    assert done.code == 1
    assert "no trust store" in done.err


def test_install_linux_makes_debian_trust_and_forget(machine: Machine, ca_file: Path) -> None:
    bundle, before = machine.path("/etc/ssl/certs/ca-certificates.crt"), machine.tree()
    done = machine.run(str(LINUX), "install", str(ca_file))

    assert done, done.err
    assert ca_file.read_bytes() in bundle.read_bytes()
    assert machine.run(str(LINUX), "check", str(ca_file))
    assert machine.run(str(LINUX), "uninstall")
    assert machine.tree() == before


def test_install_linux_forgets_what_an_installation_that_was_cut_left(machine: Machine, ca_file: Path) -> None:
    before = machine.tree()
    for name in ("pullthrough.crt.new", "pullthrough-2.crt.new"):
        machine.write(f"/usr/local/share/ca-certificates/{name}", ca_file.read_bytes())

    assert machine.run(str(LINUX), "uninstall")
    assert machine.tree() == before


def test_install_linux_takes_both_certificates_of_a_rotation(
    machine: Machine, authority: Authority, ca_file: Path, tmp_path: Path
) -> None:
    second = Authority.load_or_create(tmp_path / "second", now=lambda: datetime.now(UTC))
    both = tmp_path / "both.pem"
    both.write_bytes(authority.certificate_pem + second.certificate_pem)
    before, bundle = machine.tree(), machine.path("/etc/ssl/certs/ca-certificates.crt")

    for file, old, new in ((ca_file, True, False), (both, True, True), (ca_file, True, False)):
        assert machine.run(str(LINUX), "install", str(file))
        assert machine.run(str(LINUX), "check", str(file))
        assert "nothing to do" in machine.run(str(LINUX), "install", str(file)).out
        trusted = bundle.read_bytes()
        assert (authority.certificate_pem in trusted, second.certificate_pem in trusted) == (old, new)
    assert machine.run(str(LINUX), "uninstall")
    assert machine.tree() == before


def test_the_fingerprint_to_compare_is_printed(machine: Machine, ca_file: Path, authority: Authority) -> None:
    assert authority.fingerprint in machine.run(str(LINUX), "check", str(ca_file)).out


def test_what_is_not_the_ca_is_not_installed(machine: Machine, ca_file: Path, tmp_path: Path) -> None:
    before = machine.tree()
    for content in (
        b"",
        b"nothing",
        ca_file.read_bytes() * 3,
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ):
        (tmp_path / "bad.pem").write_bytes(content)
        assert machine.run(str(LINUX), "install", str(tmp_path / "bad.pem")).code == 1
    assert machine.run(str(LINUX), "install", str(tmp_path / "absent.pem")).code == 1

    assert machine.tree() == before


@pytest.mark.parametrize("script", [LINUX, MACOS], ids=lambda script: script.name)
@pytest.mark.parametrize("arguments", [(), ("install",), ("frobnicate",), ("check", "a", "b")])
def test_wrong_arguments_are_answered_with_the_right_ones(script: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


# -- macOS, played by a stand-in for its `security`


SECURITY = r"""#!/bin/sh
# a keychain is a folder of files named by SHA-1
sha1() { openssl x509 -in "$1" -noout -fingerprint -sha1 | sed 's/.*=//' | tr -d :; }
cd "$KEYCHAIN" || exit 1
case $1 in
    find-certificate) for file in *; do [ ! -e "$file" ] || echo "SHA-1 hash: $file"; done ;;
    add-trusted-cert) cp "$7" "$(sha1 "$7")" ;;
    verify-cert) [ -e "$(sha1 "$3")" ] ;;
    remove-trusted-cert) [ -e "$(sha1 "$3")" ] ;;
    delete-certificate) rm "$3" ;;
    *) exit 2 ;;
esac
"""


def test_macos_trusts_and_forgets(ca_file: Path, tmp_path: Path) -> None:
    need("openssl")
    stubs, keychain = tmp_path / "stubs", tmp_path / "keychain"
    stubs.mkdir()
    keychain.mkdir()
    for name, text in (("security", SECURITY), ("id", "#!/bin/sh\necho 0\n")):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    usual = environment(tmp_path)
    env = usual | {"PATH": f"{stubs}:{usual['PATH']}", "KEYCHAIN": str(keychain)}

    def run(action: str) -> tuple[int, str]:
        done = subprocess.run([MACOS, action, ca_file], env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()[-1]

    steps = ["check", "install", "install", "check", "uninstall", "uninstall", "check"]
    codes, words = zip(*map(run, steps), strict=True)
    assert codes == (1, 0, 0, 0, 0, 0, 1)
    assert [index for index, word in enumerate(words) if word == "nothing to do"] == [2, 5]
    assert list(keychain.iterdir()) == []


# -- the files themselves


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_plain_sh(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    assert script.read_text().endswith('\nmain "$@"\n'), "nothing is done before all of it has arrived"
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_no_objection(script: Path) -> None:
    done = subprocess.run([need("shellcheck"), script], capture_output=True, text=True, check=False)

    assert done.stdout == ""


def test_the_table_of_stores_is_the_same_in_both_scripts() -> None:
    begin, end = "# -- the same text as in addon/pullthrough/clients/setup.sh\n\n", "# -- the end of that text\n"
    shared = LINUX.read_text().partition(begin)[2].partition(end)[0]

    assert len(shared.splitlines()) > 40
    assert shared in SETUP.read_text()


def test_the_daemonset_mounts_what_it_names() -> None:
    (daemonset,) = YAML(typ="safe", pure=True).load_all((CERTS / "kubernetes-daemonset.yaml").read_text())
    spec = daemonset["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert (daemonset["apiVersion"], daemonset["kind"]) == ("apps/v1", "DaemonSet")
    assert spec["automountServiceAccountToken"] is False
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= labels.items()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}
    for text in (*container["args"], container["readinessProbe"]["exec"]["command"][-1]):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("distribution", ["alpine"], indirect=True)
def test_the_daemonset_installs_checks_and_uninstalls(
    distribution: Distribution, ca_file: Path, tmp_path: Path
) -> None:
    """Its commands, with a `chroot` that stays here: the node is the machine."""
    (daemonset,) = YAML(typ="safe", pure=True).load_all((CERTS / "kubernetes-daemonset.yaml").read_text())
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    work, probe = container["args"][0], container["readinessProbe"]["exec"]["command"][-1]
    node = distribution.machine
    shutil.copy(LINUX, node.path("/etc/install-linux.sh"))
    shutil.copy(ca_file, node.path("/etc/ca.crt"))
    (distribution.stubs / "chroot").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (distribution.stubs / "sleep").write_text("#!/bin/sh\n")
    for stub in distribution.stubs.iterdir():
        stub.chmod(0o755)

    def run(text: str, action: str) -> Done:
        here = text.replace("/host/run/", "/run/").replace("/run/", "/etc/run/")
        here = here.replace("/install/install-linux.sh /ca/ca.crt", "/etc/install-linux.sh /etc/ca.crt")
        return distribution.run(f"ACTION={action}\n{here}")

    for action in ("install", "install", "uninstall"):
        done = run(work, action)
        assert done, done.err
        assert run(probe, action)
        assert not run(probe, {"install": "uninstall", "uninstall": "install"}[action])
    assert not node.path(distribution.anchor).exists()


def test_the_script_for_windows_has_the_three_actions() -> None:
    """There is no PowerShell to run it here."""
    text = (CERTS / "install-windows.ps1").read_text()

    assert re.search(r"\[ValidateSet\('check', 'install', 'uninstall'\)\]", text)
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
