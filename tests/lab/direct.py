"""An HTTPS connection straight to a service of the lab, past any proxy and any resolver."""

import http.client
import socket
import ssl

from lab.images import MIB
from lab.names import Endpoint


class DirectConnection(http.client.HTTPSConnection):
    """Connects to where the name is served, has the name proved all the same."""

    def __init__(self, service: Endpoint, context: ssl.SSLContext) -> None:
        super().__init__(service.name, service.public_port, context=context, timeout=60, blocksize=MIB)
        self._place = (service.address, service.port)
        self._tls = context

    def connect(self) -> None:
        """TLS to the real address."""
        sock = socket.create_connection(self._place, self.timeout)
        self.sock = self._tls.wrap_socket(sock, server_hostname=self.host)
