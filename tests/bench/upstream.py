"""The upstream of the benchmark: docker-registry over TLS, whose blobs nginx has, as a CDN, behind a redirect.

It is faster than every subject: nginx sends the files of the registry's storage, and both log as little as they can.
"""

import json
import os
import re
import socket
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench import interrupts
from bench.site import HERE, Site
from bench.stock import Stock
from lab.deadline import eventually
from lab.pki import Pki
from lab.ports import free_port
from lab.programs import Program, environment, need

NGINX: Final = """
daemon off; {user} worker_processes auto; worker_rlimit_nofile 8192; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  log_format sent '$body_bytes_sent'; access_log {folder}/sent sent; sendfile on;
  default_type application/octet-stream; keepalive_requests 100000;
  server {{
    listen {address}:{port} ssl backlog=1024; ssl_certificate {chain}; ssl_certificate_key {key};
    root {root};
    location = /busy {{ stub_status; access_log off; }}
  }}
}}
"""
#: What its certificate says beside its address: nginx can check no address.
NAME: Final = "upstream.test"
WRITING: Final = re.compile(rb"Reading: (\d+) Writing: (\d+)")
#: Seconds after which a fetch that no client waits for has come to its end.
PATIENCE: Final = 60.0


class NoUpstream(Exception):
    """Nothing can be measured; the sentence says why."""


class Upstream:
    """A registry and its CDN at `site`, with what `stock` writes into its storage."""

    def __init__(self, folder: Path, site: Site = HERE) -> None:
        folder.mkdir()
        self.site = site
        self.pki = Pki(folder / "pki")
        storage = folder / "storage"
        storage.mkdir()
        self.stock = Stock(storage)
        self.origin = f"https://{site.address}:{free_port()}"
        self._cdn = f"https://{site.address}:{free_port()}"
        self._sent = folder / "sent"
        identity = self.pki.identity(site.address, NAME)
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "cache": {"blobdescriptor": "inmemory"},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "middleware": {"storage": [{"name": "redirect", "options": {"baseurl": f"{self._cdn}/"}}]},
            "http": {
                "addr": self.origin.removeprefix("https://"),
                "secret": "bench",
                "tls": {"certificate": str(identity.chain), "key": str(identity.key)},
            },
        }
        (folder / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
        nginx = NGINX.format(
            user=nginx_user(),
            folder=folder,
            address=site.address,
            port=self._cdn.rpartition(":")[2],
            chain=identity.chain,
            key=identity.key,
            root=storage,
        )
        (folder / "nginx.conf").write_text(nginx)
        commands = {
            "registry": [need("docker-registry"), "serve", str(folder / "registry.yml")],
            "nginx": [need("nginx"), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
        }
        self._programs = [
            Program([*site.prefix, *command], environment(folder), folder / f"{name}.log")
            for name, command in commands.items()
        ]

    @property
    def ca_file(self) -> Path:
        """Who vouches for both of them."""
        return self.pki.ca_file

    def start(self) -> None:
        """NoUpstream, if one of them does not."""
        for program, origin in zip(self._programs, (self.origin, self._cdn), strict=True):
            with interrupts.held():
                program.start()
            try:
                await_port(program, origin, self.site)
            except (OSError, RuntimeError) as error:
                raise NoUpstream(f"the upstream did not start: {error}") from error

    def stop(self) -> None:
        for program in self._programs:
            program.end_if_running()

    def sent(self) -> int:
        """Bytes of blobs that it sent so far, also to those who left; nobody is waiting for more when it returns."""
        eventually(self._idle, "the CDN has nothing to send", PATIENCE)
        return sum(map(int, self._sent.read_text().split()))

    def _idle(self) -> bool:
        with self.site.entered():
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.pki.client_context())
            )
            with opener.open(f"{self._cdn}/busy", timeout=10.0) as answer:
                found = WRITING.search(answer.read())
        return found is not None and found.groups() == (b"0", b"1")  # the one is us


def nginx_user() -> str:
    """Root's nginx would change to a user who may not read what is in our folders."""
    return "user root;" if os.geteuid() == 0 else ""


def await_port(program: Program, origin: str, site: Site) -> None:
    """Until something listens there. RuntimeError with what the program said, if it ends instead."""
    host, _, port = origin.rpartition("/")[2].rpartition(":")

    def listening() -> bool:
        if (code := program.exit_code) is not None:
            raise RuntimeError(f"{program.command} ended with {code}: {program.log.read_text()[-1000:]}")
        with suppress(OSError), site.entered(), socket.create_connection((host, int(port)), 1.0):
            return True
        return False

    eventually(listening, f"{origin} listens", 60.0)
