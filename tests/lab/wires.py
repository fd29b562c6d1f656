"""Connections that are made on a machine of the lab's network (`lab.netns`), byte by byte."""

import socket
import ssl
from pathlib import Path

from lab.netns import Machine

TIMEOUT_SECONDS = 10.0


def dialled(machine: Machine, address: str, port: int = 443) -> socket.socket:
    """A connection from there."""
    with machine.entered():
        return socket.create_connection((address, port), TIMEOUT_SECONDS)


def tls(machine: Machine, address: str, name: str, ca_file: Path, port: int = 443) -> ssl.SSLSocket:
    """The same with TLS to this name, proved by this CA."""
    sock = dialled(machine, address, port)
    try:
        return ssl.create_default_context(cafile=ca_file).wrap_socket(sock, server_hostname=name)
    except OSError:
        sock.close()
        raise


def get(wire: socket.socket, host: str, path: str) -> bytes:
    """The answer to one request, to the end of the connection."""
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return read_to_the_end(wire)


def read_to_the_end(wire: socket.socket) -> bytes:
    """All that comes before the other end closes or resets."""
    got = bytearray()
    try:
        while piece := wire.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    return bytes(got)
