"""The table of settings: what each is called, how its text is read, its default and its help.

Responsible for single values. Flags, file keys, variables and help texts all follow from `OPTIONS`; nothing
else names a default. Must not know where a value comes from (`config` does) nor what it is for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from pullthrough.core.filters import parse_glob
from pullthrough.core.mirrors import parse_mirror
from pullthrough.core.registries import DEFAULT_PORT, parse_entry

ENV_PREFIX: Final = "PULLTHROUGH_"

type IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
type IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_ADDRESS: Final = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*):)?(?P<port>[0-9]{1,5})")
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_SIZES: Final[Mapping[str, int]] = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_DURATIONS: Final[Mapping[str, int | Decimal]] = {
    "": 1,
    "ms": Decimal("0.001"),
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 24 * 3600,
}
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_SWITCH: Final[Mapping[str, bool]] = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_MAX_WORKERS: Final = 256
_MAX_SIZE: Final = 2**63 - 1  # what the index can count
_SHOWN: Final = 60  # characters of a bad value that are repeated to the user


class Address(NamedTuple):
    """Where to listen. `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Size(NamedTuple):
    """So many bytes, or a share of a disk."""

    bytes: int = 0
    share: float = 0.0

    def of(self, total: int) -> int:
        """Bytes, on a disk that holds `total`."""
        return self.bytes or max(1, int(total * self.share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting. `parse` raises ValueError with half a sentence that begins with the bad text.

    `default` is written as a user would write it, or None if there is no value; `unset` then says what
    happens without one. `many` values make a tuple. A `switch` is true or false; its flag takes no value,
    `opposite` turns it off and stands where others have the name of their value.
    """

    name: str
    parse: Callable[[str], Any]
    metavar: str
    panel: str
    explained: str
    default: str | None = None
    unset: str = ""
    example: str = ""
    many: bool = False
    switch: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def opposite(self) -> str:
        return f"--no-{self.name.replace('_', '-')}" if self.switch else ""

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.name.upper()}"

    @property
    def hint(self) -> str:
        """A value that would do."""
        return self.example or self.default or self.metavar

    def initial(self) -> Any:
        """The value when nobody says anything."""
        if self.default is not None:
            return self.parse(self.default)
        return () if self.many else None


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPv6]:PORT`, `:PORT` or `PORT`; without a host, every IPv4 address of the machine."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{shown(text)} is not HOST:PORT, [IPv6]:PORT or a port up to 65535")
    return Address(_bind_host(match["host"] or ""), int(match["port"]))


def _bind_host(text: str) -> str:
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1]))  # its ValueError is a good enough sentence
    return text or "0.0.0.0"  # noqa: S104  # a cache is there for other machines; the guard admits who may


def parse_ip(text: str) -> IPAddress:
    """An address of one machine, brackets or not."""
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None


