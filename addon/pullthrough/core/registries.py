"""Which hosts are container registries: well-known ones as data, and those that the operator names.

Only these are opened; everything else is tunnelled unread. A list errs on the short side, therefore: a
host that also serves web pages, git or other package formats to clients that do not trust our CA (docker.io,
*.jfrog.io, us-python.pkg.dev) must be named by the operator. Knows nothing of connections and addresses.

A `*` in a pattern stands for one or more characters of one label, never for a dot, so that no pattern
reaches deeper or to another domain than it shows. The last two labels of a pattern hold no `*`.
"""

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

DEFAULT_PORT = 443
#: Registries that may be found: clients choose what is looked at.
MAX_FOUND = 1024


class Known(NamedTuple):
    """A registry's host pattern, on port 443, and where its operator documents it."""

    pattern: str
    source: str


_AWS = "https://docs.aws.amazon.com"
_AZURE = "https://learn.microsoft.com/en-us/azure"
_GOOGLE = "https://cloud.google.com/artifact-registry/docs"
_GITHUB = "packages/working-with-a-github-packages-registry/working-with-the-container-registry"
_IBM = "https://cloud.ibm.com/docs/Registry?topic=Registry-registry_overview"
_ORACLE = "https://docs.oracle.com/en-us/iaas/Content/Registry/Concepts/registryprerequisites.htm"
_RED_HAT = "https://access.redhat.com/RegistryAuthentication"
_ALIBABA = "https://www.alibabacloud.com/help/en/acr/user-guide"

