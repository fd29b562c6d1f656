"""A CA of the lab and the server certificates that it issued, as files.

One plays a site's own CA: `--upstream-ca` of the proxy names its file, and clients do not know it.
Another plays the public CAs that clients trust anyway: hosts that are tunnelled unopened have their
certificates from it. Neither has to do with the CA that the proxy generates for its clients.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Identity:
    """A server's certificate chain and key, as PEM files."""

    name: str
    chain: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """A context that proves this name and offers HTTP/1.1 only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def leaf_der(self) -> bytes:
        """The leaf certificate in DER, to compare with what a client saw."""
        leaf = self.chain.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        return ssl.PEM_cert_to_DER_cert(leaf)


class Pki:
    """One CA in `folder`; identities are issued when they are first asked for."""

    def __init__(self, folder: Path, title: str = "lab upstream CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = folder / "ca.pem"
        self._folder = folder
        self._ca = trustme.CA(organization_name=title)
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self._issued: dict[str, Identity] = {}

    def identity(self, name: str, *more: str) -> Identity:
        """The certificate of `name`, the same one each time. `more` are other names of the same server."""
        if name not in self._issued:
            self._issued[name] = self._issue(name, *more)
        return self._issued[name]

    def signer(self) -> Identity:
        """An RSA identity that signs tokens; the registry trusts it through this CA."""
        if "signer" not in self._issued:
            self._issued["signer"] = self._issue("signer", key_type=trustme.KeyType.RSA)
        return self._issued["signer"]

    def _issue(self, name: str, *more: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> Identity:
        leaf = self._ca.issue_cert(f"{name}.test" if name == "signer" else name, *more, key_type=key_type)
        identity = Identity(name, self._folder / f"{name}.chain.pem", self._folder / f"{name}.key.pem")
        for number, pem in enumerate(leaf.cert_chain_pems):
            pem.write_to_path(str(identity.chain), append=number > 0)
        leaf.private_key_pem.write_to_path(str(identity.key))
        identity.key.chmod(0o600)
        return identity

    def client_context(self) -> ssl.SSLContext:
        """A context that trusts this CA and nothing else."""
        return ssl.create_default_context(cafile=self.ca_file)
