"""Only those parts of mitmproxy that a server of ours needs.

Responsible for what is not imported: mitmproxy's stock addons (a web application, LDAP, a filter language and more),
which are imported as a whole before the first of them is used. Must not import mitmproxy itself.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

_STOCK: Final = "mitmproxy.addons"


def spare_stock_addons() -> None:
    """From now on importing one of mitmproxy's addons imports that one alone. Call it before mitmproxy is imported.

    Not for a process that runs mitmproxy's own tools: they need all of them. Where they are there already, nothing
    happens.
    """
    if _STOCK in sys.modules or (spec := importlib.util.find_spec(_STOCK)) is None:
        return
    package = importlib.util.module_from_spec(spec)  # knows its folder, but was not executed
    sys.modules[_STOCK] = package
    parent, _, name = _STOCK.rpartition(".")
    setattr(sys.modules[parent], name, package)
