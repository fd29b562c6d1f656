"""Several processes that serve together: what is done once for all of them.

Responsible for what happens before they are forked and when their settings are read anew, and for the folder that they
share. Must not know what a worker does, nor how processes are started and watched (`supervisor`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pullthrough import cores, installation, logs, metrics, trust
from pullthrough.authority import establish
from pullthrough.ca import Authority
from pullthrough.config import Settings
from pullthrough.gate import Gate
from pullthrough.keyring import Keyring
from pullthrough.listeners import SETTINGS, Listeners, moved
from pullthrough.parent import ParentProxies
from pullthrough.supervisor import Shift, Supervisor
from pullthrough.worker import Worker

log = logging.getLogger(__name__)

type Run = Callable[[Settings, bytes, Worker], int]

#: With `auto`. As many saturate a network of 100 Gbit/s, and each takes its memory.
_MOST: Final = 16


def count(settings: Settings) -> int:
    """How many processes these settings ask for."""
    return settings.workers or min(_MOST, cores.usable())


def metrics_folder(worker: Worker) -> Path | None:
    """Where workers count together; None for one that is alone."""
    return worker.folder / "metrics" if worker.folder is not None else None


def serve(
    settings: Settings,
    listeners: Listeners,
    run: Run,
    again: Callable[[], Settings],
) -> int:
    """Run workers until they are told to stop; the exit code.

    `run` is what a worker does, in its own process; it is given the installation's secret. `again` reads the settings
    anew. What a person can mend, and what is wrong with listening (ListenError), is raised before anything is forked.
    """
    authority, secret = _checked(settings)
    listeners.open(settings)
    with _folder() as folder:
        current = _Current(settings, listeners, run, again)
        supervisor = Supervisor(
            folder,
            again=current.reloaded,
            closed=current.closed,
            died=current.died,
        )
        return supervisor.run(current.shift(settings, authority, secret))


class _Current:
    """The settings that hold now."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        run: Run,
        again: Callable[[], Settings],
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._run = run
        self._again = again

    def shift(self, settings: Settings, authority: Authority, secret: bytes) -> Shift:
        """Workers by these settings."""

        def begun() -> None:
            self._settings = settings
            logs.configure(settings.log_format, settings.log_level)
            where = ", ".join(f"{host}:{port}" for host, port in self._listeners.addresses)
            log.info("listening on %s; CA fingerprint %s; %d workers", where, authority.fingerprint, workers)

        workers = count(settings)
        return Shift(workers, settings.shutdown_grace, lambda worker: self._run(settings, secret, worker), begun)

    def reloaded(self) -> Shift:
        """As the settings are now. Raises whatever is wrong with them."""
        settings = self._again()
        if flags := ", ".join(moved(self._settings, settings)):
            log.warning("%s cannot be changed by a reload: restart for that", flags)
        settings = replace(settings, **{name: getattr(self._settings, name) for name in SETTINGS})
        shift = self.shift(settings, *_checked(settings))
        log.info("settings are read anew: new workers start, the old ones then end")
        return shift

    def died(self, worker: Worker) -> None:
        """What it was doing does not count any more."""
        self._listeners.balance.gone(worker.slot)
        if (folder := metrics_folder(worker)) is not None:
            metrics.forget(folder, worker.slot)

    def closed(self) -> None:
        """No more clients are wanted."""
        log.info("stopping: waiting up to %g s for pulls under way", self._settings.shutdown_grace)
        self._listeners.close()


def _checked(settings: Settings) -> tuple[Authority, bytes]:
    """Find in one process what is wrong, and make what is to be made once: the CA, and the installation's secret.

    All but the secret is read by each worker for itself. That one they have to share also where it cannot be written.
    """
    authority = establish(settings, lambda: datetime.now(UTC))
    Gate(settings.mirror_htpasswd, settings.mirror_network)
    Keyring.load(settings.mirror_credentials, settings.mirror_helper)
    Keyring.load(settings.upstream_credentials, None)
    system = trust.system_bundle(os.environ)
    trust.client_context(trust.bundle([file for file in (system, settings.upstream_ca) if file is not None]))
    ParentProxies(os.environ)
    return authority, installation.secret(settings.data_dir / "secret")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of this run, for nobody else (0700)."""
    with tempfile.TemporaryDirectory(prefix="pullthrough-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for each in ("metrics", "siblings"):
            (folder / each).mkdir(0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # tmpfiles.d(5): what is locked is not cleaned up, however old it is. Workers have the descriptor as well.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield folder
        finally:
            os.close(descriptor)
