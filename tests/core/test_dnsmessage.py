"""Questions as RFC 1035 has them, and what is none. mitmproxy's reader and writer of messages are the other opinion."""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import SupportsIndex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.dns import DNSMessage
from mitmproxy.net.dns import types

from lab import nameserver as lab
from lab.nameserver import bomb, chain
from pullthrough.core.dnsmessage import (
    HTTPS,
    MAX_QUESTION,
    QUERY,
    A,
    Code,
    Question,
    failed,
    found,
    identified,
    question,
    replies,
)

OPT = b"\0\0\x29\x10\0\0\0\x80\0\0\0"
LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=8)
ADDRESSES = [ip_address("10.0.0.5"), ip_address("fd00::5")]


def written(  # one parameter for each field
    labels: Sequence[bytes] = (b"registry", b"test"),
    kind: int = A,
    *,
    flags: int = 0x0100,
    counts: Sequence[int] = (1, 0, 0, 0),
    after: bytes = b"",
) -> bytes:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", 7, flags, *counts) + name + struct.pack("!HH", kind, 1) + after


def with_opt(record: bytes = OPT) -> bytes:
    return written(counts=(1, 0, 0, 1), after=record)


def read(packet: bytes) -> Question:
    asked = question(packet)
    assert asked is not None
    return asked


# -- questions


@pytest.mark.parametrize("name", ["registry.test", "Registry.TEST", "_5050._https.a-b.test", "test", ""])
@pytest.mark.parametrize("kind", [types.A, types.HTTPS, types.ANY])
def test_a_question_is_read(name: str, kind: int) -> None:
    packed = lab.question(name, kind, identity=7).packed

    asked = read(packed)

    assert (asked.identity, asked.opcode, asked.name, asked.kind, asked.of_class) == (7, QUERY, name, kind, 1)
    assert asked.section == packed[12:]
    assert asked.edns is None


@given(LABELS, st.integers(0, 65535))
def test_of_any_name_a_dot_is_one_between_labels(labels: list[bytes], kind: int) -> None:
    packet = written(labels, kind)
    asked = question(packet)

    if asked is None:
        assert sum(map(len, labels)) + len(labels) + 1 > 255
    else:
        assert asked.name.count(".") == max(0, len(labels) - 1)
        assert asked.name.isascii()
        assert (asked.kind, asked.section) == (kind, packet[12:])


def test_a_byte_that_no_host_has_does_not_make_one() -> None:
    assert read(written([b"registry.test"])).name == r"registry\046test"
    assert read(written([b"registry", b"test\0"])).name == r"registry.test\000"
    assert read(written(["Kelvin \u212a".encode()])).name == r"Kelvin\032\226\132\170"


@pytest.mark.parametrize("record", [OPT, OPT[:-2] + b"\0\x05\0\x0a\0\x01x"])
def test_a_question_may_have_an_opt_record(record: bytes) -> None:
    assert read(with_opt(record)).edns == 0x8000


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ([b"a" * 63] * 3 + [b"a" * 61], True),
        ([b"a" * 63] * 3 + [b"a" * 62], False),
        ([b"a"] * 127, True),
        ([b"a"] * 128, False),
        ([b"a" * 64], False),
    ],
)
def test_a_name_is_as_long_as_names_may_be(labels: list[bytes], good: bool) -> None:
    assert (question(written(labels)) is not None) == good


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(written()[:11], id="half a header"),
        pytest.param(written()[:12], id="a header alone"),
        pytest.param(written()[:-1], id="half a question"),
        pytest.param(written()[:20], id="half a label"),
        pytest.param(written(flags=0x8180), id="an answer"),
        pytest.param(written(flags=0xA800), id="an answer to an update"),
        pytest.param(written(counts=(0, 0, 0, 0)), id="no question"),
        pytest.param(written(counts=(2, 0, 0, 0), after=written()[12:]), id="two questions"),
        pytest.param(written(counts=(1, 1, 0, 0), after=OPT), id="an answer in it"),
        pytest.param(written(counts=(1, 0, 1, 0), after=OPT), id="an authority in it"),
        pytest.param(written(counts=(1, 0, 0, 1)), id="a record that is not there"),
        pytest.param(written(counts=(1, 0, 0, 2), after=OPT * 2), id="two OPT records"),
        pytest.param(written(after=OPT), id="an OPT record that is not counted"),
        pytest.param(written(after=b"\0"), id="more than a question"),
        pytest.param(with_opt(OPT[:-1]), id="half an OPT record"),
        pytest.param(with_opt(OPT + b"\0"), id="more than an OPT record"),
        pytest.param(with_opt(OPT[:2] + b"\xfa" + OPT[3:]), id="TSIG"),
        pytest.param(with_opt(b"\x01a" + OPT), id="OPT with a name"),
        pytest.param(with_opt(OPT[:-2] + b"\x10\0" + b"\0" * 4096), id="more than a question may have"),
        pytest.param(struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", id="a pointer to itself"),
        pytest.param(struct.pack("!6H", 7, 256, 1, 0, 0, 0) + b"\x01a\xc0\x0c\0\1\0\1", id="a pointer after a label"),
        pytest.param(chain(1900), id="a chain of pointers"),
        pytest.param(bomb(1, 4000), id="questions that point"),
        pytest.param(bomb(2000, 16000), id="a name of 2000 labels"),
        pytest.param(bomb(1900, 4000), id="a name of 1900 labels"),
    ],
)
def test_what_is_no_plain_question(packet: bytes) -> None:
    assert question(packet) is None


