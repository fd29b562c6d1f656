"""The peers: squid, nginx, docker-registry and mitmdump, each set up as well as it knows how to be for this work.

Each logs as it does by default, keeps as much as the others, and uses as many processes as it can.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import trustme

from bench.load import Access
from bench.subjects import KEPT_MIB, Direct, Place, Pullthrough, Server, Subject
from bench.upstream import NAME, nginx_user
from lab.programs import SYSTEM_PATH, environment

CERTGEN: Final = tuple(
    Path(folder) / "squid/security_file_certgen" for folder in ("/usr/lib", "/usr/lib64", "/usr/libexec")
)
SHARED: Final = Path("/dev/shm")  # noqa: S108 - where Linux has what shm_open makes
#: Root's squid changes to the first of these that there is.
SQUID_USERS: Final = ("proxy", "squid", "nobody")


@cache
def found(program: str) -> str | None:
    """Its path, or None."""
    return shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)


@cache
def printed(*command: str) -> str:
    """What a program says of itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(Path("/")))
    return done.stdout + done.stderr


class Squid(Server):
    """squid that opens TLS with a CA of its own, with a cache on disk."""

    name = "squid"
    explained = "squid ssl-bump, cache on disk (ufs), collapsed_forwarding"

    @classmethod
    def lacks(cls) -> str:
        if (squid := found("squid")) is None:
            return "squid is not installed (Debian: squid-openssl)"
        if "--with-openssl" not in printed(squid, "-v"):
            return "this squid cannot open TLS (Debian: squid-openssl)"
        return "" if any(file.exists() for file in CERTGEN) else "squid's security_file_certgen is not installed"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pem, self._ca_file = self.folder / "ca-and-key.pem", self.folder / "ca.pem"
        self._service = f"bench{os.getpid()}"  # what its shared memory is called: not as another squid's
        self._certgen = next(file for file in CERTGEN if file.exists())
        self._owner = next((user for user in SQUID_USERS if _is_user(user)), None) if os.geteuid() == 0 else None

    @property
    def access(self) -> Access:
        # squid 5 writes an address into its certificates as if that were a name, which it is not
        return Access(self.place.upstream.origin, self._ca_file, self.address, named=False)

    def prepare(self) -> None:
        if not self._pem.exists():
            _make_ca(self._ca_file, self._pem)
        (self.folder / "squid.conf").write_text(self._configuration())
        certificates = self.kept / "certificates"
        if not certificates.exists():
            self._run(str(self._certgen), "-c", "-s", str(certificates), "-M", "4MB")
        self._own()
        if not (self.kept / "cache").exists():
            (self.kept / "cache").mkdir()
            self._own()
            self._run(*self.command(), "-z")

    def command(self) -> Sequence[str]:
        squid = found("squid")
        assert squid
        return [squid, "-N", "-n", self._service, "-f", str(self.folder / "squid.conf")]

    def stop(self) -> None:
        super().stop()
        for segment in SHARED.glob(f"{self._service}-*"):
            segment.unlink()

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(self.folder))
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")

    def _own(self) -> None:
        if self._owner is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, self._owner)

    def _configuration(self) -> str:
        kept, immutable = (
            self.kept,
            "525600 100% 525600 override-expire override-lastmod ignore-no-store ignore-private",
        )
        return f"""
http_port {self.address} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={self._pem}
sslcrtd_program {self._certgen} -s {kept}/certificates -M 4MB
sslcrtd_children 3
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
tls_outgoing_options cafile={self.place.upstream.ca_file}
# nor does it find an address in the upstream's
acl unnamed ssl_error SQUID_X509_V_ERR_DOMAIN_MISMATCH
sslproxy_cert_error allow unnamed
sslproxy_cert_error deny all
http_access allow all
host_verify_strict off
# before cache_dir, or it does not hold for it
maximum_object_size 8 GB
maximum_object_size_in_memory 8 MB
cache_mem 64 MB
# with files in the page cache, as here, aufs takes three times the processor for handing each read to a thread
cache_dir ufs {kept}/cache {KEPT_MIB} 16 256
range_offset_limit none
quick_abort_min -1 KB
collapsed_forwarding on
refresh_pattern /blobs/sha256/ {immutable}
refresh_pattern . 0 0% 0
access_log stdio:{self.folder}/access.log
cache_log {self.folder}/cache.log
pid_filename {self.folder}/squid.pid
coredump_dir {self.folder}
visible_hostname bench
max_filedescriptors 4096
shutdown_lifetime 1 second
{f"cache_effective_user {self._owner}" if self._owner else ""}
"""


