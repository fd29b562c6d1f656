"""Builds everything, in the order in which a request meets it, and runs it.

Responsible for who gets whom. Must not decide anything about requests. The only module that knows all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mitmproxy import ctx, master, options
from mitmproxy.addons import core, proxyserver, tlsconfig
from mitmproxy.proxy.mode_specs import ProxyMode, RegularMode
from mitmproxy_rs.dns import get_system_dns_servers

from pullthrough import __version__, config, installation, logs, trust, workers
from pullthrough.addon import PullthroughAddon
from pullthrough.authority import establish
from pullthrough.breaker import Breaker
from pullthrough.ca import CAError
from pullthrough.config import Settings
from pullthrough.core.registries import BUILTIN, Registries, parse_entry
from pullthrough.discovery import Discovery
from pullthrough.door import Door
from pullthrough.forwarders import Forwarders
from pullthrough.gate import Gate
from pullthrough.guard import Guard
from pullthrough.health import Health
from pullthrough.hooks import Addons
from pullthrough.inside import Inside
from pullthrough.keyring import Keyring
from pullthrough.layers import Connections
from pullthrough.leaves import LeafContexts
from pullthrough.listeners import ListenError, Listeners, ListeningEventLoop
from pullthrough.logins import Logins
from pullthrough.messages import Registry
from pullthrough.metrics import Metrics
from pullthrough.mirror import Mirror
from pullthrough.modes import RedirectMode, SniMode, spec
from pullthrough.nameserver import NameServer
from pullthrough.page import Page
from pullthrough.parent import ParentProxies
from pullthrough.pins import Keeper, Pins
from pullthrough.resolver import Resolver
from pullthrough.sending import Sender
from pullthrough.siblings import Siblings
from pullthrough.store import Store, StoreError
from pullthrough.upstream import Timeouts, Upstream
from pullthrough.visits import Allowance, Visits
from pullthrough.worker import ALONE, Orders, Worker

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


#: Seconds between two looks at the CA's files and dates.
_CA_WATCH: Final = 3600.0
#: Seconds between two looks at what was not used for long.
_HOUSEKEEPING: Final = 3600.0
#: Seconds after which uses are written down at the latest.
_USES: Final = 5.0
#: What clients may take. Nobody has asked yet for another, so there is no setting.
_ALLOWANCE: Final = Allowance()
#: Open files that are not clients': the index in each thread, listeners, fills.
_OWN_FILES: Final = 256


class App:
    """Everything that serves, for one event loop. Make it inside that loop.

    `secret` is the installation's.
    """

    def __init__(
        self,
        settings: Settings,
        secret: bytes,
        guard: Guard,
        resolver: Resolver,
        allowance: Allowance,
        worker: Worker = ALONE,
    ) -> None:
        # 1. what is known before anybody asks
        self.settings = settings
        self.guard = guard
        self.worker = worker
        self.started = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self.health = Health()
        self.authority = establish(settings, _now)
        gate = Gate(settings.mirror_htpasswd, settings.mirror_network)  # both before anything that has to be closed
        keyring = Keyring.load(settings.mirror_credentials, settings.mirror_helper)
        self._leaving = contextlib.ExitStack()
        self.trust_file = _trust_file(settings, self._leaving)
        if settings.offline:
            self.health.degraded("offline", "started with --offline: nothing leaves this proxy")
        permitted = [known for known in BUILTIN if self.authority.permits(known.pattern)]
        self.registries = Registries((parse_entry(text) for text in settings.registry), permitted)
        self.parents = ParentProxies(os.environ)
        self.metrics = metrics = Metrics(workers.metrics_folder(worker), worker.slot)
        # 2. what is behind the doors
        breaker = Breaker(time.monotonic, _now)
        upstream = Upstream(
            tls=trust.client_context(self.trust_file.read_bytes()),
            timeouts=Timeouts(settings.connect_timeout, settings.first_byte_timeout, settings.stall_timeout),
            parents=self.parents,
            guard=guard,
            agent=f"pullthrough/{__version__}",
            breaker=breaker,
            resolver=resolver,
            offline=settings.offline,
        )
        disk = _disk(settings.data_dir)
        self.store = Store(
            settings.store_dir,
            settings.size.of(disk),
            self.health,
            min_free=settings.min_free.of(disk),
            kept=Keeper(Pins(settings.data_dir)),
            damaged=metrics.damaged,
        )
        self.siblings = Siblings()
        self.inside = Inside(
            replace(settings, max_fills=worker.share(settings.max_fills)),
            store=self.store,
            upstream=upstream,
            metrics=metrics,
            secret=secret,
            siblings=self.siblings,
            trusted=self._named_by_operator,
            vouches=lambda registry: self.registries.is_listed(registry.host, registry.port),
        )
        # 3. what it says of itself
        page = Page(
            ca_pem=lambda: self.authority.certificate_pem,
            fingerprint=lambda: self.authority.fingerprint,
            health=self.health,
            metrics=metrics,
            store=self.store,
            ratelimit=lambda: self.inside.limits.budgets,
            unreachable=breaker.failing,
            exposed=_exposed(settings),
            port=settings.listen.port,
        )
        metrics.watch(
            degraded=lambda: float(bool(self.health.reasons)),
            flights=lambda: float(len(self.inside.flights)),
            breakers=lambda: float(breaker.count()),
            expiry=self.authority.expires_in,
            size=self.store.size,
        )
        # 4. the front doors
        connections = Connections(lambda: ctx.master.addons.get("proxyserver").connections)
        self.sender = Sender(connections.writer, allowance)
        self.visits = Visits(_most_connections(), allowance)
        self.door = Door(
            registries=self.registries,
            neighbours=self.inside.neighbours,
            leaves=LeafContexts(self.authority, _now),
            guard=guard,
            parents=self.parents,
            metrics=metrics,
            connections=connections,
            visits=self.visits,
            own_names=frozenset(name for name in _own_names(settings) if self.authority.permits(name)),
            discovery=self._discovery(upstream),
            offline=settings.offline,
        )
        self.addon = PullthroughAddon(
            registries=self.registries,
            pulls=self.inside.pulls,
            mirror=Mirror(
                pulls=self.inside.pulls,
                upstream=upstream,
                registries=self.registries,
                gate=gate,
                passwords=settings.mirror_htpasswd is not None,
                logins=Logins(upstream, keyring, time.monotonic, self.inside.pulls.answer),
            ),
            page=page,
            sender=self.sender,
            connections=connections,
            patience=settings.connect_timeout + settings.first_byte_timeout,
            guard=guard,
            parents=self.parents,
            metrics=metrics,
            offline=settings.offline,
        )
        forwarders = Forwarders(_name_servers(settings, resolver), guard)
        self.names = NameServer(self.registries, settings.advertise, forwarders)

    @property
    def addons(self) -> list[object]:
        """Mitmproxy finds them here, and lets every hook reach them in this order, and this object last."""
        return [self.door, self.sender, self.addon]

    async def join(self, listeners: Listeners) -> None:
        """Be one of several workers: have what they know from now on, and take a share of the connections."""
        if self.worker.folder is not None:
            await self.siblings.join(self.worker.folder / "siblings", str(os.getpid()))
            listeners.balance.join(self.worker.slot)

    async def open_names(self, listeners: Listeners) -> None:
        """Open the door that is none of mitmproxy's."""
        for listener in listeners.of("dns_listen") if self.worker.first else ():
            await self.names.listen(listener)
        self.guard.listening(listeners.addresses)

    # -- mitmproxy's hooks for the life of the whole

    def running(self) -> None:
        """The listeners are there."""
        self.metrics.serves(replaces=self.worker.replaces)
        if not self.settings.offline:
            self._forget_ourselves_as_parent()
        self._background.append(asyncio.create_task(self._watch_the_ca(), name="ca"))
        self._background.append(asyncio.create_task(self._write_down(), name="uses"))
        if self.worker.first:
            self._background.append(asyncio.create_task(self._keep_house(), name="house"))
        if self.worker.first and self.settings.scrub_interval:
            scrub = self.store.scrub(self.settings.scrub_interval)
            self._background.append(asyncio.create_task(scrub, name="scrub"))
        self.started.set()

    async def done(self) -> None:
        """The end: fills stop, partials stay."""
        for task in self._background:
            task.cancel()
        await self.names.aclose()
        await self.inside.aclose()
        await self.siblings.aclose()
        await self.store.aclose()
        self._leaving.close()

    def _discovery(self, upstream: Upstream) -> Discovery | None:
        if not self.settings.discover or self.settings.offline:
            return None
        return Discovery(self.registries, upstream, self.inside.facts, time.monotonic)

    def _named_by_operator(self, registry: Registry) -> bool:
        return self.registries.named_by_operator(registry.host, registry.port)

    async def _watch_the_ca(self) -> None:
        """Take note of a rotation, and say in time that one is due."""
        if self.worker.first and self.authority.succession is not None:
            log.info("a new CA takes over on %s: clients have to trust both of /ca.pem", self.authority.succession)
        while True:
            try:
                await asyncio.to_thread(self.authority.refresh)
            except CAError as error:
                log.error("%s", error)  # noqa: TRY400  # a sentence for the operator
            if warning := self.authority.expiry_warning():
                self.health.degraded("ca", warning)
            else:
                self.health.recovered("ca")
            await asyncio.sleep(_CA_WATCH)

    async def _keep_house(self) -> None:
        """Let go of what nobody used for long, and note what pins mean now: what tags named is forgotten some time."""
        age = self.settings.max_age
        while True:
            with contextlib.suppress(StoreError):
                await self.store.look_at_kept()
            with contextlib.suppress(StoreError):
                if age and (gone := await self.store.retire(age)):
                    log.info("%d blobs were not used for --max-age and are gone", gone)
            await asyncio.sleep(min(_HOUSEKEEPING, max(1.0, age / 10)) if age else _HOUSEKEEPING)

    async def _write_down(self) -> None:
        """Have uses on disk soon, and numbers where other workers show them: whoever looks wants to see them."""
        while True:
            await asyncio.sleep(_USES)
            self.metrics.look()
            with contextlib.suppress(StoreError):
                await self.store.write_down()

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


