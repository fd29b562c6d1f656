"""The settings as one typed value, and the places that they come from: flags, environment, file, defaults.

Responsible for precedence, and for saying in one sentence where a bad value came from. Must not know what
the settings are for; names, defaults and parsers are the table in `options`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pullthrough.core.filters import Glob
from pullthrough.core.mirrors import MirrorOf
from pullthrough.core.registries import BUILTIN, DEFAULT_PORT, Registries, parse_entry
from pullthrough.options import (
    ENV_PREFIX,
    OPTIONS,
    Address,
    IPAddress,
    IPNetwork,
    LogFormat,
    LogLevel,
    Option,
    Size,
    shown,
)

#: Names the file; the one variable that is no setting.
CONFIG_VARIABLE: Final = f"{ENV_PREFIX}CONFIG"

_ROOT_DATA_DIR: Final = Path("/var/lib/pullthrough")
#: A registry without TLS names nobody in a handshake; no listener by server name would help.
_PLAIN_PORT: Final = 80
#: Between a key and the registry whose table it is in.
_OF_REGISTRY: Final = " in [upstream."


class ConfigError(Exception):
    """A setting that cannot be used. The text is one sentence: where from, what is wrong, an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Sizes are in bytes, times in seconds, paths absolute."""

    listen: Address
    data_dir: Path
    size: Size
    min_free: Size
    #: Since the last use; 0 = for ever.
    max_age: float
    #: Blobs that are fetched at the same time.
    max_fills: int
    #: Processes; 0 = as many as there are processors.
    workers: int
    #: Between two looks at one blob; 0 = nobody looks.
    scrub_interval: float
    tls_listen: tuple[Address, ...]
    transparent_listen: tuple[Address, ...]
    dns_listen: tuple[Address, ...]
    #: Of this proxy itself.
    name: tuple[str, ...]
    #: What `dns_listen` gives for registries: at most one address of each family.
    advertise: tuple[IPAddress, ...]
    #: Name servers in place of the system's.
    resolver: tuple[IPAddress, ...]
    #: As HOST:PORT. These are added to the built-in list.
    registry: tuple[str, ...]
    discover: bool
    upstream_ca: Path | None
    #: The operator's own CA, both or neither; else there is one in `ca_dir`.
    ca_cert: Path | None
    ca_key: Path | None
    mirror_htpasswd: Path | None
    mirror_network: tuple[IPNetwork, ...]
    mirror_credentials: Path | None
    mirror_helper: str | None
    #: Those of one registry in the order in which they are tried.
    upstream_mirror: tuple[MirrorOf, ...]
    upstream_credentials: Path | None
    allow: tuple[Glob, ...]
    deny: tuple[Glob, ...]
    cache_only: tuple[Glob, ...]
    bypass: tuple[Glob, ...]
    auth_broker: bool
    grant_ttl: float
    #: 0 = never, as with `offline_grace`.
    max_stale: float
    offline_grace: float
    offline: bool
    #: A number of pulls; with 0 a registry's rate limit is none of our business.
    rate_limit_floor: int
    log_format: LogFormat
    log_level: LogLevel
    connect_timeout: float
    first_byte_timeout: float
    stall_timeout: float
    shutdown_grace: float

    @property
    def ca_dir(self) -> Path:
        """The folder of the generated CA."""
        return self.data_dir / "ca"

    @property
    def store_dir(self) -> Path:
        """Where the store is."""
        return self.data_dir / "store"


class _Given(NamedTuple):
    source: str
    value: object


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """The settings: each from its flag, else the environment, else the file, else its default.

    `flags` go by setting names; None and an empty list mean that a flag was not given. `file` is what
    --config names; without it PULLTHROUGH_CONFIG may name one. A higher place replaces what a lower one
    says, lists too. Raises ConfigError.
    """
    given = _from_file(file, environ) | _from_environment(environ) | _from_flags(flags)
    values: dict[str, Any] = {name: option.initial() for name, option in OPTIONS.items()}
    values |= {name: _parsed(OPTIONS[name], each) for name, each in given.items()}
    _both_or_neither(given, "ca_cert", "ca_key")
    _not_for_everybody(given)
    _of_registries(given, values)
    values["advertise"] = _advertised(given, values)
    return Settings(**values | {"data_dir": values["data_dir"] or default_data_dir(environ)})


def _advertised(given: Mapping[str, _Given], values: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """What name servers of ours give for registries."""
    advertised: tuple[IPAddress, ...] = values["advertise"]
    if len({address.version for address in advertised}) < len(advertised):
        raise ConfigError(f"{given['advertise'].source}: at most one IPv4 and one IPv6 address; for example 10.0.0.5")
    if advertised or not values["dns_listen"]:
        return advertised
    own = [ipaddress.ip_address(listener.host) for listener in values["dns_listen"] if _is_address(listener.host)]
    if not own or any(address.is_unspecified for address in own):
        option = OPTIONS["advertise"]
        raise ConfigError(
            f"{given['dns_listen'].source}: needs {option.flag}, the address of this machine that clients are to be "
            f"given for registries; for example {option.flag} {option.hint}"
        )
    return tuple({address.version: address for address in reversed(own)}.values())


def ports_without_door(settings: Settings) -> list[int]:
    """Ports of registries to which our name server leads clients, and where none of our listeners takes TLS."""
    if not settings.dns_listen:
        return []
    registries = {DEFAULT_PORT} | {parse_entry(text).port for text in settings.registry}
    doors = {listener.port for listener in settings.tls_listen}
    if doors - registries:  # outside it may be 443: containers publish ports
        doors.add(DEFAULT_PORT)
    return sorted(registries - doors - {_PLAIN_PORT})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """/var/lib/pullthrough for root, else the user's data folder (XDG Base Directory Specification 0.8)."""
    if os.geteuid() == 0:
        return _ROOT_DATA_DIR
    given = Path(environ.get("XDG_DATA_HOME", ""))
    if given.is_absolute():  # "If [...] a relative path, the application should consider it invalid"
        return given / "pullthrough"
    home = Path(environ.get("HOME", ""))
    if not home.is_absolute():
        raise ConfigError(f"environment HOME: names no folder; for example give --data-dir {_ROOT_DATA_DIR}")
    return home / ".local/share/pullthrough"


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    given = {name: value for name, value in flags.items() if value not in (None, [], ())}
    return {name: _Given(f"flag {OPTIONS[name].flag}", value) for name, value in given.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """An empty variable counts as unset, as compose files and CI systems mean it."""
    _refuse_unknown_variables(environ)
    return {
        name: _Given(f"environment {option.variable}", environ[option.variable])
        for name, option in OPTIONS.items()
        if environ.get(option.variable)
    }


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {CONFIG_VARIABLE} | {option.variable for option in OPTIONS.values()}
    for variable in environ:
        ours = variable.startswith(ENV_PREFIX) and not _of_kubernetes(variable, environ)
        if ours and variable not in known:
            hint = _nearest(variable, known, prefix=ENV_PREFIX)
            raise ConfigError(f"environment {variable}: there is no such setting{hint}")


def _of_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    """Each service puts a family of variables into every pod, and ours may well be named pullthrough-..."""
    mark = "SERVICE_HOST"
    families = (name.removesuffix(mark) for name in environ if name.endswith(f"_{mark}"))
    return any(variable.startswith((f"{family}SERVICE_", f"{family}PORT")) for family in families)


def _from_file(file: Path | None, environ: Mapping[str, str]) -> dict[str, _Given]:
    source = "flag --config"
    if file is None:
        if not environ.get(CONFIG_VARIABLE):
            return {}
        source, file = f"environment {CONFIG_VARIABLE}", Path(environ[CONFIG_VARIABLE])
    table = dict(_flat(_toml(file, source)))
    for key in table:
        if key not in OPTIONS:
            of_registry = _OF_REGISTRY in key
            hint = "; the table of a registry has mirrors alone" if of_registry else _nearest(key, OPTIONS)
            fault = f"there is no such setting{hint}"
            raise ConfigError(f"file {file} key {shown(key)}: {fault}")
    return {key: _Given(f"file {file} key {key}", value) for key, value in table.items()}


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """A table's keys follow its name: `htpasswd` in [mirror] is `mirror_htpasswd`.

    `mirrors` in [upstream."REGISTRY"] are `upstream_mirror`, all tables together.
    """
    mirrors: list[str] = []
    for key, value in table.items():
        name = f"{prefix}{key}"
        if prefix == "upstream_" and isinstance(value, dict) and value.keys() == {"mirrors"}:
            listed = value["mirrors"] if isinstance(value["mirrors"], list) else [value["mirrors"]]
            mirrors += [f"{key}={url}" for url in listed]
            continue
        if prefix == "upstream_" and isinstance(value, dict) and name not in OPTIONS:
            yield from ((f'{word}{_OF_REGISTRY}"{key}"]', None) for word in sorted(value.keys() - {"mirrors"}))
        of_settings = name not in OPTIONS and any(option.startswith(f"{name}_") for option in OPTIONS)
        if isinstance(value, dict) and of_settings:
            yield from _flat(value, f"{name}_")
        else:
            yield name, value
    if mirrors:
        yield "upstream_mirror", mirrors


def _toml(file: Path, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        fault = f"{source}: {file} cannot be read ({error.strerror})"
        raise ConfigError(f"{fault}; for example /etc/pullthrough.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f'file {file}: {error}; a line reads for example size = "50GiB"') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"file {file}: is not UTF-8 text, which TOML files are") from error


def _nearest(word: str, known: Collection[str], prefix: str = "") -> str:
    # Flags are written with dashes and people copy them; the common prefix would make all names look alike.
    asked = word.removeprefix(prefix).replace("-", "_")
    found = difflib.get_close_matches(asked, [name.removeprefix(prefix) for name in known], n=1)
    return f", did you mean {prefix}{found[0]}?" if found else "; pullthrough run --help lists them all"


def _parsed(option: Option, given: _Given) -> object:
    try:
        values = [option.parse(text) for text in _texts(given.value, option)]
    except ValueError as error:
        raise ConfigError(f"{given.source}: {error}; for example {option.hint}") from error
    return tuple(dict.fromkeys(values)) if option.many else values[0]


def _texts(value: object, option: Option) -> list[str]:
    """The text of a value from any place: a file has numbers and lists, a variable commas and spaces."""
    if option.switch and isinstance(value, bool):
        return [str(value)]
    if not option.many:
        return [_text(value)]
    items = value if isinstance(value, list | tuple) else [value]
    return [word for item in items for word in re.split(r"[,\s]+", _text(item)) if word]


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ValueError(f"{shown(str(value))} is neither text nor a number")  # noqa: TRY004
    return str(value).strip()


def _not_for_everybody(given: Mapping[str, _Given]) -> None:
    """What the operator's credentials may read is not to be read by whoever asks."""
    for name in ("mirror_credentials", "mirror_helper"):
        if name in given and not given.keys() & {"mirror_htpasswd", "mirror_network"}:
            raise ConfigError(
                f"{given[name].source}: whoever may use the mirror reads what these credentials may; say who may, "
                "for example --mirror-htpasswd /etc/pullthrough/htpasswd or --mirror-network 10.1.2.0/24"
            )


def _of_registries(given: Mapping[str, _Given], values: Mapping[str, Any]) -> None:
    """Requests to a registry that is not opened never come to its mirrors."""
    registries = Registries((parse_entry(text) for text in values["registry"]), BUILTIN)
    for mirror in values["upstream_mirror"]:
        if not values["discover"] and not registries.covers(mirror.registry.host, mirror.registry.port):
            raise ConfigError(
                f"{given['upstream_mirror'].source}: {mirror.registry} is no registry that is known here; for example "
                f"--registry {mirror.registry}"
            )


def _both_or_neither(given: Mapping[str, _Given], *pair: str) -> None:
    for name, other in zip(pair, reversed(pair), strict=True):
        if name in given and other not in given:
            option = OPTIONS[other]
            raise ConfigError(
                f"{given[name].source}: goes together with {option.flag}, of which nothing is said; "
                f"for example {option.flag} {option.hint}"
            )