class Nginx(Server):
    """nginx as a mirror over TLS. The registry is asked each time; what its redirect leads to is kept by path."""

    name = "nginx"
    explained = "nginx, caching TLS mirror, proxy_cache_lock, worker_processes auto"

    @classmethod
    def lacks(cls) -> str:
        return "" if found("nginx") else "nginx is not installed"

    @property
    def access(self) -> Access:
        return Access(f"https://{self.address}", self.place.upstream.ca_file)

    def command(self) -> Sequence[str]:
        (self.folder / "nginx.conf").write_text(self._configuration())
        nginx = found("nginx")
        assert nginx
        return [nginx, "-e", str(self.folder / "error.log"), "-c", str(self.folder / "nginx.conf")]

    def _configuration(self) -> str:
        upstream, folder = self.place.upstream, self.folder
        identity = upstream.pki.identity(self.place.site.address)
        registry = upstream.origin.removeprefix("https://")
        return f"""
daemon off; {nginx_user()} worker_processes auto; worker_rlimit_nofile 8192;
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  access_log {folder}/access.log; sendfile on;
  proxy_cache_path {self.kept} levels=1:2 keys_zone=blobs:10m max_size={KEPT_MIB}m inactive=30d use_temp_path=off;
  proxy_ssl_trusted_certificate {upstream.ca_file}; proxy_ssl_verify on; proxy_ssl_verify_depth 2;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {registry};
  proxy_ssl_name {NAME};
  upstream registry {{ server {registry}; keepalive 32; }}
  server {{
    listen {self.address} ssl backlog=1024; ssl_certificate {identity.chain}; ssl_certificate_key {identity.key};
    location / {{ proxy_pass https://registry; }}
    location ~ ^/v2/.+/blobs/sha256:[0-9a-f]+$ {{
      proxy_pass https://registry; proxy_intercept_errors on; error_page 301 302 307 = @blob;
    }}
    location @blob {{
      set $place $upstream_http_location; proxy_pass $place;
      proxy_set_header Host $proxy_host; proxy_set_header Authorization ""; proxy_method GET;
      proxy_cache blobs; proxy_cache_key $uri; proxy_cache_valid 200 365d; proxy_max_temp_file_size 0;
      proxy_ignore_headers Cache-Control Expires Set-Cookie Vary X-Accel-Expires;
      proxy_cache_lock on; proxy_cache_lock_timeout 600s; proxy_cache_lock_age 600s;
    }}
  }}
}}
"""


class Distribution(Server):
    """docker-registry as a pull-through cache, with the upstream's kind of storage."""

    name = "docker-registry"
    explained = "docker-registry (distribution) as pull-through cache over TLS"

    @classmethod
    def lacks(cls) -> str:
        return "" if found("docker-registry") else "docker-registry is not installed"

    @property
    def access(self) -> Access:
        return Access(f"https://{self.address}", self.place.upstream.ca_file)

    def command(self) -> Sequence[str]:
        identity = self.place.upstream.pki.identity(self.place.site.address)
        settings = {
            "version": "0.1",
            "storage": {
                "filesystem": {"rootdirectory": str(self.kept)},
                "cache": {"blobdescriptor": "inmemory"},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {
                "addr": self.address,
                "secret": "bench",
                "tls": {"certificate": str(identity.chain), "key": str(identity.key)},
            },
            "proxy": {"remoteurl": self.place.upstream.origin},
        }
        (self.folder / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
        registry = found("docker-registry")
        assert registry
        return [registry, "serve", str(self.folder / "registry.yml")]

    def variables(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.place.upstream.ca_file)}


class Mitmdump(Server):
    """mitmdump as it comes."""

    name = "mitmdump"
    explained = "stock mitmdump, no addon: keeps nothing"
    caches = False

    @classmethod
    def lacks(cls) -> str:
        return "" if _beside_python("mitmdump").exists() else "mitmdump is not installed beside this Python"

    @property
    def access(self) -> Access:
        return Access(self.place.upstream.origin, self.folder / "ca/mitmproxy-ca-cert.pem", self.address)

    def command(self) -> Sequence[str]:
        settings = {
            "confdir": str(self.folder / "ca"),
            "listen_host": self.place.site.address,
            "listen_port": str(self.port),
            "ssl_verify_upstream_trusted_ca": str(self.place.upstream.ca_file),
        }
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return [str(_beside_python("mitmdump")), *words]


class Naive(Mitmdump):
    """mitmdump with the addon that one writes first."""

    name = "mitmdump-naive"
    explained = "stock mitmdump with a naive caching addon: each body in memory"
    caches = True

    def command(self) -> Sequence[str]:
        return [*super().command(), "-s", str(Path(__file__).with_name("naive.py"))]

    def variables(self) -> dict[str, str]:
        return {"NAIVE_FOLDER": str(self.kept)}


#: In the order of tables and of each round.
SUBJECTS: Final[tuple[type[Subject], ...]] = (Pullthrough, Direct, Nginx, Squid, Distribution, Naive, Mitmdump)


def versions() -> dict[str, str]:
    """Of the programs that are here."""
    asked = {"squid": "-v", "nginx": "-v", "docker-registry": "--version"}
    said = {name: printed(program, flag) for name, flag in asked.items() if (program := found(name))}
    if (mitmdump := _beside_python("mitmdump")).exists():
        said["mitmdump"] = printed(str(mitmdump), "--version")
    numbers = {name: re.search(r"\d+(\.\d+)+", text) for name, text in said.items()}
    return {name: number[0] if number else "unknown" for name, number in numbers.items()}


def _beside_python(program: str) -> Path:
    return Path(sys.executable).with_name(program)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _make_ca(certificate: Path, with_key: Path) -> None:
    authority = trustme.CA(organization_name="squid's own CA")
    authority.cert_pem.write_to_path(str(certificate))
    for pem in (authority.cert_pem, authority.private_key_pem):
        pem.write_to_path(str(with_key), append=True)
    with_key.chmod(0o600)
