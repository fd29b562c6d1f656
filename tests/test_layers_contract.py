"""What `layers.py`, `hooks.py` and `sending.py` lean on in mitmproxy: names and signatures that nobody has promised.

When one of these fails after an upgrade, read layers.py beside mitmproxy's own file before moving the pin.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import version
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy import commands, layer, server, tunnel
from mitmproxy.proxy.layers import ClientTLSLayer, tcp
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._events import ErrorCode
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpRequestHeadersHook, HttpResponseHook
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy

from pullthrough import layers
from pullthrough.hooks import Addons


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_minor_version_is_the_one_that_was_read() -> None:
    assert version.VERSION.startswith("12.2."), "mitmproxy changed: look at layers.py, then move the pin"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (HttpStream.__init__, ["self", "context", "stream_id"]),
        (HttpStream.send_response, ["self", "already_streamed"]),
        (HttpStream.state_wait_for_request_headers, ["self", "event"]),
        (HttpStream.state_consume_request_body, ["self", "event"]),
        (HttpStream.state_stream_request_body, ["self", "event"]),
        (HttpStream.handle_protocol_error, ["self", "event"]),
        (HttpStream.handle_connect_regular, ["self"]),
        (HttpStream.handle_connect_finish, ["self"]),
        (HttpStream.check_killed, ["self", "emit_error_hook"]),
        (HttpStream.flow_done, ["self"]),
        (HttpLayer.__init__, ["self", "context", "mode"]),
        (HttpLayer.make_stream, ["self", "stream_id"]),
        (HttpLayer.event_to_child, ["self", "child", "event"]),
        (Http1Server.__init__, ["self", "context"]),
        (Http1Server.send, ["self", "event"]),
        (Http1Server.read_headers, ["self", "event"]),
        (ClientTLSLayer.send_data, ["self", "data"]),
        (ClientTLSLayer.tls_interact, ["self"]),
        (AddonManager.add, ["self", "addons"]),
        (AddonManager.handle_lifecycle, ["self", "event"]),
        (AddonManager._iter_hooks, ["self", "addon", "event"]),
        (HttpUpstreamProxy.make, ["ctx", "send_connect"]),
        (tcp.TCPLayer.__init__, ["self", "context", "ignore"]),
        (tcp.TCPLayer.relay_messages, ["self", "event"]),
        (layer.NextLayer.data_client, ["self"]),
        (tunnel.LayerStack.__truediv__, ["self", "other"]),
        (ErrorCode.http_status_code, ["self"]),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_a_method_that_we_override_or_call_has_its_parameters(
    function: Callable[..., Any], expected: list[str]
) -> None:
    assert parameters(function) == expected, f"mitmproxy changed {function.__qualname__}: look at layers.py"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (layers.Stream, HttpStream),
        (layers.Server, Http1Server),
        (layers.Http, HttpLayer),
        (layers.Tls, ClientTLSLayer),
        (layers.Tunnel, tcp.TCPLayer),
        (Addons, AddonManager),
    ],
)
def test_nothing_is_overridden_that_is_not_there(ours: type, theirs: type) -> None:
    added = {name for name in vars(ours) if not name.startswith("_")} - set(dir(theirs))

    assert added == set(), f"{theirs.__name__} lost {added}: look at layers.py"


def test_the_states_that_we_set_exist() -> None:
    assert {"state_done", "state_errored", "state_consume_request_body"} <= set(dir(HttpStream))
    assert {"done", "read_headers", "read_body", "passthrough"} <= set(dir(Http1Server))
    assert {"regular", "transparent"} <= set(HTTPMode.__members__)


def test_our_hook_is_called_by_the_name_that_the_sender_has() -> None:
    assert layers.PullthroughChunkHook.name == "pullthrough_chunk"
    assert layers.PullthroughChunkHook.blocking is True
    assert issubclass(layers.PullthroughChunkHook, commands.StartHook)
    assert [hook.name for hook in (HttpErrorHook, HttpRequestHeadersHook, HttpResponseHook)] == [
        "error",
        "requestheaders",
        "response",
    ]


def test_a_client_s_writer_is_where_the_sender_looks_for_it() -> None:
    assert "transports" in inspect.get_annotations(server.ConnectionHandler)
    assert {"reader", "writer", "handler"} <= set(inspect.get_annotations(server.ConnectionIO))
