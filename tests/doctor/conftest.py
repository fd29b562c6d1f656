"""Fixtures of the doctor's tests."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from doctor.patient import Authorities, Patient
from lab.programs import need_root
from pullthrough.ca import Authority


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("authorities")

    def make(name: str) -> str:
        authority = Authority.load_or_create(folder / name, now=lambda: datetime.now(UTC))
        return authority.certificate_pem.decode()

    return make


@pytest.fixture
def patient(authorities: Authorities) -> Iterator[Patient]:
    """A machine with nothing on it, and a cache that served its CA. Others may look into its folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root, proc = Path(folder, "root"), Path(folder, "proc")
        root.mkdir()
        proc.mkdir()
        (proc / "stat").symlink_to("/proc/stat")
        made = Patient(root, proc, authorities("ours"))
        yield made
        made.end()


@pytest.fixture
def ordinary() -> Callable[[], AbstractContextManager[None]]:
    """Within it the test is an ordinary user, who is not the one that wrote its files."""
    need_root("becoming somebody else")

    @contextmanager
    def become() -> Iterator[None]:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return become
