"""Questions over HTTP: to the cache itself, and through it to a registry.

Responsible for bounds on time and size, and for never using the environment's proxy. Must not know what an answer
means. Failures are OSError or http.client.HTTPException.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from pullthrough.core.headers import Headers
from pullthrough.doctor.target import Place

#: To connect, and for each piece of an answer.
SECONDS: Final = 4.0
#: For all that one check does.
CHECK_SECONDS: Final = 3 * SECONDS
_MOST_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `body` is cut at 256 KiB."""

    status: int
    headers: Headers
    body: bytes


def ask(cache: Place, path: str) -> Reply:
    """GET a path of the cache's own."""
    return _exchange(http.client.HTTPConnection(cache.host, cache.port, timeout=SECONDS), "GET", path, {})


def ask_through(
    cache: Place,
    server: Place,
    tls: ssl.SSLContext,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """A request to `https://server`, whose certificate `tls` must accept, by CONNECT through the cache."""
    connection = http.client.HTTPSConnection(cache.host, cache.port, timeout=SECONDS, context=tls)
    connection.set_tunnel(server.host, server.port)
    return _exchange(connection, method, path, headers or {})


def tunnel_refusal(cache: Place, server: Place) -> str:
    """What the cache says to a CONNECT to `server` that it refuses, which http.client does not read; "" for nothing."""
    connection = http.client.HTTPConnection(cache.host, cache.port, timeout=SECONDS)
    try:
        reply = _exchange(connection, "CONNECT", str(server), {"Host": str(server)})
        return str(json.loads(reply.body)["errors"][0]["message"]) if reply.status >= 400 else ""
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return ""


def _exchange(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> Reply:
    try:
        connection.request(method, path, headers={"User-Agent": "pullthrough-doctor", **headers})
        answer = connection.getresponse()
        return Reply(answer.status, Headers(answer.getheaders()), answer.read(_MOST_BYTES))
    finally:
        connection.close()


def in_time[T](work: Callable[[], T], seconds: float = CHECK_SECONDS) -> T:
    """What `work` returns or raises; TimeoutError if that takes longer.

    It runs in a thread that is left behind then: nothing else ends a look-up of the C library, a file on a lost
    NFS server or a stranger who sends a byte a second.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - handed over to who waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def reason(error: Exception) -> str:
    """A failed question in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'the connection was closed'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"no proper HTTP answer ({type(error).__name__})"
