"""A streaming tar reader for archives nobody vouches for.

Understands ustar, GNU (long names, base-256 numbers, sparse) and pax (`x` and `g` records, SCHILY.xattr,
sparse 0.0, 0.1 and 1.0): POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and
"Storing Sparse Files". Python's `tarfile` is not used for reading because it takes a damaged header in the
middle for the end of the archive and puts no bound on extended headers.

The end of the source between two entries is the end of the archive, as it is for Go's reader: some builders write no
closing blocks, and whether something is missing is for digests to say.

Every defect raises InvalidParameter with one sentence naming the last entry read.
"""

import functools
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.content.compression import Readable
from runtime.errors import InvalidParameter

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
_CHUNK_BYTES = 1 << 20
_SIZE_BYTES_MAX = (1 << 63) - 1

EXTENDED_HEADER_BYTES_MAX = 1 << 20
SPARSE_SEGMENTS_MAX = 1 << 20

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_CONTIGUOUS, _OLD_REGULAR, _GNU_SPARSE = b"7", b"\0", b"S"
_PAX_NEXT, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK = b"x", b"g", b"L", b"K"
_REGULAR_TYPES = frozenset({REGULAR, _CONTIGUOUS, _OLD_REGULAR, _GNU_SPARSE})
_DATALESS_TYPES = frozenset({HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_XATTR_PREFIX = b"SCHILY.xattr."
_DECIMAL = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")


@dataclass(slots=True)
class TarEntry:
    """One member. `size` is the file's length; a sparse file stores only its `segments` (offset, length)."""

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link_target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    segments: list[tuple[int, int]] | None = None


class TarReader:
    """Iterates the entries of `source` once; data of the current entry comes from `chunks` or `read`."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._unread = 0  # bytes of the current entry's data
        self._padding = 0
        self._global_records: list[tuple[bytes, bytes]] = []
        self._last_name = ""

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self._next()) is not None:
            self._last_name = entry.name
            yield entry

    @property
    def remaining(self) -> int:
        """Bytes of the current entry's stored data not read yet."""
        return self._unread

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes of the current entry's stored data, b"" after the last."""
        wanted = self._unread if size < 0 else min(size, self._unread)
        data = self._read_exactly(wanted)
        self._unread -= wanted
        return data

    def chunks(self) -> Iterator[bytes]:
        """The rest of the current entry's stored data."""
        while self._unread:
            yield self.read(_CHUNK_BYTES)

    def _next(self) -> TarEntry | None:
        records: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            self._skip(self._unread)
            self._read_up_to(self._padding)  # the docker CLI leaves that of the last entry out
            header = self._source.read(BLOCK)
            if header == _ZERO_BLOCK or not (header or records or long_name or long_link):
                return None
            if len(header) < BLOCK:
                header += self._read_exactly(BLOCK - len(header))
            kind, size = self._check_header(header)
            self._begin_data(size)
            if kind == _PAX_NEXT:
                records = self._pax_records(size)
            elif kind == _PAX_GLOBAL:
                self._global_records += self._pax_records(size)
                if len(self._global_records) > 1000:
                    raise self._defect("has too many global headers")
            elif kind == _GNU_LONG_NAME:
                long_name = self._extended_header(size).split(b"\0", 1)[0]
            elif kind == _GNU_LONG_LINK:
                long_link = self._extended_header(size).split(b"\0", 1)[0]
            else:
                return self._entry(header, kind, size, self._global_records + records, long_name, long_link)

    def _check_header(self, header: bytes) -> tuple[bytes, int]:
        stored = self._number(header[148:156])
        rest = stored - 8 * 32 + sum(header[148:156])  # the checksum field counts as spaces
        # The lower half of Adler-32 is the sum of the bytes modulo 65521, at a twentieth of the time of `sum`.
        if not 0 <= rest <= BLOCK * 255 or zlib.adler32(header, 0) & 0xFFFF != rest % 65521:
            raise self._defect("has a header with a wrong checksum, it is damaged or not a tar")
        size = self._number(header[124:136])
        if not 0 <= size <= _SIZE_BYTES_MAX:
            raise self._defect("has an entry of impossible size")
        return header[156:157], size

    def _entry(
        self,
        header: bytes,
        kind: bytes,
        size: int,
        records: list[tuple[bytes, bytes]],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> TarEntry:
        name = header[:100].split(b"\0", 1)[0]
        # GNU headers ("ustar  \0") keep times where POSIX ones keep the name's prefix.
        if header[257:263] == b"ustar\0" and header[345] != 0:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        entry = TarEntry(
            name=_text(name if long_name is None else long_name),
            kind=kind,
            mode=stat.S_IMODE(self._number(header[100:108])),
            uid=self._number(header[108:116]),
            gid=self._number(header[116:124]),
            size=size,
            mtime_ns=self._number(header[136:148]) * 10**9,
            link_target=_text(header[157:257].split(b"\0", 1)[0] if long_link is None else long_link),
        )
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (self._number(header[329:337]), self._number(header[337:345]))
        self._last_name = entry.name
        sparse = self._apply_records(entry, records)
        if kind == _OLD_REGULAR and entry.name.endswith("/"):
            entry.kind = DIRECTORY  # how tars before POSIX said so
        elif kind in _REGULAR_TYPES:
            entry.kind = REGULAR
        if entry.kind != REGULAR:
            # These have no data whatever their size field says (links may carry the size of their target).
            self._begin_data(0 if entry.kind in _DATALESS_TYPES else entry.size)
            entry.size = 0
        else:
            self._begin_data(entry.size)
            self._read_sparse_map(entry, header if kind == _GNU_SPARSE else None, sparse)
        if "\0" in entry.name or "\0" in entry.link_target:
            raise self._defect("has a name with a NUL byte")
        return entry

    def _apply_records(self, entry: TarEntry, records: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Overrides what the header says; returns the GNU.sparse records for `_read_sparse_map`."""
        sparse = []
        for key, value in records:
            if key.startswith(_XATTR_PREFIX):
                entry.xattrs[_text(key[len(_XATTR_PREFIX) :])] = value
            elif key.startswith(b"GNU.sparse."):
                sparse.append((key[len(b"GNU.sparse.") :], value))
            elif not value:
                continue  # an empty value cancels a global one: the header's own value stays
            elif key == b"path":
                entry.name = _text(value)
            elif key == b"linkpath":
                entry.link_target = _text(value)
            elif key == b"size":
                entry.size = self._decimal(value)
            elif key == b"uid":
                entry.uid = self._decimal(value)
            elif key == b"gid":
                entry.gid = self._decimal(value)
            elif key == b"mtime":
                entry.mtime_ns = self._nanoseconds(value)
        return sparse

    # --- sparse files -------------------------------------------------------------------------------------

    def _read_sparse_map(self, entry: TarEntry, gnu_header: bytes | None, records: list[tuple[bytes, bytes]]) -> None:
        if gnu_header is not None:
            entry.segments = self._gnu_sparse_map(gnu_header)
            entry.size = self._number(gnu_header[483:495])
        elif records:
            values = dict(records)
            if b"name" in values:
                entry.name = _text(values[b"name"])
            entry.size = self._decimal(values.get(b"realsize", values.get(b"size", b"%d" % entry.size)))
            if values.get(b"major") == b"1":
                entry.segments = self._pax_1_sparse_map()
            elif b"map" in values:
                numbers = [self._decimal(number) for number in values[b"map"].split(b",") if number]
                entry.segments = list(zip(numbers[::2], numbers[1::2], strict=False))
            else:
                offsets = [self._decimal(value) for key, value in records if key == b"offset"]
                lengths = [self._decimal(value) for key, value in records if key == b"numbytes"]
                entry.segments = list(zip(offsets, lengths, strict=False))
        if entry.segments is not None:
            self._check_segments(entry, entry.segments)

    def _gnu_sparse_map(self, header: bytes) -> list[tuple[int, int]]:
        segments: list[tuple[int, int]] = []
        self._append_gnu_segments(segments, header[386:482])
        more = header[482] != 0
        while more:
            block = self._read_exactly(BLOCK)  # between header and data, not counted in the size
            self._append_gnu_segments(segments, block[:504])
            more = block[504] != 0
            if len(segments) > SPARSE_SEGMENTS_MAX:
                raise self._defect("has too many sparse segments")
        return segments

    def _append_gnu_segments(self, segments: list[tuple[int, int]], fields: bytes) -> None:
        for start in range(0, len(fields), 24):
            if fields[start] == 0:
                return
            offset, length = fields[start : start + 12], fields[start + 12 : start + 24]
            segments.append((self._number(offset), self._number(length)))

    def _pax_1_sparse_map(self) -> list[tuple[int, int]]:
        """Version 1.0: decimal numbers, a line each, before the data, padded to whole blocks."""
        buffered = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            line, newline, rest = buffered.partition(b"\n")
            if not newline:
                block = self.read(BLOCK)
                if len(block) < BLOCK:
                    raise self._defect("has a sparse map that ends too early")
                buffered += block
                if len(buffered) > 2 * BLOCK:
                    raise self._defect("has a damaged sparse map")
                continue
            numbers.append(self._decimal(line))
            buffered = rest
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > SPARSE_SEGMENTS_MAX:
                raise self._defect("has too many sparse segments")
        return list(zip(numbers[1::2], numbers[2::2], strict=True))

    def _check_segments(self, entry: TarEntry, segments: list[tuple[int, int]]) -> None:
        end = stored = 0
        for offset, length in segments:
            if offset < end or length < 0 or offset + length > entry.size:
                raise self._defect("has a sparse map whose parts overlap or lie outside the file")
            end = offset + length
            stored += length
        if stored != self._unread:
            raise self._defect("has a sparse map that does not match the stored data")

    # --- pax records and numbers --------------------------------------------------------------------------

    def _pax_records(self, size: int) -> list[tuple[bytes, bytes]]:
        """`"%d %s=%s\\n" % (length of the whole record, key, value)`, one after the other."""
        data = self._extended_header(size)
        records = []
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 20)
            length = self._decimal(data[position:space]) if space > 0 else 0
            record = data[space + 1 : position + length]
            key, equals, value = record.partition(b"=")
            if not equals or not record.endswith(b"\n") or position + length > len(data):
                raise self._defect("has a damaged pax header")
            records.append((key, value[:-1]))
            position += length
        return records

    def _extended_header(self, size: int) -> bytes:
        if size > EXTENDED_HEADER_BYTES_MAX:
            raise self._defect(f"has an extended header over {EXTENDED_HEADER_BYTES_MAX} bytes")
        return self.read()

    def _number(self, text: bytes) -> int:
        if (value := _number_of(text)) is None:
            raise self._defect("has a header with a damaged number")
        return value

    def _decimal(self, text: bytes) -> int:
        match = _DECIMAL.fullmatch(text)
        if match is None or match[1]:
            raise self._defect("has a damaged number in a pax header")
        return int(match[2])

    def _nanoseconds(self, text: bytes) -> int:
        match = _DECIMAL.fullmatch(text)
        if match is None:
            raise self._defect("has a damaged time in a pax header")
        nanoseconds = int(match[2]) * 10**9 + int((match[3] or b"").ljust(9, b"0")[:9])
        return -nanoseconds if match[1] else nanoseconds

    # --- the byte stream ----------------------------------------------------------------------------------

    def _begin_data(self, size: int) -> None:
        self._unread = size
        self._padding = -size % BLOCK

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._read_exactly(min(size, _CHUNK_BYTES)))

    def _read_exactly(self, size: int) -> bytes:
        data = self._read_up_to(size)
        if len(data) < size:
            raise self._truncated()
        return data

    def _read_up_to(self, size: int) -> bytes:
        """Less at the end of the stream only."""
        data = self._source.read(size) if size else b""
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing and (data := self._source.read(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def _truncated(self) -> InvalidParameter:
        return self._defect("is truncated: the end of the file comes before the end of the archive")

    def _defect(self, what: str) -> InvalidParameter:
        where = f' (near "{self._last_name}")' if self._last_name else ""
        return InvalidParameter(f"the tar archive {what}{where}")


@functools.lru_cache(4096)
def _number_of(text: bytes) -> int | None:
    """An octal field, or GNU's base-256 when the top bit is set; None for neither."""
    if text[0] & 0x80:
        negative = text[0] & 0x40
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        return value - (1 << (8 * len(text) - 1)) if negative else value
    digits = text.split(b"\0", 1)[0].strip()
    if digits.isdigit() and not digits.translate(None, b"01234567"):
        return int(digits, 8)
    return None if digits else 0


def _text(raw: bytes) -> str:
    """Names are bytes to the kernel; those that are not UTF-8 survive as surrogates (PEP 383)."""
    return raw.decode("utf-8", "surrogateescape")
