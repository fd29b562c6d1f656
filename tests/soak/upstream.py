"""The registry of the soak: knows accounts, and gives a blob out only in repositories that have it."""

import re

from lab.fake_registry import FakeRegistry
from lab.faults import Armed
from lab.journal import Request
from lab.pki import Identity
from lab.web import Exchange
from soak.stock import READERS, Stock


class Upstream(FakeRegistry):
    """`https://fake.test:PORT/` with the stock of one seed."""

    def __init__(self, identity: Identity, stock: Stock) -> None:
        super().__init__("fake.test", identity, public_port=None)
        self._stock = stock
        self.manners.accepts = _accepts
        stock.fill(self)

    def _content(self, exchange: Exchange, found: re.Match[str], armed: Armed) -> None:
        members = self._stock.members.get(found["repository"], set())
        if found["kind"] == "blobs" and found["reference"] not in members:
            exchange.reply(404, {"Content-Type": "application/json"}, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        else:
            super()._content(exchange, found, armed)


def _accepts(request: Request) -> bool:
    """By the first part of the repository's name. A password that is wrong is refused everywhere."""
    owner = request.path.removeprefix("/v2/").partition("/")[0]
    authorization = request.headers.get("authorization")
    return any(account.authorization == authorization for account in READERS.get(owner, READERS["open"]))
