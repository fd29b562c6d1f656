"""Who may use the mirror: users of an htpasswd file, and clients in networks that the operator lists.

Responsible for that one answer, and for guessing being slow: wrong passwords are counted by where they come from, each
costs a bcrypt, and only a few of those run at a time. Nobody learns from the time of an answer whether a user exists.
Must not know what is behind the gate. Passwords are forgotten with the request; what is remembered is a keyed hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import bcrypt

from pullthrough.core.credentials import basic
from pullthrough.core.headers import Headers
from pullthrough.guard import literal
from pullthrough.guesses import FORGOTTEN, Guesses
from pullthrough.joins import Joins

type IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

log = logging.getLogger(__name__)

#: Passwords that are checked at the same time. Each takes a core for as long as its cost says.
_CHECKS: Final = 2
#: Seconds for which a password is known to be right without another check.
_RIGHT: Final = 60.0
#: Seconds between two looks at whether the file has changed.
_LOOK: Final = 1.0
_MAX_REMEMBERED: Final = 4096
_MAX_FILE: Final = 1 << 20
#: htpasswd takes 17, but that is 13 s for every login; 14 is 1.6 s, 10 is 0.1 s (measured).
_MAX_COST: Final = 14
#: What bcrypt looks at. htpasswd cuts longer passwords as well when it makes the hash.
_SIGNIFICANT: Final = 72
# 16 bytes of salt leave four bits of its last letter unused.
_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_OTHER_KINDS: Final = {
    "$2": "a damaged bcrypt hash",
    "$apr1$": "an MD5 hash",
    "{SHA}": "a SHA-1 hash",
    "$1$": "an MD5 hash",
    "$5$": "a SHA-256 hash",
    "$6$": "a SHA-512 hash",
}


class GateError(Exception):
    """A password file that cannot be used. The text names it and the remedy, and shows nothing secret."""


@dataclass(frozen=True, slots=True)
class _Users:
    """Bcrypt hashes by user name, from a file with this stamp; None if the file was gone."""

    stamp: tuple[int, ...] | None
    hashes: Mapping[str, bytes] = field(repr=False)

    def hash_for(self, user: str, secret: bytes) -> bytes:
        """The hash to check a password of this user against.

        Somebody unknown gets another's, always the same one: that takes as long as a known user's does.
        """
        known = self.hashes.get(user)
        if known is not None:
            return known
        choice = int.from_bytes(hmac.digest(secret, user.encode(), hashlib.sha256))
        return list(self.hashes.values())[choice % len(self.hashes)]


class Gate:
    """Admits by address or by password; whoever one of them admits may pass. Without either everybody may.

    GateError if the file cannot be read or holds anything else than bcrypt lines. It is read again when it has changed:
    one that cannot be understood is half written, or mistyped, and those that were known before remain; one that is
    gone was taken away, and nobody has a right password any more. `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        htpasswd: Path | None = None,
        networks: Sequence[IPNetwork] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = htpasswd
        self._networks = tuple(networks)
        self._clock = clock
        self._users = _Users(None, {}) if htpasswd is None else _first(htpasswd)
        self._look_again = clock() + _LOOK
        self._secret = secrets.token_bytes(32)
        self._right = _Lately(clock, _RIGHT)
        self._wrong = _Lately(clock, FORGOTTEN)
        self._guesses: Guesses[str] = Guesses(clock)
        self._turns = asyncio.Semaphore(_CHECKS)
        self._under_way: Joins[tuple[str, bytes], bool] = Joins()

    @property
    def open(self) -> bool:
        """Nothing is configured, so that everybody is admitted."""
        return self._file is None and not self._networks

    async def admits(self, client_address: str, authorization: str | None) -> bool:
        """May this client pass? `authorization` is the value of its field (RFC 7617). Never raises for what it says."""
        if self.open or self._near(client_address):
            return True
        login = basic(Headers([("authorization", authorization)])) if authorization is not None else None
        return login is not None and await self._knows(_origin(client_address), *login)

    def _near(self, client_address: str) -> bool:
        address = literal(client_address)
        return address is not None and any(address in network for network in self._networks)

    async def _knows(self, origin: str, user: str, password: str) -> bool:
        users = await self._current()
        if not users.hashes:
            return False
        hashed = users.hash_for(user, self._secret)
        # With the hash in it, what is remembered ends with the line of the file.
        proof = hmac.digest(self._secret, b"\0".join((hashed, f"{user}:{password}".encode())), hashlib.sha256)
        if proof in self._right:
            return True
        if proof in self._wrong:  # a machine that repeats its old password does not guess
            return False

        async def check() -> bool:
            right = await self._check(origin, hashed, password)
            if right is None:
                return False
            right = right and user in users.hashes
            (self._right if right else self._wrong).add(proof)
            if not right:
                self._guesses.wrong(origin)
            return right

        admitted, _ = await self._under_way.do((origin, proof), check)
        return admitted

    async def _check(self, origin: str, hashed: bytes, password: str) -> bool | None:
        """Is it this hash's password? None if that is not looked at, because there were too many wrong ones."""
        async with self._turns:
            # Asked when it is our turn: the wrong ones among those that waited with us are counted by now.
            if self._guesses.wait(origin):
                return None
            return await asyncio.to_thread(bcrypt.checkpw, password.encode()[:_SIGNIFICANT], hashed)

    async def _current(self) -> _Users:
        now = self._clock()
        if self._file is not None and now >= self._look_again:
            self._look_again = now + _LOOK
            self._users = await asyncio.to_thread(_again, self._file, self._users)
        return self._users


class _Lately:
    """Proofs, each remembered for some seconds; the oldest are forgotten beyond a bound."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __contains__(self, proof: bytes) -> bool:
        return self._until.get(proof, 0.0) > self._clock()

    def add(self, proof: bytes) -> None:
        self._until.pop(proof, None)
        self._until[proof] = self._clock() + self._seconds
        while len(self._until) > _MAX_REMEMBERED:
            self._until.popitem(last=False)


def _origin(client_address: str) -> str:
    """Where guesses come from: an IPv4 address, or the IPv6 network of which one machine has every address."""
    address = literal(client_address)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return client_address if address is None else str(address)


def _first(file: Path) -> _Users:
    try:
        return _read(file)
    except OSError as error:
        raise GateError(f"cannot read the password file {file}: {error.strerror}") from error


def _again(file: Path, before: _Users) -> _Users:
    """The users of `file` now; `before` if it has not changed."""
    try:
        stamp = _stamp(file.stat())
        return before if stamp == before.stamp else _changed(file, stamp, before)
    except OSError as error:
        if before.stamp is not None:
            log.warning("the password file %s is gone (%s): nobody has a right password", file, error.strerror)
        return _Users(None, {})


def _changed(file: Path, stamp: tuple[int, ...], before: _Users) -> _Users:
    try:
        users = _read(file)
    except GateError as error:
        log.warning("%s; the users that were known before remain", error)
        return _Users(stamp, before.hashes)
    log.info("the password file %s has changed; users: %d", file, len(users.hashes))
    return users


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Changes with the file. The inode tells apart two that were written in the same instant."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(file: Path) -> _Users:
    with file.open("rb") as opened:
        stamp = _stamp(os.fstat(opened.fileno()))
        content = opened.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise GateError(f"the password file {file} is larger than {_MAX_FILE} bytes")
    try:
        return _Users(stamp, _parsed(file, content.decode()))
    except UnicodeDecodeError:
        raise GateError(f"the password file {file} is not UTF-8 text") from None


def _parsed(file: Path, text: str) -> dict[str, bytes]:
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        user, colon, hashed = entry.partition(":")
        if not colon or not user:
            raise GateError(f"{file} line {number}: is not USER:HASH, as made by: htpasswd -B {_quoted(file)} USER")
        if user in hashes:
            raise GateError(f"{file} line {number}: the user {user!r} is there already; remove one of the lines")
        hashes[user] = _bcrypt(f"{file} line {number}", f"{_quoted(file)} {_quoted(user)}", hashed)
    if not hashes:
        raise GateError(f"the password file {file} names no user; add one: htpasswd -B {_quoted(file)} USER")
    return hashes


def _bcrypt(where: str, arguments: str, hashed: str) -> bytes:
    found = _BCRYPT.fullmatch(hashed)
    if found is None:
        kind = next((kind for prefix, kind in _OTHER_KINDS.items() if hashed.startswith(prefix)), "an unknown hash")
        raise GateError(f"{where}: holds {kind}, and only bcrypt is accepted; make one with: htpasswd -B {arguments}")
    if not 4 <= int(found[1]) <= _MAX_COST:
        fault = f"has the bcrypt cost {int(found[1])}, and 4 to {_MAX_COST} are accepted"
        raise GateError(f"{where}: {fault}; make one with: htpasswd -B -C 10 {arguments}")
    return hashed.encode("ascii")


def _quoted(part: str | Path) -> str:
    return shlex.quote(str(part))
