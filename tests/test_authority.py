"""What the settings mean for the CA."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pullthrough.authority import establish, find, make, named_hosts
from pullthrough.ca import Authority, CAError
from pullthrough.config import Settings, load
from pullthrough.keypair import CERT_NAME, KEY_NAME


def now() -> datetime:
    return datetime.now(UTC)


def settings(folder: Path, **more: object) -> Settings:
    return load({"data_dir": str(folder), **more}, {})


def brought(folder: Path) -> dict[str, object]:
    return {"ca_cert": str(folder / "ca" / CERT_NAME), "ca_key": str(folder / "ca" / KEY_NAME)}


def test_the_first_start_makes_a_ca_for_well_known_and_named_registries_and_for_the_proxy_itself(
    tmp_path: Path,
) -> None:
    asked = settings(
        tmp_path,
        registry=["registry.corp.test:5050", "*.r.corp.test", "203.0.113.7:5000", "[2001:db8::5]:5000"],
        name=["cache.corp.test"],
        advertise=["198.51.100.9"],
    )
    authority = establish(asked, now)
    for host in ("ghcr.io", "localhost", "10.0.0.5", *named_hosts(asked)):
        assert authority.permits(host), host
    assert not authority.permits("example.com")
    assert not authority.unconstrained
    assert establish(asked, now).fingerprint == authority.fingerprint == find(asked, now).fingerprint


def test_a_registry_named_later_is_an_error_and_the_command_in_it_mends_it(tmp_path: Path) -> None:
    establish(settings(tmp_path), now)
    asked = settings(tmp_path, registry=["registry.corp.test:5050"])
    with pytest.raises(CAError, match=f"ca rotate --data-dir {tmp_path} --permit registry.corp.test$"):
        establish(asked, now)
    with pytest.raises(CAError, match=f"ca rotate --data-dir {tmp_path} --permit registry.corp.test$"):
        make(asked, now)


def test_discovery_needs_a_ca_that_was_made_for_it_on_purpose(tmp_path: Path) -> None:
    asked = settings(tmp_path, discover=True)
    with pytest.raises(CAError, match=f"run: pullthrough ca init --data-dir {tmp_path} --unconstrained$"):
        establish(asked, now)
    assert list(tmp_path.iterdir()) == []
    assert make(asked, now, unconstrained=True).unconstrained
    assert establish(asked, now).permits("example.com")


def test_discovery_is_refused_with_a_ca_that_has_constraints(tmp_path: Path) -> None:
    establish(settings(tmp_path), now)
    with pytest.raises(CAError, match=f"pullthrough ca rotate --data-dir {tmp_path} --unconstrained$"):
        establish(settings(tmp_path, discover=True), now)


def test_a_ca_without_constraints_from_an_earlier_version_goes_on_working(tmp_path: Path) -> None:
    old = Authority.load_or_create(tmp_path / "ca", now=now)
    found = establish(settings(tmp_path, registry=["registry.corp.test"]), now)
    assert found.fingerprint == old.fingerprint
    assert found.unconstrained


def test_a_ca_brought_along_is_taken_and_held_to_what_is_named(tmp_path: Path) -> None:
    theirs = make(settings(tmp_path / "theirs"), now, permit=["corp.test"])
    asked = settings(tmp_path / "data", registry=["registry.corp.test"], **brought(tmp_path / "theirs"))
    assert establish(asked, now).fingerprint == theirs.fingerprint == find(asked, now).fingerprint
    assert not (tmp_path / "data").exists()
    with pytest.raises(CAError, match=r"do not let it sign for r\.example\.com; check --ca-cert and --ca-key"):
        establish(settings(tmp_path / "data", registry=["r.example.com"], **brought(tmp_path / "theirs")), now)
    with pytest.raises(CAError, match="for hosts that nobody named; check --ca-cert and --ca-key"):
        establish(settings(tmp_path / "data", discover=True, **brought(tmp_path / "theirs")), now)


def test_an_unconstrained_ca_is_not_made_where_there_is_another(tmp_path: Path) -> None:
    make(settings(tmp_path), now)
    with pytest.raises(CAError, match=r"--unconstrained$"):
        make(settings(tmp_path), now, unconstrained=True)
