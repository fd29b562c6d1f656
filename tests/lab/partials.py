"""The fills of a proxy, seen from outside: what is on disk, and whether they are over."""

from pathlib import Path

from lab.deadline import eventually
from lab.proxy import Proxy


def partial_of(proxy: Proxy, digest: str) -> Path:
    """The file that grows."""
    return proxy.data_dir / "store" / "partial" / "sha256" / digest.removeprefix("sha256:")


def wait_for_partial(proxy: Proxy, digest: str, size: int) -> None:
    """Until that many bytes are on disk."""
    path = partial_of(proxy, digest)
    eventually(lambda: path.exists() and path.stat().st_size >= size, f"{size} bytes of {digest} on disk")


def wait_until_landed(proxy: Proxy) -> None:
    """Until no fill is under way: what was pulled is durable, and the next answer a hit."""
    eventually(lambda: b"pullthrough_flights 0.0" in proxy.get("/metrics")[1], "no fill is under way")
