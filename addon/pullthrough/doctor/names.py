"""The check of names: does the registry's resolve here, and does it lead to the cache, wholly or by halves?

Responsible for DNS answers. Must not know whether anybody uses a proxy.
"""

from __future__ import annotations

from pullthrough.doctor.case import Case
from pullthrough.doctor.finding import Finding, failed, ok, warning
from pullthrough.doctor.ways import addresses
from pullthrough.guard import literal


def resolved(case: Case) -> Finding:
    """What a client without a proxy is told, beside what the cache's own name resolves to."""
    name, host = "DNS", case.target.place.host
    if literal(host) is not None:
        return ok(name, f"{host} is an address already")
    found, cache = addresses(host), addresses(case.cache.host)
    if not found:
        text = f"{host} does not resolve here, which is enough for clients with a proxy and for no others"
        return warning(name, text, "check /etc/resolv.conf, and on the cache that it can resolve the name itself")
    here = [address for address in found if address in cache]
    if here and len(here) < len(found):
        around = next(address for address in found if address not in cache)
        text = f"{host} is {here[0]}, the cache, and also {around}, which is not: some connections go round it"
        return failed(
            name, text, "have the name server answer A and AAAA alike: pullthrough run --dns-listen --advertise"
        )
    if here and not case.redirected:
        text = f"{host} is the cache, but on port {case.target.place.port} nothing there shows its certificate"
        port = case.target.place.port
        return failed(name, text, f"on the cache: pullthrough run --tls-listen 0.0.0.0:{port}")
    if case.redirected:
        return ok(name, f"{host} is {found[0]}, and connections to it reach the cache")
    return ok(name, f"{host} is {found[0]}, the registry itself: only clients with a proxy or a mirror use the cache")
