"""Pushes images of a layout straight to a registry over HTTPS, not through any proxy.

The way of OCI distribution spec 1.1, end-4a and end-6 for blobs and end-7 for manifests. Its
requests carry a User-Agent of their own, so that a journal can leave them out.
"""

import http.client
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from lab.direct import DirectConnection
from lab.images import Blob, Image, Index
from lab.names import Endpoint

USER_AGENT = "lab-seeder"


class PushRefused(Exception):
    """The registry did not take it."""


class Pusher:
    """One connection to a registry, with one Authorization."""

    def __init__(self, registry: Endpoint, context: ssl.SSLContext, authorization: str | None) -> None:
        self._connection = DirectConnection(registry, context)
        self._headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
        if authorization:
            self._headers["Authorization"] = authorization

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def image(self, image: Image | Index, repository: str, tag: str | None) -> None:
        """The blobs that are missing, then the manifest under `tag`, or under its digest alone."""
        if isinstance(image, Index):
            for member in image.images:
                self.image(member, repository, None)
        else:
            for blob in image.blobs:
                self.blob(blob, repository)
        self.manifest(image.manifest, repository, tag)

    def manifest(self, manifest: Blob, repository: str, tag: str | None) -> None:
        """Only the manifest."""
        path = f"/v2/{repository}/manifests/{tag or manifest.digest}"
        self._ask("PUT", path, 201, manifest.path.read_bytes(), {"Content-Type": manifest.media_type})

    def blob(self, blob: Blob, repository: str) -> None:
        """One blob, unless the repository has it."""
        if self._has(f"/v2/{repository}/blobs/{blob.digest}"):
            return
        answer = self._ask("POST", f"/v2/{repository}/blobs/uploads/", 202, b"", {})
        place = urlsplit(answer.headers["Location"])
        query = f"{place.query}&digest={blob.digest}".lstrip("&")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        self._ask("PUT", f"{place.path}?{query}", 201, blob.path, headers)

    def delete(self, repository: str, digest: str) -> None:
        """A manifest, and with it every tag that names it (end-9)."""
        self._ask("DELETE", f"/v2/{repository}/manifests/{digest}", 202, b"", {})

    def _has(self, path: str) -> bool:
        self._connection.request("HEAD", path, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status in (200, 307)

    def _ask(
        self, method: str, path: str, expected: int, body: bytes | Path, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        if isinstance(body, Path):
            with body.open("rb") as file:
                self._connection.request(method, path, file, {**self._headers, **headers})
        else:
            self._connection.request(method, path, body, {**self._headers, **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != expected:
            raise PushRefused(f"{method} {path}: {answer.status} {text[:500]!r}")
        return answer
