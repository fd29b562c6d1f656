"""Checks of trust: is the CA that the cache serves the one that each client believes?

Responsible for where the system, docker, containerd and podman keep CAs. Must not know how they come there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pullthrough.doctor import certificates, cri
from pullthrough.doctor import podman as podmans
from pullthrough.doctor.case import Case
from pullthrough.doctor.daemons import DOCKERD, docker_settings
from pullthrough.doctor.finding import Finding, ok, skipped, warning
from pullthrough.doctor.machine import Machine

#: Where Go looks, https://go.dev/src/crypto/x509/root_linux.go: the first of these files, and all of these folders.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_FOLDERS: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")
#: Where an administrator puts a CA, and the command that takes it from there into the bundle.
_ANCHORS: Final[Mapping[str, str]] = {
    "/usr/local/share/ca-certificates": "sudo update-ca-certificates",
    "/etc/pki/ca-trust/source/anchors": "sudo update-ca-trust",
    "/etc/ca-certificates/trust-source/anchors": "sudo update-ca-trust",
    "/etc/pki/trust/anchors": "sudo update-ca-certificates",
}
_DOCKER_CERTS: Final = "/etc/docker/certs.d"
_CONTAINERS_CERTS: Final = "/etc/containers/certs.d"
_UNKNOWN: Final = "the cache did not give its CA"


def system(case: Case) -> Finding:
    """The system's own store, which every client reads that has nothing more special."""
    name, machine = "CA in the system", case.machine
    if not case.said.ca:
        return skipped(name, _UNKNOWN)
    missing = case.said.ca - _store(machine, {})
    if not missing:
        return ok(name, "the system's store has the cache's CA")
    for folder, command in _ANCHORS.items():
        if missing <= _in_files(machine, machine.files(folder, ".crt", ".pem", ".cer")):
            return case.lacking(name, f"the CA is in {folder}, but not yet in the system's bundle", command)
    if missing < case.said.ca:
        return _half(name, "the system's store", case.setup("system"))
    text = "the system's store lacks the cache's CA: clients fail with an unknown authority"
    return case.lacking(name, text, case.setup("system"))


def shell(case: Case) -> Finding:
    """SSL_CERT_FILE and SSL_CERT_DIR of this shell, which take the place of the system's store."""
    name, environ = "CA in this shell", case.machine.environ
    named = " and ".join(key for key in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(key))
    if not case.said.ca:
        return skipped(name, _UNKNOWN)
    if not named:
        return skipped(name, "SSL_CERT_FILE is not set: programs read the system's store")
    if finding := _unusable(case, name):
        return finding
    if case.said.ca <= _store(case.machine, environ):
        return ok(name, f"{named} of this shell leads to the cache's CA")
    text = f"{named} hides the system's store, and what it names lacks the cache's CA"
    return case.lacking(name, text, f"add {case.cache.url}/ca.pem to that bundle, or unset {named}")


def _unusable(case: Case, name: str) -> Finding | None:
    """The finding where the file itself fails clients: Go also reads the folders beside it, curl and OpenSSL do not."""
    file = case.machine.environ.get("SSL_CERT_FILE")
    if not file:
        return None
    try:
        text = case.machine.read(file)
    except PermissionError:
        text = None
    if text is None:
        remedy = f"name a bundle that has {case.cache.url}/ca.pem in it, or unset SSL_CERT_FILE"
        return case.lacking(name, f"SSL_CERT_FILE is {file}, which is no file that can be read here", remedy)
    if case.machine.environ.get("SSL_CERT_DIR") or case.said.ca <= certificates.parse(text):
        return None
    text = f"SSL_CERT_FILE is {file}, which lacks the cache's CA; curl and others read nothing else"
    return case.lacking(name, text, f"add {case.cache.url}/ca.pem to that bundle, or unset SSL_CERT_FILE")


