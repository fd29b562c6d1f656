"""Bytes to a proxy and back, for what no HTTP client would send."""

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.proxy import Proxy

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Spoken:
    """An answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The message of an OCI error body; fails for any other body."""
        errors: list[dict[str, Any]] = json.loads(self.body)["errors"]
        return str(errors[0]["message"])


def say(proxy: Proxy, data: bytes, *, inside: str | None = None, method: str = "GET") -> Spoken:
    """Send these bytes on a connection of their own, or inside TLS to `inside` (HOST:PORT); read one answer.

    `method` is the one that the bytes stand for: an answer to HEAD has no body.
    """
    with socket.create_connection(proxy.address, TIMEOUT_SECONDS) as sock:
        if inside is None:
            return _exchange(sock, data, method)
        opened = _exchange(sock, f"CONNECT {inside} HTTP/1.1\r\nHost: {inside}\r\n\r\n".encode(), "CONNECT")
        if opened.status != 200:
            return opened
        context = ssl.create_default_context(cafile=proxy.ca_file)
        with context.wrap_socket(sock, server_hostname=inside.rpartition(":")[0]) as tls:
            return _exchange(tls, data, method)


def ask(proxy: Proxy, method: str, target: str, **headers: str) -> Spoken:
    """A request to the proxy, with the target as it is given: an absolute URL, an authority or a path."""
    fields = {"Host": "{}:{}".format(*proxy.address), **headers}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return say(proxy, "\r\n".join(lines).encode(), method=method)


def _exchange(sock: socket.socket, data: bytes, method: str) -> Spoken:
    sock.sendall(data)
    answer = http.client.HTTPResponse(sock, method=method)
    try:
        answer.begin()
        body = b"" if method == "CONNECT" and answer.status == 200 else answer.read()
        return Spoken(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    finally:
        answer.close()
