"""What one writes first, as an addon for mitmdump: bodies kept in files by their digest, and answered from there.

Each body is in memory as a whole, as mitmproxy has it. Loaded by mitmdump; the folder is in NAIVE_FOLDER.
"""

import os
import re
from pathlib import Path

from mitmproxy import http

FOLDER = Path(os.environ["NAIVE_FOLDER"])
DIGEST = re.compile(r"/blobs/sha256(?::|/../)([0-9a-f]{64})")


def request(flow: http.HTTPFlow) -> None:
    if (file := _file(flow)) is not None and file.exists():
        flow.response = http.Response.make(200, file.read_bytes(), {"Content-Type": "application/octet-stream"})


def response(flow: http.HTTPFlow) -> None:
    file = _file(flow)
    if file is None or flow.response is None or flow.response.status_code != 200 or file.exists():
        return
    draft = file.with_name(f"{flow.id}.new")
    draft.write_bytes(flow.response.content or b"")
    draft.replace(file)


def _file(flow: http.HTTPFlow) -> Path | None:
    found = DIGEST.search(flow.request.path)
    return FOLDER / found[1] if found and flow.request.method == "GET" else None
