"""Records of a log file: one JSON object a line, `{"log", "stream", "attrs", "time"}`, as Docker's json-file writes.

Millions of lines pass here, so they are handled in runs: the lines of one read from a pipe get one timestamp and
differ in their text alone. A run is encoded by one `replace` and decoded by one `split`; JSON is only parsed where a
line holds escapes. Timestamps of one writer never repeat, so that runs can be told apart by their ends.
"""

from __future__ import annotations

import calendar
import json
import re
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

STREAM_NAMES = {1: "stdout", 2: "stderr"}
STREAM_NUMBERS = {name: number for number, name in STREAM_NAMES.items()}
HEAD = b'{"log":"'
MARK = b'","stream":"'  # cannot occur inside an encoded text: a quote there has a backslash before it
NEWLINE = b"\\n"
GALLOP_BYTES = 1 << 12

_CONTROL = bytes(number for number in range(32) if number != 10)
_CONTROL_PATTERN = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_SHORT_ESCAPES = {b"\t": b"\\t", b"\r": b"\\r"}
_TRAILING_BACKSLASHES = re.compile(rb"\\+\Z")


@dataclass(frozen=True, slots=True)
class Run:
    """Records that differ in their text alone. `ended`: every text is a whole line, shown without its newline."""

    stream: int
    time_text: str
    attributes: Mapping[str, str]
    lines: list[bytes]
    ended: bool


# --- writing


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


# --- reading


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of a record's `time`."""
    head, _, fraction = text.rstrip("Z").partition(".")
    days_seconds = time.strptime(head, "%Y-%m-%dT%H:%M:%S")
    return calendar.timegm(days_seconds) * 1_000_000_000 + int((fraction + "000000000")[:9])


def runs(block: bytes) -> Iterator[Run]:
    """The runs of a block of whole lines. What is no record (cut short by a full disk or a power cut) is left out."""
    position = 0
    while position < len(block):
        line_end = block.find(b"\n", position) + 1 or len(block)
        mark = block.find(MARK, position, line_end)
        if mark < 0 or not block.startswith(HEAD, position):
            position = line_end
            continue
        ended = _ends_in_newline(block, position, mark)
        end = block[mark - 2 if ended else mark : line_end]
        last = _last_of_run(block, line_end, end) if ended else line_end
        run = _run(block[position + len(HEAD) : last - len(end)], end, ended)
        if run:
            yield run
        position = last


def ends_line(record: bytes) -> bool:
    """Whether a line of output ends with this record; so it is for what is no record."""
    mark = record.find(MARK)
    return mark < 0 or _ends_in_newline(record, 0, mark)


def _ends_in_newline(block: bytes, start: int, mark: int) -> bool:
    if block[mark - 2 : mark] != NEWLINE:
        return False
    backslashes = _TRAILING_BACKSLASHES.search(block, start, mark - 1)
    return backslashes is not None and len(backslashes[0]) % 2 == 1


def _last_of_run(block: bytes, position: int, end: bytes) -> int:
    """Where the run that has `end` behind every text is over: looked for in growing steps."""
    following = block.find(b"\n", position) + 1
    if not following or not block.startswith(end, following - len(end), following):
        return position
    position, step = following, GALLOP_BYTES
    while (found := block.rfind(end, position, position + step)) >= 0:
        position = found + len(end)
        step *= 4
    return position


def _run(texts: bytes, end: bytes, ended: bool) -> Run | None:
    tail = end[len(NEWLINE) :] if ended else end
    lines = _split(texts, end)
    try:
        facts = json.loads(b'{"log":"' + tail)
        stream, time_text, attributes = STREAM_NUMBERS[facts["stream"]], facts["time"], facts.get("attrs") or {}
    except (ValueError, KeyError, TypeError):
        return None
    if texts.count(b"\n") != len(lines) - 1:  # other records among them: not written by one writer
        lines = [line for line in lines if b"\n" not in line]
    if texts.count(b"\\") != end.count(b"\\") * (len(lines) - 1):
        lines = _unescaped(lines)
    return Run(stream, str(time_text), attributes, lines, ended)


def _split(texts: bytes, end: bytes) -> list[bytes]:
    """The texts between `end` + HEAD; where all have one length, and that is common, without searching for it."""
    length, between = texts.find(end), len(end) + len(HEAD)
    step = length + between
    if length > 0 and (len(texts) - length) % step == 0:
        newlines = texts[length + len(end) - 1 :: step]
        if newlines.count(b"\n") == len(newlines) == texts.count(b"\n"):
            return [line for (line,) in struct.iter_unpack(f"{length}s{between}x", texts + bytes(between))]
    return texts.split(end + HEAD)


def _unescaped(lines: list[bytes]) -> list[bytes]:
    try:
        texts = json.loads(b'["' + b'","'.join(lines) + b'"]')
        return [text.encode("utf-8", "surrogateescape") for text in texts]
    except (ValueError, AttributeError):  # one of them is damaged; the others are not
        return _unescaped(lines[: len(lines) // 2]) + _unescaped(lines[len(lines) // 2 :]) if len(lines) > 1 else []
