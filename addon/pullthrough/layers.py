"""How mitmproxy is taught to send a body that it does not hold in memory, to speak OCI errors, and to tunnel.

The one file that leans on mitmproxy's inner names (tests/test_layers_contract.py fails when they change). Responsible
for what is put on connections, and when. Must not know registries, caches or access, nor where a body comes from.

mitmproxy sends `flow.response.content` in one piece from memory. Here a response may carry an `Outgoing` instead: the
HTTP stream yields a blocking hook for every chunk, whose handler (`sending.Sender`) first waits for the client to take
what it was given and then for the next bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mitmproxy import http
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.net.http import status_codes
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.layers.http import DropStream, HttpLayer, HTTPMode, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpRequestHeadersHook, HttpResponseHook
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy
from mitmproxy.proxy.layers.tcp import TCPLayer
from mitmproxy.proxy.server import ConnectionHandler
from OpenSSL import SSL

from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.sending import OUTGOING, Outgoing
from pullthrough.visits import Visit

type Commands[T] = layer.CommandGenerator[T]

#: Keys in flow.metadata.
TO_US: Final = "pullthrough.to_us"
TUNNEL: Final = "pullthrough.tunnel"
GATHERED: Final = "pullthrough.gathered"
ABSOLUTE: Final = "pullthrough.absolute"

#: A head that is longer is refused, a client's (RFC 9110 section 5.4 leaves the limit to us; mitmproxy has none) and an
#: upstream's.
_MAX_HEAD: Final = 64 << 10
#: Lines of a request head. Each costs far more than its bytes; clients send a dozen or two.
_MAX_LINES: Final = 256
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
#: Bytes that are encrypted in one step. OpenSSL keeps a buffer of that size for each connection, to its end.
_ENCRYPTED: Final = 256 << 10
#: What mitmproxy says of an answer that it cannot read, and quotes the answer after it.
_UNREADABLE: Final = ("unexpected server response", "Cannot parse HTTP response")
#: Bytes of a request's body that is gathered: the form of a token request.
_MAX_GATHERED: Final = 64 << 10
#: A Host field that may be repeated in an error.
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
#: Requests that have no body in any protocol of registries. One that came nevertheless would wait in memory.
_BODYLESS_METHODS: Final = ("GET", "HEAD")


@dataclasses.dataclass
class TunnelCount:
    """What may be known of a tunnel: where it leads and how many bytes went through."""

    host: str
    port: int
    transferred: int = 0


@dataclasses.dataclass
class PullthroughChunkHook(commands.StartHook):
    """Ask for the next chunk of `flow`: it is put into the Outgoing, b"" at the end; an error goes to flow.error."""

    flow: http.HTTPFlow


class Stream(HttpStream):
    """An exchange that can send an `Outgoing`, and connects before it says that a tunnel is there."""

    def __init__(self, ctx: context.Context, stream_id: int, visit: Visit) -> None:
        super().__init__(ctx, stream_id)
        self._visit = visit

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands[None]:
        """Note whether the request was made to the proxy itself: mitmproxy fills the host in from the Host field.

        And whether it names an authority of its own inside of a connection that leads to one already.
        """
        to_us = self.mode is HTTPMode.regular and not event.request.host
        absolute = self.mode is HTTPMode.transparent and bool(event.request.authority)

        def mark(command: commands.Command) -> None:
            if isinstance(command, HttpRequestHeadersHook):
                command.flow.metadata[TO_US] = to_us
                command.flow.metadata[ABSOLUTE] = absolute

        yield from _watched(super().state_wait_for_request_headers(event), mark)

    def state_consume_request_body(self, event: events.Event) -> Commands[None]:
        """A body that nobody will read is not gathered in memory: what passes is streamed, the rest has its answer."""
        if isinstance(event, RequestData):
            gathered = len(self.request_body_buf) + len(event.data)
            if self.flow.metadata.get(GATHERED) and gathered > _MAX_GATHERED:
                self.flow.response = error_response(413, f"the request's body exceeds {_MAX_GATHERED} bytes")
            if self.flow.response:
                return
        yield from super().state_consume_request_body(event)

    def state_stream_request_body(self, event: events.Event) -> Commands[None]:
        """A body that passes may take as long as it likes, while it moves."""
        if isinstance(event, RequestData):
            self._visit.moved()
        yield from super().state_stream_request_body(event)

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands[None]:
        """What an upstream sent is not repeated, to nobody: a head has signed URLs and cookies."""
        if isinstance(event, ResponseProtocolError) and event.message.startswith(_UNREADABLE):
            event.message = "the upstream sent no valid HTTP answer"
        yield from super().handle_protocol_error(event)

    def handle_connect_regular(self) -> Commands[None]:
        """A tunnel is opened at once, so that the client hears of a failure; else the client speaks first."""
        count = self.flow.metadata.get(TUNNEL)
        if not isinstance(count, TunnelCount) or self.flow.response:
            yield from super().handle_connect_regular()  # type: ignore[no-untyped-call]
            return
        if self.context.server.via:
            self.child_layer = tunnel(self.context, count)
        else:
            error = yield commands.OpenConnection(self.context.server)
            if error:
                self.flow.response = error_response(502, f"cannot connect to {self.flow.request.host}: {error}")
            self.child_layer = Tunnel(self.context, count)
        yield from self.handle_connect_finish()  # type: ignore[no-untyped-call]

    def send_response(self, already_streamed: bool = False) -> Commands[None]:
        """As mitmproxy's, but with the body pulled chunk by chunk where the flow has an Outgoing."""
        outgoing = self.flow.metadata.get(OUTGOING)
        response = self.flow.response
        if already_streamed or not isinstance(outgoing, Outgoing) or response is None:
            yield from super().send_response(already_streamed)
            return
        response.timestamp_end = time.time()
        yield HttpResponseHook(self.flow)
        self.server_state = self.state_done
        if (yield from self.check_killed(True)):
            return
        yield SendHttp(ResponseHeaders(self.stream_id, response, False), self.context.client)
        while True:
            yield PullthroughChunkHook(self.flow)
            if (yield from self.check_killed(True)):
                return
            if self.flow.error:
                yield from self._cut(self.flow.error.msg)
                return
            if not outgoing.chunk:
                break
            yield SendHttp(ResponseData(self.stream_id, outgoing.chunk), self.context.client)
            outgoing.chunk = b""
        if self.client_state == self.state_done:
            yield from self.flow_done()

    def _cut(self, message: str) -> Commands[None]:
        """End the connection in the middle: the client must not take what it has for the whole."""
        yield HttpErrorHook(self.flow)
        error = ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
        yield SendHttp(error, self.context.client)
        self.client_state = self.server_state = self.state_errored
        self.flow.live = False
        yield DropStream(self.stream_id)


