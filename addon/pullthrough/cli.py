"""The commands: run, ca init, ca show, version.

Responsible for what a person types and reads. Must not know how anything works: it turns flags into
`Settings` and hands them on. Only this module imports `typer`. A fault that the person can mend is one
sentence on stderr and exit code 2.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from pullthrough import __version__
from pullthrough.ca import Authority, CAError
from pullthrough.config import CONFIG_VARIABLE, ConfigError, Settings, load
from pullthrough.options import OPTIONS
from pullthrough.parent import ParentError
from pullthrough.trust import TrustError

_ABOUT: Final = """A caching proxy for container registries.

Clients set HTTPS_PROXY to it and trust its CA; what they pull is then fetched from the registry once.
"""

_RUN: Final = f"""Serve: cache what passes through, until Ctrl-C or SIGTERM.

[bold]Examples[/bold]

[dim]# everything as listed below[/dim]
[cyan]pullthrough run[/cyan]

[dim]# more room, and a registry of your own beside the well-known ones[/dim]
[cyan]pullthrough run --size 200GiB --registry registry.corp.test:5050[/cyan]

[dim]# the same from the environment[/dim]
[cyan]PULLTHROUGH_SIZE=200GiB PULLTHROUGH_REGISTRY=registry.corp.test:5050 pullthrough run[/cyan]

[dim]# the same from a TOML file, whose keys are the flags' names with underscores[/dim]
[cyan]size = "200GiB"[/cyan]
[cyan]registry = {escape('["registry.corp.test:5050"]')}[/cyan]

A flag wins over its environment variable, that over the file, that over the default.
A TIME is 500ms, 10s, 2m, 24h or 7d. What has no value here is true or false in a variable or the file.
"""

_NEXT: Final = """
This is the CA. Next, have clients trust it; CACHE is this machine, and `pullthrough run` must be running.

On Debian or Ubuntu:
  sudo curl -fsS http://CACHE:{port}/ca.pem -o /usr/local/share/ca-certificates/pullthrough.crt
  sudo update-ca-certificates
On Fedora or RHEL:
  sudo curl -fsS http://CACHE:{port}/ca.pem -o /etc/pki/ca-trust/source/anchors/pullthrough.pem
  sudo update-ca-trust

The file came unprotected: openssl x509 -noout -fingerprint -sha256 -in FILE must print the SHA-256 above."""

app = typer.Typer(
    name="pullthrough",
    help=_ABOUT,
    epilog="Each command explains itself: pullthrough run --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # their view of local variables would show credentials
)
ca_app = typer.Typer(help="The CA that clients have to trust.", no_args_is_help=True)
app.add_typer(ca_app, name="ca")


def _flag(name: str) -> Any:
    """The flag of a setting. But for a switch, its value stays text: `config` reads it, as files and variables."""
    option = OPTIONS[name]
    origin = rf"\[default: {option.default or option.unset}] \[env: {option.variable}]"
    return typer.Option(
        f"{option.flag}/{option.opposite}" if option.switch else option.flag,
        metavar="" if option.switch else option.metavar,  # typer shows both flags of a switch by itself
        help=f"{escape(option.explained)} [dim]{origin}[/dim]",
        rich_help_panel=option.panel,
        show_default=False,
    )


_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=rf"A TOML file of settings. [dim]\[default: none] \[env: {CONFIG_VARIABLE}][/dim]",
        rich_help_panel="Configuration",
        show_default=False,
    ),
]
_Listen = Annotated[str | None, _flag("listen")]
_DataDir = Annotated[str | None, _flag("data_dir")]
_CACert = Annotated[str | None, _flag("ca_cert")]
_CAKey = Annotated[str | None, _flag("ca_key")]


@app.command(help=_RUN)
def run(
    *,
    config: _Config = None,
    listen: _Listen = None,
    data_dir: _DataDir = None,
    size: Annotated[str | None, _flag("size")] = None,
    registry: Annotated[list[str] | None, _flag("registry")] = None,
    upstream_ca: Annotated[str | None, _flag("upstream_ca")] = None,
    ca_cert: _CACert = None,
    ca_key: _CAKey = None,
    auth_broker: Annotated[bool | None, _flag("auth_broker")] = None,
    grant_ttl: Annotated[str | None, _flag("grant_ttl")] = None,
    max_stale: Annotated[str | None, _flag("max_stale")] = None,
    offline_grace: Annotated[str | None, _flag("offline_grace")] = None,
    offline: Annotated[bool | None, _flag("offline")] = None,
    rate_limit_floor: Annotated[str | None, _flag("rate_limit_floor")] = None,
    log_format: Annotated[str | None, _flag("log_format")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
    connect_timeout: Annotated[str | None, _flag("connect_timeout")] = None,
    first_byte_timeout: Annotated[str | None, _flag("first_byte_timeout")] = None,
    stall_timeout: Annotated[str | None, _flag("stall_timeout")] = None,
    shutdown_grace: Annotated[str | None, _flag("shutdown_grace")] = None,
) -> None:
    """Serve until told to stop. What a person reads instead of this is `_RUN`."""
    settings = _settings(locals())
    # Here, because mitmproxy takes half a second to import, which no other command needs.
    from pullthrough.wiring import serve  # noqa: PLC0415

    raise typer.Exit(serve(settings))


@ca_app.command()
def init(config: _Config = None, listen: _Listen = None, data_dir: _DataDir = None) -> None:
    """Make the CA, unless there is one, and say how clients come to trust it."""
    settings = _settings(locals())
    if settings.ca_cert:
        fault = f"the setting ca_cert names {settings.ca_cert}, so no CA is made"
        raise ConfigError(f"{fault}; see it with: pullthrough ca show")
    authority = Authority.load_or_create(settings.ca_dir, now=_now)
    _print_table(authority.describe())
    typer.echo(_NEXT.format(port=settings.listen.port))


@ca_app.command()
def show(
    config: _Config = None,
    data_dir: _DataDir = None,
    ca_cert: _CACert = None,
    ca_key: _CAKey = None,
    pem: Annotated[bool, typer.Option("--pem", help="Print the certificate itself, and only that.")] = False,
) -> None:
    """Show what clients have to trust: subject, fingerprint, dates and file."""
    authority = _authority(_settings(locals()))
    if pem:
        typer.echo(authority.certificate_pem, nl=False)
    else:
        _print_table(authority.describe())


@app.command()
def version() -> None:
    """Print the versions that a bug report needs."""
    from pullthrough.leaves import openssl_version  # noqa: PLC0415

    _print_table(
        {
            "pullthrough": __version__,
            "Python": platform.python_version(),
            "mitmproxy": importlib.metadata.version("mitmproxy"),
            "to clients": openssl_version(),
            "to registries": ssl.OPENSSL_VERSION,
        }
    )


def _settings(flags: Mapping[str, Any]) -> Settings:
    """The settings behind a command's parameters; `config` among them names the file."""
    return load({name: flags[name] for name in flags if name in OPTIONS}, os.environ, flags["config"])


def _authority(settings: Settings) -> Authority:
    if settings.ca_cert and settings.ca_key:
        return Authority.load(settings.ca_cert, settings.ca_key, now=_now)
    return Authority.load_from(settings.ca_dir, now=_now)


def _now() -> datetime:
    return datetime.now(UTC)


def _print_table(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows))
    for label, value in rows.items():
        typer.echo(f"{label:<{width}}  {value}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The `pullthrough` command. Leaves by SystemExit."""
    try:
        app(args=arguments)
    except (ConfigError, CAError, ParentError, TrustError) as error:
        typer.echo(f"pullthrough: {error}", err=True)
        sys.exit(2)
