"""Files without rows, rows without files, blobs without a place in the order of use: what crashes leave behind.

Responsible for the look at everything that follows each opening of a store, in the background and in small steps: pulls
go on meanwhile, and must not feel it. Must not know who asks for it. Sizes and digests are not looked at: whoever opens
a blob sees its size, and what was found without a row is read then.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Final

from pullthrough.store import names
from pullthrough.store.files import BlobFiles
from pullthrough.store.index import Index

#: Files that are open, and rows that are written, at the same time.
_TOGETHER: Final = 64


def tidy(files: BlobFiles, index: Index, going_on: Callable[[], bool]) -> bool:
    """Give every file a row, and every row with a file its place in the order of use. Was it brought to its end?

    `going_on` is asked before each step and may wait, to leave time for others.

    A crash between rename and row leaves a file without one; so does an index that was given up. A row without a file
    is what remains when the power fails before a deletion from the index is on disk.
    """
    index.enlist(going_on)
    for folder in sorted(index.folders() | files.folders()):
        if not going_on():
            return False
        # In this order: a file that comes between the two is missed, and not taken for lost.
        rows = index.files(folder)
        found = files.blobs(folder)
        for name in rows - found:
            _drop_if_lost(files, index, name)
        lost = (name for name in found - rows if names.digest_of(name) is not None)
        for some in itertools.batched(lost, _TOGETHER):
            if not going_on():
                return False
            files.settle(some, index.owns, index.rediscover)
    return True


def _drop_if_lost(files: BlobFiles, index: Index, name: str) -> None:
    digest = names.digest_of(name)
    row = index.find(digest) if digest is not None else None
    if digest is None or row is None or row.name != name:
        return
    fd = files.open(name, row.size)
    if fd is None:
        index.drop(digest, row)
    else:
        os.close(fd)