def parse_network(text: str) -> IPNetwork:
    """`10.0.0.0/8`, or one address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network such as 10.0.0.0/8 or fd00::/8") from None


def parse_size(text: str) -> Size:
    """Bytes: `50GiB` (powers of 1024), `500MB` (powers of 1000) or a plain number; or a share of the disk: `10%`."""
    if text.endswith("%"):
        share = _quantity(text.removesuffix("%"), {"": 1}, "a share of the disk such as 10%")
        if not 0 < share <= 100:
            raise ValueError(f"{shown(text)} is not between 0% and 100%")
        return Size(share=float(share) / 100)
    size = int(_quantity(text, _SIZES, "a size in bytes, KB, MB, GB, TB or KiB, MiB, GiB, TiB, nor 10%"))
    if not 0 < size <= _MAX_SIZE:
        raise ValueError(f"{shown(text)} is not between 1 byte and 8 EiB")
    return Size(size)


def duration(shortest: str, longest: str) -> Callable[[str], float]:
    """A parser of seconds within these bounds: `10s`, `500ms`, `2m`, `1h`, `7d` or a plain number of seconds."""
    least, most = _seconds(shortest), _seconds(longest)

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if not least <= seconds <= most:
            raise ValueError(f"{shown(text)} is not between {shortest} and {longest}")
        return float(seconds)

    return parse


def _seconds(text: str) -> Decimal:
    return _quantity(text, _DURATIONS, "a duration in ms, s, m, h or d")


def _quantity(text: str, units: Mapping[str, int | Decimal], kind: str) -> Decimal:
    match = _QUANTITY.fullmatch(text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{shown(text)} is not {kind}")
    return Decimal(match[1]) * unit


def parse_count(text: str) -> int:
    """A whole number, not below zero."""
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a whole number from 0 to 999999999")
    return int(text)


def parse_some(text: str) -> int:
    """A whole number, above zero."""
    count = parse_count(text)
    if count == 0:
        raise ValueError(f"{shown(text)} is not a whole number from 1 to 999999999")
    return count


def parse_workers(text: str) -> int:
    """A number of processes; 0 for `auto`."""
    if text.lower() == "auto":
        return 0
    count = parse_count(text)
    if not 1 <= count <= _MAX_WORKERS:
        raise ValueError(f"{shown(text)} is not auto or a number from 1 to {_MAX_WORKERS}")
    return count


def parse_switch(text: str) -> bool:
    """`true` or `false`, and the other words that people use for them in variables."""
    value = _SWITCH.get(text.lower())
    if value is None:
        raise ValueError(f"{shown(text)} is not true or false, yes or no, on or off, 1 or 0")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{shown(text)} is not one of {', '.join(words)}")
        return text.lower()

    return parse


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        # A service has no current directory that its operator would think of.
        raise ValueError(f"{shown(text)} is not an absolute path")
    return path


def _directory(text: str) -> Path:
    path = _absolute(text)
    with contextlib.suppress(OSError):  # not ours to see: whoever uses the folder will say so
        if path.exists() and not path.is_dir():
            raise ValueError(f"{shown(text)} is not a folder")
    return path


def _file(text: str) -> Path:
    path = _absolute(text)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{shown(text)} cannot be read ({error.strerror})") from error
    return path


def _registry(text: str) -> str:
    return str(parse_entry(text))


def _host_name(text: str) -> str:
    entry = parse_entry(text)
    if "*" in entry.host or entry.port != DEFAULT_PORT:
        raise ValueError(f"{shown(text)} is not a host name")
    return entry.host


def _helper(text: str) -> str:
    if not _HELPER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the NAME of a program docker-credential-NAME")
    return text


def shown(text: str) -> str:
    """A piece of somebody's input, quoted on one line and cut to a length that fits a sentence."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


_LISTENING: Final = "Listening and storage"
_DOORS: Final = "Clients without a proxy setting"
_CERTIFICATES: Final = "Registries and certificates"
_MIRROR: Final = "The mirror endpoint"
_UPSTREAM: Final = "Mirrors of registries"
_FILTERS: Final = "What is served and cached"
_ACCESS: Final = "Access"
_OUTAGES: Final = "Outages and rate limits"
_LOGGING: Final = "Logging"
_TIMEOUTS: Final = "Time-outs"

_timeout: Final = duration("1ms", "24h")

