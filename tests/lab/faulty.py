"""A server that commits faults on command: a script of them, asked before each answer.

What the faults of a body do to its bytes is in `lab.blobs`; refusing, hanging and adding fields is
the same for every server and is here.
"""

import json
from http import HTTPStatus

from lab.faults import Armed, Fault, FaultScript
from lab.journal import Match
from lab.pki import Identity
from lab.web import Exchange, WebServer


class FaultyServer(WebServer):
    """Answers as its subclass says, unless a fault is armed."""

    def __init__(self, name: str, identity: Identity | None, *, public_port: int | None = 443) -> None:
        super().__init__(name, identity, public_port=public_port)
        self._script = FaultScript()

    def fault(self, match: Match, fault: Fault, *, times: int | None = 1, method: str | None = "GET") -> Armed:
        """Commit `fault` on the next `times` matching requests (None: on all); `method` None is any."""
        return self._script.arm(match, fault, times, method)

    def refuse(
        self, status: int, match: Match = "", *, retry_after: str | None = None, method: str | None = None
    ) -> Armed:
        """Answer every matching request with this status and an OCI error body, until `release`."""
        headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            headers["Retry-After"] = retry_after
        return self.fault(match, Fault(status=status, headers=headers, body=_errors(status)), times=None, method=method)

    def hang(self, match: Match = "", *, method: str | None = None) -> Armed:
        """Take every matching request and answer nothing until `release`, of the server or of what this returns."""
        return self.fault(match, Fault(hold_headers=True), times=None, method=method)

    def disarm(self, armed: Armed) -> None:
        """Commit this fault no more, and let go of what it holds."""
        self._script.disarm(armed)

    def release(self) -> None:
        """Disarm every fault and let every held answer go."""
        self._script.clear()

    def reset(self) -> None:
        """As new: no faults, an empty journal."""
        self.release()
        self.journal.clear()

    def held(self, exchange: Exchange) -> Armed:
        """The fault for this request, after holding back what it holds back; the rest of it is the caller's."""
        armed = self._script.take(exchange.request)
        if armed.fault.hold_headers:
            armed.hold()
        return armed

    def strike(self, exchange: Exchange) -> Armed | None:
        """The fault for this request, its headers already held back; None if it was the whole answer."""
        armed = self.held(exchange)
        if armed.fault.status is None:
            return armed
        exchange.reply(armed.fault.status, armed.fault.headers, armed.fault.body)
        return None


def _errors(status: int) -> bytes:
    """The error body of the OCI distribution spec, with the phrase of the status as its code."""
    phrase = HTTPStatus(status).phrase
    code = phrase.upper().replace(" ", "")
    return json.dumps({"errors": [{"code": code, "message": f"the lab says: {phrase.lower()}"}]}).encode()
