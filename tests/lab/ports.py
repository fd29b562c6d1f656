"""Ports that a program under test may listen on: free for TCP and UDP, and none that outgoing connections take."""

import random
import socket
from contextlib import suppress

#: Below those that kernels hand out (32768 on Linux, 49152 elsewhere): one that is free now is free a moment later.
_OURS = range(10_000, 32_000)
_ATTEMPTS = 100


def free_port() -> int:
    """Nobody has it on 127.0.0.1. A port of the kernel's choice would be free for one of the two protocols only."""
    for _ in range(_ATTEMPTS):
        port = random.choice(_OURS)
        with suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port in {_ATTEMPTS} attempts")
