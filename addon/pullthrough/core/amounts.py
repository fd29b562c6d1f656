"""Amounts as people read them."""

from typing import Final

_KIBI: Final = 1024


def byte_size(count: int) -> str:
    """As people read it, in powers of 1024: 512 B, 3.4 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _KIBI:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIBI
    return f"{size:.1f} TiB"


def counted(count: int, what: str) -> str:
    """So many of them: 1 blob, 2 blobs."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
