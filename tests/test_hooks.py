"""Hooks reach those who listen, in their order, whatever becomes of one of them."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy import command, exceptions, options
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.test import tflow

from pullthrough.hooks import Addons


class Listener:
    """Notes when it is called; fails as it is told."""

    def __init__(self, name: str, heard: list[str], error: Exception | None = None) -> None:
        self.name = name
        self._heard = heard
        self._error = error

    def request(self, flow: object) -> None:
        self._heard.append(self.name)
        if self._error is not None:
            raise self._error


class SlowListener(Listener):
    """One that does not answer at once."""

    async def request(self, flow: object) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self._heard.append(self.name)


class Family:
    """An addon of addons."""

    name = "family"

    def __init__(self, *addons: object) -> None:
        self.addons = addons


class Deaf:
    """Listens to something else, and would mind to be told that a flow has changed."""

    def response(self, flow: object) -> None:
        raise AssertionError

    def update(self, flows: object) -> None:
        raise AssertionError


class Master:
    """What addons are told of the program that they are in."""

    def __init__(self) -> None:
        self.options = options.Options()
        self.commands = command.CommandManager(self)


async def asked(*addons: object) -> None:
    manager = Addons(Master())
    manager.add(*addons)
    await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))


async def test_everybody_who_listens_is_called_in_order() -> None:
    heard: list[str] = []
    await asked(Listener("a", heard), Deaf(), Family(SlowListener("b", heard), Listener("c", heard)))
    assert heard == ["a", "b", "c"]


async def test_who_comes_later_is_called_as_well() -> None:
    heard: list[str] = []
    manager = Addons(Master())
    for name in ("a", "b"):
        manager.add(Listener(name, heard))
        await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))
    assert heard == ["a", "a", "b"]


async def test_a_fault_keeps_nobody_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    await asked(Listener("a", heard, ValueError("broken")), Listener("b", heard))
    assert heard == ["a", "b"]
    assert "fault in request" in caplog.text
    assert "broken" in caplog.text


async def test_an_addon_may_keep_it_from_the_others() -> None:
    heard: list[str] = []
    await asked(Listener("a", heard, exceptions.AddonHalt()), Listener("b", heard))
    assert heard == ["a"]
