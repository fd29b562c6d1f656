"""What log records look like, and what is never in them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.logs import FIELDS, JsonFormatter, TextFormatter, redacted

TEXT, JSON = TextFormatter(), JsonFormatter()


def record(message: str, *args: object, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("pullthrough.traffic", logging.INFO, __file__, 1, message, args, None)
    made.created = 1_700_000_000.25
    if error is not None:
        made.exc_info = (type(error), error, error.__traceback__)
    vars(made).update(fields)
    return made


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


# -- the format


def test_a_record_as_text() -> None:
    made = record("request", client="10.0.0.1", status=200, detail="tag checked", bytes=12, repository=None)
    assert TEXT.format(made) == (
        '2023-11-14T22:13:20.250Z INFO    request client=10.0.0.1 status=200 detail="tag checked" bytes=12'
    )


def test_a_record_as_json() -> None:
    made = record("%s hits", 3, client="10.0.0.1", status=200, bytes=12, repository=None)
    assert json.loads(JSON.format(made)) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "message": "3 hits",
        "client": "10.0.0.1",
        "status": 200,
        "bytes": 12,
    }


def test_a_traceback_as_text() -> None:
    lines = TEXT.format(record("fault", error=raised("what\n2023-11-14T22:13:20.250Z INFO    forged"))).split("\n")
    assert lines[0].endswith("fault")
    assert lines[1] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-2:] == ["    ValueError: what", "    2023-11-14T22:13:20.250Z INFO    forged"]


def test_a_traceback_as_json() -> None:
    (line,) = JSON.format(record("fault", error=raised("what"))).splitlines()
    assert json.loads(line)["traceback"].endswith("ValueError: what")


@pytest.mark.parametrize("value", ["", "a b", "a=b", 'a"b', "a status=200"])
def test_a_value_cannot_be_taken_for_another_field(value: str) -> None:
    line = TEXT.format(record("request", reference=value, status=404))
    assert re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line.partition("request ")[2]) == [
        ("reference", json.dumps(value)),
        ("status", "404"),
    ]


@given(st.text())
def test_a_record_is_one_line_that_a_terminal_survives(text: str) -> None:
    made = record("%s", text, reference=text, detail=text)
    for line in (TEXT.format(made), JSON.format(made)):
        assert line.isprintable()
    assert isinstance(json.loads(JSON.format(made)), dict)


@given(st.text())
def test_nor_does_a_traceback_break_out(text: str) -> None:
    made = record("fault", error=raised(text))
    assert all(line.startswith("    ") and line.isprintable() for line in TEXT.format(made).split("\n")[1:])
    assert JSON.format(made).isprintable()


# -- secrets

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SECRETS = st.builds("{}{}".format, st.text(f"{LETTERS}-._~+/=%:*!", min_size=1, max_size=40), st.just("s3cret"))

PLACES = [
    "https://cdn.test/blob?X-Amz-Signature={}",
    "http://cdn.test:80/?{}",
    "GET /v2/token?service=x&password={}",
    "https://user:{}@registry.test/v2/",
    "https://{}@registry.test/v2/",
    "Authorization: Basic {}",
    "Authorization: Bearer {}",
    "authorization: {}",
    "Proxy-Authorization: Basic {}",
    "Cookie: session={}; other={}",
    "Set-Cookie: session={}; Path=/",
    "X-Token: {}",
    "X-JFrog-Art-Api: {}",
    "X-Amz-Security-Token: {}",
    "Basic {}",
    "bearer {}",
    "grant_type=password&username=alice&password={}&scope=x",
    '{{"token": "{}", "expires_in": 300}}',
    '{{"access_token":"{}"}}',
    "{{'refresh_token': '{}'}}",
    "[(b'Host', b'a.test'), (b'Authorization', b'Bearer {}')]",
    "[(b'Cookie', b'a={}'), (b'Host', b'a.test')]",
    "b'GET /v2/ HTTP/1.1\\r\\nHost: a.test\\r\\nAuthorization: Basic {}\\r\\nCookie: a={}\\r\\n\\r\\n'",
    "b'POST /token HTTP/1.1\\r\\nX-Api-Key: {}\\r\\n\\r\\ngrant_type=password&password={}'",
]


@pytest.mark.parametrize("place", PLACES)
@given(secret=SECRETS)
def test_no_secret_is_in_a_log(place: str, secret: str) -> None:
    if "@" in place:
        secret = secret.replace("/", "")  # there it would end the user part
    text = place.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    made = record(f"before {text}", error=raised(text), detail=text, reference=text, host=text)
    in_args = record("before %s", text)
    for line in (TEXT.format(made), JSON.format(made), TEXT.format(in_args), JSON.format(in_args)):
        assert "s3cret" not in line


@pytest.mark.parametrize(
    "text",
    [
        "listening on 127.0.0.1:3128; CA fingerprint AA:BB",
        "cannot connect to https://a.test:443: Connection refused",
        'Bearer realm="https://auth.test/token",service="registry"',
        "the token has expired",
        "was it? yes",
        "sha256:0123 is damaged: it will be fetched again",
        "basics",
        "[::1]:443",
        "docker.io/library/alpine:3.20",
        "reader@example.test",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@given(st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


def test_long_texts_take_no_time() -> None:
    for text in ("a?" * 50_000, "Cookie: " * 20_000, "https://" * 20_000, "password=" * 20_000, "x-" * 50_000):
        redacted(text)


# -- the whole process


def logged(form: str, level: str) -> list[str]:
    """What a process with these settings logs."""
    program = f"""
import logging
from pullthrough import logs
logs.configure({form!r}, {level!r})
logging.getLogger("pullthrough.traffic").info("request", extra={{"client": "10.0.0.1", "ms": 3}})
logging.getLogger("mitmproxy.proxy.server").info("client connect")
logging.getLogger("mitmproxy").error("broken %s", "https://a.test/?sig=s3cret")
logging.getLogger("pullthrough").debug("detail")
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_the_settings_reach_the_log() -> None:
    text = logged("text", "info")
    assert [line.partition("Z ")[2] for line in text] == [
        "INFO    request client=10.0.0.1 ms=3",
        "ERROR   broken https://a.test/?...",
    ]
    quiet: list[dict[str, Any]] = [json.loads(line) for line in logged("json", "error")]
    assert [entry["message"] for entry in quiet] == ["broken https://a.test/?..."]
    everything = [json.loads(line)["message"] for line in logged("json", "debug")]
    assert everything == ["request", "client connect", "broken https://a.test/?...", "detail"]


def test_the_fields_of_a_request() -> None:
    assert set(FIELDS) == {
        "client", "method", "host", "repository", "reference", "status", "outcome", "detail", "bytes", "ms",
    }  # fmt: skip
