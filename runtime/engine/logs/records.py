"""Records of a log file: one JSON object a line, `{"log", "stream", "attrs", "time"}`, as Docker's json-file writes.

The lines of one read from a pipe get one timestamp and differ in their text alone: one `replace` encodes them all.
Timestamps of one writer never repeat.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping

STREAM_NAMES = {1: "stdout", 2: "stderr"}
STREAM_NUMBERS = {name: number for number, name in STREAM_NAMES.items()}
HEAD = b'{"log":"'
MARK = b'","stream":"'  # cannot occur inside an encoded text: a quote there has a backslash before it
NEWLINE = b"\\n"

_CONTROL = bytes(number for number in range(32) if number != 10)
_CONTROL_PATTERN = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_SHORT_ESCAPES = {b"\t": b"\\t", b"\r": b"\\r"}


def rfc3339_nano(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`"""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def attributes_json(attributes: Mapping[str, str]) -> bytes:
    """The part between `stream` and `time`."""
    if not attributes:
        return b""
    return b',"attrs":' + json.dumps(attributes, separators=(",", ":"), ensure_ascii=False).encode()


def record_end(stream: int, attributes: bytes, time_ns: int) -> bytes:
    """What stands behind the text of a record, its newline included."""
    return (
        f'","stream":"{STREAM_NAMES[stream]}"'.encode() + attributes + f',"time":"{rfc3339_nano(time_ns)}"}}\n'.encode()
    )


def encode_lines(lines: bytes, end: bytes, lossless: bool) -> bytes:
    """Records of whole lines, each ending in a newline."""
    return HEAD + escape(lines[:-1], lossless).replace(b"\n", NEWLINE + end + HEAD) + NEWLINE + end


def encode_piece(piece: bytes, end: bytes, lossless: bool) -> bytes:
    """The record of a part of a line."""
    return HEAD + escape(piece, lossless) + end


def escape(text: bytes, lossless: bool) -> bytes:
    """`text` as the inside of a JSON string, but for its newlines, which stay.

    What is not UTF-8 becomes U+FFFD, or with `lossless` a lone surrogate, as `surrogateescape` has it.
    """
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            decoded = text.decode("utf-8", "surrogateescape" if lossless else "replace")
            escaped = (json.dumps(line, ensure_ascii=lossless)[1:-1] for line in decoded.split("\n"))
            return "\n".join(escaped).encode()
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    if b'"' in text:
        text = text.replace(b'"', b'\\"')
    if len(text.translate(None, _CONTROL)) != len(text):
        text = _CONTROL_PATTERN.sub(_escape_control, text)
    return text


def _escape_control(match: re.Match[bytes]) -> bytes:
    return _SHORT_ESCAPES.get(match[0]) or b"\\u%04x" % match[0][0]
