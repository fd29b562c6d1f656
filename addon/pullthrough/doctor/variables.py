"""Checks of the proxy variables where the process that pulls sees them: this shell, podman, dockerd, containerd.

Responsible for whether HTTPS_PROXY leads to the cache, and whether NO_PROXY takes that back. Must not know how a
daemon comes by its variables (`daemons` does).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final

from pullthrough.doctor import podman as podmans
from pullthrough.doctor.case import Case
from pullthrough.doctor.daemons import CONTAINERD, DOCKERD, Daemon, configured, environment, of_units
from pullthrough.doctor.finding import Finding, Verdict, failed, ok, skipped, warning
from pullthrough.doctor.ways import addresses, leads_to, proxied_by, proxy_of
from pullthrough.guard import is_loopback, literal
from pullthrough.parent import ParentProxies, parse

_NOWHERE: Final = "http://192.0.2.1:1"  # RFC 5737; only whether a proxy would be used is asked


def shell(case: Case) -> Finding:
    """This shell, for skopeo, buildah, crane and ctr, and for the docker CLI's tokens."""
    name, remedy = "proxy of this shell", f'in the shell that pulls: eval "$(pullthrough env {case.cache.url})"'
    if proxy_of(case.machine.environ)[0]:
        return _judged(case, name, case.machine.environ, remedy)
    text = "HTTPS_PROXY is not set here: skopeo, buildah, crane and ctr go round the cache"
    if case.mirrors or any(leads_to(proxied_by(values), case.cache) for _, values in _sources(case)):
        return warning(name, f"{text}, other clients of this machine do not", remedy)
    return _unset(case, name, text, remedy)


def podman(case: Case) -> Finding:
    """A podman of this shell, which containers.conf may have sent to the cache as well."""
    name = "proxy of podman"
    if not podmans.is_here(case.machine):
        return skipped(name, "there is no podman here")
    if "podman" in case.mirrors:
        return ok(name, f"none is needed: it names the cache as a mirror of {case.target.name}")
    values = podmans.environment(case.machine)
    if proxy_of(values)[0]:
        return _judged(case, name, values, case.setup("podman"))
    return _unset(case, name, "neither containers.conf nor this shell sets HTTPS_PROXY", case.setup("podman"))


def dockerd(case: Case) -> Finding:
    """The running dockerd: docker pull and docker build."""
    return _daemon(case, DOCKERD)


def containerd(case: Case) -> Finding:
    """The running containerd: Kubernetes."""
    return _daemon(case, CONTAINERD)


def _daemon(case: Case, daemon: Daemon) -> Finding:
    name, machine = f"proxy of {daemon.program}", case.machine
    restart = f"sudo systemctl daemon-reload && sudo systemctl restart {daemon.unit}"
    processes = machine.processes(daemon.program)
    if not processes:
        return skipped(name, f"{daemon.program} does not run here")
    next_start = proxy_of(of_units(machine, daemon))[1]
    try:
        values = environment(machine, daemon, processes[0])
    except PermissionError:
        found = proxy_of(configured(machine, daemon))[1] or next_start
        return skipped(
            name,
            f"only root may see its environment; its files {'name a' if found else 'name no'} proxy",
            "run it as root: sudo pullthrough doctor",
        )
    if daemon.unit in case.mirrors:
        return ok(name, f"none is needed: it names the cache as a mirror of {case.target.name}")
    if proxy_of(values)[0]:
        return _judged(case, name, values, case.setup(daemon.unit))
    if next_start:
        return failed(name, f"a unit file sets HTTPS_PROXY, the running {daemon.program} was started without", restart)
    if daemon is CONTAINERD and machine.processes(DOCKERD.program):
        return skipped(name, "it has none, which matters to Kubernetes alone: dockerd pulls by itself")
    text = f"{daemon.program} was started without HTTPS_PROXY; the shell's does not reach it"
    return _unset(case, name, text, case.setup(daemon.unit))


def _unset(case: Case, name: str, text: str, remedy: str) -> Finding:
    if case.redirected:
        return ok(name, f"none, and none is needed: connections to {case.target.name} reach the cache by themselves")
    return case.lacking(name, text, remedy)


