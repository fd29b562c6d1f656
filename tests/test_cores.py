"""How many processors there are to use, by what the system says of quotas."""

import os
from pathlib import Path

import pytest

from pullthrough.cores import usable

HAVE = len(os.sched_getaffinity(0))


def groups(folder: Path, quotas: dict[str, str]) -> Path:
    for group, quota in quotas.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / "cpu.max").write_text(quota)
    return folder


def ours(folder: Path, text: str) -> Path:
    file = folder / "ours"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, HAVE),
        ({"a/b": "max 100000\n"}, HAVE),
        ({"a/b": "100000 100000\n"}, 1),
        ({"a/b": "50000 100000\n"}, 1),
        ({"a/b": "150000 100000\n"}, min(2, HAVE)),
        ({"a/b": "99900000 100000\n"}, HAVE),
        ({"a/b": "max 100000\n", "a": "100000 100000\n"}, 1),
        ({"": "100000 100000\n"}, 1),
        ({"c": "100000 100000\n"}, HAVE),
        ({"a/b": "what later kernels say\n"}, HAVE),
        ({"a/b": "100000 0\n"}, HAVE),
    ],
)
def test_quotas_of_all_groups_count(tmp_path: Path, quotas: dict[str, str], expected: int) -> None:
    assert usable(ours(tmp_path, "3:cpu:/x\n0::/a/b\n"), groups(tmp_path / "groups", quotas)) == expected


@pytest.mark.parametrize("text", ["", "3:cpu:/x\n"])
def test_without_groups_there_are_as_many_as_there_are(tmp_path: Path, text: str) -> None:
    assert usable(ours(tmp_path, text), tmp_path) == HAVE
    assert usable(tmp_path / "none", tmp_path) == HAVE
