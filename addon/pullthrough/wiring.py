"""Builds everything, in the order in which a request meets it, and runs it.

Responsible for who gets whom. Must not decide anything about requests. The only module that knows all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mitmproxy import ctx, master, options
from mitmproxy.addons import core, proxyserver, tlsconfig

from pullthrough import __version__, config, installation, logs, trust
from pullthrough.addon import PullthroughAddon
from pullthrough.breaker import Breaker
from pullthrough.ca import Authority
from pullthrough.config import Settings
from pullthrough.core.registries import Registries, parse_entry
from pullthrough.door import Door
from pullthrough.guard import Guard, GuardedEventLoop
from pullthrough.health import Health
from pullthrough.inside import Inside
from pullthrough.layers import Connections
from pullthrough.leaves import LeafContexts
from pullthrough.messages import Registry
from pullthrough.metrics import Metrics
from pullthrough.page import Page
from pullthrough.parent import ParentProxies
from pullthrough.sending import Sender
from pullthrough.store import Store
from pullthrough.upstream import Timeouts, Upstream

log = logging.getLogger(__name__)

#: What we need mitmproxy to do differently, in its own words. FACTS: a hit must not need the upstream (lazy), nor its
#: certificate; block_global is ours to say (Door.client_connected).
_MITMPROXY: Final = {
    "connection_strategy": "lazy",
    "upstream_cert": False,
    "http2": False,
    "keep_host_header": True,
    "websocket": False,
}


#: Open files that are not clients': the index in each thread, listeners, fills.
_OWN_FILES: Final = 256


class App:
    """Everything that serves, for one event loop. Make it inside that loop."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        # 1. what is known before anybody asks
        self.settings = settings
        self.guard = guard
        self.started = asyncio.Event()
        self.health = Health()
        self.authority = load_authority(settings)
        self._leaving = contextlib.ExitStack()
        self.trust_file = _trust_file(settings, self._leaving)
        if settings.offline:
            self.health.degraded("offline", "started with --offline: nothing leaves this proxy")
        self.registries = Registries(parse_entry(text) for text in settings.registry)
        self.parents = ParentProxies(os.environ)
        metrics = Metrics()
        # 2. what is behind the doors
        breaker = Breaker(time.monotonic, _now)
        upstream = Upstream(
            tls=trust.client_context(self.trust_file.read_bytes()),
            timeouts=Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.stall_timeout),
            parents=self.parents,
            guard=guard,
            agent=f"pullthrough/{__version__}",
            breaker=breaker,
            offline=settings.offline,
        )
        self.store = Store(settings.data_dir / "store", settings.size, self.health)
        self.inside = Inside(
            settings,
            store=self.store,
            upstream=upstream,
            metrics=metrics,
            secret=installation.secret(settings.data_dir / "secret"),
            trusted=self._named_by_operator,
        )
        # 3. what it says of itself
        page = Page(
            ca_pem=self.authority.certificate_pem,
            fingerprint=self.authority.fingerprint,
            health=self.health,
            metrics=metrics,
            store=self.store,
            ratelimit=lambda: self.inside.limits.budgets,
            unreachable=breaker.failing,
        )
        metrics.watch(
            degraded=lambda: float(bool(self.health.reasons)),
            flights=lambda: float(len(self.inside.flights)),
            breakers=lambda: float(breaker.count()),
            size=settings.size,
        )
        # 4. the front door
        connections = Connections(lambda: ctx.master.addons.get("proxyserver").connections)
        self.sender = Sender(connections.writer)
        self.door = Door(
            registries=self.registries,
            neighbours=self.inside.neighbours,
            leaves=LeafContexts(self.authority, _now),
            guard=guard,
            parents=self.parents,
            metrics=metrics,
            connections=connections,
            limit=_most_connections(),
            offline=settings.offline,
        )
        self.addon = PullthroughAddon(
            registries=self.registries,
            pulls=self.inside.pulls,
            page=page,
            sender=self.sender,
            connections=connections,
            patience=settings.connect_timeout + settings.first_byte_timeout,
            guard=guard,
            parents=self.parents,
            metrics=metrics,
            offline=settings.offline,
        )

    @property
    def addons(self) -> list[object]:
        """Mitmproxy finds them here, and lets every hook reach them in this order, and this object last."""
        return [self.door, self.sender, self.addon]

    # -- mitmproxy's hooks for the life of the whole

    def running(self) -> None:
        """The listeners are there."""
        addresses = ctx.master.addons.get("proxyserver").listen_addrs()
        self.guard.listening((address[0], address[1]) for address in addresses)
        if not self.settings.offline:
            self._forget_ourselves_as_parent()
        self.started.set()

    async def done(self) -> None:
        """The end: fills stop, partials stay."""
        await self.inside.aclose()
        await self.store.aclose()
        self._leaving.close()

    def _named_by_operator(self, registry: Registry) -> bool:
        return self.registries.named_by_operator(registry.host, registry.port)

    def _forget_ourselves_as_parent(self) -> None:
        """HTTPS_PROXY is set on this machine for its own builds: then it names us, and we would ask ourselves."""
        for proxy in list(self.parents):
            with contextlib.suppress(OSError):
                found = socket.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
                if any(self.guard.is_ourselves(str(info[4][0]), proxy.port) for info in found):
                    log.warning("HTTPS_PROXY names this proxy itself (%s): it is ignored here", proxy.url)
                    self.parents.forget(proxy)


