"""The commands: run, version, and the groups of `commands`.

Responsible for what a person types and reads. Must not know how anything works: it turns flags into
`Settings` and hands them on. A fault that the person can mend is one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import importlib.metadata
import platform
import ssl
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.markup import escape

from pullthrough import __version__, lean
from pullthrough.archives import ArchiveError
from pullthrough.ca import CAError
from pullthrough.commands import ca, flags, layouts, pinning, stored
from pullthrough.commands.doctor import doctor
from pullthrough.commands.env import env
from pullthrough.commands.tables import print_table
from pullthrough.commands.verify import verify
from pullthrough.config import ConfigError
from pullthrough.gate import GateError
from pullthrough.keyring import KeyringError
from pullthrough.parent import ParentError
from pullthrough.pins import PinError
from pullthrough.store import StoreError
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

#: What a person can mend.
_FAULTS: Final = (
    ArchiveError,
    ConfigError,
    CAError,
    GateError,
    KeyringError,
    ParentError,
    PinError,
    StoreError,
    TrustError,
)
#: Above the commands on what is stored, in the help.
_STORED: Final = "What is stored (also beside a proxy that runs)"

app = typer.Typer(
    name="pullthrough",
    help=_ABOUT,
    epilog="Each command explains itself: pullthrough run --help",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # their view of local variables would show credentials
)
app.add_typer(ca.app, name="ca")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pullthrough {__version__}")
        raise typer.Exit


@app.callback()
def every(
    *,
    asked: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command(help=_RUN)
def run(
    *,
    config: flags.Config = None,
    listen: flags.Listen = None,
    data_dir: flags.DataDir = None,
    size: flags.Size = None,
    min_free: Annotated[str | None, flags.flag("min_free")] = None,
    max_age: Annotated[str | None, flags.flag("max_age")] = None,
    max_fills: Annotated[str | None, flags.flag("max_fills")] = None,
    workers: Annotated[str | None, flags.flag("workers")] = None,
    scrub_interval: Annotated[str | None, flags.flag("scrub_interval")] = None,
    tls_listen: Annotated[list[str] | None, flags.flag("tls_listen")] = None,
    transparent_listen: Annotated[list[str] | None, flags.flag("transparent_listen")] = None,
    dns_listen: Annotated[list[str] | None, flags.flag("dns_listen")] = None,
    name: flags.Name = None,
    advertise: Annotated[list[str] | None, flags.flag("advertise")] = None,
    resolver: Annotated[list[str] | None, flags.flag("resolver")] = None,
    registry: flags.Registry = None,
    discover: Annotated[bool | None, flags.flag("discover")] = None,
    upstream_ca: Annotated[str | None, flags.flag("upstream_ca")] = None,
    ca_cert: flags.CACert = None,
    ca_key: flags.CAKey = None,
    mirror_htpasswd: Annotated[str | None, flags.flag("mirror_htpasswd")] = None,
    mirror_network: Annotated[list[str] | None, flags.flag("mirror_network")] = None,
    mirror_credentials: Annotated[str | None, flags.flag("mirror_credentials")] = None,
    mirror_helper: Annotated[str | None, flags.flag("mirror_helper")] = None,
    upstream_mirror: Annotated[list[str] | None, flags.flag("upstream_mirror")] = None,
    upstream_credentials: Annotated[str | None, flags.flag("upstream_credentials")] = None,
    allow: Annotated[list[str] | None, flags.flag("allow")] = None,
    deny: Annotated[list[str] | None, flags.flag("deny")] = None,
    cache_only: Annotated[list[str] | None, flags.flag("cache_only")] = None,
    bypass: Annotated[list[str] | None, flags.flag("bypass")] = None,
    auth_broker: Annotated[bool | None, flags.flag("auth_broker")] = None,
    grant_ttl: Annotated[str | None, flags.flag("grant_ttl")] = None,
    max_stale: Annotated[str | None, flags.flag("max_stale")] = None,
    offline_grace: Annotated[str | None, flags.flag("offline_grace")] = None,
    offline: Annotated[bool | None, flags.flag("offline")] = None,
    rate_limit_floor: Annotated[str | None, flags.flag("rate_limit_floor")] = None,
    log_format: Annotated[str | None, flags.flag("log_format")] = None,
    log_level: Annotated[str | None, flags.flag("log_level")] = None,
    connect_timeout: Annotated[str | None, flags.flag("connect_timeout")] = None,
    first_byte_timeout: Annotated[str | None, flags.flag("first_byte_timeout")] = None,
    stall_timeout: Annotated[str | None, flags.flag("stall_timeout")] = None,
    shutdown_grace: Annotated[str | None, flags.flag("shutdown_grace")] = None,
) -> None:
    """Serve until told to stop. What a person reads instead of this is `_RUN`."""
    given = dict(locals())
    settings = flags.settings(given)
    lean.spare_stock_addons()
    # Here, because mitmproxy takes a second to import, which no other command needs.
    from pullthrough.wiring import serve  # noqa: PLC0415

    raise typer.Exit(serve(settings, again=lambda: flags.settings(given)))


app.command()(doctor)
app.command()(env)
for command in (stored.ls, stored.show, stored.du, pinning.pin, pinning.unpin, pinning.pins, pinning.purge, verify):
    app.command(rich_help_panel=_STORED)(command)
app.command("export", rich_help_panel=_STORED)(layouts.export)
app.command("import", rich_help_panel=_STORED)(layouts.import_)


@app.command()
def version() -> None:
    """Print the versions that a bug report needs."""
    from pullthrough.leaves import openssl_version  # noqa: PLC0415

    print_table(
        {
            "pullthrough": __version__,
            "Python": platform.python_version(),
            "mitmproxy": importlib.metadata.version("mitmproxy"),
            "to clients": openssl_version(),
            "to registries": ssl.OPENSSL_VERSION,
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The `pullthrough` command. Leaves by SystemExit."""
    try:
        app(args=arguments)
    except _FAULTS as error:
        typer.echo(f"pullthrough: {error}", err=True)
        sys.exit(2)
