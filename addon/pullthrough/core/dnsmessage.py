"""DNS messages (RFC 1035), as far as a name server needs them that answers little itself and hands on the rest.

Reads one plain question, in time that grows with its length and no faster, and builds answers to it. Knows neither who
asks nor what is true. Answers of others are not read beyond their question.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

#: Bytes of a message that may be a question: a name and, at most, an OPT record with options.
MAX_QUESTION: Final = 4096
#: Of the kinds of questions (opcodes) the one that there is an answer to (RFC 1035 section 4.1.1).
QUERY: Final = 0

#: Types of records (RFC 1035 section 3.2.2, RFC 3596 section 2.1, RFC 9460 section 14.1).
A: Final = 1
AAAA: Final = 28
SVCB: Final = 64
HTTPS: Final = 65
#: The class of the Internet (RFC 1035 section 3.2.4).
IN: Final = 1
#: Any type, and any class (RFC 1035 sections 3.2.3 and 3.2.5).
ANY: Final = 255

_OPT: Final = 41
_HEADER: Final = struct.Struct("!6H")
_QUESTION_TAIL: Final = struct.Struct("!HH")
#: Name, which is the root, type, what a datagram may have, and its own length (RFC 6891 section 6.1.2).
_OPT_RECORD: Final = struct.Struct("!BHHBBHH")
_RECORD: Final = struct.Struct("!HHHIH")
#: The name at the beginning of the question, again (RFC 1035 section 4.1.4).
_SAME_NAME: Final = 0xC000 | _HEADER.size
_MAX_NAME: Final = 255
_MAX_LABEL: Final = 63
#: What we take in a datagram: what arrives in one piece nearly everywhere.
_PAYLOAD: Final = 1232

_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080
_CHECKING_DISABLED: Final = 0x0010
#: Bits that an answer repeats (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6; RFC 3225 section 3 for that of OPT).
_REPEATED: Final = _OPCODE | _RECURSION_DESIRED | _CHECKING_DISABLED
_DNSSEC_OK: Final = 0x8000

_NO_PART_OF_A_HOST: Final = re.compile(rb"[^A-Za-z0-9_-]")


class Code(IntEnum):
    """Why there is no answer (RFC 1035 section 4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Question:
    r"""What is asked, and what an answer has to repeat of it.

    `name` is without the dot at its end, in the letters that came; a byte that no host name has is written `\DDD`, so
    that a dot is always one between labels. Of an `opcode` other than `QUERY` nothing more is known.
    """

    identity: int
    flags: int
    name: str = ""
    kind: int = 0
    of_class: int = 0
    section: bytes = b""
    #: The flags of its OPT record; None if it has none.
    edns: int | None = None

    @property
    def opcode(self) -> int:
        """What kind of question it is."""
        return (self.flags & _OPCODE) >> 11


def question(packet: bytes) -> Question | None:
    """What a client asks; None for all that is no question, which is not to be answered.

    That is: answers, else two name servers could answer each other for ever; more or less than one question; records
    other than one OPT (RFC 6891); names beyond 255 bytes, labels beyond 63, and compressed ones, for which there is no
    reason in a question (RFC 1035 sections 2.3.4 and 4.1.4); bytes after its end; more than `MAX_QUESTION`.
    Never raises.
    """
    if not _HEADER.size <= len(packet) <= MAX_QUESTION:
        return None
    identity, flags, *counts = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        return None
    bare = Question(identity, flags)
    if bare.opcode != QUERY:
        return bare
    labels = _labels(packet)
    if labels is None or counts[:3] != [1, 0, 0]:
        return None
    tail = _HEADER.size + sum(len(label) + 1 for label in labels) + 1
    end = tail + _QUESTION_TAIL.size
    rest = packet[end:]
    edns = _edns(rest)
    if len(packet) < end or counts[3] != (edns is not None) or (rest and edns is None):
        return None
    kind, of_class = _QUESTION_TAIL.unpack_from(packet, tail)
    name = ".".join(map(_text, labels))
    return Question(identity, flags, name, kind, of_class, packet[_HEADER.size : end], edns)


def _labels(packet: bytes) -> list[bytes] | None:
    """Those of the name after the header; None if it is none, or not all there."""
    labels: list[bytes] = []
    at = _HEADER.size
    while at < min(len(packet), _HEADER.size + _MAX_NAME):
        length = packet[at]
        if length == 0:
            return labels
        if length > _MAX_LABEL:
            return None
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
    return None


def _edns(record: bytes) -> int | None:
    """The flags of an OPT record, which is all of `record`; None if it is no such."""
    if len(record) < _OPT_RECORD.size:
        return None
    name, kind, _, _, _, flags, size = _OPT_RECORD.unpack_from(record)
    fits = (name, kind, size) == (0, _OPT, len(record) - _OPT_RECORD.size)
    return int(flags) if fits else None


def _text(label: bytes) -> str:
    return _NO_PART_OF_A_HOST.sub(lambda found: b"\\%03d" % found[0][0], label).decode("ascii")


def found(asked: Question, addresses: Iterable[IPv4Address | IPv6Address], ttl: int) -> bytes:
    """These are its addresses, for `ttl` seconds; without any: the name is there, and has no record of this type.

    With an address of each family it has 326 bytes at most, so that it is never too long for a datagram (RFC 1035
    section 4.2.1).
    """
    records = [_record(address, ttl) for address in addresses]
    return _answer(asked, Code.NOERROR, records)


def failed(asked: Question, code: Code) -> bytes:
    """There is no answer, for this reason."""
    return _answer(asked, code, [])


def _answer(asked: Question, code: Code, records: list[bytes]) -> bytes:
    flags = _RESPONSE | asked.flags & _REPEATED | _RECURSION_AVAILABLE | code
    with_opt = asked.edns is not None
    header = _HEADER.pack(asked.identity, flags, bool(asked.section), len(records), 0, with_opt)
    opt = _OPT_RECORD.pack(0, _OPT, _PAYLOAD, 0, 0, (asked.edns or 0) & _DNSSEC_OK, 0) if with_opt else b""
    return b"".join((header, asked.section, *records, opt))


def _record(address: IPv4Address | IPv6Address, ttl: int) -> bytes:
    kind = A if address.version == 4 else AAAA
    return _RECORD.pack(_SAME_NAME, kind, IN, ttl, len(address.packed)) + address.packed


def identified(packet: bytes, identity: int) -> bytes:
    """The same message with another id."""
    return identity.to_bytes(2) + packet[2:]


def replies(packet: bytes, asked: Question, identity: int) -> bool:
    """Is this the reply to a question that went out with this id (RFC 5452 section 9.1)?

    Letters of its name may have become others of the same meaning: whoever put them there compares them.
    """
    end = _HEADER.size + len(asked.section)
    if len(packet) < end:
        return False
    its_identity, flags, questions, *_ = _HEADER.unpack_from(packet)
    if (its_identity, flags & (_RESPONSE | _OPCODE), questions) != (identity, _RESPONSE, 1):
        return False
    its_section, size = packet[_HEADER.size : end], _QUESTION_TAIL.size
    same_name = its_section[:-size].lower() == asked.section[:-size].lower()  # lengths of labels are no letters
    return same_name and its_section[-size:] == asked.section[-size:]
