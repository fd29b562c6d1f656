"""What the checks know before they begin: the machine, the cache and what it says of itself, the registry.

Responsible for asking what several checks need once. Must not judge.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pullthrough.doctor import certificates, mirrors
from pullthrough.doctor.asking import SECONDS, Reply, ask, in_time, reason
from pullthrough.doctor.finding import Finding, Verdict
from pullthrough.doctor.machine import Machine
from pullthrough.doctor.target import Place, Target
from pullthrough.doctor.ways import addresses, leads_to, proxied_by
from pullthrough.guard import literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Interview:
    """What the cache said. `fault` is why nothing was learned, and then the rest is empty."""

    fault: str = ""
    ready: Mapping[str, Any] = field(default_factory=dict)
    #: In DER: one CA, or the old and the new one while it is being replaced.
    ca: frozenset[bytes] = frozenset()
    #: Its clock minus ours, in seconds; None if it did not say.
    skew: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that checks are given.

    `redirected`: a connection to the registry that names no proxy ends at the cache, by DNS or by routing.
    `mirrors`: the clients that name the cache as a mirror of the registry, and by which URL.
    `client`: this machine is there to pull through the cache, and not only to run it.
    """

    machine: Machine
    cache: Place
    target: Target
    said: Interview
    redirected: bool
    mirrors: Mapping[str, str]
    client: bool

    def lacking(self, name: str, text: str, remedy: str) -> Finding:
        """What pulls need is not there: a failure, but on a machine that only runs the cache."""
        return Finding(name, Verdict.FAILED if self.client else Verdict.WARNING, text, remedy)

    def setup(self, client: str) -> str:
        """The command that sets a client up."""
        return f"curl -fsS {self.cache.url}/setup.sh | sudo sh -s -- {client}"


def gather(machine: Machine, cache: Place, target: Target) -> Case:
    """The case of this machine, this cache and this registry. Takes half a minute at most; never raises."""
    try:
        said = in_time(lambda: interview(cache, machine.now))
    except TimeoutError:
        said = Interview(fault="no answer in time")
    redirected = bool(said.ca) and _ends_at_cache(target.place, said.ca)
    named = mirrors.found(machine, cache, target)
    elsewhere = not any(map(_is_ours, addresses(cache.host)))
    client = redirected or leads_to(proxied_by(machine.environ), cache) or bool(named) or elsewhere
    return Case(
        machine=machine, cache=cache, target=target, said=said, redirected=redirected, mirrors=named, client=client
    )


def interview(cache: Place, now: Callable[[], float]) -> Interview:
    """Ask the cache for its condition and its CA."""
    try:
        health, ready, ca = (ask(cache, path) for path in ("/healthz", "/readyz", "/ca.pem"))
    except (OSError, http.client.HTTPException) as error:
        return Interview(fault=reason(error))
    condition = _object(ready)
    if not (health.headers.get("Cache-Status") or "").startswith("pullthrough") or "status" not in condition:
        return Interview(fault=f"something answers that is no pullthrough (status {health.status})")
    return Interview(
        ready=condition,
        ca=certificates.parse(ca.body.decode("ascii", "ignore")),
        skew=_skew(ca.headers.get("Date"), now()),
    )


def _object(reply: Reply) -> dict[str, Any]:
    try:
        value = json.loads(reply.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _skew(date: str | None, now: float) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - now if date else None
    except ValueError:
        return None


def _ends_at_cache(registry: Place, ca: frozenset[bytes]) -> bool:
    """Connect to the registry as a client without a proxy does; only the cache's own CA is believed."""

    def connect() -> bool:
        tls = certificates.context(ca)
        with (
            socket.create_connection((registry.host, registry.port), SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname=registry.host),
        ):
            return True

    try:
        return in_time(connect, 2 * SECONDS)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False


def _is_ours(address: str) -> bool:
    """Is this an address of this machine? The kernel lets us bind no other."""
    known = literal(address)
    if known is None:
        return False
    with socket.socket(socket.AF_INET if known.version == 4 else socket.AF_INET6) as probe:
        try:
            probe.bind((str(known), 0))
        except OSError:
            return False
    return True
