"""What a server does not import. Each in a process of its own: here everything is imported long since."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "addon"
#: Of packages that only mitmproxy's stock addons need.
SPARED = ("flask", "ldap3", "mitmproxy.addons.proxyauth", "mitmproxy.addons.onboarding")
ASK = f"print([name for name in {SPARED} if name in sys.modules])"


def says(program: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SOURCES)!r})\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_server_does_without_the_stock_addons() -> None:
    run = "from pullthrough import lean; lean.spare_stock_addons(); import pullthrough.wiring"
    assert says(f"{run}\n{ASK}") == "[]"


@pytest.mark.parametrize("first", ["import mitmproxy.addons", "from mitmproxy.tools import main"])
def test_where_they_are_they_stay(first: str) -> None:
    told = says(f"{first}; from pullthrough import lean; lean.spare_stock_addons(); import pullthrough.wiring\n{ASK}")
    assert told == str(list(SPARED))


def test_an_addon_is_still_found() -> None:
    run = "from pullthrough import lean; lean.spare_stock_addons(); from mitmproxy.addons import core; import mitmproxy"
    assert says(f"{run}\nprint(mitmproxy.addons.core is core)") == "True"
