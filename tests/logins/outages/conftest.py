"""The image that was pulled before the outage, and the token of who pulled it."""

from __future__ import annotations

import pytest

from lab.fake_registry import FakeImage
from lab.inside import Inside
from lab.logins import ALICE, bearer
from lab.outages import APP, LAYER, pulled


@pytest.fixture
def image(proxy: Inside) -> FakeImage:
    """`APP:v1`, alice's alone."""
    return proxy.fake.add_image(APP, "v1", [LAYER])


@pytest.fixture
async def alice(proxy: Inside, image: FakeImage) -> str:
    """The token of somebody who pulled the image before; the grant is over, and nobody has been asked yet."""
    token = await bearer(proxy, ALICE, APP)
    await pulled(proxy, token)
    proxy.clock.time += 61
    return token