def docker(case: Case) -> Finding:
    """dockerd: its certs.d, or the system's store as dockerd saw it at its start."""
    name, machine = "CA in docker", case.machine
    processes = machine.processes(DOCKERD.program)
    if not processes and not machine.exists("/etc/docker"):
        return skipped(name, "there is no docker here")
    if finding := _without_tls(case, name, "docker"):
        return finding
    folders = () if case.target.is_hub else (_DOCKER_CERTS, *machine.home(".config/docker/certs.d"))
    if case.said.ca <= _store(machine, {}):
        changed = max((machine.changed(bundle) for bundle in _BUNDLES), default=0.0)
        if processes and processes[0].started < changed:
            text = "the system's store changed after dockerd was started, which read it at its start"
            return warning(name, text, "sudo systemctl restart docker")
        return ok(name, "the system's store has it, which dockerd reads")
    if case.said.ca <= _in_certs_d(case, folders):
        if _uses_containerd(machine):
            text = "certs.d has it, but with the containerd image store token servers are checked by the system's store"
            return warning(name, text, case.setup("system"))
        return ok(name, f"certs.d has it for {case.target.name}")
    hub = "; for Docker Hub docker reads the system's store alone" if case.target.is_hub else ""
    return case.lacking(name, f"dockerd does not trust the cache's CA{hub}", case.setup("docker"))


def containerd(case: Case) -> Finding:
    """The CRI of containerd: hosts.toml, or the system's store."""
    name, machine = "CA in containerd", case.machine
    if not machine.exists("/etc/containerd"):
        return skipped(name, "there is no containerd here")
    if cri.is_off(machine):
        return skipped(name, "its CRI plug-in is off: containerd pulls for nobody but dockerd")
    if finding := _without_tls(case, name, "containerd"):
        return finding
    if case.said.ca <= _store(machine, {}):
        return ok(name, "the system's store has it, which containerd reads")
    if not case.said.ca <= _in_files(machine, cri.ca_files(machine, case.target)):
        return case.lacking(name, "neither hosts.toml nor the system's store has it", case.setup("containerd"))
    if not cri.config_paths(machine):
        text = f"hosts.toml has it, but {cri.CONFIG} names no config_path: older versions do not look there"
        return warning(name, text, f'set config_path = "{cri.CERTS}" in its registry section and restart it')
    return ok(name, f"hosts.toml of {case.target.name} has it")


def podman(case: Case) -> Finding:
    """podman: certs.d, SSL_CERT_FILE and SSL_CERT_DIR of the shell or of containers.conf, the system's store."""
    name, machine = "CA in podman", case.machine
    if not podmans.is_here(machine):
        return skipped(name, "there is no podman here")
    if finding := _without_tls(case, name, "podman"):
        return finding
    if case.said.ca <= _in_certs_d(
        case, (*machine.home(".config/containers/certs.d"), _CONTAINERS_CERTS, _DOCKER_CERTS)
    ):
        return ok(name, f"certs.d has it for {case.target.name}")
    if case.said.ca <= _store(machine, podmans.environment(machine)):
        return ok(name, "the store that podman reads has it")
    return case.lacking(name, "neither certs.d nor the store that podman reads has it", case.setup("podman"))


def _without_tls(case: Case, name: str, client: str) -> Finding | None:
    """The finding where the client's trust need not be looked into."""
    if case.mirrors.get(client, "").startswith("http://"):
        return ok(name, "none is needed: it names the cache as a mirror over plain HTTP")
    return None if case.said.ca else skipped(name, _UNKNOWN)


def _half(name: str, where: str, remedy: str) -> Finding:
    text = f"{where} has one of the CAs that the cache serves and lacks the other: the CA is being replaced"
    return warning(name, text, remedy)


def _store(machine: Machine, environ: Mapping[str, str]) -> frozenset[bytes]:
    """All CAs that a Go program with these variables trusts."""
    given = environ.get("SSL_CERT_FILE")
    bundle = given or next((path for path in _BUNDLES if machine.exists(path)), None)
    folders = environ["SSL_CERT_DIR"].split(":") if environ.get("SSL_CERT_DIR") else _FOLDERS
    files = [path for folder in folders for path in machine.files(folder)]
    return _in_files(machine, [*([bundle] if bundle else []), *files])


def _in_files(machine: Machine, files: Iterable[str]) -> frozenset[bytes]:
    return frozenset().union(*(certificates.parse(machine.read(path) or "") for path in files))


def _in_certs_d(case: Case, roots: Iterable[str]) -> frozenset[bytes]:
    """The CAs of docker's and podman's folders for this registry."""
    folders = [f"{root}/{name}" for root in roots for name in case.target.folders]
    return _in_files(case.machine, [path for folder in folders for path in case.machine.files(folder, ".crt")])


def _uses_containerd(machine: Machine) -> bool:
    features = docker_settings(machine).get("features")
    return isinstance(features, Mapping) and features.get("containerd-snapshotter") is True
