"""The CDN of the lab: serves a registry's storage tree to whom the registry redirected, or commits faults.

distribution 2.8's redirect middleware sends `/docker/registry/v2/blobs/sha256/ab/<hex>/data`, without
a query, for GET and for HEAD. Like real object storage it does not know any credential.
"""

from pathlib import Path

from lab.blobs import BlobServer, FileSource
from lab.pki import Identity
from lab.web import Exchange


class Cdn(BlobServer):
    """`https://cdn.test/` over the files below `root`."""

    def __init__(self, identity: Identity, root: Path) -> None:
        super().__init__(identity.name, identity)
        self._root = root

    def answer(self, exchange: Exchange) -> None:
        """A file, or a part of one."""
        armed = self.strike(exchange)
        if armed is None:
            return
        path = self._root / exchange.request.path.lstrip("/")
        if exchange.request.method not in ("GET", "HEAD"):
            exchange.reply(405)
        elif ".." in path.parts or not path.is_file():
            exchange.reply(404)
        else:
            headers = {"Content-Type": "application/octet-stream", "ETag": f'"{path.parent.name[:32]}"'}
            self.send_blob(exchange, FileSource(path), headers, armed)
