"""What a docker-registry was asked, read from its own JSON log at level debug.

"authorizing request" is logged before anything is answered, so the record of a request is in the
file before its client has the answer; the end of the answer is logged a moment later (`settled`).
The log tells no headers: instead of Range there is the status 206 and the number of bytes.
"""

import json
from pathlib import Path
from typing import Any

from lab.journal import Request
from lab.push import USER_AGENT

ARRIVED = "authorizing request"
REFUSED = "error authorizing context"
NO_CREDENTIAL = "authorization token required"
COMPLETED = "response completed"


class RegistryLog:
    """The journal of a docker-registry; requests of the seeder are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._by_id: dict[str, Request] = {}
        self._since = 0

    def requests(self) -> list[Request]:
        """All of them since the last `clear`."""
        self._read()
        return list(self._by_id.values())[self._since :]

    def clear(self) -> None:
        """Forget what was so far."""
        self._read()
        self._since = len(self._by_id)

    def _read(self) -> None:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                if line.startswith(b"{"):
                    self._note(json.loads(line))

    def _note(self, entry: dict[str, Any]) -> None:
        key, message = entry.get("http.request.id"), entry.get("msg", "")
        if key is None or entry.get("http.request.useragent") == USER_AGENT:
            return
        if message == ARRIVED:
            self._by_id[key] = Request(entry["http.request.method"], entry["http.request.uri"])
        elif key in self._by_id:
            _update(self._by_id[key], message, entry)


def _update(request: Request, message: str, entry: dict[str, Any]) -> None:
    if "auth.user.name" in entry or (message.startswith(REFUSED) and NO_CREDENTIAL not in message):
        request.authorized = True
    if message.startswith(REFUSED):
        request.status, request.done = 401, True
    elif message.startswith(COMPLETED):
        request.status = entry["http.response.status"]
        request.sent = entry["http.response.written"]
        request.done = True
