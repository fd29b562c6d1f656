"""Logins of the operator's own at registries, for what a mirror may read beyond what is public.

Responsible for finding the one for a registry, where docker would: in a config.json, or by asking a credential helper
(docker/docker-credential-helpers, "Usage": `get` with the registry on stdin, JSON on stdout). Must not know who profits
from it, nor talk to the registry. Secrets come from files and helpers only, stay in memory, and are never logged.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import stat
import time
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, cast

from pullthrough.core import hub
from pullthrough.core.registries import DEFAULT_PORT, Entry, parse_entry
from pullthrough.joins import Joins

log = logging.getLogger(__name__)

#: Seconds for which a helper's login is kept, and for which its having none is.
_KEPT: Final = 300.0
_NONE_KEPT: Final = 60.0
#: Seconds that a helper may take, and that one which was killed is waited for; its bytes; how many run at a time.
_TIMEOUT: Final = 10.0
_END: Final = 1.0
_MAX_OUTPUT: Final = 1 << 16
_HELPERS: Final = 4
_MAX_REMEMBERED: Final = 1024
_MAX_FILE: Final = 1 << 20
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: A key of config.json: old ones are URLs of an API.
_KEY: Final = re.compile(r"(?:https?://)?([^/]+)(?:/(?:v[12]/?)?)?")
#: The user name that stands for "this is an identity token", and what a helper says when it knows nothing.
_IDENTITY: Final = "<token>"
_UNKNOWN: Final = b"credentials not found in native keychain"


class KeyringError(Exception):
    """Credentials that cannot be used. The text names file or helper and the remedy, and shows nothing secret."""


class _HelperFailed(Exception):
    """What a helper did wrong, as the end of a sentence about it, and without anything that it said."""


@dataclass(frozen=True, slots=True)
class Login:
    """An account at a registry: user and password.

    With `identity`, the secret is an identity token instead: a refresh token (RFC 6749) for the token server, and no
    password.
    """

    user: str = field(repr=False)
    secret: str = field(repr=False)
    identity: bool = False


@dataclass(frozen=True, slots=True)
class _Config:
    """What a config.json says: logins, helpers of single registries, and the helper of all others."""

    logins: Mapping[Entry, Login] = field(default_factory=dict)
    helpers: Mapping[Entry, str] = field(default_factory=dict)
    store: str | None = None


class Keyring:
    """Logins by registry. A helper's are asked for once in some minutes; `clock` counts seconds, never backwards."""

    def __init__(self, config: _Config, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._told: OrderedDict[Entry, tuple[Login | None, float]] = OrderedDict()
        self._complained: set[Entry] = set()
        self._under_way: Joins[Entry, Login | None] = Joins()
        self._turns = asyncio.Semaphore(_HELPERS)

    @classmethod
    def load(cls, file: Path | None, helper: str | None, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """From docker's config.json, or from the one helper docker-credential-`helper`; empty without either.

        KeyringError if it cannot be used. A file that others can read is used all the same, with a warning.
        """
        if file is not None and helper is not None:
            raise KeyringError(f"give one of {file} and the helper {helper!r}; the file may name helpers itself")
        if helper is not None and _program(_checked(helper, "the credential helper")) is None:
            raise KeyringError(f"docker-credential-{helper} is not on the PATH; install it there, or name another")
        return cls(_Config(store=helper) if file is None else _read(file), clock)

    async def credential(self, registry_authority: str) -> Login | None:
        """The login at HOST[:PORT], None if there is none. Never raises: a helper that fails is a warning, once."""
        try:
            registry = _entry(registry_authority)
        except ValueError:
            return None
        helper = self._config.helpers.get(registry, self._config.store)
        if helper is None:
            return self._config.logins.get(registry)
        login, until = self._told.get(registry, (None, 0.0))
        if until <= self._clock():
            login, _ = await self._under_way.do(registry, lambda: self._ask(helper, registry))
        return login

    async def _ask(self, helper: str, registry: Entry) -> Login | None:
        try:
            async with self._turns:
                login = await _get(helper, _server(registry))
            self._complained.discard(registry)
        except _HelperFailed as failure:
            login = None
            if registry not in self._complained:
                log.warning("no credentials for %s: docker-credential-%s %s", _server(registry), helper, failure)
                self._complained.add(registry)
        self._remember(registry, login)
        return login

    def _remember(self, registry: Entry, login: Login | None) -> None:
        self._told.pop(registry, None)
        self._told[registry] = login, self._clock() + (_NONE_KEPT if login is None else _KEPT)
        while len(self._told) > _MAX_REMEMBERED:
            self._complained.discard(self._told.popitem(last=False)[0])


def _entry(authority: str) -> Entry:
    """ValueError for what is not one registry."""
    entry = parse_entry(authority)
    if "*" in entry.host:
        raise ValueError(f"{authority!r} is a pattern")
    return hub.REGISTRY if hub.is_hub(entry) else entry


def _server(registry: Entry) -> str:
    """The name that docker has for it, towards helpers and in its file."""
    if registry == hub.REGISTRY:
        return hub.LOGIN
    return str(registry).removesuffix(f":{DEFAULT_PORT}")


def _read(file: Path) -> _Config:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            content = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise KeyringError(f"cannot read the credentials in {file}: {error.strerror}") from error
    if len(content) > _MAX_FILE:
        raise KeyringError(f"{file} is larger than {_MAX_FILE} bytes, which no config.json of docker's is")
    if mode & stat.S_IROTH:
        log.warning("%s holds credentials and everybody can read it; run: chmod 600 %s", file, shlex.quote(str(file)))
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):  # its text may quote the file
        raise KeyringError(f"{file} is not JSON; make one with: docker --config FOLDER login REGISTRY") from None
    if not isinstance(said, dict):
        raise KeyringError(f"{file} is not a config.json of docker's: there is no object in it")
    logins = {registry: _login(file, key, value) for registry, key, value in _by_registry(file, said, "auths")}
    helpers = {
        registry: _checked(value, f"{file}: credHelpers of {key!r}")
        for registry, key, value in _by_registry(file, said, "credHelpers")
    }
    store = said.get("credsStore")
    return _Config(
        {registry: login for registry, login in logins.items() if login is not None},
        helpers,
        _checked(store, f"{file}: credsStore") if store else None,
    )


def _by_registry(file: Path, said: Mapping[str, object], section: str) -> Iterator[tuple[Entry, str, object]]:
    """Registry, key and value of each entry. Of several for one registry the last counts: it has docker's own key."""
    entries = said.get(section) or {}
    if not isinstance(entries, dict):
        raise KeyringError(f"{file}: {section} is not an object of registries")
    found: list[tuple[Entry, str, object]] = []
    for key, value in entries.items():
        try:
            spelled = _KEY.fullmatch(key)
            found.append((_entry(spelled[1] if spelled else key), key, value))
        except ValueError:
            # Such as podman's keys for a part of a registry: to use one for all of it would be to use it too often.
            log.warning("%s: %s of %r is not for a whole registry (HOST[:PORT]) and is not used", file, section, key)
    yield from sorted(found, key=lambda entry: entry[1] == _server(entry[0]))


def _login(file: Path, key: str, value: object) -> Login | None:
    """The login in one entry of `auths`; None if it holds none, as docker leaves it behind when a helper has it."""
    match value:
        case {"identitytoken": str(token)} if token:
            return Login(_IDENTITY, token, identity=True)
        case {"auth": str(encoded)} if encoded:
            user, _, secret = _decoded(encoded).partition(":")
        case {"username": str(user), "password": str(secret)}:
            pass
        case dict() if not any(value.get(name) for name in ("identitytoken", "auth", "username", "password")):
            return None
        case _:
            user, secret = "", ""
    if not user or not secret:
        raise KeyringError(f"{file}: auths of {key!r} holds no user and password; repeat: docker login {key}")
    return Login(user, secret, identity=user == _IDENTITY)


def _decoded(encoded: str) -> str:
    """The text; "" if it is none. Docker's own files may end in NULs (docker/cli, configfile.decodeAuth)."""
    try:
        return base64.b64decode(encoded, validate=True).decode().rstrip("\0")
    except ValueError:
        return ""


def _checked(name: object, where: str) -> str:
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise KeyringError(f"{where}: {name!r} is not the NAME of a program docker-credential-NAME")
    return name


def _program(helper: str) -> str | None:
    return shutil.which(f"docker-credential-{helper}")


async def _get(helper: str, server: str) -> Login | None:
    """What the helper has for `server`; _HelperFailed if it cannot say."""
    program = _program(helper)
    if program is None:
        raise _HelperFailed("is not on the PATH")
    try:
        # In a session of its own, so that what it starts can be ended with it.
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise _HelperFailed(f"cannot be started ({error.strerror})") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            output = await _said(process, server.encode("ascii"))
            status = await process.wait()
    except BaseException as failure:
        await _kill(process)
        if isinstance(failure, TimeoutError):
            raise _HelperFailed(f"took longer than {_TIMEOUT:g} s") from None
        raise
    if status == 0:
        return _answer(output)
    if output.strip() == _UNKNOWN:
        return None
    command = f"echo {shlex.quote(server)} | docker-credential-{helper} get"
    raise _HelperFailed(f"ended with status {status}; to see why: {command}")


async def _said(process: Process, server: bytes) -> bytes:
    """Everything on its stdout."""
    stdin, stdout = cast(StreamWriter, process.stdin), cast(StreamReader, process.stdout)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may answer without having listened
        stdin.write(server)
        await stdin.drain()
    stdin.close()
    output = b""
    while chunk := await stdout.read(_MAX_OUTPUT):
        output += chunk
        if len(output) > _MAX_OUTPUT:
            raise _HelperFailed(f"said more than {_MAX_OUTPUT} bytes")
    return output


async def _kill(process: Process) -> None:
    stdout = cast(StreamReader, process.stdout)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END):
            while await stdout.read(_MAX_OUTPUT):  # before its end has come, a full reader keeps the pipe open
                pass
            await process.wait()


def _answer(output: bytes) -> Login | None:
    try:
        said = json.loads(output)
    except (ValueError, RecursionError):
        said = None
    match said:
        case {"Username": str(user), "Secret": str(secret)}:
            return Login(user, secret, identity=user == _IDENTITY) if secret else None
    raise _HelperFailed("did not answer with Username and Secret in JSON")
