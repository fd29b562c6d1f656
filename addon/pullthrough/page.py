"""What the proxy says when it is asked itself: the first page, the CA, the script for clients, health and metrics.

Responsible for requests made to us and not through us. Must not know registries' traffic.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final

from pullthrough import __version__, metrics
from pullthrough.clientsetup import SetupScript
from pullthrough.core import ocierrors
from pullthrough.core.cachestatus import CacheStatus
from pullthrough.core.headers import Headers
from pullthrough.core.ratelimit import Budget
from pullthrough.health import Health
from pullthrough.messages import Answer
from pullthrough.metrics import Metrics
from pullthrough.store import Store, StoreError

#: A Host field that may stand in commands, on the page and in the script: somebody's shell will read them.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PORT: Final = re.compile(r":[0-9]*$")
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pullthrough</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ overflow-x: auto; padding: .7rem; border: 1px solid; border-radius: .3rem; }}
</style>
<h1>pullthrough {version}</h1>
<p>A caching proxy for container registries. Status: <strong>{status}</strong>.</p>
<h2>On a client</h2>
<pre>curl -fsS {base}/setup.sh | sh -s -- docker</pre>
<p>Or <code>containerd</code>, <code>podman</code>, <code>system</code>, <code>all</code>. It shows what it will change
and asks first; <code>--uninstall</code> takes it back. By hand:</p>
<pre>curl -fsS {base}/ca.pem -o pullthrough-ca.pem
export HTTPS_PROXY={base}</pre>
<p>Then trust <a href="/ca.pem">the CA</a>, SHA-256 fingerprint<br><code>{fingerprint}</code>.<br>
On Debian and Ubuntu: copy it to <code>/usr/local/share/ca-certificates/pullthrough.crt</code>, run
<code>update-ca-certificates</code>, and restart dockerd or containerd with the variable set.</p>
<h2>As a mirror</h2>
<p>{exposed}</p>
<p><a href="/healthz">healthz</a> · <a href="/readyz">readyz</a> · <a href="/metrics">metrics</a></p>
</html>
"""


class Page:
    """Answers GET and HEAD on our own paths. `ca_pem` is what clients have to trust now, one certificate or two.

    `ratelimit` has what each registry last said of its rate limit, `unreachable` the upstreams that do not
    answer, with the time since when. `exposed` says who may read what from the mirror, `port` is the main one.
    """

    def __init__(
        self,
        *,
        ca_pem: Callable[[], bytes],
        fingerprint: Callable[[], str],
        health: Health,
        metrics: Metrics,
        store: Store,
        ratelimit: Callable[[], Mapping[str, Budget]] = dict,
        unreachable: Callable[[], Mapping[str, datetime]] = dict,
        exposed: str = "",
        port: int = 3128,
    ) -> None:
        self._ca_pem = ca_pem
        self._port = port
        self._fingerprint = fingerprint
        self._setup = SetupScript()
        self._health = health
        self._metrics = metrics
        self._store = store
        self._ratelimit = ratelimit
        self._unreachable = unreachable
        self._exposed = html.escape(exposed)

    async def answer(self, method: str, target: str, host: str, *, by_name: bool = False) -> Answer:
        """The answer to a request made to us. `host` is the Host field, for the links on the page.

        `by_name`: it came to a port where we are taken for registries, which is no place for proxy requests.
        """
        if by_name:
            host = f"{_PORT.sub('', host)}:{self._port}"
        if method not in ("GET", "HEAD"):
            return _error(405, ocierrors.UNSUPPORTED, "only GET and HEAD are answered here", ("Allow", "GET, HEAD"))
        match target.partition("?")[0]:
            case "/":
                return _answer("text/html; charset=utf-8", self._first_page(host))
            case "/ca.pem":
                return _answer("application/x-pem-file", self._ca_pem())
            case "/setup.sh":
                return self._setup_script(host)
            case "/healthz":
                return _json(self._condition())
            case "/readyz":
                usage = await self._usage()  # first: it may be what finds the store broken
                return _json({**self._condition(), **usage, **self._upstreams()})
            case "/metrics":
                await self._usage()
                return _answer(metrics.CONTENT_TYPE, self._metrics.render())
            case _:
                return _error(404, ocierrors.NAME_UNKNOWN, "this is a proxy: set HTTPS_PROXY to its address, see GET /")

    def _setup_script(self, host: str) -> Answer:
        if (base := _base(host)) is None:
            return _error(400, ocierrors.UNSUPPORTED, "the Host field must be the name or address of this cache")
        return _answer("text/x-shellscript; charset=utf-8", self._setup.of(base, self._ca_pem()))

    def _first_page(self, host: str) -> bytes:
        base = _base(host) or "http://CACHE:3128"
        status = html.escape(", ".join([self._health.status, *self._health.reasons.values()]))
        page = _PAGE.format(
            version=__version__, status=status, base=base, fingerprint=self._fingerprint(), exposed=self._exposed
        )
        return page.encode("utf-8", "backslashreplace")  # a path need not be text

    def _condition(self) -> dict[str, object]:
        return {"status": self._health.status, "reasons": self._health.reasons}

    def _upstreams(self) -> dict[str, object]:
        budgets, silent = self._ratelimit(), self._unreachable()
        return {
            "ratelimit": {name: {"remaining": left.remaining, "limit": left.limit} for name, left in budgets.items()},
            "unreachable": [{"upstream": name, "since": _utc(since)} for name, since in silent.items()],
        }

    async def _usage(self) -> dict[str, object]:
        usage = blobs = 0
        with contextlib.suppress(StoreError):
            usage, blobs = await self._store.usage()
            self._metrics.stored(usage, blobs)
        return {"store": {"bytes": usage, "blobs": blobs, "size": self._store.size}}


_SECURITY: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


def _base(host: str) -> str | None:
    return f"http://{host}" if _HOST.fullmatch(host) else None


def _answer(content_type: str, body: bytes) -> Answer:
    dated = ("Date", formatdate(usegmt=True))  # by it a client sees that its clock is wrong
    return Answer(200, Headers((("Content-Type", content_type), dated, *_SECURITY)), CacheStatus(), body)


def _json(value: object) -> Answer:
    return _answer("application/json", json.dumps(value).encode() + b"\n")


def _utc(moment: datetime) -> str:
    """As in the log: 2026-11-22T01:58:05Z."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _error(status: int, code: str, message: str, *more: tuple[str, str]) -> Answer:
    headers = Headers((("Content-Type", ocierrors.CONTENT_TYPE), *_SECURITY, *more))
    return Answer(status, headers, CacheStatus(), ocierrors.body(code, f"pullthrough: {message}"))