@given(st.binary(max_size=600) | st.binary(max_size=40).map(lambda after: written(after=after)))
@example(b"\0" * MAX_QUESTION)
@example(b"\xff" * MAX_QUESTION)
def test_any_bytes_are_a_question_or_none(packet: bytes) -> None:
    asked = question(packet)

    if asked is not None and asked.opcode == QUERY:
        assert packet[12:].startswith(asked.section)
        answer = found(asked, ADDRESSES, 60)
        assert len(answer) <= 326
        assert replies(answer, asked, asked.identity)


class Counted(bytes):
    """How often somebody looked into it."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:  # type: ignore[override]
        type(self).looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("packet", [bomb(1900, 4000), bomb(1, 4000), chain(1900), written([b"a"] * 1900)])
def test_a_name_without_end_is_not_followed(packet: bytes) -> None:
    Counted.looks = 0

    assert question(Counted(packet)) is None
    assert Counted.looks <= 2 * 128


# -- answers


@given(LABELS.filter(lambda labels: sum(map(len, labels)) < 200), st.booleans(), st.integers(0, 0x07FF))
def test_an_answer_repeats_the_question(labels: list[bytes], opt: bool, flags: int) -> None:
    packet = written(labels, flags=flags, counts=(1, 0, 0, int(opt)), after=OPT if opt else b"")

    answer = found(read(packet), ADDRESSES, 60)

    identity, answered, *counts = struct.unpack_from("!6H", answer)
    assert (identity, counts) == (7, [1, 2, 0, int(opt)])
    assert answered == 0x8000 | flags & 0x0110 | 0x0080  # QR; RD and CD as they came; RA
    assert answer[12:].startswith(read(packet).section)
    assert answer.endswith(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0") == opt


@pytest.mark.parametrize(
    "addresses", [ADDRESSES[:1], ADDRESSES[1:], ADDRESSES, []], ids=["IPv4", "IPv6", "both", "none"]
)
def test_addresses_are_records_of_that_name(addresses: list[IPv4Address | IPv6Address]) -> None:
    request = lab.question("Registry.test", types.ANY)

    answer = DNSMessage.unpack(found(read(request.packed), addresses, 60))

    assert (answer.id, answer.query, answer.recursion_available) == (request.id, False, True)
    assert (answer.questions, answer.response_code) == (request.questions, Code.NOERROR)
    kinds = [types.A if address.version == 4 else types.AAAA for address in addresses]
    assert [(record.name, record.type, record.class_, record.ttl, record.data) for record in answer.answers] == [
        ("Registry.test", kind, 1, 60, address.packed) for kind, address in zip(kinds, addresses, strict=True)
    ]


@pytest.mark.parametrize("code", Code)
def test_a_reason_is_given(code: Code) -> None:
    request = lab.question("plain.test", types.A)

    answer = DNSMessage.unpack(failed(read(request.packed), code))

    assert (answer.response_code, answer.questions, answer.answers) == (code, request.questions, [])


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_another_kind_of_question_is_not_read(opcode: int) -> None:
    asked = read(struct.pack("!6H", 7, opcode << 11 | 0x0100, 9, 9, 9, 9) + b"\xc0\x0c" * 20)

    assert asked.opcode == opcode
    assert failed(asked, Code.NOTIMP) == struct.pack("!6H", 7, 0x8180 | opcode << 11 | 4, 0, 0, 0, 0)


# -- replies of others

ASKED = read(written())
REPLY = found(ASKED, ADDRESSES, 60)


def test_a_reply_is_known_by_its_id_and_question() -> None:
    assert replies(REPLY, ASKED, 7)
    assert replies(identified(REPLY, 9), ASKED, 9)
    assert replies(REPLY.replace(b"registry", b"REGistry"), ASKED, 7)
    assert replies(failed(ASKED, Code.SERVFAIL), ASKED, 7)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(REPLY[:20], id="half of one"),
        pytest.param(identified(REPLY, 8), id="another id"),
        pytest.param(written(), id="a question"),
        pytest.param(REPLY.replace(b"registry", b"elsewhen"), id="another name"),
        pytest.param(found(read(written(kind=HTTPS)), [], 60), id="another type"),
        pytest.param(REPLY[:4] + b"\0\0" + REPLY[6:], id="no question"),
        pytest.param(REPLY[:2] + b"\xa9" + REPLY[3:], id="another opcode"),
    ],
)
def test_what_is_no_reply(packet: bytes) -> None:
    assert not replies(packet, ASKED, 7)
