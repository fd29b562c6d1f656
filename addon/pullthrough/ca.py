"""The certificate authority that clients trust: made at first start or brought along, and succeeded by another in time.

Responsible for which CA signs for a host now, and for what clients and operators have to know of it. Must not know what
is in a certificate (`issuer` does), files' permissions (`keypair` does), connections or the configuration.

During a rotation there are two: the old one signs until the new one's time has come, and clients are given both
certificates. A host that only the new one permits is signed for by the new one at once.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pullthrough.core.constraints import Constraints, subtree
from pullthrough.issuer import CLOCK_SKEW, Issuer, Leaf, general_name, new_pair
from pullthrough.keypair import (
    CAError,
    PairFiles,
    add_successor,
    make_once,
    promote,
    refuse_shared,
    successor,
    unchanging,
)

__all__ = ["Authority", "CAError", "Clock", "Leaf"]

type Clock = Callable[[], datetime]

#: How long before its end a CA is complained of. As long as the usual overlap of a rotation.
EXPIRY_NOTICE: Final = timedelta(days=30)
#: Rotations may fall on the day on which the old CA was made, and clients look CAs up by their names.
_SUCCESSORS_STAMP: Final = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class _Held:
    """What was read: one CA, or also the one that takes over at `begins`."""

    issuer: Issuer
    successor: Issuer | None = None
    begins: datetime | None = None

    def at(self, moment: datetime) -> tuple[Issuer, ...]:
        """Those that may sign, in the order in which they are asked."""
        if self.successor is None or self.begins is None:
            return (self.issuer,)
        return (self.issuer, self.successor) if moment < self.begins else (self.successor,)


class Authority:
    """The CA of one cache. `now` is the clock, in aware datetimes.

    What it says follows the clock; what is on disk is read again by `refresh`. Other threads may ask meanwhile.
    """

    def __init__(self, read: Callable[[datetime], _Held], now: Clock, directory: Path | None = None) -> None:
        """For `load_or_create` and its like. `directory` is ours to make a successor in."""
        self._read = read
        self._now = now
        self._directory = directory
        self._held = read(now())

    def __repr__(self) -> str:
        return f"<Authority {self.subject} {self.fingerprint}>"

    @classmethod
    def load_or_create(cls, directory: Path, *, now: Clock, constraints: Constraints | None = None) -> Authority:
        """The CA in `directory`, made there if the folder holds none. CAError if it is unusable.

        `constraints` are for a new one, which without them can sign for every host.
        """
        make_once(directory, lambda: new_pair(now(), constraints))
        _promote(directory, now())
        return cls.load_from(directory, now=now)

    @classmethod
    def load_from(cls, directory: Path, *, now: Clock) -> Authority:
        """The CA in `directory`. CAError if there is none or it is unusable; makes nothing."""
        if PairFiles.in_directory(directory).absent():
            raise CAError(f"there is no CA in {directory}; make one with: pullthrough ca init")
        refuse_shared(directory)
        return cls(lambda moment: _read_directory(directory, moment), now, directory)

    @classmethod
    def load(cls, cert_file: Path, key_file: Path, *, now: Clock) -> Authority:
        """The operator's own CA: PEM files of its certificate, with or without the chain, and of its key."""
        files = PairFiles.brought(cert_file, key_file)
        return cls(lambda moment: _Held(Issuer(files, moment)), now)

    def refresh(self) -> None:
        """Read the files again: `pullthrough ca rotate` may have run. CAError if they went bad; then nothing changes.

        It blocks: call it in a thread.
        """
        if self._directory is not None:
            _promote(self._directory, self._now())
        self._held = self._read(self._now())

    # -- what clients are given

    @property
    def certificate_pem(self) -> bytes:
        """What clients have to trust: one certificate; during a rotation the old one, then the new one."""
        return b"".join(issuer.certificate_pem for issuer in self._issuers)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the first certificate of `certificate_pem`, as `openssl x509 -fingerprint` prints it."""
        return self.fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of each certificate of `certificate_pem`."""
        return tuple(issuer.fingerprint for issuer in self._issuers)

    def issue(self, host: str) -> Leaf:
        """A leaf for a DNS name (a-labels) or an IP literal without brackets, by whoever signs for it now.

        Valid for 90 days, but never beyond its CA. ValueError if `host` is neither name nor address, CAError if no
        client would accept the leaf: the CA has expired, or its name constraints do not permit the host.
        """
        return self._issuer_for(host).issue(host, self._now())

    def signer(self, host: str) -> str:
        """The fingerprint of the CA that `issue` takes for this host now: if it changes, leaves are outdated."""
        return self._issuer_for(host).fingerprint

    # -- what it may sign for

    @property
    def unconstrained(self) -> bool:
        """Whether it may sign for every host."""
        return not self._newest.constraints

    def permits(self, host: str) -> bool:
        """Whether clients accept leaves for this host (or for all that a registry's pattern matches), now and later."""
        return self._newest.permits(host)

    def require(self, hosts: Iterable[str]) -> None:
        """CAError, with the command that helps, unless all of these are permitted: names, addresses, patterns."""
        outside = [host for host in dict.fromkeys(hosts) if not self.permits(host)]
        if outside:
            flags = " ".join(f"--permit {shlex.quote(str(subtree(host)))}" for host in outside)
            raise self._too_narrow(f"for {', '.join(outside)}", flags)

    def require_unconstrained(self) -> None:
        """CAError, with the command that helps, if there are hosts that it may not sign for."""
        if not self.unconstrained:
            raise self._too_narrow("for hosts that nobody named", "--unconstrained")

    # -- time

    @property
    def subject(self) -> str:
        return self._issuers[0].subject

    @property
    def not_valid_before(self) -> datetime:
        return self._issuers[0].not_valid_before

    @property
    def not_valid_after(self) -> datetime:
        """From then on no client accepts a leaf, unless somebody acts. During a rotation that is the new CA's end."""
        return self._newest.not_valid_after

    @property
    def succession(self) -> datetime | None:
        """When the new CA takes over; None unless it is still to come."""
        return self._held.begins if len(self._issuers) > 1 else None

    def expires_in(self) -> float:
        """Seconds until `not_valid_after`; below zero once it is past."""
        return (self.not_valid_after - self._now()).total_seconds()

    def expiry_warning(self) -> str | None:
        """A sentence with the remedy, from 30 days before the end on."""
        if self.expires_in() > EXPIRY_NOTICE.total_seconds():
            return None
        remedy = f"run: pullthrough ca rotate{self._where}" if self._directory else "replace --ca-cert and --ca-key"
        return f"the CA {self.subject} ends on {_utc(self.not_valid_after)}, and every pull with it; {remedy}"

    def rotate(self, constraints: Constraints | None, overlap: timedelta) -> None:
        """Make a new CA that takes over after `overlap`, or a day before the old one ends, if that is earlier.

        What the old one names as permitted stays so; an old one without constraints names nothing. CAError if
        a rotation is under way, if the CA is not ours, or if the files cannot be written.
        """
        self.refresh()
        if self._directory is None:
            raise CAError("the CA was brought along (--ca-cert): renew it where it was made")
        moment, old = self._now(), self._newest
        if self.succession is not None:
            raise CAError(
                f"a new CA takes over on {_utc(self.succession)} already; wait until then, or remove "
                f"{old.files.cert.parent} to give it up, and rotate again"
            )
        promote(self._directory, moment)
        if constraints is not None:
            for kept in old.constraints:
                constraints = Constraints(constraints.permitted | kept.permitted, kept.excluded)
        begins = max(moment, min(moment + overlap, old.not_valid_after - CLOCK_SKEW))
        add_successor(self._directory, new_pair(moment, constraints, stamp=_SUCCESSORS_STAMP), begins)
        promote(self._directory, moment)
        self.refresh()

    def describe(self) -> tuple[dict[str, str], ...]:
        """For each certificate of `certificate_pem`, what an operator compares: label and value, in reading order."""
        issuers = self._issuers
        tables = tuple(_description(issuer) for issuer in issuers)
        if self._held.begins is not None and len(tables) > 1:
            for table, word in zip(tables, ("until", "from"), strict=True):
                table[f"Signs {word}"] = _utc(self._held.begins)
        return tables

    @property
    def _issuers(self) -> tuple[Issuer, ...]:
        return self._held.at(self._now())

    @property
    def _newest(self) -> Issuer:
        return self._issuers[-1]

    def _issuer_for(self, host: str) -> Issuer:
        name = str(general_name(host).value)
        for issuer in self._issuers:
            if issuer.permits(name):
                return issuer
        raise self._too_narrow(f"for {name}", f"--permit {name}")

    @property
    def _where(self) -> str:
        return f" --data-dir {shlex.quote(str(self._directory.parent))}" if self._directory else ""

    def _too_narrow(self, hosts: str, flags: str) -> CAError:
        files = self._newest.files
        if self._directory is None:
            return files.error(files.cert, f"has name constraints that do not let it sign {hosts}")
        undo = f"rm -r {shlex.quote(str(files.cert.parent))} && " if self.succession else ""
        return CAError(
            f"{files.cert} has name constraints that do not let it sign {hosts}; run: "
            f"{undo}pullthrough ca rotate{self._where} {flags}"
        )