_TABLE: Final = (
    Option(
        name="listen",
        parse=parse_address,
        metavar="HOST:PORT",
        panel=_LISTENING,
        explained="The one port: proxy, CA certificate, health, metrics. Also [IPv6]:PORT or just PORT.",
        default="0.0.0.0:3128",
    ),
    Option(
        name="data_dir",
        parse=_directory,
        metavar="DIR",
        panel=_LISTENING,
        explained="Where the cache and the generated CA are kept, across restarts.",
        unset="/var/lib/pullthrough for root, else ~/.local/share/pullthrough",
        example="/srv/pullthrough",
    ),
    Option(
        name="size",
        parse=parse_size,
        metavar="SIZE",
        panel=_LISTENING,
        explained=(
            "How much is kept; what was unused for longest goes first. GiB or GB, MiB or MB, ..., or a share of the "
            "disk such as 10%."
        ),
        default="50GiB",
    ),
    Option(
        name="min_free",
        parse=parse_size,
        metavar="SIZE",
        panel=_LISTENING,
        explained="How much of the disk is left free, whatever --size says.",
        default="64MiB",
    ),
    Option(
        name="max_age",
        parse=duration("0", "3650d"),
        metavar="TIME",
        panel=_LISTENING,
        explained="How long something is kept after its last use. 0 = until room is needed.",
        default="0",
    ),
    Option(
        name="max_fills",
        parse=parse_some,
        metavar="NUMBER",
        panel=_LISTENING,
        explained=(
            "How many blobs are fetched at the same time. Further ones wait for up to ten seconds; then they pass "
            "through and are not kept."
        ),
        default="64",
    ),
    Option(
        name="workers",
        parse=parse_workers,
        metavar="NUMBER|auto",
        panel=_LISTENING,
        explained=(
            "How many processes serve, on the same addresses and the same data. auto: one for each processor that may "
            "be used, at most 16."
        ),
        default="auto",
    ),
    Option(
        name="scrub_interval",
        parse=duration("0", "3650d"),
        metavar="TIME",
        panel=_LISTENING,
        explained=(
            "How often each blob on the disk is read and compared with its digest, slowly; what clients read is looked "
            "at sooner. 0 = never."
        ),
        default="30d",
    ),
    Option(
        name="tls_listen",
        parse=parse_address,
        metavar="HOST:PORT",
        panel=_DOORS,
        explained=(
            "Take TLS by its server name, as it comes when DNS leads clients of a registry here; other names are "
            "passed on unopened. Give the flag once for each port that registries have."
        ),
        unset="off",
        example="0.0.0.0:443",
        many=True,
    ),
    Option(
        name="transparent_listen",
        parse=parse_address,
        metavar="HOST:PORT",
        panel=_DOORS,
        explained="Take connections that a firewall on this machine redirects (nft or iptables: REDIRECT, TPROXY).",
        unset="off",
        example="0.0.0.0:3129",
        many=True,
    ),
    Option(
        name="dns_listen",
        parse=parse_address,
        metavar="HOST:PORT",
        panel=_DOORS,
        explained="Answer DNS, UDP and TCP: registries are at --advertise, all else is as --resolver says.",
        unset="off",
        example="0.0.0.0:53",
        many=True,
    ),
    Option(
        name="name",
        parse=_host_name,
        metavar="NAME",
        panel=_DOORS,
        explained="A host name of this proxy itself, for TLS to it; its addresses are known without.",
        unset="the machine's own name, if the CA may sign for it",
        example="cache.corp.test",
        many=True,
    ),
    Option(
        name="advertise",
        parse=parse_ip,
        metavar="ADDRESS",
        panel=_DOORS,
        explained="The address of this machine that --dns-listen gives for registries; one IPv4, one IPv6, or both.",
        unset="the address of --dns-listen, if it is a single one",
        example="10.0.0.5",
        many=True,
    ),
    Option(
        name="resolver",
        parse=parse_ip,
        metavar="ADDRESS",
        panel=_DOORS,
        explained=(
            "A name server (port 53) that is asked in place of the system's; by --dns-listen several are asked in "
            "order. Needed where the system's name server leads here."
        ),
        unset="the system's",
        example="10.0.0.1",
        many=True,
    ),
    Option(
        name="registry",
        parse=_registry,
        metavar="HOST[:PORT]",
        panel=_CERTIFICATES,
        explained=(
            "A registry to cache beside the well-known ones; give the flag once for each. "
            "A * stands for part of a name: *.registry.corp.test."
        ),
        unset="the built-in list alone",
        example="registry.corp.test:5050",
        many=True,
    ),
    Option(
        name="discover",
        parse=parse_switch,
        metavar="/ --no-discover",
        panel=_CERTIFICATES,
        explained=(
            "Open every host whose /v2/ answers like a registry, not the known ones alone. Clients that do not trust "
            "the CA then cannot reach those hosts; the CA must be able to sign for any name."
        ),
        default="false",
        example="true",
        switch=True,
    ),
    Option(
        name="upstream_ca",
        parse=_file,
        metavar="FILE",
        panel=_CERTIFICATES,
        explained="PEM certificates of further CAs that vouch for registries, such as a company's own.",
        unset="the system's CAs alone",
        example="/etc/ssl/certs/corp.pem",
    ),
    Option(
        name="ca_cert",
        parse=_file,
        metavar="FILE",
        panel=_CERTIFICATES,
        explained="A CA of your own that clients trust already: PEM, followed by its chain if it has one.",
        unset="generated in the data folder",
        example="/etc/pullthrough/ca-cert.pem",
    ),
    Option(
        name="ca_key",
        parse=_file,
        metavar="FILE",
        panel=_CERTIFICATES,
        explained="The private key of --ca-cert: PEM without a password.",
        unset="generated in the data folder",
        example="/etc/pullthrough/ca-key.pem",
    ),
    Option(
        name="mirror_htpasswd",
        parse=_file,
        metavar="FILE",
        panel=_MIRROR,
        explained="Names and passwords (htpasswd -B) of those who may pull from the mirror.",
        unset="nobody has to log in",
        example="/etc/pullthrough/htpasswd",
    ),
    Option(
        name="mirror_network",
        parse=parse_network,
        metavar="CIDR",
        panel=_MIRROR,
        explained="A network whose clients may pull from the mirror without a password.",
        unset="all private networks",
        example="10.0.0.0/8",
        many=True,
    ),
    Option(
        name="mirror_credentials",
        parse=_file,
        metavar="FILE",
        panel=_MIRROR,
        explained=(
            "A docker config.json of accounts whose rights all users of the mirror then share. Needs --mirror-htpasswd "
            "or --mirror-network."
        ),
        unset="the mirror has what anybody may read",
        example="/etc/pullthrough/docker.json",
    ),
    Option(
        name="mirror_helper",
        parse=_helper,
        metavar="NAME",
        panel=_MIRROR,
        explained="The same from docker-credential-NAME, which is asked for each registry.",
        unset="none",
        example="ecr-login",
    ),
    Option(
        name="upstream_mirror",
        parse=parse_mirror,
        metavar="HOST=URL",
        panel=_UPSTREAM,
        explained=(
            "Where content of this registry is fetched first, once the registry itself has said that the client may "
            "have it; several are tried in this order. A path stands before the repository's name."
        ),
        unset="the registry alone",
        example="docker.io=https://mirror.corp.test/hub",
        many=True,
    ),
    Option(
        name="upstream_credentials",
        parse=_file,
        metavar="FILE",
        panel=_UPSTREAM,
        explained="A docker config.json of accounts at these mirrors.",
        unset="mirrors are asked as anybody",
        example="/etc/pullthrough/mirrors.json",
    ),
    Option(
        name="allow",
        parse=parse_glob,
        metavar="GLOB",
        panel=_FILTERS,
        explained=(
            "Serve only these: HOST or HOST/REPOSITORY, where * stands for a part of a name and ** for any number of "
            "parts. Others are refused."
        ),
        unset="everything",
        example="ghcr.io/team/**",
        many=True,
    ),
    Option(
        name="deny",
        parse=parse_glob,
        metavar="GLOB",
        panel=_FILTERS,
        explained="Refuse these, whatever --allow says.",
        unset="nothing",
        example="docker.io/evil/*",
        many=True,
    ),
    Option(
        name="cache_only",
        parse=parse_glob,
        metavar="GLOB",
        panel=_FILTERS,
        explained="Cache only these; others pass through uncached.",
        unset="everything",
        example="registry.corp.test",
        many=True,
    ),
    Option(
        name="bypass",
        parse=parse_glob,
        metavar="GLOB",
        panel=_FILTERS,
        explained="Never cache these, whatever --cache-only says.",
        unset="nothing",
        example="ghcr.io/team/nightly",
        many=True,
    ),
    Option(
        name="auth_broker",
        parse=parse_switch,
        metavar="/ --no-auth-broker",
        panel=_ACCESS,
        explained=(
            "Relay clients' token requests, so that accounts are known and a new token of an account is not a new "
            "client. Off: each token is a client of its own."
        ),
        default="true",
        example="false",
        switch=True,
    ),
    Option(
        name="grant_ttl",
        parse=duration("1s", "10m"),
        metavar="TIME",
        panel=_ACCESS,
        explained=(
            "How long one proof from the registry that a client may pull counts before the client is checked anew; "
            "1s to 10m."
        ),
        default="60s",
    ),
    Option(
        name="max_stale",
        parse=duration("0", "3650d"),
        metavar="TIME",
        panel=_OUTAGES,
        explained="How long the last seen digest of a tag may stand in while the registry cannot be asked. 0 = never.",
        default="7d",
    ),
    Option(
        name="offline_grace",
        parse=duration("0", "3650d"),
        metavar="TIME",
        panel=_OUTAGES,
        explained=(
            "How long a client that the registry accepted may go on pulling what is cached while the registry cannot "
            "be asked. 0 = never."
        ),
        default="24h",
    ),
    Option(
        name="offline",
        parse=parse_switch,
        metavar="/ --no-offline",
        panel=_OUTAGES,
        explained=(
            "Ask no upstream at all, for drills and air gaps: only what is cached is served, within --max-stale and "
            "--offline-grace."
        ),
        default="false",
        example="true",
        switch=True,
    ),
    Option(
        name="rate_limit_floor",
        parse=parse_count,
        metavar="NUMBER",
        panel=_OUTAGES,
        explained=(
            "When fewer pulls than this are left of a registry's rate limit, tags that moved are answered from the "
            "cache instead of being fetched. 0 = always fetch."
        ),
        default="1",
    ),
    Option(
        name="log_format",
        parse=_one_of(*get_args(LogFormat)),
        metavar="text|json",
        panel=_LOGGING,
        explained="Lines for people, or for a collector.",
        default="text",
    ),
    Option(
        name="log_level",
        parse=_one_of(*get_args(LogLevel)),
        metavar="LEVEL",
        panel=_LOGGING,
        explained="debug, info, warning or error.",
        default="info",
    ),
    Option(
        name="connect_timeout",
        parse=_timeout,
        metavar="TIME",
        panel=_TIMEOUTS,
        explained="To connect to a registry, TLS included.",
        default="10s",
    ),
    Option(
        name="first_byte_timeout",
        parse=_timeout,
        metavar="TIME",
        panel=_TIMEOUTS,
        explained="For a registry to begin its answer. With --connect-timeout below 30s: then containerd gives up.",
        default="15s",
    ),
    Option(
        name="stall_timeout",
        parse=_timeout,
        metavar="TIME",
        panel=_TIMEOUTS,
        explained="How long a body that has begun may go without another byte.",
        default="60s",
    ),
    Option(
        name="shutdown_grace",
        parse=_timeout,
        metavar="TIME",
        panel=_TIMEOUTS,
        explained="How long running pulls may go on after Ctrl-C or SIGTERM.",
        default="30s",
    ),
)

#: Every setting by its name, which is also its key in a file.
OPTIONS: Final[Mapping[str, Option]] = {option.name: option for option in _TABLE}
