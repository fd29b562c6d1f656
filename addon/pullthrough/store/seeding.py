"""Blobs that come from somebody else than an upstream: put into a store beside a server that may be running.

Responsible for the same promise as a fill: verified before anything becomes an entry, and within the room that there
is. Must not know where bytes come from. Blocks; raises StoreError and OSError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pullthrough.core.digest import Digest
from pullthrough.store.opened import Shelf
from pullthrough.store.room import Room


def seed(shelf: Shelf, room: Room, digest: Digest, size: int, chunks: Iterable[bytes]) -> bool:
    """Have the blob of `size` bytes in the store. Was it what its digest says? If not, nothing of it is kept.

    One that is stored already is read all the same: whoever brings a blob has to show that it has it.
    """
    if _is_stored(shelf, digest):
        hasher = digest.hasher()
        for chunk in chunks:
            hasher.update(chunk)
        shelf.index.touch(digest)
        return hasher.hexdigest() == digest.hex
    partial = shelf.files.aside(digest)  # whoever fetches the same meanwhile goes on
    try:
        with partial.busy:
            room.reserve(partial, size)
            for chunk in chunks:
                partial.write(chunk)
            if partial.written != size or not partial.verified:
                return False
            name = shelf.files.commit(partial)
            try:
                room.settle(partial, lambda: shelf.index.adopt(digest, name, size))
            except BaseException:
                shelf.files.remove(name)
                raise
            return True
    finally:
        room.release(partial)
        partial.discard()
        partial.unlock()
        partial.close()


def _is_stored(shelf: Shelf, digest: Digest) -> bool:
    row = shelf.index.find(digest)
    if row is None or not row.verified:
        return False
    fd = shelf.files.open(row.name, row.size)
    if fd is not None:
        os.close(fd)
    return fd is not None
