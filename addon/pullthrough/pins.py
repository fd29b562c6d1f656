"""Pins: what an operator wants to stay in the store, whatever else has to go.

Responsible for the list of pins, which outlives restarts and a lost index, and for what they mean now: a pin on a tag
or a glob follows what was pulled last. Must not know how anything is evicted. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pullthrough import durable
from pullthrough.catalog import Catalog, Node
from pullthrough.core.amounts import byte_size
from pullthrough.core.children import Descriptor
from pullthrough.core.digest import Digest
from pullthrough.core.selections import Selection, parse_selection
from pullthrough.store.opened import Shelf
from pullthrough.store.room import LOW_WATERMARK

#: Seconds after which it is looked again what pins mean: what was pulled since is not evicted so soon.
_FRESH: Final = 60.0

#: No time is so late (seconds since the epoch).
_FOREVER: Final = 1e12

log = logging.getLogger(__name__)


class PinError(Exception):
    """It cannot be pinned, or is not pinned. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of the list. `what` is a selection as it was typed, `platform` os/architecture[/variant] or all.

    `roots` are the manifests that it meant when that was last looked at, by repository and tag: the store forgets what
    a tag named after a while, a pin does not.
    """

    what: str
    platform: str = ""
    #: Seconds since the epoch.
    since: float = 0.0
    roots: Mapping[str, str] = field(default_factory=dict)

    @property
    def selection(self) -> Selection:
        return parse_selection(self.what)

    def __str__(self) -> str:
        return f"{self.what} ({self.platform})" if self.platform else self.what


class Pins:
    """The pins of a data directory, safe for several processes."""

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / "pins.json"
        self._lock = data_dir / ".pins.lock"

    def all(self) -> tuple[Pin, ...]:
        """The list. PinError if the file is no list of pins."""
        try:
            return tuple(_read(json.loads(self.file.read_bytes())))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            raise PinError(f"{self.file} cannot be read ({error}): mend or remove it, and pin again") from error

    def add(self, catalog: Catalog, what: str, platform: str, size: int) -> Pin:
        """Pin it too. PinError if nothing of it is stored, or all pins would leave no room in a store of `size` bytes.

        What they need in all has to stay below the low watermark: else each eviction would take all that is not pinned.
        """
        pin = follow(catalog, Pin(what, platform, time.time()))
        if not pin.roots and pin.selection.single:
            raise PinError(f"nothing of {pin} is stored here: pull it through this proxy first, then pin it")
        if pin.roots and not kept(catalog, pin):
            raise PinError(f"{what} has no platform {platform}; see which it has: pullthrough show {what}")
        with durable.locked(self._lock):
            others = [one for one in self.all() if (one.selection, one.platform) != (pin.selection, platform)]
            taken, needed = _bytes(catalog, others), _bytes(catalog, [*others, pin])
            if needed > size * LOW_WATERMARK:
                raise PinError(
                    f"{pin} needs {byte_size(needed - taken)} more, {byte_size(taken)} are pinned already: together "
                    f"more than {LOW_WATERMARK:.0%} of the {byte_size(size)} of --size; unpin something, or give the "
                    "store more room"
                )
            self._write([*others, pin])
        return pin

    def remove(self, what: str, platform: str) -> list[Pin]:
        """Pin it no more, without `platform` for none; what was removed. PinError if it is no pin."""
        selection = parse_selection(what)
        with durable.locked(self._lock):
            before = self.all()
            gone = [pin for pin in before if pin.selection == selection and platform in ("", pin.platform)]
            if not gone:
                raise PinError(f"{Pin(what, platform)} is not pinned; see what is: pullthrough pins")
            self._write(pin for pin in before if pin not in gone)
            return gone

    def follow(self, catalog: Catalog) -> frozenset[Digest]:
        """Look at what all pins mean now, remember that, and tell all digests that they keep."""
        before = self.all()
        after = [follow(catalog, pin) for pin in before]
        if [*before] != after:
            with contextlib.suppress(OSError), durable.locked(self._lock):
                if self.all() == before:  # else somebody has changed the list since
                    self._remember(after)
        return frozenset(digest for pin in after for digest in kept(catalog, pin))

    def _remember(self, pins: Iterable[Pin]) -> None:
        """A disk that does not take it, being full, must not keep anybody from knowing it."""
        try:
            self._write(pins)
        except OSError as error:
            log.warning("what pins mean now cannot be written to %s: %s", self.file, error)

    def _write(self, pins: Iterable[Pin]) -> None:
        content = json.dumps({"pins": [asdict(pin) for pin in pins]}, indent=2)
        durable.replace(self.file, content.encode())


class _Everything:
    """What is kept while nobody knows what is pinned."""

    def __contains__(self, digest: object, /) -> bool:
        return True


class Keeper:
    """For a store that evicts: what it must keep, as of a moment ago."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._until = 0.0
        self._catalog: tuple[Shelf, Catalog] | None = None
        self._kept: Container[Digest] = _Everything()

    def __call__(self, shelf: Shelf) -> Container[Digest]:
        """What pins keep. While that cannot be found out, what they kept before; everything, if that is not known."""
        with self._lock:
            state = self._state()
            if state != self._seen or time.monotonic() > self._until:
                try:
                    self._kept = self._pins.follow(self._of(shelf)) if state is not None else frozenset()
                except (OSError, PinError) as error:
                    log.warning("pins cannot be looked at, those from before count: %s", error)
                self._seen, self._until = self._state(), time.monotonic() + _FRESH
            return self._kept

    def _of(self, shelf: Shelf) -> Catalog:
        if self._catalog is None or self._catalog[0] != shelf:
            self._catalog = shelf, Catalog(shelf)
        return self._catalog[1]

    def _state(self) -> tuple[int, int] | None:
        """Another one whenever the list has changed; None without one."""
        try:
            status = self._pins.file.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return 0, 0  # there may be one
        return status.st_ino, status.st_mtime_ns