BUILTIN: tuple[Known, ...] = (
    Known("registry-1.docker.io", "https://docs.docker.com/desktop/setup/allow-list/"),
    Known("index.docker.io", "https://docs.docker.com/reference/cli/docker/login/"),
    Known("dhi.io", "https://docs.docker.com/dhi/how-to/use/"),
    Known("ghcr.io", f"https://docs.github.com/en/{_GITHUB}"),
    Known("containers.*.ghe.com", f"https://docs.github.com/en/enterprise-cloud@latest/{_GITHUB}"),
    Known("quay.io", "https://docs.quay.io/solution/getting-started.html"),
    Known("registry.gitlab.com", "https://docs.gitlab.com/user/gitlab_com/#container-registry"),
    Known("gcr.io", f"{_GOOGLE}/transition/transition-from-gcr"),
    Known("*.gcr.io", f"{_GOOGLE}/transition/transition-from-gcr"),
    Known("*-docker.pkg.dev", f"{_GOOGLE}/docker/names"),
    Known("public.ecr.aws", f"{_AWS}/AmazonECR/latest/public/public-registries.html"),
    Known("ecr-public.aws.com", f"{_AWS}/AmazonECR/latest/public/public-ecr-requests.html"),
    Known("*.dkr.ecr.*.amazonaws.com", f"{_AWS}/AmazonECR/latest/userguide/Registries.html"),
    Known("*.dkr.ecr-fips.*.amazonaws.com", f"{_AWS}/general/latest/gr/ecr.html"),
    Known("*.dkr-ecr.*.on.aws", f"{_AWS}/AmazonECR/latest/userguide/ecr-requests.html"),
    Known("*.dkr-ecr-fips.*.on.aws", f"{_AWS}/AmazonECR/latest/userguide/ecr-requests.html"),
    Known("*.dkr.ecr.*.amazonaws.com.cn", "https://docs.amazonaws.cn/en_us/aws/latest/userguide/ecr.html"),
    Known(
        "mcr.microsoft.com",
        "https://github.com/microsoft/containerregistry/blob/main/docs/client-firewall-rules.md",
    ),
    Known("*.azurecr.io", f"{_AZURE}/container-registry/container-registry-firewall-access-rules"),
    Known(
        "*.azurecr.cn",
        "https://docs.azure.cn/en-us/container-registry/container-registry-firewall-access-rules",
    ),
    Known("*.azurecr.us", f"{_AZURE}/azure-government/compare-azure-government-global-azure"),
    Known("registry.k8s.io", "https://kubernetes.io/blog/2022/11/28/registry-k8s-io-faster-cheaper-ga/"),
    Known("nvcr.io", "https://docs.nvidia.com/ngc/latest/index.html"),
    Known("registry.access.redhat.com", _RED_HAT),
    Known("registry.redhat.io", _RED_HAT),
    Known("registry.connect.redhat.com", _RED_HAT),
    Known("docker.elastic.co", "https://www.docker.elastic.co/"),
    Known("registry.digitalocean.com", "https://docs.digitalocean.com/products/container-registry/"),
    Known("*.ocir.io", _ORACLE),
    Known("ocir.*.oci.oraclecloud.com", _ORACLE),
    Known("container-registry.oracle.com", "https://container-registry.oracle.com/"),
    Known("icr.io", _IBM),
    Known("*.icr.io", _IBM),
    Known("private.*.icr.io", _IBM),
    Known("cgr.dev", "https://edu.chainguard.dev/chainguard/containers/registry/authenticating/"),
    Known("registry.suse.com", "https://registry.suse.com/"),
    Known("registry.opensuse.org", "https://registry.opensuse.org/"),
    Known("registry.fedoraproject.org", "https://registry.fedoraproject.org/"),
    Known("lscr.io", "https://docs.linuxserver.io/"),
    Known("docker.cloudsmith.io", "https://docs.cloudsmith.com/formats/docker-registry"),
    Known("rg.*.scw.cloud", "https://www.scaleway.com/en/developers/api/registry/"),
    Known("registry.heroku.com", "https://devcenter.heroku.com/articles/container-registry-and-runtime"),
    Known("registry.fly.io", "https://fly.io/docs/blueprints/using-the-fly-docker-registry/"),
    Known("cr.yandex", "https://yandex.cloud/en/docs/container-registry/"),
    Known(
        "registry.*.aliyuncs.com",
        f"{_ALIBABA}/individual-edition-instance-independent-domain-name-capacity-limit",
    ),
    Known(
        "*.*.personal.cr.aliyuncs.com",
        f"{_ALIBABA}/individual-edition-instance-independent-domain-name-capacity-limit",
    ),
    Known("*-registry.*.cr.aliyuncs.com", f"{_ALIBABA}/configure-access-credentials"),
    Known("xpkg.upbound.io", "https://docs.upbound.io/build/repositories/publish-packages/"),
    Known("xpkg.crossplane.io", "https://docs.crossplane.io/latest/packages/providers/"),
)

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"[0-9]{1,5}")
_ADDRESS = re.compile(r"\[([^\[\]]*)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registry that the operator named: a host, an address or a pattern, in canonical form, and a port.

    An IPv6 address has no brackets here; `str` writes it as HOST:PORT with them.
    """

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_entry(text: str) -> Entry:
    """The entry that "HOST[:PORT]" spells; ValueError, with a sentence for the operator, for others.

    Upper case and a trailing dot are dropped, the port is 443 unless given, IPv6 goes in brackets, and
    `*` works as in the built-in list.
    """
    stripped = text.strip()
    if "/" in stripped:
        raise ValueError(f"registry {text!r}: give HOST[:PORT] only, without a scheme or a path")
    if not stripped.isascii():
        raise ValueError(f"registry {text!r}: write an international name in its xn-- form")
    address = _ADDRESS.fullmatch(stripped)
    if address:
        return Entry(_ipv6(text, address[1]), _port(text, address[2]))
    if stripped.count(":") > 1:
        raise ValueError(f"registry {text!r}: an IPv6 address goes in brackets, such as [::1]:5000")
    host, colon, port = stripped.partition(":")
    return Entry(_pattern(text, _canonical(host)), _port(text, colon + port))


def _ipv6(text: str, address: str) -> str:
    try:
        return ipaddress.IPv6Address(address).compressed
    except ValueError:
        raise ValueError(f"registry {text!r}: {address!r} is not an IPv6 address") from None


def _port(text: str, suffix: str) -> int:
    digits = suffix.removeprefix(":")
    if not suffix:
        return DEFAULT_PORT
    if suffix == digits or not _PORT.fullmatch(digits) or not 1 <= int(digits) <= 65535:
        raise ValueError(f"registry {text!r}: the port must be a number from 1 to 65535")
    return int(digits)


def _pattern(text: str, host: str) -> str:
    if not _HOST.fullmatch(host.replace("*", "a")):
        raise ValueError(f"registry {text!r}: {host!r} is not a host name or a pattern of one")
    if "*" in _ending(host):
        raise ValueError(f"registry {text!r}: a pattern needs two plain labels at its end, as in *.corp.test")
    return host


def _canonical(host: str) -> str:
    """A host as looked up: lower case, no trailing dot, an IPv6 address short and without brackets."""
    name = host.lower()
    if ":" not in name:
        return name.removesuffix(".")
    try:
        return ipaddress.IPv6Address(name.removeprefix("[").removesuffix("]")).compressed
    except ValueError:
        return name


class _Table:
    """A set of entries to ask for a host and port: plain ones by hash, patterns by their last two labels."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._plain: set[tuple[str, int]] = set()
        self._patterns: dict[tuple[str, int], list[re.Pattern[str]]] = {}
        for entry in entries:
            if "*" in entry.host:
                self._patterns.setdefault((_ending(entry.host), entry.port), []).append(_compiled(entry.host))
            else:
                self._plain.add((entry.host, entry.port))

    def names(self, host: str) -> bool:
        """Is there an entry for `host` on any port?"""
        return any((host, port) in self for port in self.ports())

    def ports(self) -> set[int]:
        """Those of all entries."""
        return {port for _, port in self._plain} | {port for _, port in self._patterns}

    def __contains__(self, asked: tuple[str, int]) -> bool:
        host, port = asked
        # Lower-casing maps some foreign letters to ASCII ones, so those must not come that far.
        if not host.isascii():
            return False
        host = _canonical(host)
        return (host, port) in self._plain or any(
            pattern.fullmatch(host) for pattern in self._patterns.get((_ending(host), port), ())
        )


def _ending(host: str) -> str:
    return ".".join(host.rsplit(".", 2)[-2:])


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "[a-z0-9_-]+"))


