"""DNS messages as far as a forwarding name server needs them: queries in, replies out (RFC 1035, 6891). No I/O.

Whatever arrives may be hostile: parsing takes time linear in the message and raises `FormatError` only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Name = tuple[bytes, ...]  # labels, as they came

A, PTR, MX, AAAA, OPT, ANY = 1, 12, 15, 28, 41, 255
CLASS_IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

HEADER_SIZE_BYTES = 12
MIN_UDP_SIZE_BYTES = 512
MAX_SIZE_BYTES = 65535
# A question, an OPT record and its options take some hundred bytes; none of our clients sends more.
MAX_QUERY_SIZE_BYTES = 4096

_QR, _OPCODE, _TC, _RD, _RA, _CD, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x0010, 0x000F
_POINTER = 0xC0
_MAX_LABEL_BYTES, _MAX_NAME_BYTES = 63, 255
_QUESTION_POINTER = struct.pack("!H", _POINTER << 8 | HEADER_SIZE_BYTES)
_HEADER = struct.Struct("!6H")


class FormatError(ValueError):
    """The bytes are no DNS message of the kind that was expected."""


@dataclass(frozen=True, slots=True)
class Query:
    """`udp_size_bytes` is the largest answer the client takes over UDP; `question_wire` is echoed as it came."""

    id: int
    flags: int
    name: Name
    type: int
    question_wire: bytes
    udp_size_bytes: int
    has_edns: bool

    @property
    def is_standard(self) -> bool:
        """Opcode QUERY, class IN."""
        return not self.flags & _OPCODE and self.question_wire[-2:] == b"\0\x01"

    @property
    def text(self) -> str:
        """The name in lower case without the last dot; a dot within a label is written `\\.`."""
        return text_of(self.name)


@dataclass(frozen=True, slots=True)
class Answer:
    """A record about the name in question: an address (A, AAAA) or a name (PTR)."""

    data: IPv4Address | IPv6Address | str


def text_of(name: Name) -> str:
    return ".".join(label.decode("latin-1").replace(".", "\\.") for label in name).lower()


def parse_query(data: bytes) -> Query:
    """Raises FormatError for what is no query with exactly one question."""
    if len(data) > MAX_QUERY_SIZE_BYTES:
        raise FormatError("longer than any query")
    id, flags, questions, answers, authorities, additionals = _header(data)
    if flags & _QR:
        raise FormatError("a reply, not a query")
    if questions != 1:
        raise FormatError(f"{questions} questions")
    name, type, end = _question(data)
    udp_size_bytes, has_edns, offset = MIN_UDP_SIZE_BYTES, False, end
    for _ in range(answers + authorities + additionals):
        record_type, record_class, offset = _skip_record(data, offset)
        if record_type == OPT:
            udp_size_bytes, has_edns = max(record_class, MIN_UDP_SIZE_BYTES), True
    return Query(id, flags, name, type, data[HEADER_SIZE_BYTES:end], udp_size_bytes, has_edns)


def build_reply(
    query: Query,
    rcode: int = NOERROR,
    answers: Iterable[Answer] = (),
    ttl_s: int = 0,
    limit_bytes: int = MAX_SIZE_BYTES,
) -> bytes:
    """A reply in at most `limit_bytes` (512 or more): answers that do not fit are left out, and TC says so."""
    # The root's name, type, UDP size, extended rcode and flags, no options.
    edns = struct.pack("!BHHIH", 0, OPT, MIN_UDP_SIZE_BYTES * 8, 0, 0) if query.has_edns else b""
    flags = _QR | _RA | query.flags & (_OPCODE | _RD | _CD) | rcode
    body, count = bytearray(query.question_wire), 0
    for answer in answers:
        record = _record(answer, ttl_s)
        if HEADER_SIZE_BYTES + len(body) + len(record) + len(edns) > limit_bytes:
            flags |= _TC
            break
        body += record
        count += 1
    return _HEADER.pack(query.id, flags, 1, count, 0, 1 if edns else 0) + body + edns


def build_format_error(data: bytes) -> bytes | None:
    """The answer to what `parse_query` refused; None for what deserves none."""
    if len(data) < HEADER_SIZE_BYTES or data[2] & 0x80:
        return None
    id, flags = struct.unpack_from("!HH", data)
    return _HEADER.pack(id, _QR | _RA | flags & (_OPCODE | _RD) | FORMERR, 0, 0, 0, 0)


def with_id(data: bytes, id: int) -> bytes:
    return id.to_bytes(2, "big") + data[2:]


def reply_code(data: bytes, query: Query, id: int) -> int:
    """The rcode of a reply to the query sent as `id`; raises FormatError for a reply to anything else."""
    reply_id, flags, questions, *_ = _header(data)
    if reply_id != id or not flags & _QR:
        raise FormatError("not a reply to this query")
    if questions:  # a refusing server may leave the question out
        name, type, _ = _question(data)
        if type != query.type or text_of(name) != query.text:
            raise FormatError("a reply to another question")
    elif flags & _RCODE == NOERROR:
        raise FormatError("an answer without a question")
    return flags & _RCODE


def truncated(reply: bytes, query: Query) -> bytes:
    """A reply too long for its client: the question alone, marked TC, so that it asks again by TCP."""
    flags = int.from_bytes(reply[2:4], "big") | _TC
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question_wire


def _header(data: bytes) -> tuple[int, int, int, int, int, int]:
    if len(data) < HEADER_SIZE_BYTES:
        raise FormatError("shorter than a header")
    return _HEADER.unpack_from(data)


def _question(data: bytes) -> tuple[Name, int, int]:
    name, offset = _name(data, HEADER_SIZE_BYTES)
    if offset + 4 > len(data):
        raise FormatError("the question is cut off")
    return name, int.from_bytes(data[offset : offset + 2], "big"), offset + 4


def _name(data: bytes, offset: int) -> tuple[Name, int]:
    """The first question's name and the offset behind it. Nothing precedes it that it could point to."""
    labels: list[bytes] = []
    start = offset
    while True:
        length = _byte(data, offset)
        if length > _MAX_LABEL_BYTES:
            raise FormatError("a compressed name, or an unknown kind of label")
        offset += 1
        if offset + length - start > _MAX_NAME_BYTES:
            raise FormatError("a name of more than 255 bytes")
        if not length:
            return tuple(labels), offset
        labels.append(data[offset : offset + length])
        offset += length


