"""What a service of the lab was asked: one record per request, and questions about them.

A record exists before the first byte of its answer is sent, so "no such request" is a safe
statement once the client has its answer. Status and byte counts grow while the answer is sent.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lab.deadline import eventually


@dataclass
class Request:
    """One request as its server saw it. `headers` has lower-case names."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorized: bool = False
    status: int | None = None
    sent: int = 0
    done: bool = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def range(self) -> str | None:
        """The Range header, where the server sees headers."""
        return self.headers.get("range")

    @property
    def if_range(self) -> str | None:
        """The If-Range header, where the server sees headers."""
        return self.headers.get("if-range")


Match = str | Callable[[Request], bool]


def matches(match: Match, request: Request) -> bool:
    """A text matches any part of the target; a digest matches with or without `sha256:` before its hex."""
    if callable(match):
        return match(request)
    return match.removeprefix("sha256:") in request.target


class Journal(Protocol):
    """Requests in the order of their arrival."""

    def requests(self) -> list[Request]:
        """All of them since the last `clear`."""
        ...

    def clear(self) -> None:
        """Forget what was so far."""
        ...


def find(journal: Journal, match: Match = "", *, method: str | None = None, status: int | None = None) -> list[Request]:
    """The requests that `match` and have this method and status."""
    return [
        request
        for request in journal.requests()
        if matches(match, request) and method in (None, request.method) and status in (None, request.status)
    ]


def body_bytes(journal: Journal, match: Match = "") -> int:
    """How many body bytes the matching requests were answered with so far."""
    return sum(request.sent for request in find(journal, match, method="GET"))


def wait_for(
    journal: Journal, match: Match = "", *, method: str | None = None, count: int = 1, timeout: float = 15.0
) -> list[Request]:
    """The matching requests as soon as there are `count`."""

    def enough() -> list[Request]:
        found = find(journal, match, method=method)
        return found if len(found) >= count else []

    return eventually(enough, f"{count} requests {method or ''} {match}", timeout)


def settled(journal: Journal, timeout: float = 15.0) -> list[Request]:
    """All requests as soon as each of them has been answered to its end."""

    def answered() -> bool:
        return all(request.done for request in journal.requests())

    eventually(answered, "every request answered", timeout)
    return journal.requests()


class MemoryJournal:
    """The journal of a service that runs in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Note a request that has just arrived."""
        with self._lock:
            self._requests.append(request)

    def requests(self) -> list[Request]:
        """All of them since the last `clear`."""
        with self._lock:
            return list(self._requests)

    def clear(self) -> None:
        """Forget what was so far."""
        with self._lock:
            self._requests.clear()
