"""The commands of `pullthrough ca`: init, show, export, rotate.

Responsible for what a person types and reads about the CA. Must not know what is in a certificate.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from pullthrough import authority
from pullthrough.ca import Authority
from pullthrough.commands.flags import CACert, CAKey, Config, DataDir, Listen, Name, Registry, settings
from pullthrough.commands.formats import Format, exported
from pullthrough.commands.tables import print_table
from pullthrough.config import ConfigError, Settings
from pullthrough.core.constraints import subtree, usual
from pullthrough.options import duration

_NEXT: Final = """
This is the CA. Next, have clients trust it; CACHE is this machine, and `pullthrough run` must be running.

On Debian or Ubuntu:
  sudo curl -fsS http://CACHE:{port}/ca.pem -o /usr/local/share/ca-certificates/pullthrough.crt
  sudo update-ca-certificates
On Fedora or RHEL:
  sudo curl -fsS http://CACHE:{port}/ca.pem -o /etc/pki/ca-trust/source/anchors/pullthrough.pem
  sudo update-ca-trust

The file came unprotected: openssl x509 -noout -fingerprint -sha256 -in FILE must print the SHA-256 above."""
_OVERLAP: Final = """
Until {begins} the old CA signs; then the new one does, and the old key is removed.
Have every client trust both by then: /ca.pem and `pullthrough ca export` hold both certificates.
Hosts that the old CA may not sign for are signed by the new one at once: clients of those have to trust both first.
A proxy that runs takes notice within an hour, or when it is restarted."""
_AT_ONCE: Final = """
The new CA signs from now on, and the old key is gone: restart the proxy, and have every client trust the new one."""

_overlap: Final = duration("0", "365d")

app = typer.Typer(help="The CA that clients have to trust.", no_args_is_help=True)

_Permit = Annotated[
    list[str] | None,
    typer.Option(
        "--permit",
        metavar="DOMAIN",
        help=(
            "What the CA may sign for beside the well-known registries, --registry, --name, --advertise, localhost and "
            "private addresses: a domain with all below it, an address, or a network. Give the flag once for each."
        ),
        show_default=False,
    ),
]
_Unconstrained = Annotated[
    bool, typer.Option("--unconstrained", metavar="", help="Let the CA sign for every host. --discover needs that.")
]


@app.command()
def init(
    config: Config = None,
    listen: Listen = None,
    data_dir: DataDir = None,
    registry: Registry = None,
    name: Name = None,
    permit: _Permit = None,
    unconstrained: _Unconstrained = False,
) -> None:
    """Make the CA, unless there is one, and say how clients come to trust it."""
    chosen = settings(locals())
    _refuse_brought(chosen, "so no CA is made")
    made = authority.make(chosen, _now, permit=_permitted(permit, unconstrained), unconstrained=unconstrained)
    _print(made)
    typer.echo(_NEXT.format(port=chosen.listen.port))


@app.command()
def show(config: Config = None, data_dir: DataDir = None, ca_cert: CACert = None, ca_key: CAKey = None) -> None:
    """Show what clients have to trust: subject, fingerprint, dates, what it may sign for, and file."""
    _print(authority.find(settings(locals()), _now))


@app.command()
def export(
    config: Config = None,
    data_dir: DataDir = None,
    ca_cert: CACert = None,
    ca_key: CAKey = None,
    form: Annotated[Format, typer.Option("--format", help="p12 is a trust store, password changeit.")] = Format.PEM,
) -> None:
    """Write what clients have to trust to standard output; during a rotation both certificates. Never the key."""
    content = exported(authority.find(settings(locals()), _now).certificate_pem, form)
    if form.binary and sys.stdout.isatty():
        raise ConfigError(f"flag --format: {form} is nothing for a terminal; for example add > pullthrough-ca.{form}")
    typer.echo(content, nl=False)


@app.command()
def rotate(
    config: Config = None,
    data_dir: DataDir = None,
    registry: Registry = None,
    name: Name = None,
    permit: _Permit = None,
    unconstrained: _Unconstrained = False,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old CA goes on signing; 0 to 365d.")
    ] = "30d",
) -> None:
    """Make a new CA that takes over later, so that clients can be told in time.

    What the old one permits by name stays permitted. Until the new one takes over, clients need to trust both.
    """
    chosen = settings(locals())
    _refuse_brought(chosen, "so none is made; renew it where it was made")
    permitted = (*authority.named_hosts(chosen), *_permitted(permit, unconstrained))
    rotated = Authority.load_from(chosen.ca_dir, now=_now)
    rotated.rotate(None if unconstrained else usual(permitted), _seconds(overlap))
    _print(rotated)
    begins = rotated.succession
    typer.echo(_OVERLAP.format(begins=f"{begins:%Y-%m-%d %H:%M} UTC") if begins else _AT_ONCE)


def _refuse_brought(chosen: Settings, consequence: str) -> None:
    if chosen.ca_cert:
        fault = f"the setting ca_cert names {chosen.ca_cert}, {consequence}"
        raise ConfigError(f"{fault}; see it with: pullthrough ca show")


def _permitted(texts: Iterable[str] | None, unconstrained: bool) -> list[str]:
    """What --permit says, checked."""
    given = list(texts or ())
    if given and unconstrained:
        raise ConfigError("flag --unconstrained: permits every host, so --permit says nothing; give one of them")
    return [_subtree(text) for text in given]


def _subtree(text: str) -> str:
    try:
        return str(subtree(text))
    except ValueError as error:
        raise ConfigError(f"flag --permit: {error}; {_permissible(text)}") from error


def _permissible(text: str) -> str:
    """What to give instead: registries are named with their ports elsewhere, and certificates know none."""
    host, _, port = text.rpartition(":")
    if port.isdecimal():
        with contextlib.suppress(ValueError):
            subtree(host)
            return f"give it without the port: {host}"
    return "for example cache.corp.test"


def _seconds(overlap: str) -> timedelta:
    try:
        return timedelta(seconds=_overlap(overlap))
    except ValueError as error:
        raise ConfigError(f"flag --overlap: {error}; for example 30d") from error


def _print(shown: Authority) -> None:
    for number, table in enumerate(shown.describe()):
        if number:
            typer.echo()
        print_table(table)


def _now() -> datetime:
    return datetime.now(UTC)
