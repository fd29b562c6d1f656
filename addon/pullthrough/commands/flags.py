"""How settings become flags of commands, and flags become settings.

Responsible for what the help says of a setting. Must not know the commands. Names, defaults and texts are the table in
`options`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pullthrough.config import CONFIG_VARIABLE, Settings, load
from pullthrough.options import OPTIONS


def flag(name: str) -> Any:
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


def settings(flags: Mapping[str, Any]) -> Settings:
    """The settings behind a command's parameters; `config` among them names the file. ConfigError for bad ones."""
    return load({name: flags[name] for name in flags if name in OPTIONS}, os.environ, flags["config"])


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=rf"A TOML file of settings. [dim]\[default: none] \[env: {CONFIG_VARIABLE}][/dim]",
        rich_help_panel="Configuration",
        show_default=False,
    ),
]
Listen = Annotated[str | None, flag("listen")]
DataDir = Annotated[str | None, flag("data_dir")]
Registry = Annotated[list[str] | None, flag("registry")]
Name = Annotated[list[str] | None, flag("name")]
Size = Annotated[str | None, flag("size")]
CACert = Annotated[str | None, flag("ca_cert")]
CAKey = Annotated[str | None, flag("ca_key")]
