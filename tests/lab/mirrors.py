"""The mirror endpoint over the inside of a proxy, for tests in one process."""

from collections.abc import Sequence
from pathlib import Path

from lab.inside import Inside
from lab.names import Endpoint
from pullthrough.core.registries import Registries
from pullthrough.gate import Gate
from pullthrough.keyring import Keyring
from pullthrough.logins import Logins
from pullthrough.mirror import Mirror
from pullthrough.options import IPNetwork


def mirror_of(
    proxy: Inside,
    registries: Registries,
    *,
    htpasswd: Path | None = None,
    networks: Sequence[IPNetwork] = (),
    credentials: Path | None = None,
) -> Mirror:
    """As `wiring` makes it."""
    return Mirror(
        pulls=proxy.pulls,
        upstream=proxy.upstream,
        registries=registries,
        gate=Gate(htpasswd, networks),
        passwords=htpasswd is not None,
        logins=Logins(proxy.upstream, Keyring.load(credentials, None), proxy.clock, proxy.pulls.answer),
    )


def below(registry: Endpoint) -> str:
    """The registry in a name below the mirror's: a port cannot be written with a colon there."""
    return registry.host.replace(":", "_")