def follow(catalog: Catalog, pin: Pin) -> Pin:
    """The pin with what it means now. What it meant before counts where nothing newer is known."""
    selection = pin.selection
    if selection.digest is not None:
        return replace(pin, roots={"": str(selection.digest)} if catalog.stored(selection.digest) else pin.roots)
    found = {
        f"{image.repository}:{tag}": str(image.root.digest)
        for image in catalog.images(selection)
        for tag in filter(selection.names, image.tags)
    }
    return replace(pin, roots={**pin.roots, **found})


def kept(catalog: Catalog, pin: Pin) -> dict[Digest, Node]:
    """All that a pin keeps, and what of it is not stored yet."""
    found: dict[Digest, Node] = {}
    for text in pin.roots.values():
        digest = Digest.parse(text)
        root = catalog.tree(Descriptor(digest, is_manifest=True)) if digest is not None else None
        wanted = root.of_platform(pin.platform) if root is not None and pin.platform else root
        found |= {node.digest: node for node in wanted.walk()} if wanted is not None else {}
    return found


def _bytes(catalog: Catalog, pins: Iterable[Pin]) -> int:
    """What they take when all of it is stored, as far as manifests tell."""
    nodes = {digest: node for pin in pins for digest, node in kept(catalog, pin).items()}
    return sum(node.size for node in nodes.values())


def _read(value: Any) -> Iterable[Pin]:
    """ValueError for what is no list of pins."""
    match value:
        case {"pins": [*entries]}:
            for entry in entries:
                yield _pin(entry)
        case _:
            raise ValueError("it is no list of pins")


def _pin(entry: Any) -> Pin:
    match entry:
        case {
            "what": str() as what,
            "platform": str() as platform,
            "since": int() | float() as since,
            "roots": {**roots},
        } if 0 <= since < _FOREVER:
            parse_selection(what)
            return Pin(what, platform, since, {str(key): str(root) for key, root in roots.items()})
    raise ValueError("one of its pins is none")
