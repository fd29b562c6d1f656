"""Checks of the cache itself: does it answer, is it well, do its clock and ours agree, has its disk room?

Responsible for what the cache says of itself. Must not know clients.
"""

from __future__ import annotations

import shlex
import shutil
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pullthrough.doctor import certificates
from pullthrough.doctor.case import Case
from pullthrough.doctor.finding import Finding, failed, ok, skipped, warning

#: Certificates of hosts begin a day in the past; what expires in hours (tokens, signed URLs) bears less.
_MOST_SKEW: Final = 300.0
_MONTH: Final = 30 * 24 * 3600.0
_KEPT_FREE: Final = 64 * 1024**2  # what the store never takes
_GIB: Final = 1024**3
_MOST_WAYS: Final = 3
_SET_CLOCK: Final = "set the clock, on the machine that is wrong: sudo timedatectl set-ntp true"


def reachable(case: Case) -> Finding:
    """Does something answer at the cache's address, and is it pullthrough?"""
    name = "cache"
    if case.said.fault:
        remedy = (
            f"start it there with: pullthrough run --listen 0.0.0.0:{case.cache.port}; "
            "let a firewall between here and there pass this port; or name the right address with --cache"
        )
        return failed(name, f"{case.cache.url}: {case.said.fault}", remedy)
    return ok(name, f"pullthrough answers at {case.cache.url}")


def healthy(case: Case) -> Finding:
    """Is the cache degraded, or without some upstream?"""
    name = "health"
    if case.said.fault:
        return skipped(name, "the cache does not answer")
    reasons, silent = case.said.ready.get("reasons"), case.said.ready.get("unreachable")
    if isinstance(reasons, Mapping) and reasons:
        told = ", ".join(f"{part}: {why}" for part, why in reasons.items())
        return warning(name, f"degraded, pulls pass uncached: {told}", "mend that on the cache; it recovers by itself")
    if isinstance(silent, list) and silent:
        origins = [str(each.get("upstream")) for each in silent if isinstance(each, Mapping)]
        ways = "; ".join(f"curl -I {shlex.quote(f'{origin}/v2/')}" for origin in origins[:_MOST_WAYS])
        remedy = f"try the way there on the machine that runs the cache: {ways}"
        return warning(name, f"the cache gets no answer from {', '.join(origins)}", remedy)
    return ok(name, "nothing is degraded")


def clock(case: Case) -> Finding:
    """Is the CA valid now, by our clock, and does the cache's clock agree?"""
    name, now = "clock", case.machine.now()
    if not case.said.ca:
        return skipped(name, "the cache did not give its CA")
    try:
        begin, end = certificates.validity(case.said.ca)
    except ssl.SSLError:
        return failed(name, "what /ca.pem serves is no certificate", "see it on the cache: pullthrough ca show")
    if now < begin:
        return failed(name, f"the CA is valid only from {_date(begin)}, and here it is {_date(now)}", _SET_CLOCK)
    # Before the end of the CA: to a clock that is years ahead every CA has expired, and a new one mends nothing.
    if case.said.skew is not None and abs(case.said.skew) > _MOST_SKEW:
        way = "ahead of" if case.said.skew > 0 else "behind"
        return failed(name, f"the cache's clock is {abs(case.said.skew):.0f} s {way} this one", _SET_CLOCK)
    if now > end:
        return failed(name, f"the CA expired on {_date(end)}", "on the cache: pullthrough ca rotate")
    if end - now < _MONTH:
        return warning(name, f"the CA expires on {_date(end)}", "on the cache: pullthrough ca rotate")
    if case.said.skew is None:
        return ok(name, f"the CA is valid now, and until {_date(end)}; the cache does not tell its time")
    return ok(name, f"the CA is valid until {_date(end)}, and the clocks differ by {abs(case.said.skew):.0f} s")


def disk(case: Case, folder: Path) -> Finding:
    """On the cache's machine: has the disk under the data folder `folder` the room that --size promises?"""
    name = "disk"
    if not folder.exists():
        return skipped(name, f"there is no {folder} here; on the cache's machine name it with --data-dir")
    free = shutil.disk_usage(folder).free
    told = f"{free / _GIB:.1f} GiB are free under {folder}"
    remedy = "make room, or give pullthrough run a smaller --size"
    if free <= _KEPT_FREE:
        return failed(name, f"{told}: nothing more is kept", remedy)
    growth = _growth(case.said.ready.get("store"))
    if growth > free - _KEPT_FREE:
        return warning(name, f"{told}, and by its --size the cache may take {growth / _GIB:.1f} GiB more", remedy)
    return ok(name, told)


def _growth(store: Any) -> int:
    """How many bytes the cache may still take; 0 if it did not say."""
    values = [store.get(key) for key in ("size", "bytes")] if isinstance(store, Mapping) else []
    size, held = [value for value in values if isinstance(value, int)] or (0, 0)
    return size - held


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
