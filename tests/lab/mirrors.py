"""The mirror endpoint over the inside of a proxy, for tests in one process."""

from collections.abc import Sequence
from pathlib import Path

from lab.inside import Inside
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
        logins=Logins(proxy.pulls, proxy.upstream, Keyring.load(credentials, None), proxy.clock),
    )