class _UpstreamTls:
    """mitmproxy's TLS towards upstreams, without the certificate authority that its addon makes for clients."""

    def __init__(self) -> None:
        self._addon = tlsconfig.TlsConfig()

    def load(self, loader: Any) -> None:
        """Its options."""
        self._addon.load(loader)

    def tls_start_server(self, start: Any) -> None:
        """Its verification of the upstream's certificate."""
        self._addon.tls_start_server(start)


def _most_connections() -> int:
    """How many clients may be connected, by the open files that we may have. Raises the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (soft - _OWN_FILES) // 3)


def _now() -> datetime:
    return datetime.now(UTC)


def load_authority(settings: Settings) -> Authority:
    """The operator's CA if there is one, else ours, made at first start. CAError if it cannot be used."""
    if settings.ca_cert is not None and settings.ca_key is not None:
        return Authority.load(settings.ca_cert, settings.ca_key, now=_now)
    return Authority.load_or_create(settings.ca_dir, now=_now)


def _trust_file(settings: Settings, leaving: contextlib.ExitStack) -> Path:
    """One PEM file with all authorities for upstreams: mitmproxy takes a file, not two.

    Not in the data directory: that may be read-only or go away, and pulls have to go on without it.
    """
    system = trust.system_bundle(os.environ)
    pem = trust.bundle([file for file in (system, settings.upstream_ca) if file is not None])
    folder = leaving.enter_context(tempfile.TemporaryDirectory(prefix="pullthrough-", ignore_cleanup_errors=True))
    file = Path(folder, "upstream-trust.pem")
    file.write_bytes(pem)
    return file


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises CAError and TrustError before anything listens."""
    logs.configure(settings.log_format, settings.log_level)
    guard = Guard()
    with asyncio.Runner(loop_factory=lambda: GuardedEventLoop(guard)) as runner:
        return runner.run(_serve(settings, guard))


async def _serve(settings: Settings, guard: Guard) -> int:
    app = App(settings, guard)
    opts = options.Options(mode=[f"regular@{settings.listen.host}:{settings.listen.port}"])
    proxy = master.Master(opts)
    server = proxyserver.Proxyserver()
    app.door.name = "nextlayer"  # type: ignore[attr-defined]  # mitmproxy warns if nobody has that role
    proxy.addons.add(core.Core(), server, _UpstreamTls(), app)
    opts.update(**_MITMPROXY, ssl_verify_upstream_trusted_ca=str(app.trust_file))
    stop = asyncio.Event()
    running = asyncio.create_task(proxy.run(), name="mitmproxy")
    with _stopping(stop):
        await _first(stop, running, app.started.wait())
        addresses = ", ".join(f"{host}:{port}" for host, port, *_ in server.listen_addrs())
        if addresses:
            log.info("listening on %s; CA fingerprint %s", addresses, app.authority.fingerprint)
            await _first(stop, running)
            await _drain(app, server, settings.shutdown_grace, stop)
        else:
            log.error("cannot listen on %s:%s; choose another address or port with --listen", *settings.listen)
    proxy.shutdown()
    await running
    return 0 if addresses else 1


async def _first(stop: asyncio.Event, *others: Any) -> None:
    """Wait until one of them is over. Tasks that were given go on; what was made of the others ends here."""
    waiting = {asyncio.ensure_future(other) for other in (stop.wait(), *others)}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for made in waiting.difference(others):
            made.cancel()


@contextlib.contextmanager
def _stopping(stop: asyncio.Event) -> Any:
    """SIGTERM and SIGINT ask to stop; the second one does not wait for pulls under way."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _drain(app: App, server: proxyserver.Proxyserver, grace: float, stop: asyncio.Event) -> None:
    """Take no more connections; let the pulls that are under way come to their end, for `grace` seconds."""
    log.info("stopping: waiting up to %g s for pulls under way", grace)
    await server.servers.update([])
    stop.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await _first(stop, app.addon.idle())


def from_environment(environ: Mapping[str, str] = os.environ) -> list[object]:
    """The addons for `mitmdump -s addon/main.py`: settings from PULLTHROUGH_* and the configuration file.

    mitmdump brings its own listener, log and event loop: `--listen` and the log settings are not used.
    """
    app = App(config.load({}, environ, None), Guard())
    ctx.options.update(**_MITMPROXY, ssl_verify_upstream_trusted_ca=str(app.trust_file))
    return [app]
