"""`pullthrough env`: the lines that point a shell at the cache.

Responsible for the syntax of shells and for sensible exceptions. Must not know whether a cache is there.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from pullthrough.config import load
from pullthrough.doctor import Place, own_place, parse_cache

#: This machine and what is inside a cluster. No private networks: registries of one's own are there.
_DIRECT: Final = ("localhost", "127.0.0.0/8", "::1", ".svc", ".cluster.local")

_NOTES: Final = """\
# dockerd and containerd have environments of their own: set them up with
#   curl -fsS {url}/setup.sh | sudo sh -s -- docker
# Programs must trust the cache's CA. The whole system:
#   curl -fsS {url}/setup.sh | sudo sh -s -- system
# Or this shell alone; the bundle must hold all CAs, since most programs then read nothing else:
#   curl -fsS {url}/ca.pem | cat /etc/ssl/certs/ca-certificates.crt - >pullthrough-bundle.pem
#   {bundle}
# Compare the CA's fingerprint with what this prints on the cache: pullthrough ca show
# Check all of it: pullthrough doctor --cache {url}"""


class Shell(enum.StrEnum):
    """Whose syntax is printed."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"


def env(
    cache: Annotated[
        str | None,
        typer.Argument(metavar="CACHE", help="The cache, as http://HOST:PORT or HOST. This machine unless given."),
    ] = None,
    *,
    shell: Annotated[Shell, typer.Option(help="Whose syntax.")] = Shell.SH,
) -> None:
    """Print the lines that make this shell's programs use the cache: eval "$(pullthrough env http://CACHE:3128)".

    NO_PROXY keeps what it already has.
    """
    try:
        place = parse_cache(cache) if cache else own_place(load({}, os.environ).listen)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(_lines(place, shell, os.environ))


def _lines(place: Place, shell: Shell, environ: Mapping[str, str]) -> str:
    direct = ",".join(dict.fromkeys((*_exceptions(environ), *_DIRECT)))
    # Both spellings: Go reads the upper one first, curl and Python the lower one.
    variables = {"HTTPS_PROXY": place.url, "https_proxy": place.url, "NO_PROXY": direct, "no_proxy": direct}
    exports = [_export(shell, name, value) for name, value in variables.items()]
    bundle = _assignment(shell, "SSL_CERT_FILE", '"$PWD/pullthrough-bundle.pem"')
    return "\n".join([*exports, _NOTES.format(url=place.url, bundle=bundle)])


def _exceptions(environ: Mapping[str, str]) -> list[str]:
    given = f"{environ.get('NO_PROXY', '')},{environ.get('no_proxy', '')}"
    return [entry for entry in re.split(r"[\s,]+", given) if entry]


def _export(shell: Shell, name: str, value: str) -> str:
    return _assignment(shell, name, _quoted(shell, value))


def _assignment(shell: Shell, name: str, written: str) -> str:
    match shell:
        case Shell.SH:
            return f"export {name}={written}"
        case Shell.FISH:
            return f"set -gx {name} {written}"
        case Shell.POWERSHELL:
            return f"$Env:{name} = {written}"


def _quoted(shell: Shell, value: str) -> str:
    match shell:
        case Shell.SH:
            return shlex.quote(value)
        case Shell.FISH:
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        case Shell.POWERSHELL:
            return "'" + re.sub("(['\u2018-\u201b])", r"\1\1", value) + "'"  # it takes curly quotes for quotes, too
