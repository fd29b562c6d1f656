"""Several processes on one port: whoever of them dies, the others serve, and nobody notices when all are changed."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from mitmproxy.net.dns import types
from prometheus_client.parser import text_string_to_metric_families

from lab.asking import Asking
from lab.deadline import eventually
from lab.fake_registry import FakeRegistry
from lab.faults import Fault
from lab.http import Connection, Cut
from lab.images import KIB
from lab.journal import find
from lab.nameserver import Asker, question
from lab.ports import free_port
from lab.proxy import ExitedEarly, Proxies, Proxy
from lab.workers import children, held, is_gone

STALL = 300 * KIB
ENOUGH = 200 * KIB

type Make = Callable[..., Proxy]


@pytest.fixture
def make(fake: FakeRegistry, proxy_factory: Proxies) -> Make:
    def made(*flags: str, start: bool = True) -> Proxy:
        return proxy_factory(fake, flags=["--workers", "2", *flags], start=start)

    return made


def workers(proxy: Proxy) -> list[int]:
    return children(proxy.pid)


@asynccontextmanager
async def connected(asking: Asking, *others: int) -> AsyncIterator[Connection]:
    """A connection to a worker that is none of these."""
    async with AsyncExitStack() as leaving:
        with held(*others):
            connection = await leaving.enter_async_context(asking.connect())
        yield connection


def number(proxy: Proxy, name: str) -> float:
    """The sum over all labels, as Prometheus would be told."""
    families = text_string_to_metric_families(proxy.get("/metrics")[1].decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def messages(proxy: Proxy, text: str) -> list[str]:
    return [line["message"] for line in proxy.log_lines() if text in line.get("message", "")]


async def in_thread[T](do: Callable[..., T], *given: object) -> T:
    return await asyncio.to_thread(do, *given)


async def test_all_serve_on_one_port_and_count_together(
    fake: FakeRegistry, make: Make, data: bytes, repository: str
) -> None:
    proxy = make()
    digest = fake.add_blob(data)
    asking = Asking.through(proxy, fake)

    for pid in workers(proxy):
        async with connected(asking, pid) as connection:
            answer = await connection.ask(f"/v2/{repository}/blobs/{digest}")
            assert (await answer.read()).digest == digest

    # A request counts when its answer is sent, which is after its client has it.
    await in_thread(eventually, lambda: number(proxy, "pullthrough_requests_total") == 2, "both are counted")
    for pid in workers(proxy):
        with held(pid):
            assert proxy.get("/readyz")[0] == 200
            assert number(proxy, "pullthrough_requests_total") == 2
            assert number(proxy, "pullthrough_sent_bytes_total") == 2 * len(data)
            assert number(proxy, "pullthrough_workers") == 2
            assert number(proxy, "pullthrough_ca_expiry_seconds") > 0
    assert len(messages(proxy, "listening on")) == 1
    assert len(find(fake.journal, digest, method="GET")) == 1


async def test_one_that_is_killed_is_replaced_and_the_others_go_on(
    fake: FakeRegistry, make: Make, data: bytes, repository: str
) -> None:
    proxy = make()
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    asking = Asking.through(proxy, fake)
    killed, other = workers(proxy)
    async with connected(asking, other) as connection:
        counted = await connection.ask(f"/v2/{repository}/blobs/{fake.add_blob(b'by the one that is killed')}")
        await counted.read()

    async with connected(asking, killed) as connection:
        answer = await connection.ask(f"/v2/{repository}/blobs/{digest}")
        await answer.read_at_least(ENOUGH)
        os.kill(killed, signal.SIGKILL)
        replaced: list[int] = await in_thread(
            eventually, lambda: [pid for pid in workers(proxy) if pid not in (killed, other)], "another worker"
        )
        with held(other):
            assert (await in_thread(proxy.get, "/readyz", 30.0))[0] == 200
        stalled.release()
        whole = await answer.read()

    assert whole.digest == digest
    assert len(replaced) == 1
    assert counted.status == 200
    await in_thread(eventually, lambda: number(proxy, "pullthrough_requests_total") == 2, "both are counted")
    assert number(proxy, "pullthrough_worker_restarts_total") == 1
    assert messages(proxy, f"(process {killed}) was killed by SIGKILL; another one starts now")
    assert await in_thread(proxy.stop) == 0


@pytest.mark.parametrize("whom", ["the supervisor", "all of them"])
async def test_a_pull_under_way_is_finished_before_the_end(
    fake: FakeRegistry, make: Make, data: bytes, repository: str, whom: str
) -> None:
    proxy = make()
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    asking = Asking.through(proxy, fake)
    told = [proxy.pid] if whom == "the supervisor" else [proxy.pid, *workers(proxy)]  # as service managers do

    async with asking.open_blob(repository, digest) as answer:
        await answer.read_at_least(ENOUGH)
        for pid in told:
            os.kill(pid, signal.SIGTERM)
        await in_thread(eventually, proxy.refuses, "it takes no more connections")
        assert proxy.exit_code is None
        stalled.release()
        whole = await answer.read()

    assert whole.digest == digest
    assert await in_thread(eventually, lambda: proxy.exit_code == 0, "its end")
    assert len(messages(proxy, "stopping")) == 1
    assert not messages(proxy, "another one starts")


async def test_the_second_signal_does_not_wait(fake: FakeRegistry, make: Make, data: bytes, repository: str) -> None:
    proxy = make()
    digest = fake.add_blob(data)
    fake.fault(digest, Fault(stall_after=STALL))

    async with Asking.through(proxy, fake).open_blob(repository, digest) as answer:
        await answer.read_at_least(ENOUGH)
        os.kill(proxy.pid, signal.SIGINT)
        await in_thread(eventually, proxy.refuses, "it takes no more connections")
        os.kill(proxy.pid, signal.SIGINT)
        await in_thread(eventually, lambda: proxy.exit_code == 0, "its end")
        with pytest.raises(Cut):
            await answer.read()


async def test_a_reload_changes_settings_and_costs_no_connection_and_no_pull(
    fake: FakeRegistry, make: Make, data: bytes, repository: str, tmp_path: Path
) -> None:
    file = tmp_path / "pullthrough.toml"
    file.write_text("")
    proxy = make("--config", str(file))
    digest, small = fake.add_blob(data), fake.add_blob(b"small")
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    asking = Asking.through(proxy, fake)
    old, statuses, over = workers(proxy), list[int](), asyncio.Event()

    async def come_all_the_time() -> None:
        while not over.is_set():
            statuses.append((await asking.blob(repository, small)).status)

    async with asking.open_blob(repository, digest) as answer, asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(come_all_the_time())
        await answer.read_at_least(ENOUGH)
        file.write_text(f'deny = ["{fake.name}/{repository}"]\ntls_listen = "127.0.0.1:0"')
        os.kill(proxy.pid, signal.SIGHUP)
        await in_thread(eventually, lambda: 403 in statuses and statuses[-20:] == [403] * 20, "the new settings")
        over.set()
        stalled.release()
        whole = await answer.read()

    assert whole.digest == digest
    assert set(statuses) == {200, 403}
    await in_thread(eventually, lambda: all(map(is_gone, old)), "the end of the old ones")
    assert len(workers(proxy)) == 2
    assert messages(proxy, "--tls-listen cannot be changed by a reload")
    assert len(messages(proxy, "listening on")) == 2


def test_bad_settings_are_told_and_change_nothing(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "pullthrough.toml"
    file.write_text("")
    proxy = make("--config", str(file))
    old = workers(proxy)

    file.write_text('sise = "1GiB"')
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: messages(proxy, "nothing is reloaded"), "it says so")

    assert "did you mean size?" in messages(proxy, "nothing is reloaded")[0]
    assert workers(proxy) == old
    assert proxy.get("/readyz")[0] == 200


def test_one_process_says_that_it_reads_nothing_anew(make: Make) -> None:
    proxy = make("--workers", "1")
    os.kill(proxy.pid, signal.SIGHUP)

    eventually(lambda: messages(proxy, "SIGHUP: with one worker"), "it says so")
    assert workers(proxy) == []
    assert proxy.get("/readyz")[0] == 200


async def test_workers_without_a_supervisor_finish_what_is_under_way_and_end(
    fake: FakeRegistry, make: Make, data: bytes, repository: str
) -> None:
    proxy = make()
    digest = fake.add_blob(data)
    stalled = fake.fault(digest, Fault(stall_after=STALL))
    orphans = workers(proxy)

    async with Asking.through(proxy, fake).open_blob(repository, digest) as answer:
        await answer.read_at_least(ENOUGH)
        await in_thread(proxy.kill)
        await in_thread(eventually, proxy.refuses, "they take no more connections")
        stalled.release()
        whole = await answer.read()

    assert whole.digest == digest
    await in_thread(eventually, lambda: all(map(is_gone, orphans)), "their end")


@pytest.mark.parametrize("count", ["1", "2"])
def test_two_servers_do_not_share_a_port_by_mistake(make: Make, count: str) -> None:
    one = make()
    taken = f"--tls-listen 127.0.0.1:{one.port}"
    other = make("--workers", count, *taken.split(), start=False)

    assert set(fails(other, 1)) == {
        f"cannot listen: {taken}: Address already in use; choose another address or port",
    }
    assert one.get("/readyz")[0] == 200


def test_what_a_person_can_mend_is_one_sentence_and_nothing_is_started(make: Make, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text("somebody:$apr1$salt$hash\n")
    proxy = make("--mirror-htpasswd", str(passwords), start=False)

    assert fails(proxy, 2) == []
    assert proxy.log_text().startswith("pullthrough: ")
    assert proxy.log_text().count("\n") == 1
    assert not (proxy.data_dir / "store").exists()


def fails(proxy: Proxy, code: int) -> Sequence[str]:
    """It ends with that code; the errors in its log."""
    with pytest.raises(ExitedEarly):
        proxy.start()
    assert proxy.exit_code == code
    return [line["message"] for line in proxy.log_lines() if line.get("level") == "error"]


def test_names_are_answered_by_the_first_one_and_by_its_successor(fake: FakeRegistry, make: Make) -> None:
    port = free_port()
    proxy = make("--dns-listen", f"127.0.0.1:{port}")
    first = next(pid for pid in workers(proxy) if answers_names(pid, proxy, port, fake.name))

    os.kill(first, signal.SIGKILL)

    eventually(lambda: answer_of(port, fake.name) == ["127.0.0.1"], "its successor answers")
    assert messages(proxy, f"worker 0 (process {first}) was killed by SIGKILL")


def answer_of(port: int, name: str) -> list[str]:
    """What a client hears that asks once: nothing, if who is killed took the question along."""
    with Asker("127.0.0.1", port=port) as asker, contextlib.suppress(TimeoutError):
        return [str(record) for record in asker.ask(question(name, types.A)).answers]
    return []


def answers_names(pid: int, proxy: Proxy, port: int, name: str) -> bool:
    """Does this one, while the others are held?"""
    with held(*(other for other in workers(proxy) if other != pid)), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        asking.sendto(question(name, types.A).packed, ("127.0.0.1", port))
        try:
            return bool(asking.recv(512))
        except TimeoutError:
            return False