def _exposed(settings: Settings) -> str:
    """What the mirror gives, and to whom, for those who look after it."""
    accounts = settings.mirror_credentials is not None or settings.mirror_helper is not None
    what = "what this proxy's own accounts at registries may read" if accounts else "what anybody may read"
    who = [f"clients in {network}" for network in settings.mirror_network]
    who += ["clients with a name and a password of this mirror"] if settings.mirror_htpasswd is not None else []
    whom = ", ".join(who) or "everybody who reaches this port"
    return f"The mirror endpoint, /v2/, gives {what} to {whom}. Clients' own credentials do not go further."


def _own_names(settings: Settings) -> list[str]:
    """What this proxy is called, for TLS to it."""
    return [*settings.name, "localhost", socket.gethostname().lower(), *map(str, settings.advertise)]


def _name_servers(settings: Settings, resolver: Resolver) -> Sequence[str]:
    """Whom our own name server asks for what it does not know itself."""
    if settings.offline or not settings.dns_listen:
        return ()
    return resolver.servers or get_system_dns_servers()


def _modes(listeners: Listeners) -> list[str]:
    """How mitmproxy is told what to listen on."""
    doors: list[tuple[type[ProxyMode], str]] = [
        (RegularMode, "listen"),
        (SniMode, "tls_listen"),
        (RedirectMode, "transparent_listen"),
    ]
    return [spec(mode, listener.address) for mode, name in doors for listener in listeners.of(name)]