def _skip_record(data: bytes, offset: int) -> tuple[int, int, int]:
    """Type, class and the offset behind the record."""
    while (length := _byte(data, offset)) and length < _POINTER:
        if length > _MAX_LABEL_BYTES:
            raise FormatError("an unknown kind of label")
        offset += 1 + length
    offset += 2 if length else 1
    if offset + 10 > len(data):
        raise FormatError("a record is cut off")
    type, record_class, _, size = struct.unpack_from("!HHIH", data, offset)
    offset += 10 + size
    if offset > len(data):
        raise FormatError("a record's data is cut off")
    return type, record_class, offset


def _byte(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise FormatError("a name is cut off")
    return data[offset]


def _record(answer: Answer, ttl_s: int) -> bytes:
    data = answer.data
    if isinstance(data, str):
        type, wire = PTR, _wire_name(data)
    else:
        type, wire = A if data.version == 4 else AAAA, data.packed
    return _QUESTION_POINTER + struct.pack("!HHIH", type, CLASS_IN, ttl_s, len(wire)) + wire


def _wire_name(text: str) -> bytes:
    """Labels longer than DNS allows are cut: container names may have 64 characters and more."""
    wire = bytearray()
    for label in text.encode("idna" if not text.isascii() else "ascii").split(b"."):
        label = label[:_MAX_LABEL_BYTES]
        if label and len(wire) + len(label) + 2 <= _MAX_NAME_BYTES:
            wire += bytes([len(label)]) + label
    return bytes(wire) + b"\0"
