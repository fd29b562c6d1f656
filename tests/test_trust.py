"""Which authorities vouch for upstreams."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest
import trustme

from pullthrough import trust
from pullthrough.trust import TrustError


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A CA's certificate, with its key in the same file, as some keep them."""
    made = trustme.CA()
    file = tmp_path / "own.pem"
    file.write_bytes("Our CA, für alle\n".encode() + made.private_key_pem.bytes() + made.cert_pem.bytes().rstrip())
    return file


def test_the_variable_names_the_system_bundle(ca: Path) -> None:
    assert trust.system_bundle({"SSL_CERT_FILE": str(ca)}) == ca


@pytest.mark.parametrize("value", ["", "/nowhere/ca.pem", "/", "/etc/hostname/ca.pem"])
def test_without_it_there_is_one_all_the_same(value: str) -> None:
    found = trust.system_bundle({"SSL_CERT_FILE": value})
    assert found is not None
    assert b"BEGIN CERTIFICATE" in found.read_bytes()


def test_all_files_are_used_together(ca: Path) -> None:
    pem = trust.bundle([Path(certifi.where()), ca])
    context = trust.client_context(pem)
    assert len(context.get_ca_certs()) == pem.count(b"BEGIN CERTIFICATE") > 50


def test_a_key_in_the_file_goes_no_further(ca: Path) -> None:
    pem = trust.bundle([ca])
    assert b"PRIVATE KEY" not in pem
    assert pem.count(b"BEGIN CERTIFICATE") == 1


def test_the_context_verifies(ca: Path) -> None:
    context = trust.client_context(trust.bundle([ca]))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"cannot read the CA file .*missing\.pem: No such file"):
        trust.bundle([tmp_path / "missing.pem"])
    with pytest.raises(TrustError, match="Is a directory"):
        trust.bundle([tmp_path])


@pytest.mark.parametrize("content", [b"", b"\x30\x82\x01\x00", b"-----BEGIN CERTIFICATE-----\ncut", b"BEGIN"])
def test_a_file_without_a_certificate_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "own.der"
    file.write_bytes(content)
    with pytest.raises(TrustError, match=r"own\.der holds no PEM certificate: give --upstream-ca"):
        trust.bundle([file])


def test_a_certificate_that_is_none_is_no_surprise_later(tmp_path: Path) -> None:
    file = tmp_path / "own.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    with pytest.raises(TrustError, match="check --upstream-ca"):
        trust.client_context(trust.bundle([file]))
