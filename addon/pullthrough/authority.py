"""The CA that the settings ask for: found, or made at first start, and fit for every host that they name.

Responsible for what the settings mean for the CA. Must not know certificates or files: `ca` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from pullthrough.ca import Authority, CAError, Clock
from pullthrough.config import Settings
from pullthrough.core.constraints import usual
from pullthrough.core.registries import parse_entry
from pullthrough.keypair import PairFiles


def named_hosts(settings: Settings) -> tuple[str, ...]:
    """Every host that the CA has to sign for because the operator said so: registries, and what we are called."""
    registries = (parse_entry(text).host for text in settings.registry)
    return (*registries, *settings.name, *map(str, settings.advertise))


def find(settings: Settings, now: Clock) -> Authority:
    """The operator's CA if there is one, else ours. CAError if there is none or it cannot be used; makes nothing."""
    if settings.ca_cert is not None and settings.ca_key is not None:
        return Authority.load(settings.ca_cert, settings.ca_key, now=now)
    return Authority.load_from(settings.ca_dir, now=now)


def establish(settings: Settings, now: Clock) -> Authority:
    """As `find`, but ours is made if there is none yet.

    CAError, with the command that helps, also if clients would refuse its certificates for a host that is named, or
    with --discover for any host.
    """
    if settings.ca_cert is not None:
        authority = find(settings, now)
        authority.require(named_hosts(settings))
    elif settings.discover and PairFiles.in_directory(settings.ca_dir).absent():
        flags = f"--data-dir {shlex.quote(str(settings.data_dir))} --unconstrained"
        raise CAError(f"--discover needs a CA that may sign for every host; run: pullthrough ca init {flags}")
    else:
        authority = make(settings, now)
    if settings.discover:
        authority.require_unconstrained()
    return authority


def make(settings: Settings, now: Clock, *, permit: Iterable[str] = (), unconstrained: bool = False) -> Authority:
    """Our CA, made unless there is one. It can sign for the well-known registries, what is named, and `permit`.

    CAError, with the command that helps, if the one that there is cannot.
    """
    hosts = (*named_hosts(settings), *permit)
    constraints = None if unconstrained else usual(hosts)
    authority = Authority.load_or_create(settings.ca_dir, now=now, constraints=constraints)
    if unconstrained:
        authority.require_unconstrained()
    authority.require(hosts)
    return authority
