"""How the index puts its rows on disk: JSON values, and blob files that it adopts.

Responsible for what diskcache stores and for keeping pickle out of it: a value that somebody could plant in
the data directory must never run as code (CVE-2025-69872). Must not know what the values mean.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that already lies where it belongs; the index takes it over instead of copying it.

    `name` is relative to the index's directory. The index deletes the file with its row.
    """

    name: str
    size: int


class JsonDisk(diskcache.Disk):  # type: ignore[misc]
    """Text keys; JSON values or adopted files; nothing else, in neither direction."""

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError(f"index keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise ValueError("the index holds a key that pullthrough did not write")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, str | None]:
        if isinstance(value, Adopted):
            return value.size, MODE_BINARY, value.name, None
        return 0, MODE_RAW, None, json.dumps(value, separators=(",", ":"))

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> Any:
        if mode == MODE_BINARY and filename is not None:
            return Adopted(filename, -1)  # diskcache does not tell the size here: the row's tag has it
        if mode == MODE_RAW and isinstance(value, str):
            return json.loads(value)
        raise ValueError("the index holds a value that pullthrough did not write")

    def remove(self, file_path: str) -> None:
        """Delete an adopted file. Unlike diskcache's own, leaves the folders: a commit may be using them."""
        with contextlib.suppress(OSError):
            Path(self._directory, file_path).unlink()


#: Settings of every index. The policy is `none` because others write on each read; culling is off because
#: diskcache culls ten rows at a time whatever they weigh: the store evicts by bytes itself.
_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_mmap_size": 0,
}
#: Seconds to wait for another process that writes. Longer, and a pull is better served uncached.
_BUSY: Final = 5.0


def open_cache(directory: Path) -> diskcache.Cache:
    """One index in `directory`."""
    return diskcache.Cache(str(directory), timeout=_BUSY, disk=JsonDisk, **_SETTINGS)
