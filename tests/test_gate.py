"""Who may use the mirror: by address, by password, and what guessing costs."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest

from lab.memory import Clock
from lab.programs import need
from pullthrough.gate import Gate, GateError
from pullthrough.guesses import FORGOTTEN, FREE

HERE = "10.0.0.1"
ELSEWHERE = "10.0.0.2"
#: Of "secret", made by htpasswd 2.4.
HASH = "$2y$05$e/ZMhl04ELVcttwuKu8.dO.ABK.1Ncrxpb/FmZ0aoIW0R98mNwjDi"


def hashed(password: str, cost: int = 4) -> str:
    """As htpasswd writes it."""
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$", 1)


def login(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def write(file: Path, **users: str) -> None:
    """Put users and their passwords into the file, as an editor does: another one takes its place."""
    beside = file.with_name("beside")
    beside.write_text("".join(f"{user}:{hashed(password)}\n" for user, password in users.items()))
    beside.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "htpasswd"
    write(made, alice="secret", bob="hidden")
    return made


@pytest.fixture
def gate(file: Path, clock: Clock) -> Gate:
    return Gate(file, clock=clock)


async def test_without_anything_it_is_open() -> None:
    gate = Gate()
    assert gate.open
    assert await gate.admits(HERE, None)
    assert await gate.admits("", "nonsense")


async def test_networks_admit_by_address_alone(clock: Clock) -> None:
    gate = Gate(networks=[ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("2001:db8::/32")], clock=clock)
    assert not gate.open
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7", "[2001:db8::7]"):
        assert await gate.admits(address, None)
    for address in ("10.2.0.1", "2001:db9::1", "::1", "", "10.1.2.3.test"):
        assert not await gate.admits(address, None)
        assert not await gate.admits(address, login("alice", "secret"))


async def test_users_are_admitted_by_password_alone(gate: Gate) -> None:
    assert not gate.open
    assert await gate.admits(HERE, login("alice", "secret"))
    assert await gate.admits(ELSEWHERE, login("bob", "hidden"))
    for user, password in (("alice", "hidden"), ("alice", ""), ("carol", "secret"), ("", ""), ("ALICE", "secret")):
        assert not await gate.admits(HERE, login(user, password))


async def test_either_of_the_two_is_enough(file: Path, clock: Clock) -> None:
    gate = Gate(file, [ipaddress.ip_network(f"{HERE}/32")], clock=clock)
    assert await gate.admits(HERE, None)
    assert await gate.admits(HERE, login("alice", "wrong"))
    assert await gate.admits(ELSEWHERE, login("alice", "secret"))
    assert not await gate.admits(ELSEWHERE, None)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic ", "Basic !", "Bearer YWxpY2U6c2VjcmV0", "Basic YWxpY2U=", "Basic /w==", "x" * 100_000],
)
async def test_what_is_no_login_is_not_admitted(gate: Gate, authorization: str | None) -> None:
    assert not await gate.admits(HERE, authorization)


async def test_what_htpasswd_makes_is_understood(file: Path) -> None:
    htpasswd = need("htpasswd")
    long = "correct horse battery staple " * 4
    subprocess.run([htpasswd, "-c", "-b", "-B", str(file), "alice", "s€cret:1"], check=True, capture_output=True)
    subprocess.run([htpasswd, "-b", "-B", "-C", "10", str(file), "bob", long], check=True, capture_output=True)
    gate = Gate(file)
    assert await gate.admits(HERE, login("alice", "s€cret:1"))
    assert await gate.admits(HERE, login("bob", long))
    assert not await gate.admits(HERE, login("bob", long[:50]))


@pytest.mark.parametrize("letter", "aby")
async def test_every_dialect_of_bcrypt_is_read(file: Path, letter: str) -> None:
    file.write_text(f"# users\n\n  alice:$2{letter}${HASH[4:]}  \r\n")
    assert await Gate(file).admits(HERE, login("alice", "secret"))


async def test_a_nul_does_not_end_a_password(gate: Gate) -> None:
    assert not await gate.admits(HERE, login("alice", "secret\0x"))


# Each kind as htpasswd 2.4 makes it of the password "b".
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("$apr1$HqTh9L6Y$mVG9ZWK0RrWxpOTq2wc17.", "an MD5 hash"),
        ("{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g=", "a SHA-1 hash"),
        ("$5$xzQzMsvoRh2C4WNO$TNF2yLoAS99AfiRurhywfwQn/cLs5xwiqCCReRiXAKA", "a SHA-256 hash"),
        ("$6$/OWDCzXKq.VqgauR$7Fa.Nx9wWlP", "a SHA-512 hash"),
        ("$1$HqTh9L6Y$mVG9ZWK0RrWxpOTq2wc17.", "an MD5 hash"),
        ("YWPlYN5QkkXHQ", "an unknown hash"),
        ("b", "an unknown hash"),
        ("", "an unknown hash"),
        (HASH[:-1], "a damaged bcrypt hash"),
        (HASH.replace("8.dO.", "8.d1."), "a damaged bcrypt hash"),
    ],
)
def test_another_kind_of_hash_is_an_error_with_a_remedy(tmp_path: Path, value: str, kind: str) -> None:
    file = tmp_path / "the users"
    file.write_text(f"# who may\nalice:{HASH}\nbob smith:{value}\n")
    with pytest.raises(GateError) as refusal:
        Gate(file)
    assert str(refusal.value) == (
        f"{file} line 3: holds {kind}, and only bcrypt is accepted; make one with: htpasswd -B '{file}' 'bob smith'"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "names no user; add one: htpasswd -B "),
        (b"# nobody\n\n", "names no user"),
        (b"alice\n", "line 1: is not USER:HASH"),
        (f"\n:{HASH}".encode(), "line 2: is not USER:HASH"),
        (f"alice:{HASH}\nalice:{HASH}".encode(), "line 2: the user 'alice' is there already"),
        (f"alice:{HASH.replace('$05$', '$17$')}".encode(), "has the bcrypt cost 17.*htpasswd -B -C 10"),
        (f"alice:{HASH.replace('$05$', '$03$')}".encode(), "has the bcrypt cost 3"),
        (b"\xff:x", "is not UTF-8 text"),
        (b"#" * (1 << 20) + b"#", "is larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(file: Path, content: bytes, sentence: str) -> None:
    file.write_bytes(content)
    with pytest.raises(GateError, match=sentence) as refusal:
        Gate(file)
    assert str(file) in str(refusal.value)
    assert "$2" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"cannot read the password file .*/none: No such file"):
        Gate(tmp_path / "none")
    with pytest.raises(GateError, match="Is a directory"):
        Gate(tmp_path)


async def guess(gate: Gate, count: int, origin: str = HERE) -> None:
    for number in range(count):
        assert not await gate.admits(origin, login("alice", f"guess {number}"))


async def test_whoever_guesses_has_to_wait(gate: Gate, clock: Clock) -> None:
    await guess(gate, FREE - 1)
    assert await gate.admits(HERE, login("bob", "hidden"))
    await guess(gate, FREE)

    assert not await gate.admits(HERE, login("alice", "secret")), "not looked at any more"
    assert await gate.admits(ELSEWHERE, login("alice", "secret")), "nobody is locked out by others"
    clock.time += FORGOTTEN
    assert await gate.admits(HERE, login("alice", "secret"))


async def test_other_users_do_not_make_guesses_free(gate: Gate) -> None:
    for number in range(FREE):
        assert not await gate.admits(HERE, login(f"user {number}", "secret"))
    assert not await gate.admits(HERE, login("alice", "secret"))


async def test_an_ipv6_network_is_one_origin(gate: Gate) -> None:
    for number in range(FREE):
        await guess(gate, number + 1, f"2001:db8::{number:x}")
    assert not await gate.admits("2001:db8::ffff", login("alice", "secret"))
    assert await gate.admits("2001:db8:0:1::1", login("alice", "secret"))


async def test_one_wrong_password_again_and_again_is_one_guess(gate: Gate) -> None:
    for _ in range(3 * FREE):
        assert not await gate.admits(HERE, login("alice", "old password"))
    assert await gate.admits(HERE, login("alice", "secret"))


async def test_a_right_password_is_remembered_for_a_minute(gate: Gate, clock: Clock) -> None:
    assert await gate.admits(HERE, login("alice", "secret"))
    await guess(gate, FREE)

    clock.time += 59.0
    assert await gate.admits(HERE, login("alice", "secret")), "without another look at it"
    assert not await gate.admits(HERE, login("bob", "secret")), "for its user alone"
    clock.time += 1.0
    assert not await gate.admits(HERE, login("alice", "secret"))


async def test_guesses_at_the_same_time_count_as_well(gate: Gate) -> None:
    wrong = [gate.admits(HERE, login("alice", f"guess {number}")) for number in range(3 * FREE)]
    answers = await asyncio.gather(*wrong, gate.admits(HERE, login("alice", "secret")))
    assert not any(answers)


class Watched(ThreadPoolExecutor):
    """Threads for everybody; knows how many were at work at once."""

    def __init__(self) -> None:
        super().__init__(16)
        self._lock = threading.Lock()
        self._working = 0
        self.most = 0

    def submit[**P, T](self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        def watched(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._lock:
                self._working += 1
                self.most = max(self.most, self._working)
            try:
                return work(*args, **kwargs)
            finally:
                with self._lock:
                    self._working -= 1

        return super().submit(watched, *args, **kwargs)


async def test_few_are_checked_at_a_time(gate: Gate) -> None:
    threads = Watched()
    asyncio.get_running_loop().set_default_executor(threads)
    await asyncio.gather(*(gate.admits(f"10.0.1.{number}", login("alice", f"{number}")) for number in range(50)))
    assert 1 <= threads.most <= 2


class Effort:
    """Seconds of work that this process did, in all its threads; what others do on the machine does not count."""

    def __enter__(self) -> None:
        self._begun = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._begun


async def test_the_same_login_at_the_same_time_is_checked_once(file: Path) -> None:
    file.write_text(f"alice:{hashed('secret', cost=10)}\n")
    gate = Gate(file)
    one, many = Effort(), Effort()
    with one:
        assert not await gate.admits(HERE, login("alice", "wrong"))
    with many:
        assert all(await asyncio.gather(*(gate.admits(HERE, login("alice", "secret")) for _ in range(100))))
    assert many.seconds < 20 * one.seconds


async def test_unknown_users_take_as_much_work_as_known_ones(file: Path) -> None:
    file.write_text(f"alice:{hashed('secret', cost=9)}\n")
    gate = Gate(file)

    async def least(user: str) -> float:
        """The effort for one guess: the least of some, without what is done but once."""
        tries = []
        for number in range(4):
            with (effort := Effort()):
                assert not await gate.admits(HERE, login(user, f"guess {number}"))
            tries.append(effort.seconds)
        return min(tries)

    assert await least("nobody") > 0.3 * await least("alice")


async def test_the_password_of_somebody_else_admits_no_unknown_user(file: Path) -> None:
    write(file, alice="secret")
    gate = Gate(file)
    assert not await gate.admits(HERE, login("nobody", "secret"))
    assert await gate.admits(HERE, login("alice", "secret"))


async def test_the_file_is_read_again_when_it_has_changed(gate: Gate, file: Path, clock: Clock) -> None:
    assert await gate.admits(HERE, login("alice", "secret"))
    assert not await gate.admits(HERE, login("alice", "changed"))
    write(file, alice="changed", carol="new")
    clock.time += 1.0

    assert await gate.admits(HERE, login("carol", "new"))
    assert await gate.admits(HERE, login("alice", "changed")), "it was wrong a moment ago"
    assert not await gate.admits(HERE, login("alice", "secret")), "it was right a moment ago"
    assert not await gate.admits(HERE, login("bob", "hidden"))


async def test_who_was_known_remains_while_the_file_is_damaged(
    gate: Gate, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("")
    for _ in range(3):
        clock.time += 1.0
        assert await gate.admits(HERE, login("alice", "secret"))
    assert len(re.findall("names no user.*remain", caplog.text)) == 1

    write(file, carol="new")
    clock.time += 1.0
    assert await gate.admits(HERE, login("carol", "new"))
    assert not await gate.admits(HERE, login("alice", "secret"))


async def test_a_file_that_was_taken_away_admits_nobody(
    gate: Gate, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await gate.admits(HERE, login("alice", "secret"))
    file.unlink()
    for _ in range(3):
        clock.time += 1.0
        assert not await gate.admits(HERE, login("alice", "secret"))
    assert not gate.open
    assert caplog.text.count("is gone") == 1

    write(file, alice="secret")
    clock.time += 1.0
    assert await gate.admits(HERE, login("alice", "secret"))
    assert "has changed; users: 1" in caplog.text


async def test_no_password_is_kept_or_shown(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write(file, alice="Tr0ub4dor")
    gate = Gate(file)
    assert await gate.admits(HERE, login("alice", "Tr0ub4dor"))
    assert not await gate.admits(HERE, login("alice", "&3"))
    kept = f"{vars(gate)} {[vars(value) for value in vars(gate).values() if hasattr(value, '__dict__')]}"
    for word in ("Tr0ub4dor", "&3", "$2y$", login("alice", "Tr0ub4dor"), login("alice", "&3")):
        assert word not in kept + caplog.text