class Registries:
    """The hosts to open: the built-in ones on port 443, and the operator's."""

    def __init__(self, entries: Iterable[Entry] = (), builtin: Iterable[Known] = BUILTIN) -> None:
        self._named = _Table(entries)
        self._builtin = _Table(Entry(known.pattern) for known in builtin)
        self._found: OrderedDict[tuple[str, int], None] = OrderedDict()

    def covers(self, host: str, port: int) -> bool:
        """Whether this is a registry; `host` in any case, with or without brackets and trailing dot.

        One that was found is kept longer for being asked about.
        """
        if (host, port) in self._found:
            self._found.move_to_end((host, port))
            return True
        return self.is_listed(host, port)

    def found(self, host: str, port: int) -> tuple[str, int] | None:
        """A host that nobody named turned out to be a registry; in canonical form.

        Beyond a bound the one is forgotten, and returned, that nobody asked about for longest.
        """
        self._found[host, port] = None
        self._found.move_to_end((host, port))
        return self._found.popitem(last=False)[0] if len(self._found) > MAX_FOUND else None

    def is_listed(self, host: str, port: int) -> bool:
        """Whether somebody answers for it: built in, or named by the operator; not if it was merely found."""
        return (host, port) in self._builtin or (host, port) in self._named

    def names(self, host: str) -> bool:
        """Whether there is a registry of this name, on whatever port."""
        return self._builtin.names(host) or self._named.names(host)

    def on_port(self, port: int) -> bool:
        """Whether there is a registry on this port, of whatever name."""
        return port in self._builtin.ports() or port in self._named.ports()

    def named_by_operator(self, host: str, port: int) -> bool:
        """Whether the operator's own entries cover it, whatever the built-in list says."""
        return (host, port) in self._named


_TELLING = frozenset({"registry", "docker", "cr", "hub", "harbor", "containers", "dockerhub"})
# Public hosts that sound like registries of images and are something else.
_NOT_IMAGES = frozenset(
    {
        "docker-auth.elastic.co",
        "hub.docker.com",
        "registry.bower.io",
        "registry.npmjs.com",
        "registry.npmjs.org",
        "registry.npmmirror.com",
        "registry.opentofu.org",
        "registry.terraform.io",
        "registry.yarnpkg.com",
    }
)


def looks_like_registry(host: str) -> bool:
    """Whether a host's name suggests a registry of images; good for a hint in a log and nothing else."""
    name = _canonical(host)
    return name not in _NOT_IMAGES and any(word in _TELLING for word in _words(name))


def _words(host: str) -> Iterator[str]:
    """The words left of the registered domain, so that not every host of docker.com qualifies."""
    labels = host.split(".")
    for label in labels[:-2] or labels[:1]:
        yield from label.split("-")