def _judged(case: Case, name: str, values: Mapping[str, str], remedy: str) -> Finding:
    """Where a variable that is set leads. Its value is shown without what may be a password."""
    variable, value = proxy_of(values)
    try:
        proxy = parse(value)
    except ValueError as error:
        return failed(name, f"{variable}: {error}", remedy)
    if not leads_to(proxy, case.cache):
        return case.lacking(name, f"{variable} is {proxy.url}, which is not the cache", remedy)
    other = "https_proxy" if variable == "HTTPS_PROXY" else ""
    if other and values.get(other, value).strip() != value:
        text = "HTTPS_PROXY and https_proxy differ: Go programs read the first one first, curl and Python the second"
        return warning(name, text, "set both to the same value, or unset https_proxy")
    return ok(name, f"{variable} is the cache")


def no_proxy(case: Case) -> Finding:
    """What NO_PROXY does to this registry, in each process that has a proxy."""
    name, worst = "NO_PROXY", None
    for where, values in _sources(case):
        if not proxy_of(values)[0]:
            continue
        for finding in _traps(case, name, where, values):
            if finding.verdict is Verdict.FAILED:
                return finding
            worst = worst or finding
    return worst or ok(name, f"no entry concerns {case.target.name}")


def _sources(case: Case) -> Iterator[tuple[str, Mapping[str, str]]]:
    """This shell, podman and the daemons; of those that only root may see, what is configured."""
    yield "this shell", case.machine.environ
    yield "podman", podmans.environment(case.machine)
    for daemon in (DOCKERD, CONTAINERD):
        for process in case.machine.processes(daemon.program)[:1]:
            try:
                yield daemon.program, environment(case.machine, daemon, process)
            except PermissionError:
                yield daemon.program, of_units(case.machine, daemon) | configured(case.machine, daemon)


def _traps(case: Case, name: str, where: str, values: Mapping[str, str]) -> Iterator[Finding]:
    upper, lower = values.get("NO_PROXY", "").strip(), values.get("no_proxy", "").strip()
    value, place = upper or lower, case.target.place
    entries = [entry.lower() for entry in re.split(r"[\s,]+", value) if entry]
    if is_loopback(place.host) or place.host == "localhost":
        text = f"{place.host} is never asked through a proxy, whatever is set"
        yield failed(name, text, "give the registry another name than localhost or 127.0.0.0/8")
    for entry in entries:
        if _covers(entry, case):
            yield _covered(name, where, entry, case)
        else:
            yield from _without_effect(name, where, entry, case)
    if upper and lower and _as_set(upper) != _as_set(lower):
        text = (
            f"{where}: NO_PROXY and no_proxy differ: Go programs read the first one first, curl and Python the second"
        )
        yield warning(name, text, "set both to the same value")


def _covers(entry: str, case: Case) -> bool:
    """In the eyes of any client: what Go and curl each understand, together."""
    place = case.target.place
    proxies = ParentProxies({"https_proxy": _NOWHERE, "no_proxy": entry})
    return not is_loopback(place.host) and proxies.towards("https", place.host, place.port) is None


def _covered(name: str, where: str, entry: str, case: Case) -> Finding:
    """To curl a leading dot means the domain too, to Go only what is below."""
    host = case.target.place.host
    if entry.removeprefix(".") == host and entry != host:
        text = f"{where}: {entry} covers {host} itself for curl and not for Go programs"
        return warning(name, text, f"write {host} or leave it out, by what you mean")
    text = f"{where}: {entry} keeps {case.target.name} from the cache"
    return failed(name, text, f"take {entry} out of NO_PROXY there, or name what shall go direct more exactly")


def _without_effect(name: str, where: str, entry: str, case: Case) -> Iterator[Finding]:
    """Entries that look as if they covered the registry: somebody may count on them."""
    host = case.target.place.host
    if "://" in entry and host in entry:
        yield warning(name, f"{where}: {entry} has no effect: entries have no scheme", "write the name alone")
    if "/" in entry and literal(host) is None and any(_is_in(entry, address) for address in addresses(host)):
        text = f"{where}: {entry} has no effect on the name {host}, though it resolves into it: names are not looked up"
        yield warning(name, text, f"leave it so to have {host} cached; to go direct name {host} itself")


def _is_in(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _as_set(value: str) -> set[str]:
    return set(re.split(r"[\s,]+", value.lower())) - {""}
