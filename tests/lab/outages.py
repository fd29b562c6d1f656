"""What tests of outages pull before and ask for after: one private image, and what was never pulled.

For tests of the inside (`lab.inside`) with logins (`lab.logins`).
"""

import re

from lab.fake_registry import MANIFEST, digest_of
from lab.inside import Got, Inside

STRANGE, LOCAL = "Bearer strange", re.compile(r"Bearer pullthrough\.v1\..+")
APP = "priv/app"
"""alice's alone, as the token server has it."""
LAYER, OTHER = b"layer" * 1000, b"other" * 1000
V1 = f"/v2/{APP}/manifests/v1"
BLOB = f"/v2/{APP}/blobs/{digest_of(LAYER)}"
MOVED = b'{"schemaVersion": 2, "layers": []}'
INDEX = "application/vnd.oci.image.index.v1+json"
HOUR = 3600.0


async def pulled(proxy: Inside, authorization: str | None) -> None:
    """The image comes, is cached from then on, and the registry's journal is empty."""
    assert (await get(proxy, V1, authorization)).status == 200
    assert (await get(proxy, BLOB, authorization)).body == LAYER
    await proxy.landed()
    proxy.fake.journal.clear()


async def get(proxy: Inside, target: str, authorization: str | None, method: str = "GET", **more: str) -> Got:
    """The answer to who accepts manifests; `more` are other fields."""
    return await proxy.get(target, method, **{"authorization": authorization, "accept": MANIFEST, **more})


def asked(proxy: Inside) -> list[tuple[str, str]]:
    """(method, target) of what the registry was asked."""
    return [(request.method, request.target) for request in proxy.fake.journal.requests()]


def seen(got: Got) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client sees of an answer, but for the time of day."""
    fields = [*((name.lower(), value) for name, value in got.headers), ("cache-status", got.outcome)]
    return got.status, sorted(fields), got.body