class Server(Http1Server):
    """HTTP/1.1 towards the client, with OCI error bodies and a bound on all that is not a body, and on its time."""

    def __init__(self, ctx: context.Context, visit: Visit) -> None:
        super().__init__(ctx)
        self._visit = visit
        self._told: Callable[[], None] | None = None
        self._unread = 0
        self._lines = 0

    def _handle_event(self, event: events.Event) -> Commands[None]:
        """Bound what a client can make us remember: everything that is no body which somebody reads."""
        yield from super()._handle_event(event)
        if not isinstance(event, events.Start):  # before its first byte it is as the door has it
            self._tell(self._turn())
        if isinstance(event, events.DataReceived) and self.state != self.passthrough:
            if self.request is not None and self.request.method in _BODYLESS_METHODS:
                self._unread += len(event.data)
            if max(len(self.buf), self._unread) > _MAX_HEAD:
                yield commands.CloseConnection(self.conn)

    def _turn(self) -> Callable[[], None]:
        """What the client's time is counted for now."""
        if self.state == self.read_headers:
            return self._visit.step if self.buf else self._visit.rest
        if self.state == self.read_body:
            return self._visit.carry
        if self.state == self.passthrough:
            opened = self.request is not None and self.request.method == "CONNECT"
            return self._visit.step if opened else self._visit.leave_alone
        return self._visit.serve

    def _tell(self, turn: Callable[[], None]) -> None:
        if turn != self._told:
            self._told = turn
            turn()

    def send(self, event: HttpEvent) -> Commands[None]:
        """Mitmproxy answers with a page of HTML where it has no response; a registry client wants JSON."""
        self._visit.gave()
        if not isinstance(event, ResponseProtocolError) or self.response:
            yield from super().send(event)
            return
        status = event.code.http_status_code()
        if self.conn.state & ConnectionState.CAN_WRITE:
            if status is not None:
                head = self.request is not None and self.request.method == "HEAD"
                whom = self.request.host_header if self.request is not None else None
                named = f"{whom}: " if whom and _AUTHORITY.fullmatch(whom) else ""
                yield commands.SendData(self.conn, error_bytes(status, named + event.message, head=head))
            yield commands.CloseConnection(self.conn)

    def read_headers(self, event: events.ConnectionEvent) -> Commands[None]:
        """A head that is too long or cannot be read is refused in our words."""

        def explain(command: commands.Command) -> None:
            if isinstance(command, commands.SendData):
                command.data = error_bytes(400, "the request cannot be understood")

        self._unread = 0
        if isinstance(event, events.DataReceived) and (refused := self._refusal(event.data or bytes(self.buf))):
            yield commands.SendData(self.conn, refused)
            yield commands.CloseConnection(self.conn)
            self.state = self.done
            return
        yield from _watched(super().read_headers(event), explain)
        if self.state != self.read_headers:
            self._lines = 0

    def _refusal(self, new: bytes) -> bytes | None:
        """The answer to a head that is too long, of which `new` just came; None if it is not."""
        self._lines += new.count(b"\n")
        if len(self.buf) <= _MAX_HEAD and self._lines <= _MAX_LINES:
            return None
        head = _BLANK_LINE.split(bytes(self.buf), maxsplit=1)[0].removesuffix(b"\r")  # a body may follow
        if len(head) > _MAX_HEAD:
            line = b"\n" not in head[:_MAX_HEAD]
            return error_bytes(414 if line else 431, f"the request head exceeds {_MAX_HEAD} bytes")
        if head.count(b"\n") >= _MAX_LINES:
            return error_bytes(431, f"the request head has more than {_MAX_LINES} lines")
        return None


