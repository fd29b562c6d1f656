"""Error bodies as the OCI distribution spec 1.1 has them ("Error Codes").

What the proxy answers in its own name must be readable by registry clients, which print the message of
such a body and nothing of an HTML page. Knows no status codes and no reasons.
"""

import json
from collections.abc import Set

CONTENT_TYPE = "application/json"

BLOB_UNKNOWN = "BLOB_UNKNOWN"
BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
DENIED = "DENIED"
DIGEST_INVALID = "DIGEST_INVALID"
MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
MANIFEST_INVALID = "MANIFEST_INVALID"
MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
NAME_INVALID = "NAME_INVALID"
NAME_UNKNOWN = "NAME_UNKNOWN"
SIZE_INVALID = "SIZE_INVALID"
TOOMANYREQUESTS = "TOOMANYREQUESTS"
UNAUTHORIZED = "UNAUTHORIZED"
UNSUPPORTED = "UNSUPPORTED"

# Not in the OCI list, but sent by the distribution registry for the same cases and printed by clients.
RANGE_INVALID = "RANGE_INVALID"
UNAVAILABLE = "UNAVAILABLE"
UNKNOWN = "UNKNOWN"


def body(code: str, message: str, detail: str | None = None) -> bytes:
    """The JSON of one error, in ASCII; `detail` is left out when there is none."""
    error = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return json.dumps({"errors": [error]}).encode("ascii")


def codes(body: bytes) -> Set[str]:
    """The codes in such a body; none for any other bytes."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return frozenset()
    errors = said.get("errors") if isinstance(said, dict) else None
    named = [error.get("code") for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    return frozenset(code for code in named if isinstance(code, str))
