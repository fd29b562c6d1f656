"""The import rules of docs/ARCHITECTURE.md, and a few things that no module of the package may do.

Read from the source, not from what happens to be imported: a forbidden import in a function counts as well.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "addon" / "pullthrough"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: From top to bottom. A module may import from its own row and from those below it.
ROWS = (
    {"cli", "__main__", "commands"},
    {"doctor"},
    {"wiring", "workers"},
    {"supervisor"},
    {"addon", "door", "modes", "nameserver", "layers", "sending", "hooks", "lean", "visits", "page", "clientsetup"},
    {"mirror", "discovery"},
    {"inside"},
    {"pulls", "outages", "broker", "manifests", "blobs", "links", "neighbours", "bodies"},
    {
        "exports",
        "imports",
        "purging",
        "pins",
        "catalog",
        "access",
        "accounts",
        "realms",
        "tags",
        "limits",
        "facts",
        "logins",
        "trouble",
        "upstream_mirrors",
    },
    {"flights", "flight", "following", "turns", "direct", "sink", "fetch"},
    {"store", "upstream", "sessions", "probes", "lookups"},
    {
        "archives",
        "joins",
        "siblings",
        "gate",
        "keyring",
        "resolver",
        "forwarders",
        "breaker",
        "guesses",
        "guard",
        "balance",
        "listeners",
        "worker",
        "cores",
        "installation",
        "parent",
        "trust",
        "health",
        "metrics",
        "logs",
        "authority",
        "ca",
        "issuer",
        "keypair",
        "durable",
        "leaves",
        "options",
        "config",
    },
    {"messages"},
    {"core"},
)
#: Who may import which package that is not ours and not the standard library's.
ADAPTERS = {
    "mitmproxy": {"cli", "wiring", "addon", "door", "modes", "layers", "sending", "hooks"},
    "mitmproxy_rs": {"resolver", "wiring"},
    "bcrypt": {"gate"},
    "diskcache": {"store"},
    "aiohttp": {"upstream", "sessions"},
    "yarl": {"upstream"},
    "cryptography": {"issuer", "commands"},
    "OpenSSL": {"leaves", "door", "layers"},
    "prometheus_client": {"metrics"},
    "typer": {"cli", "commands"},
    "rich": {"cli", "commands"},
    "certifi": {"trust"},
}
#: What a pure core has no use for.
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "ssl", "threading", "time"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "subprocess"}


def part(module: Path) -> str:
    """The name by which the rules know a module: its own, or that of its folder."""
    relative = module.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, dotted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield base
            if base == "pullthrough":
                yield from (f"pullthrough.{alias.name}" for alias in node.names)


def row_of(name: str) -> int:
    return next((index for index, row in enumerate(ROWS) if name in row), -1)


def violations(name: str, source: str) -> list[str]:
    """What in `source`, as the module or folder `name`, breaks the rules."""
    found = []
    for module in imported(source):
        top, _, rest = module.partition(".")
        inner = rest.partition(".")[0]
        if top in FORBIDDEN_MODULES:
            found.append(f"{module}: nobody may use it")
        elif top == "pullthrough":
            if inner and row_of(inner) >= 0 and row_of(inner) < row_of(name):
                found.append(f"{module}: points upwards")
        elif top in sys.stdlib_module_names:
            if name == "core" and top in IMPURE:
                found.append(f"{module}: core is pure")
        elif name not in ADAPTERS.get(top, set()):
            found.append(f"{module}: only {sorted(ADAPTERS.get(top, set()))} may import it")
        if module.startswith("mitmproxy.") and "._" in module and name != "layers":
            found.append(f"{module}: inner names of mitmproxy are for layers.py")
    tree = ast.parse(source)
    found += [f"line {node.lineno}: assert" for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    found += [
        f"line {node.lineno}: {node.func.id}()"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS
    ]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_module_keeps_the_rules(module: Path) -> None:
    source = module.read_text()

    assert violations(part(module), source) == []
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring, "a module opens with what it is responsible for"


def test_every_module_has_its_row() -> None:
    parts = {part(module) for module in MODULES} - {"__init__"}

    assert parts == set().union(*ROWS)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("store", "import pullthrough.wiring"),
        ("store", "from pullthrough import wiring"),
        ("fetch", "def f():\n    from pullthrough.blobs import Blobs"),
        ("core", "from pullthrough.messages import Request"),
        ("core", "import time"),
        ("core", "from os import path"),
        ("pulls", "from mitmproxy import http"),
        ("blobs", "import diskcache"),
        ("page", "import requests"),
        ("door", "from mitmproxy.proxy.layers.http._http1 import Http1Server"),
        ("store", "import pickle"),
        ("guard", "from subprocess import run"),
        ("access", "assert True"),
        ("access", "eval('1')"),
    ],
)
def test_a_broken_rule_is_found(name: str, source: str) -> None:
    assert violations(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wiring", "from mitmproxy import master\nfrom pullthrough.store import Store"),
        ("core", "import hashlib\nfrom pullthrough.core.digest import Digest"),
        ("layers", "from mitmproxy.proxy.layers.http._http1 import Http1Server"),
        ("blobs", "from pullthrough.manifests import Manifests"),
    ],
)
def test_what_is_allowed_is_not_reported(name: str, source: str) -> None:
    assert violations(name, source) == []
