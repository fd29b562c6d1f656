"""A registry in this process that behaves as distribution cannot be told to.

For the oddities of public registries: no digest on HEAD, no HEAD at all, Basic only, redirects of
every kind, manifests of any size, ranges ignored. Faults of blobs come from `lab.blobs`; a fault
with a status plays any other answer (429 with Retry-After, an HTML page, a wrong manifest).
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.blobs import BlobServer, BytesSource
from lab.faults import Armed
from lab.journal import Request
from lab.pki import Identity
from lab.web import Exchange

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONTENT = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)$")
HOP = re.compile(r"/hop/(?P<left>\d+)/(?P<digest>[^/]+)$")


@dataclass(frozen=True)
class Redirect:
    """How blobs are redirected. `{digest}` in the location is replaced; it may be relative.

    `/storage/{digest}` of every fake registry serves a blob without asking who wants it, and
    `/hop/N/{digest}` redirects N times more before that.
    """

    status: int = 307
    location: str = "/storage/{digest}"


@dataclass
class Manners:
    """How this registry behaves; may be changed at any time."""

    accepts: Callable[[Request], bool] = lambda request: True
    challenge: str = 'Basic realm="lab"'
    head_status: int | None = None  # answer HEAD on manifests with this
    digest_on_head: bool = True
    digest_on_get: bool = True
    digest_header: str | None = None  # a wrong one
    etag: bool = True
    conditional: bool = True  # If-None-Match is honoured
    redirect: Redirect | None = None
    refuses_authorization: bool = False  # /storage/ answers 400 to any Authorization, as S3 does


@dataclass(frozen=True)
class FakeImage:
    """What `add_image` made: digests of the manifest, the config and the layers."""

    digest: str
    config: str
    layers: tuple[str, ...]


@dataclass
class Content:
    """What the registry has: blobs by digest, manifests by (repository, tag or digest)."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)


class FakeRegistry(BlobServer):
    """`https://fake.test:PORT/`, or plain HTTP without an identity."""

    def __init__(
        self, name: str = "fake.test", identity: Identity | None = None, *, public_port: int | None = None
    ) -> None:
        super().__init__(name, identity, public_port=public_port)
        self.manners = Manners()
        self.content = Content()

    def add_blob(self, data: bytes) -> str:
        """Have this blob in every repository; returns its digest."""
        digest = digest_of(data)
        self.content.blobs[digest] = data
        return digest

    def add_manifest(self, repository: str, tag: str | None, body: bytes, media_type: str = MANIFEST) -> str:
        """Have this manifest under its digest and under `tag`, where that is given."""
        digest = digest_of(body)
        for reference in filter(None, (digest, tag)):
            self.content.manifests[repository, reference] = media_type, body
        return digest

    def add_image(self, repository: str, tag: str, layers: Sequence[bytes]) -> FakeImage:
        """Have an image of these layers; they are opaque bytes, so clients that unpack need others."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer) for layer in layers],
        }
        digests = tuple(self.add_blob(layer) for layer in layers)
        digest = self.add_manifest(repository, tag, json.dumps(body).encode())
        return FakeImage(digest, self.add_blob(config), digests)

    def answer(self, exchange: Exchange) -> None:
        """One request, as the manners and the faults say."""
        armed = self.strike(exchange)
        if armed is None:
            return
        path = exchange.request.path
        if path.startswith(("/storage/", "/hop/")):
            self._storage(exchange, path, armed)
        elif not self.manners.accepts(exchange.request):
            _error(exchange, 401, "UNAUTHORIZED", {"WWW-Authenticate": self.manners.challenge})
        elif path in self.content.pages:
            exchange.reply(*self.content.pages[path])
        elif found := CONTENT.match(path):
            self._content(exchange, found, armed)
        elif path == "/v2/":
            exchange.reply(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
        else:
            _error(exchange, 404, "NAME_UNKNOWN")

    def _content(self, exchange: Exchange, found: re.Match[str], armed: Armed) -> None:
        if found["kind"] == "manifests":
            self._manifest(exchange, found["repository"], found["reference"])
        elif redirect := self.manners.redirect:
            location = redirect.location.replace("{digest}", found["reference"])
            exchange.reply(redirect.status, {"Location": location})
        else:
            self._blob(exchange, found["reference"], armed)

    def _manifest(self, exchange: Exchange, repository: str, reference: str) -> None:
        head = exchange.request.method == "HEAD"
        found = self.content.manifests.get((repository, reference))
        if head and self.manners.head_status is not None:
            exchange.reply(self.manners.head_status)
        elif found is None:
            _error(exchange, 404, "MANIFEST_UNKNOWN")
        else:
            media_type, body = found
            headers = {"Content-Type": media_type, **self._validators(body, head=head)}
            known = exchange.request.headers.get("if-none-match")
            if self.manners.conditional and known is not None and known == headers.get("ETag"):
                exchange.begin(304, headers)
            else:
                exchange.reply(200, headers, body)

    def _validators(self, body: bytes, *, head: bool) -> dict[str, str]:
        manners, digest, headers = self.manners, digest_of(body), {}
        if manners.digest_on_head if head else manners.digest_on_get:
            headers["Docker-Content-Digest"] = manners.digest_header or digest
        if manners.etag:
            headers["ETag"] = f'"{digest}"'
        return headers

    def _blob(self, exchange: Exchange, digest: str, armed: Armed) -> None:
        if digest not in self.content.blobs:
            _error(exchange, 404, "BLOB_UNKNOWN")
            return
        headers = {"Content-Type": "application/octet-stream"}
        if self.manners.etag:
            headers["ETag"] = f'"{digest}"'
        self.send_blob(exchange, BytesSource(self.content.blobs[digest]), headers, armed)

    def _storage(self, exchange: Exchange, path: str, armed: Armed) -> None:
        hop = HOP.match(path)
        if self.manners.refuses_authorization and exchange.request.authorized:
            exchange.reply(400, {"Content-Type": "application/xml"}, b"<Error/>")
        elif hop and int(hop["left"]) > 0:
            exchange.reply(302, {"Location": f"/hop/{int(hop['left']) - 1}/{hop['digest']}"})
        else:
            self._blob(exchange, path.rpartition("/")[2], armed)


def digest_of(data: bytes) -> str:
    """The sha256 digest as the OCI image spec writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def basic(account: str, password: str) -> str:
    """The value of Authorization for these credentials."""
    return f"Basic {base64.b64encode(f'{account}:{password}'.encode()).decode()}"


def only(*authorizations: str) -> Callable[[Request], bool]:
    """Accept requests with one of these values of Authorization."""
    return lambda request: request.headers.get("authorization") in authorizations


def _descriptor(media_type: str, data: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _error(exchange: Exchange, status: int, code: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
    exchange.reply(status, {"Content-Type": "application/json", **(headers or {})}, body)
