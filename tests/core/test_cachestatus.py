"""The Cache-Status header of RFC 9211 and the word for logs and metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.core.cachestatus import FORWARDED, MAX_DETAIL, CacheStatus


@pytest.mark.parametrize(
    ("status", "header", "outcome"),
    [
        (CacheStatus(hit=True), "pullthrough; hit", "hit"),
        (CacheStatus(), "pullthrough", "local"),
        (CacheStatus(fwd="miss"), "pullthrough; fwd=miss", "miss"),
        (CacheStatus(fwd="uri-miss", stored=True), "pullthrough; fwd=uri-miss; stored", "uri-miss"),
        (
            CacheStatus(fwd="miss", stored=True, collapsed=True),
            "pullthrough; fwd=miss; stored; collapsed",
            "collapsed",
        ),
        (CacheStatus(fwd="stale", fwd_status=304), "pullthrough; fwd=stale; fwd-status=304", "stale"),
        (
            CacheStatus(fwd="bypass", detail="not a pull"),
            'pullthrough; fwd=bypass; detail="not a pull"',
            "bypass",
        ),
        (CacheStatus(hit=True, detail="upstream down"), 'pullthrough; hit; detail="upstream down"', "hit"),
        (CacheStatus(hit=True, detail=""), "pullthrough; hit", "hit"),
    ],
)
def test_header_and_outcome(status: CacheStatus, header: str, outcome: str) -> None:
    assert status.header() == header
    assert status.outcome == outcome


@pytest.mark.parametrize("reason", sorted(FORWARDED))
def test_every_reason_of_the_rfc_is_its_own_outcome(reason: str) -> None:
    assert CacheStatus(fwd=reason).outcome == reason


def test_an_unknown_reason_cannot_be_stated() -> None:
    with pytest.raises(ValueError, match="'refused'"):
        CacheStatus(fwd="refused")


def test_a_hit_was_not_forwarded() -> None:
    with pytest.raises(ValueError, match="exclude"):
        CacheStatus(hit=True, fwd="stale")


@pytest.mark.parametrize(
    ("detail", "quoted"),
    [
        ('say "no"', r'"say \"no\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\r\nSet-Cookie: x", '"line??Set-Cookie: x"'),
        ("naïve \x7f\x00", '"na?ve ??"'),
    ],
)
def test_detail_is_quoted_and_cannot_break_out_of_the_header(detail: str, quoted: str) -> None:
    assert CacheStatus(fwd="miss", detail=detail).header() == f"pullthrough; fwd=miss; detail={quoted}"


def test_a_long_detail_is_cut() -> None:
    header = CacheStatus(hit=True, detail="x" * (MAX_DETAIL + 1)).header()
    assert header == f'pullthrough; hit; detail="{"x" * MAX_DETAIL}"'


@given(st.text())
def test_any_detail_makes_a_short_printable_header(detail: str) -> None:
    header = CacheStatus(fwd="bypass", detail=detail).header()
    assert header.isascii()
    assert header.isprintable()
    assert len(header) <= len('pullthrough; fwd=bypass; detail=""') + 2 * MAX_DETAIL
