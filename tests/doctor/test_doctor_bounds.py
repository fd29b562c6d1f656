"""What hangs, is damaged or comes from a stranger: bounded, left out, made printable."""

import threading

import pytest

from doctor.patient import Authorities
from pullthrough.doctor import certificates
from pullthrough.doctor.asking import in_time
from pullthrough.doctor.finding import failed


def test_what_hangs_is_left_behind() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        in_time(gate.wait, 0.01)
    gate.set()


def test_what_fails_in_time_fails_here() -> None:
    def broken() -> None:
        raise PermissionError("no")

    with pytest.raises(PermissionError, match="no"):
        in_time(broken)


def test_a_damaged_certificate_is_left_out(authorities: Authorities) -> None:
    damaged = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
    whole = authorities("ours")
    assert certificates.parse(damaged + whole) == certificates.parse(whole)
    assert len(certificates.parse(whole)) == 1


def test_a_finding_is_one_printable_line_each() -> None:
    finding = failed("cache", "two\nlines \x1b]0;title\x07 \u202e" + "x" * 1000, "a\r\nb")
    assert finding.text.startswith("two lines ]0;title x")
    assert len(finding.text) < 650
    assert (finding.text.isprintable(), finding.remedy) == (True, "a b")
