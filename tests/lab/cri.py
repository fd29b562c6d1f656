"""The image service of the Container Runtime Interface (runtime.v1), as far as pulling goes.

The two messages are encoded by hand: a handful of text fields does not justify generated code
(https://protobuf.dev/programming-guides/encoding/).
"""

from pathlib import Path

import grpc

from lab.clients import TIMEOUT_SECONDS, Result

PULL_IMAGE = "/runtime.v1.ImageService/PullImage"
LENGTH_DELIMITED = 2


class ImageService:
    """The service at a runtime's socket."""

    def __init__(self, socket: Path) -> None:
        self._target = f"unix://{socket}"

    def pull(self, name: str, creds: str | None = None) -> Result:
        """PullImage; `out` is the image's reference there, `code` and `err` are those of gRPC."""
        with grpc.insecure_channel(self._target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary(PULL_IMAGE)  # bytes to bytes
            try:
                reply = call(pull_image_request(name, creds), timeout=TIMEOUT_SECONDS)
            except grpc.RpcError as error:
                return Result(["PullImage", name], error.code().value[0], "", error.details() or "")
        return Result(["PullImage", name], 0, reply[2:].decode(), "")


def pull_image_request(name: str, creds: str | None) -> bytes:
    """PullImageRequest: `image` (1) is an ImageSpec, `auth` (2) an AuthConfig."""
    request = _field(1, _text(1, name))
    if creds is None:
        return request
    account, _, password = creds.partition(":")
    return request + _field(2, _text(1, account) + _text(2, password))


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | LENGTH_DELIMITED]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