def _most_connections() -> int:
    """How many clients may be connected, by the open files that we may have. Raises the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (soft - _OWN_FILES) // 3)


def _disk(folder: Path) -> int:
    """Bytes that the disk holds where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).total


def _now() -> datetime:
    return datetime.now(UTC)


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


def serve(settings: Settings, *, allowance: Allowance = _ALLOWANCE, again: Callable[[], Settings]) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises what a person can mend before anything listens.

    `again` reads the settings anew, as SIGHUP asks several workers to.
    """
    logs.configure(settings.log_format, settings.log_level)
    for port in config.ports_without_door(settings):
        log.warning("--dns-listen leads clients of registries on port %d here: add --tls-listen 0.0.0.0:%d", port, port)
    listeners = Listeners()

    def run(settings: Settings, secret: bytes, worker: Worker) -> int:
        logs.configure(settings.log_format, settings.log_level)
        guard = Guard()
        resolver = Resolver([str(address) for address in settings.resolver])
        with asyncio.Runner(loop_factory=lambda: ListeningEventLoop(guard, resolver.find, listeners)) as runner:
            return runner.run(_serve(lambda: App(settings, secret, guard, resolver, allowance, worker), listeners))

    try:
        if workers.count(settings) > 1:
            return workers.serve(settings, listeners, run, again)
        return run(settings, installation.secret(settings.data_dir / "secret"), ALONE)
    except ListenError as error:
        _tell(error.args)
        return 1


async def _serve(make: Callable[[], App], listeners: Listeners) -> int:
    """Serve, with the app that is made in this event loop, whatever comes to these listeners."""
    app = make()
    worker = app.worker
    if worker.alone:
        await _open(app, listeners)
    proxy = master.Master(options.Options(mode=_modes(listeners)))
    proxy.addons = Addons(proxy)
    server = proxyserver.Proxyserver()
    app.door.name = "nextlayer"  # type: ignore[attr-defined]  # mitmproxy warns if nobody has that role
    proxy.addons.add(core.Core(), server, _UpstreamTls(), app)
    proxy.options.update(**_MITMPROXY, ssl_verify_upstream_trusted_ca=str(app.trust_file))
    await app.join(listeners)
    await app.open_names(listeners)  # before the others: whoever finds us ready may ask for names
    orders = Orders(worker)
    running = asyncio.create_task(proxy.run(), name="mitmproxy")
    with orders.heard():
        await _first(orders.stop, running, app.started.wait())
        _spare_what_stays()
        faults = [str(door.last_exception) for door in server.servers if door.last_exception is not None]
        if orders.stop.is_set() or not faults:
            _begun(app, listeners)
            await _first(orders.stop, running)
            await _drain(app, server, listeners, orders)
        _tell(faults)
    proxy.shutdown()
    await running
    return 1 if faults else 0


async def _open(app: App, listeners: Listeners) -> None:
    """Listen where the settings say. ListenError leaves nothing behind."""
    try:
        listeners.open(app.settings)
    except ListenError:
        await app.done()
        raise


def _begun(app: App, listeners: Listeners) -> None:
    """Say so: to the supervisor, or to whoever reads the log of a process that is alone."""
    app.worker.report()
    if app.worker.alone:
        where = ", ".join(f"{host}:{port}" for host, port in listeners.addresses)
        log.info("listening on %s; CA fingerprint %s", where, app.authority.fingerprint)


def _spare_what_stays() -> None:
    """What is in memory now stays until the end: the garbage collector need not go through it again and again."""
    gc.freeze()


def _tell(faults: Iterable[str]) -> None:
    for fault in faults:
        log.error("cannot listen: %s; choose another address or port", fault)


async def _first(stop: asyncio.Event, *others: Any) -> None:
    """Wait until one of them is over. Tasks that were given go on; what was made of the others ends here."""
    waiting = {asyncio.ensure_future(other) for other in (stop.wait(), *others)}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for made in waiting.difference(others):
            made.cancel()


async def _drain(app: App, server: proxyserver.Proxyserver, listeners: Listeners, orders: Orders) -> None:
    """Take no more connections; let the pulls that are under way come to their end, for as long as they may take."""
    if app.worker.alone:
        log.info("stopping: waiting up to %g s for pulls under way", app.settings.shutdown_grace)
    await app.names.aclose()
    await server.servers.update([])
    listeners.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(app.settings.shutdown_grace):
            await _first(orders.end, _idle(app))


async def _idle(app: App) -> None:
    await app.visits.greeted()
    await app.addon.idle()


def from_environment(environ: Mapping[str, str] = os.environ) -> list[object]:
    """The addons for `mitmdump -s addon/main.py`: settings from PULLTHROUGH_* and the configuration file.

    mitmdump brings its own listener, log and event loop: the doors' addresses, --resolver for what passes, and the log
    settings are not used.
    """
    settings = config.load({}, environ, None)
    secret = installation.secret(settings.data_dir / "secret")
    app = App(settings, secret, Guard(), Resolver([str(address) for address in settings.resolver]), _ALLOWANCE)
    ctx.options.update(**_MITMPROXY, ssl_verify_upstream_trusted_ca=str(app.trust_file))
    return [app]
