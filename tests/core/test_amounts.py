"""Amounts as people read them."""

import pytest

from pullthrough.core.amounts import byte_size, counted


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 * (1 << 30) + (1 << 29), "5.5 GiB"),
        (7 << 50, "7168.0 TiB"),
    ],
)
def test_bytes_have_the_unit_that_suits_them(count: int, text: str) -> None:
    assert byte_size(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 blobs"), (1, "1 blob"), (2, "2 blobs")])
def test_one_is_not_many(count: int, text: str) -> None:
    assert counted(count, "blob") == text
