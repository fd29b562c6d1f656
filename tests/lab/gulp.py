"""Reads blobs as fast as Python can: for gigabytes, where `lab.http` would be what is measured.

Blocking, so that many of them run in threads; TLS and hashing release the interpreter's lock.
"""

import hashlib
import http.client
import ssl
from dataclasses import dataclass

from lab.names import Endpoint
from lab.proxy import Proxy

BUFFER_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Gulped:
    """What came."""

    status: int
    digest: str
    cache_status: str


def gulp(proxy: Proxy, registry: Endpoint, target: str, authorization: str) -> Gulped:
    """One GET through the proxy, read to its end and hashed."""
    context = ssl.create_default_context(cafile=proxy.ca_file)
    connection = http.client.HTTPSConnection(*proxy.address, context=context, timeout=TIMEOUT_SECONDS)
    connection.set_tunnel(registry.name, registry.public_port)
    try:
        connection.request("GET", target, headers={"Authorization": authorization})
        answer = connection.getresponse()
        hasher, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
        while count := answer.readinto(buffer):
            hasher.update(buffer[:count])
    finally:
        connection.close()
    return Gulped(answer.status, f"sha256:{hasher.hexdigest()}", answer.headers["Cache-Status"])