def _promote(directory: Path, moment: datetime) -> None:
    """Where it can be done: whatever is wrong, reading says it better, or can do without."""
    with contextlib.suppress(CAError):
        promote(directory, moment)


def _read_directory(directory: Path, moment: datetime) -> _Held:
    with unchanging(directory):
        waiting = successor(directory)
        if waiting is not None and waiting.begins <= moment:
            return _Held(Issuer(waiting.files, moment))
        issuer = Issuer(PairFiles.in_directory(directory), moment)
        if waiting is None:
            return _Held(issuer)
        return _Held(issuer, Issuer(waiting.files, moment), waiting.begins)


def _description(issuer: Issuer) -> dict[str, str]:
    return {
        "Subject": issuer.subject,
        "SHA-256": issuer.fingerprint,
        "Valid from": _utc(issuer.not_valid_before),
        "Valid until": _utc(issuer.not_valid_after),
        "Signs for": "; and: ".join(map(_permitted, issuer.constraints)) or "every host: it has no name constraints",
        "File": str(issuer.files.cert),
    }


def _permitted(constraints: Constraints) -> str:
    permitted, excluded = constraints.permitted, constraints.excluded
    kinds = [", ".join(permitted.domains) or "every name", ", ".join(map(str, permitted.networks)) or "every address"]
    return ", ".join(kinds) + (f"; but not {excluded}" if excluded else "")


def _utc(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")