class Http(HttpLayer):
    """mitmproxy's HTTP layer, made of our streams and our server. HTTP/1.1 only: ALPN offers nothing else."""

    def __init__(self, ctx: context.Context, mode: HTTPMode, visit: Visit) -> None:
        super().__init__(ctx, mode)
        self._visit = visit
        self.connections[ctx.client] = Server(ctx.fork(), visit)

    def _handle_event(self, event: events.Event) -> Commands[None]:
        """Bound what an upstream can make us remember: a head, or a chunk's, that does not end."""
        yield from super()._handle_event(event)
        if isinstance(event, events.DataReceived) and event.connection is not self.context.client:
            yield from self._bound(event.connection)

    def _bound(self, server: Connection) -> Commands[None]:
        handler = self.connections.get(server)
        reader = handler.context.layers[-1] if handler is not None else None
        if not isinstance(reader, Http1Client) or len(reader.buf) <= _MAX_HEAD:
            return
        reader.buf.maybe_extract_at_most(len(reader.buf))
        yield commands.CloseConnection(server)
        stream = self.streams.get(reader.stream_id or 0)
        if stream is not None:
            message = f"the head of the upstream's answer exceeds {_MAX_HEAD} bytes"
            error = ResponseProtocolError(stream.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
            yield from self.event_to_child(stream, error)

    def make_stream(self, stream_id: int) -> Commands[None]:
        """Our kind of stream."""
        self.streams[stream_id] = Stream(self.context.fork(), stream_id, self._visit)
        yield from self.event_to_child(self.streams[stream_id], events.Start())


class Tls(ClientTLSLayer):
    """TLS towards a client, in fewer and larger steps than mitmproxy's, which hands on 64 KiB at a time."""

    def send_data(self, data: bytes) -> Commands[None]:
        """Encrypt `data` and send it."""
        left = memoryview(data)
        while left:
            try:
                self.tls.sendall(left[:_ENCRYPTED])
            except (SSL.ZeroReturnError, SSL.SysCallError):  # the client hung up, and may still send
                yield from self.tls_interact()
                return
            yield commands.SendData(self.conn, self.tls.bio_read(2 * _ENCRYPTED))
            left = left[_ENCRYPTED:]


class Tunnel(TCPLayer):
    """Bytes in both directions, unopened; only counted."""

    def __init__(self, ctx: context.Context, count: TunnelCount) -> None:
        super().__init__(ctx, ignore=True)
        self._count = count

    def relay_messages(self, event: events.Event) -> Commands[None]:
        """Relay, and count."""
        if isinstance(event, events.DataReceived):
            self._count.transferred += len(event.data)
        yield from super().relay_messages(event)


def tunnel(ctx: context.Context, count: TunnelCount) -> layer.Layer:
    """A tunnel to the server of `ctx`, through the parent proxy if there is one."""
    if not ctx.server.via:
        return Tunnel(ctx, count)
    stack = HttpUpstreamProxy.make(ctx, True)
    stack /= Tunnel(ctx, count)
    first: layer.Layer = stack[0]
    return first


class Close(layer.Layer):
    """Hang up: what the client speaks is nothing that we do."""

    def _handle_event(self, event: events.Event) -> Commands[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


class Connections:
    """The clients' connections of a running mitmproxy, by what it calls its proxyserver."""

    def __init__(self, handlers: Callable[[], Mapping[Any, ConnectionHandler]]) -> None:
        self._handlers = handlers

    def writer(self, client: Client) -> asyncio.StreamWriter | None:
        """Where bytes for `client` are written; None if it is gone."""
        handler = self._handlers().get(client.id)
        transport = handler.transports.get(client) if handler else None
        writer: asyncio.StreamWriter | None = transport.writer if transport else None  # type: ignore[assignment]
        return writer

    def close_remains(self, client: Client) -> None:
        """Close the sockets that were left open when `client` went.

        A task of mitmproxy's that is told to close its connection, while it waits for its turn to hand over what it
        read, ends without doing so.
        """
        handler = self._handlers().get(client.id)
        for transport in tuple(handler.transports.values()) if handler else ():
            over = transport.handler is not None and transport.handler.done()
            if over and isinstance(transport.writer, asyncio.StreamWriter):
                transport.writer.close()

    def refuse(self, client: Client, server: Connection) -> None:
        """End `server`, just connected for `client`, before a byte goes there."""
        handler = self._handlers().get(client.id)
        transport = handler.transports.get(server) if handler else None
        if transport is not None and isinstance(transport.writer, asyncio.StreamWriter):
            transport.writer.transport.abort()

    def hang_up_upstream(self, client: Client) -> None:
        """End what was opened upstream for `client`, be it connected or still on the way."""
        handler = self._handlers().get(client.id)
        for peer, transport in tuple(handler.transports.items()) if handler else ():
            if peer is not client and transport.handler is not None:
                transport.handler.cancel("the upstream did not answer in time")


def error_response(status: int, message: str) -> http.Response:
    """Our own error as a response with an OCI body."""
    body = ocierrors.body(ocierrors.DENIED if status == 403 else ocierrors.UNAVAILABLE, f"pullthrough: {message}")
    return http.Response.make(status, body, {"Content-Type": ocierrors.CONTENT_TYPE})


def error_bytes(status: int, message: str, *, head: bool = False) -> bytes:
    """The same on the wire, for where mitmproxy has no response; the connection ends after it."""
    if "certificate verify failed" in message.lower():
        message += "; if the registry's certificate is signed by your own CA, give that to --upstream-ca"
    other = ocierrors.UNSUPPORTED if 400 <= status < 500 else ocierrors.UNAVAILABLE
    body = ocierrors.body(ocierrors.TOOMANYREQUESTS if status == 429 else other, f"pullthrough: {message}")
    status_of_cache = CacheStatus(fwd="bypass", detail=message).header()
    lines = (
        f"HTTP/1.1 {status} {status_codes.RESPONSES.get(status, 'Error')}",
        f"Content-Type: {ocierrors.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        f"Cache-Status: {status_of_cache}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body)


def _watched[T](generator: Commands[T], look: Callable[[commands.Command], None]) -> Commands[T]:
    """Pass commands and replies through, letting `look` see each command first."""
    reply: Any = None
    while True:
        try:
            command = generator.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
        look(command)
        reply = yield command
