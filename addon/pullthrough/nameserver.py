"""A name server that leads clients of registries here, and asks another for everything else.

Responsible for what is answered. Must not know how registries are served. A mitmproxy addon for its DNS mode.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from mitmproxy import dns
from mitmproxy.net.dns import response_codes, types

from pullthrough.core.registries import Registries
from pullthrough.options import IPAddress

log = logging.getLogger(__name__)

#: Seconds for which clients believe us: whoever turns the redirection off is soon rid of it.
_TTL: Final = 60
_PORT: Final = 53
#: What a client could connect by. RFC 9460 records would lead past our addresses, or to a protocol that we lack.
_ADDRESSES: Final = (types.A, types.AAAA, types.HTTPS, types.SVCB, types.ANY)


class NameServer:
    """`advertised` are our own addresses; `resolver` is who is asked for the rest, None for nobody (offline)."""

    def __init__(self, registries: Registries, advertised: Sequence[IPAddress], resolver: str | None) -> None:
        self._registries = registries
        self._resolver = resolver
        self._records = {types.A if address.version == 4 else types.AAAA: address for address in advertised}

    async def dns_request(self, flow: dns.DNSFlow) -> None:
        """Mitmproxy's hook for each question."""
        flow.response = flow.error = None  # it keeps flows by message id, and ids come again on one socket
        question = flow.request.question
        if question is not None and question.type in _ADDRESSES and self._registries.names(question.name):
            flow.response = flow.request.succeed(self._answers(question))
        elif self._resolver is None:
            flow.response = flow.request.fail(response_codes.SERVFAIL)
        elif not flow.server_conn.connected:
            flow.server_conn.address = (self._resolver, _PORT)

    def dns_error(self, flow: dns.DNSFlow) -> None:
        """The client got SERVFAIL."""
        log.debug("a name could not be looked up: %s", flow.error)

    def _answers(self, question: dns.Question) -> list[dns.ResourceRecord]:
        """Our address, or nothing: with an address of the registry's own, a client would go past us."""
        asked = self._records if question.type == types.ANY else (question.type,)
        return [
            dns.ResourceRecord(question.name, kind, question.class_, _TTL, address.packed)
            for kind, address in self._records.items()
            if kind in asked
        ]
