"""Reading records: a block of a log file as batches of consecutive records of one stream.

Millions of lines pass here, so what is done to every record is done by one call for all of them: in a record that
`LogWriter` wrote, what stands around the text has a known length. Only what does not look like that is parsed as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby, repeat
from operator import add, itemgetter

from runtime.engine.logs.records import HEAD, MARK, NEWLINE, STREAM_NUMBERS

TIME = slice(-32, -2)  # in a record without its newline
_BEHIND_TIME = b'Z"}'
_ENDED = NEWLINE + MARK
_TRAILING_BACKSLASHES = re.compile(rb"\\+\Z")
_ESCAPES = {b'\\"': b'"', b"\\u001b": b"\x1b", b"\\t": b"\t", b"\\r": b"\r"}
_CONTROL = re.compile(rb"\\u00(0[1-9a-f]|1[0-9a-f])")
_BACKSLASH = b"\0"  # one that stands for itself, meanwhile: encoded text has no NUL

Facts = tuple[int, Mapping[str, str]]  # a stream and attributes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one stream. `ended`: every text is a whole line, shown without its newline."""

    stream: int
    attributes: Mapping[str, str]
    texts: list[bytes]
    ended: bool
    records: Sequence[bytes]
    time: slice

    def times(self) -> list[bytes]:
        """Of every record, RFC 3339."""
        return list(map(itemgetter(self.time), self.records))

    def part(self, start: int, stop: int) -> Batch:
        texts, records = self.texts[start:stop], self.records[start:stop]
        return Batch(self.stream, self.attributes, texts, self.ended, records, self.time)


def batches(block: bytes) -> Iterator[Batch]:
    """Of whole records; what is none (cut short by a full disk or a power cut) is left out."""
    records = block.split(b"\n")
    records.pop()  # what is behind the last newline: nothing
    tail = _tail(records)
    kinds = list(map(itemgetter(slice(-len(tail), TIME.start)), records))
    alike = not kinds or kinds.count(kinds[0]) == len(kinds)
    position = 0
    for length in [len(kinds)] * bool(kinds) if alike else [len(list(same)) for _, same in groupby(kinds)]:
        following = position + length
        yield from _batch(records[position:following], kinds[position], len(tail))
        position = following


def line_ends(block: bytes) -> list[int]:
    """Where in a block of whole records lines of output end; what is no record is a line."""
    records = block.split(b"\n")
    records.pop()
    ends = accumulate(map(add, map(len, records), repeat(1)))
    if block.count(_ENDED) == len(records) and b"\\" + _ENDED not in block:
        return list(ends)
    return [end for end, record in zip(ends, records, strict=True) if _ends_line(record)]


def _ends_line(record: bytes) -> bool:
    mark = record.find(MARK)
    backslashes = _TRAILING_BACKSLASHES.search(record, 0, max(mark - 1, 0))
    return mark < 0 or (record[mark - 1 : mark] == b"n" and backslashes is not None and len(backslashes[0]) % 2 == 1)


def time_of(record: bytes) -> bytes:
    """RFC 3339; empty for what is no record."""
    return next((batch.times()[0] for batch in batches(record)), b"")


def _tail(records: Sequence[bytes]) -> bytes:
    """What is behind the text of a whole line, of the first record that is one; nothing if none is."""
    for record in records:
        mark = record.find(_ENDED)
        if mark >= 0 and record.endswith(_BEHIND_TIME):
            return record[mark:]
    return b""


def _batch(records: Sequence[bytes], kind: bytes, tail_bytes: int) -> Iterator[Batch]:
    """`kind` stands between text and time of all these records, whatever they are."""
    facts = _facts(kind)
    if facts:
        texts = list(map(itemgetter(slice(len(HEAD), -tail_bytes)), records))
        joined = b"\n".join(texts)
        if b"\\" not in joined:
            yield Batch(*facts, texts, True, records, TIME)
            return
        unescaped = _unescaped(joined)
        if unescaped is not None:
            yield Batch(*facts, unescaped.split(b"\n"), True, records, TIME)
            return
    for record in records:
        yield from _parsed(record)


@lru_cache(maxsize=64)
def _facts(kind: bytes) -> Facts | None:
    """None for what does not stand behind a whole line."""
    if not kind.startswith(_ENDED):
        return None
    try:
        return _stream_and_attributes(json.loads(HEAD + kind + b'"}'))
    except (ValueError, KeyError, TypeError):
        return None


def _stream_and_attributes(document: Mapping[str, object]) -> Facts:
    attributes = document.get("attrs") or {}
    if not isinstance(attributes, dict):
        raise ValueError
    return STREAM_NUMBERS[str(document["stream"])], attributes


def _unescaped(text: bytes) -> bytes | None:
    """What JSON strings stand for; None for escapes that are too rare to be known here."""
    text = text.replace(b"\\\\", _BACKSLASH)
    for escape, meant in _ESCAPES.items():
        text = text.replace(escape, meant)
    if b"\\" in text:
        text = _CONTROL.sub(lambda match: bytes([int(match[1], 16)]), text)
    return None if b"\\" in text else text.replace(_BACKSLASH, b"\\")


def _parsed(record: bytes) -> Iterator[Batch]:
    """One record by itself, if it is one."""
    try:
        document = json.loads(record)
        text = document["log"].encode("utf-8", "surrogateescape")
        facts, time = _stream_and_attributes(document), str(document["time"]).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    ended = text.endswith(b"\n")
    yield Batch(*facts, [text.removesuffix(b"\n")], ended, [time], slice(None))
