"""What a certificate authority may sign for: X.509 name constraints (RFC 5280 section 4.2.1.10), as values.

Responsible for which hosts such constraints permit, and for the constraints that suit our registries. Must not
know certificates.

X.509 has no patterns: a domain permits itself and every name below it. A pattern therefore permits the longest
domain at its end without a `*`: `*-docker.pkg.dev` permits pkg.dev, `*.dkr.ecr.*.amazonaws.com` all of
amazonaws.com. Names and addresses are constrained apart: who permits no address at all permits every one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pullthrough.core.registries import BUILTIN, parse_entry

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network
type Subtree = str | Network

#: How clients may name the proxy itself where TLS to it is used. Private addresses are nobody's identity outside, and a
#: machine's own ones change. Spelled out: what `is_private` means differs between versions of Python.
OWN: Final = (
    "localhost",
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",  # RFC 1918
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # RFC 6598; some clouds and VPNs use it inside
    "fc00::/7",  # RFC 4193
)
_NEITHER: Final = "{!r} is not a domain, an IP address or a network such as 10.1.0.0/16"


@dataclass(frozen=True, slots=True)
class Subtrees:
    """Domains and networks, each with all that is below it. Of equal ones there is one; see `subtrees`.

    A domain is in lower case. With a leading dot it stands for the names below it only; "" is every name.
    """

    domains: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.domains or self.networks)

    def __or__(self, other: Subtrees) -> Subtrees:
        return subtrees((*self.domains, *other.domains, *self.networks, *other.networks))

    def __str__(self) -> str:
        return ", ".join([*self.domains, *map(str, self.networks)])


@dataclass(frozen=True, slots=True)
class Constraints:
    """What one CA certificate says of the names below it."""

    permitted: Subtrees
    excluded: Subtrees = Subtrees()

    def permits(self, host: str) -> bool:
        """Whether clients accept a certificate for a name (a-labels), or an address without brackets.

        A network is permitted if each address of it is; a pattern of a registry if all names that it matches are,
        exclusions aside: its labels with a `*` equal no label of a constraint.
        """
        network = _network(host)
        if network is not None:
            permitted, excluded = self.permitted.networks, self.excluded.networks
            return (not permitted or _holds(permitted, network)) and not any(map(network.overlaps, excluded))
        name = host.lower().removesuffix(".")
        domains = self.permitted.domains
        return (not domains or _covers(domains, name)) and not _covers(self.excluded.domains, name)


def subtree(text: str) -> Subtree:
    """The subtree that a domain, a pattern, an address or a network (10.1.0.0/16) stands for; ValueError for others."""
    stripped = text.strip()
    try:
        return ipaddress.ip_network(stripped.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass  # then it is a name or nothing
    if ":" in stripped:
        raise ValueError(_NEITHER.format(text[:80]))
    try:
        host = parse_entry(stripped).host
    except ValueError as error:
        raise ValueError(_NEITHER.format(text[:80])) from error
    labels = host.split(".")
    starred = [index for index, label in enumerate(labels) if "*" in label]
    return ".".join(labels[starred[-1] + 1 :] if starred else labels)


def subtrees(found: Iterable[Subtree]) -> Subtrees:
    """These, in order and without what lies below another."""
    domains: set[str] = set()
    networks: list[Network] = []
    for each in found:
        if isinstance(each, str):
            domains.add(each)
        else:
            networks.append(each)
    topmost = [domain for domain in domains if not _covers(domains - {domain}, domain)]
    four = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    return Subtrees(tuple(sorted(topmost)), (*four, *six))


def usual(hosts: Iterable[str]) -> Constraints:
    """For the well-known registries, the proxy itself and `hosts`: what `subtree` takes. ValueError as there."""
    patterns = [known.pattern for known in BUILTIN]
    return Constraints(subtrees(map(subtree, (*patterns, *OWN, *hosts))))


def _network(host: str) -> Network | None:
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        return None


def _holds(networks: Iterable[Network], network: Network) -> bool:
    first, last = network[0], network[-1]
    return any(first in each and last in each for each in networks)


def _covers(domains: Iterable[str], name: str) -> bool:
    return any(name == domain or name.endswith(f".{domain.removeprefix('.')}") or not domain for domain in domains)
