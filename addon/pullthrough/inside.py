"""Everything behind the front doors: what is remembered, whom we know, what is answered.

Responsible for who of them gets whom, once for every door and for every way to run. Must not know doors, listeners and
mitmproxy, nor decide anything about requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pullthrough.access import Access
from pullthrough.accounts import Accounts
from pullthrough.blobs import Blobs
from pullthrough.broker import Broker
from pullthrough.config import Settings
from pullthrough.core.filters import Filters
from pullthrough.facts import Facts
from pullthrough.flights import Flights
from pullthrough.keyring import Keyring
from pullthrough.limits import Limits
from pullthrough.logins import Logins
from pullthrough.manifests import Manifests
from pullthrough.messages import Registry
from pullthrough.metrics import Metrics
from pullthrough.neighbours import Neighbours
from pullthrough.outages import Outages
from pullthrough.pulls import Pulls
from pullthrough.realms import Realms
from pullthrough.siblings import Siblings
from pullthrough.store import Store
from pullthrough.tags import Tags
from pullthrough.upstream import Upstream
from pullthrough.upstream_mirrors import UpstreamMirrors


class Inside:
    """What answers, over one store and one way upstream. Make it inside the event loop that it is to serve.

    `secret` is the installation's. Registries that are `trusted` may lead clients to neighbours; one that `vouches`
    proves by its mere word that it has a digest. `siblings` answer beside us, over the same store. `clock` counts
    seconds and never goes back; `now` counts them since the epoch; both are the same for all siblings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        upstream: Upstream,
        metrics: Metrics,
        secret: bytes,
        trusted: Callable[[Registry], bool],
        vouches: Callable[[Registry], bool],
        siblings: Siblings | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        # 1. what we remember, and whom we know
        siblings = siblings or Siblings()
        ttl, grace = settings.grant_ttl, settings.offline_grace
        self.facts = Facts(store, now, siblings)
        self.access = Access(self.facts, clock, ttl=ttl, grace=grace, siblings=siblings)
        self.accounts = Accounts(secret, self.facts, clock, now, grace=grace, siblings=siblings)
        self.limits = Limits(clock, now, metrics.ratelimit, siblings)
        self.neighbours = Neighbours(siblings)
        realms = Realms(self.facts, brokered=settings.auth_broker)
        tags = Tags(self.facts, settings.max_stale, now, siblings)
        # 2. what is fetched
        self._upstream = upstream
        self.flights = Flights(store, upstream, settings.max_fills)
        logins = Logins(upstream, Keyring.load(settings.upstream_credentials, None), clock)
        self.mirrors = UpstreamMirrors(settings.upstream_mirror, upstream, logins, clock, now)
        # 3. what is answered
        self.blobs = Blobs(store, self.flights, upstream, self.access, self.mirrors, vouches=vouches, siblings=siblings)
        self.manifests = Manifests(
            store,
            upstream,
            self.access,
            tags,
            self.limits,
            self.mirrors,
            floor=settings.rate_limit_floor,
            vouches=vouches,
            siblings=siblings,
        )
        broker = Broker(
            upstream=upstream,
            realms=realms,
            accounts=self.accounts,
            access=self.access,
            clock=clock,
            remember=settings.grant_ttl / 4,  # a right that was taken away must not live on by token and grant
            count=metrics.token,
            siblings=siblings,
        )
        outages = Outages(
            manifests=self.manifests,
            blobs=self.blobs,
            access=self.access,
            accounts=self.accounts,
            realms=realms,
            broker=broker,
            clock=clock,
        )
        self.pulls = Pulls(
            upstream=upstream,
            manifests=self.manifests,
            blobs=self.blobs,
            access=self.access,
            accounts=self.accounts,
            realms=realms,
            broker=broker,
            limits=self.limits,
            outages=outages,
            neighbours=self.neighbours,
            trusted=trusted,
            filters=Filters(settings.allow, settings.deny, settings.cache_only, settings.bypass),
            siblings=siblings,
            offline=settings.offline,
        )

    async def aclose(self) -> None:
        """Fills stop, partials stay, nobody is asked any more, what is known is written down. The store stays open."""
        await self.flights.aclose()
        await self._upstream.aclose()
        await self.facts.flush()
