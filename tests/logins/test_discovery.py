"""Which hosts turn out to be registries, and how often they are asked."""

from __future__ import annotations

import asyncio

import pytest

from lab.faults import Fault
from lab.inside import Inside
from pullthrough.core.registries import Registries
from pullthrough.discovery import Discovery


@pytest.fixture
def registries() -> Registries:
    return Registries()


@pytest.fixture
def discovery(proxy: Inside, registries: Registries) -> Discovery:
    return Discovery(registries, proxy.upstream, proxy.facts, proxy.clock)


def place(proxy: Inside) -> tuple[str, int]:
    return proxy.registry.host, proxy.registry.port


async def test_a_registry_is_found_and_asked_once(proxy: Inside, registries: Registries, discovery: Discovery) -> None:
    assert not registries.covers(*place(proxy))
    assert all(await asyncio.gather(*(discovery.look(*place(proxy)) for _ in range(5))))

    assert registries.covers(*place(proxy))
    (asked,) = proxy.fake.journal.requests()
    assert (asked.method, asked.target, "authorization" in asked.headers) == ("GET", "/v2/", False)


async def test_it_is_known_after_a_restart(proxy: Inside, discovery: Discovery) -> None:
    await discovery.look(*place(proxy))
    proxy.fake.stop()
    anew = Registries()

    assert await Discovery(anew, proxy.upstream, proxy.facts, proxy.clock).look(*place(proxy))
    assert anew.covers(*place(proxy))


async def test_what_is_forgotten_for_others_is_not_kept_on_disk(
    proxy: Inside, discovery: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pullthrough.core.registries.MAX_FOUND", 1)
    other, port = "127.0.0.1", proxy.registry.port
    await discovery.look(*place(proxy))
    proxy.facts.put(f"registry https://{other}:{port}", True, 60.0)
    assert await discovery.look(other, port)

    assert await proxy.facts.get(f"registry {proxy.registry}") is None
    assert await proxy.facts.get(f"registry https://{other}:{port}") is True


API = {"Docker-Distribution-Api-Version": "registry/2.0"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (Fault(status=200, headers=API, body=b"{}"), True),
        (Fault(status=401, headers=API), True),
        (Fault(status=401, headers={"WWW-Authenticate": 'Bearer realm="https://auth.test/",service="x"'}), True),
        (Fault(status=200, body=b"{}"), True),
        (Fault(status=200, body=b"<html>welcome"), False),
        (Fault(status=200, body=b"{}" * 9999), False),
        (Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="wiki"'}), False),
        (Fault(status=401, headers={"WWW-Authenticate": "garbage ="}), False),
        (Fault(status=404), False),
        (Fault(status=302, headers={"Location": "/login"}), False),
        (Fault(status=503, headers=API), False),
    ],
)
async def test_what_speaks_like_one(proxy: Inside, discovery: Discovery, fault: Fault, found: bool) -> None:
    proxy.fake.fault("", fault, times=None, method=None)

    assert await discovery.look(*place(proxy)) is found


async def test_who_is_none_is_not_asked_again_for_an_hour(proxy: Inside, discovery: Discovery) -> None:
    proxy.fake.fault("", Fault(status=404), times=1, method=None)
    assert not await discovery.look(*place(proxy))
    assert not await discovery.look(*place(proxy))
    assert len(proxy.fake.journal.requests()) == 1
    proxy.clock.time += 3601

    assert await discovery.look(*place(proxy))


async def test_who_keeps_us_waiting_is_none(
    proxy: Inside, discovery: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pullthrough.discovery._PATIENCE", 0.2)
    proxy.fake.hang()

    assert not await discovery.look(*place(proxy))
    assert not await discovery.look(*place(proxy))
    assert len(proxy.fake.journal.requests()) == 1


async def test_who_does_not_answer_is_none(proxy: Inside, discovery: Discovery) -> None:
    proxy.fake.stop()

    assert not await discovery.look(*place(proxy))
