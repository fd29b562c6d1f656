"""The runner of the proxy starts, stops, kills and measures a process, shown with a stand-in program."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.names import NameMap
from lab.pki import Pki
from lab.proxy import SOURCES, ExitedEarly, Proxies, Proxy

# Answers as the real program does where the runner asks; /map and /env tell what it was given.
STAND_IN = """
import http.server, json, os, signal, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        pages = {"/readyz": "ready", "/ca.pem": "the ca", "/argv": sys.argv, "/env": dict(os.environ)}
        if self.path == "/map":
            try:
                answer = socket.getaddrinfo("registry.test", 5000)[0][4]
            except socket.gaierror:
                answer = "gone"
        elif self.path == "/grow":
            answer = len(bytearray(b"x") * (64 << 20))
        else:
            answer = pages[self.path]
        body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        print(json.dumps({"event": "request", "path": self.path}), flush=True)

def main():
    if "--fail" in sys.argv:
        sys.exit("bad flag")
    host, port = sys.argv[sys.argv.index("--listen") + 1].split(":")
    os.makedirs(sys.argv[sys.argv.index("--data-dir") + 1], exist_ok=True)
    print("plain words", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    package = tmp_path / "stand-in" / "pullthrough"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STAND_IN)
    return [package.parent, SOURCES[-1]]


@pytest.fixture
def proxy(sources: list[Path], tmp_path: Path, names: NameMap, pki: Pki) -> Iterator[Proxy]:
    names.publish("registry.test", 5000, "127.0.0.2", 45000)
    made = Proxy(tmp_path / "proxy", names, upstream_ca=pki.ca_file, registries=["registry.test:5000"], sources=sources)
    made.start()
    yield made
    made.end_if_running()


def test_it_is_ready_has_its_ca_and_knows_the_names(proxy: Proxy) -> None:
    assert proxy.get("/readyz") == (200, b"ready")
    assert proxy.ca_file.read_text() == "the ca"
    assert proxy.get("/map")[1] == b'["127.0.0.2", 45000]'


def test_it_loses_names_and_regains_them_while_it_runs(proxy: Proxy) -> None:
    pid = proxy.pid

    proxy.lose_names("registry.test")
    assert proxy.get("/map")[1] == b"gone"
    proxy.regain_names()
    assert proxy.get("/map")[1] == b'["127.0.0.2", 45000]'
    assert proxy.pid == pid


def test_its_flags_say_where_to_listen_and_whom_to_trust(proxy: Proxy, pki: Pki) -> None:
    argv = proxy.get("/argv")[1].decode()

    assert f'"run", "--listen", "127.0.0.1:{proxy.port}", "--data-dir", "{proxy.data_dir}"' in argv
    assert f'"--upstream-ca", "{pki.ca_file}", "--registry", "registry.test:5000"' in argv


def test_nothing_of_this_environment_reaches_it_but_coverage(
    sources: list[Path], tmp_path: Path, names: NameMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://parent.test:1")
    monkeypatch.setenv("COVERAGE_FILE", "somewhere")
    proxy = Proxy(tmp_path / "scrubbed", names, sources=sources, env={"PULLTHROUGH_SIZE": "1GiB"})
    proxy.start()
    try:
        env = proxy.get("/env")[1].decode()
    finally:
        proxy.stop()

    assert "parent.test" not in env
    assert '"COVERAGE_FILE": "somewhere"' in env
    assert '"PULLTHROUGH_SIZE": "1GiB"' in env
    assert f'"HOME": "{proxy.folder}"' in env


def test_it_stops_by_sigterm_and_tells_the_exit_code(proxy: Proxy) -> None:
    assert proxy.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        proxy.get("/readyz")


def test_a_kill_is_a_kill_and_it_starts_again_on_its_port(proxy: Proxy) -> None:
    port, pid = proxy.port, proxy.pid

    proxy.kill()
    proxy.start()

    assert (proxy.port, proxy.get("/readyz")[0]) == (port, 200)
    assert proxy.pid != pid


def test_a_restart_tells_the_first_exit_code(proxy: Proxy) -> None:
    assert proxy.restart() == 0
    assert proxy.get("/readyz")[0] == 200


def test_the_log_is_read_as_json_and_other_lines_as_text(proxy: Proxy) -> None:
    proxy.get("/map")

    lines = proxy.log_lines()

    assert lines[0] == {"text": "plain words"}
    assert {"event": "request", "path": "/map"} in lines


def test_the_peak_of_memory_is_the_process_own_and_can_be_reset(proxy: Proxy) -> None:
    before = proxy.peak_rss()
    proxy.get("/grow")
    grown = proxy.peak_rss()

    assert grown >= before + 60 * 1024 * 1024
    assert not proxy.reset_peak_rss() or proxy.peak_rss() < grown


def test_an_early_exit_is_told_with_the_log(sources: list[Path], tmp_path: Path, names: NameMap) -> None:
    proxy = Proxy(tmp_path / "failing", names, sources=sources, flags=["--fail"])

    with pytest.raises(ExitedEarly, match="exit code 1: bad flag"):
        proxy.start()


def test_what_was_never_started_says_so_and_ends_quietly(tmp_path: Path, names: NameMap) -> None:
    proxy = Proxy(tmp_path / "idle", names)

    proxy.end_if_running()
    with pytest.raises(RuntimeError, match="not started"):
        proxy.stop()


def test_the_factory_ends_its_proxies_and_removes_their_data(
    sources: list[Path], tmp_path: Path, names: NameMap, pki: Pki
) -> None:
    proxies = Proxies(tmp_path / "made", names, system_ca=pki.ca_file, sources=sources)
    kept = [proxies(), proxies(start=False, flags=["--size", "1MiB"])]
    kept[0].data_dir.joinpath("blob").touch()
    env = kept[0].get("/env")[1].decode()

    proxies.end()

    assert not kept[0].data_dir.exists()
    assert f'"SSL_CERT_FILE": "{pki.ca_file}"' in env
    assert "plain words" in kept[0].log_text()
    assert kept[1].flags[-2:] == ["--size", "1MiB"]


def test_a_port_that_was_taken_in_between_is_given_up(sources: list[Path], tmp_path: Path, names: NameMap) -> None:
    late = Proxy(tmp_path / "late", names, sources=sources)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        late.port = taken.getsockname()[1]
        late.start()
        code = late.stop()

        assert (code, late.port != taken.getsockname()[1]) == (0, True)
