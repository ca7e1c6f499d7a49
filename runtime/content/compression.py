"""Decompressing streams whose format is known by their first bytes only."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard

from runtime.errors import InvalidParameter

BUFFER_BYTES = 1 << 18
_MAGIC_BYTES = 6
_ZSTD_WINDOW_BYTES_MAX = 1 << 27  # what the zstd program itself accepts without --long


class Readable(Protocol):
    """What every function of this package reads from: at most `size` bytes, b"" at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


def _open_zstd(stream: IO[bytes]) -> Readable:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    return decompressor.stream_reader(stream, read_across_frames=True, closefd=False)


class _Gzip:
    """gzip, member after member, with input in large pieces: Python's own reader takes 8 KiB at a time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self._started = False  # the current member

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._inflater.eof:
                self._input = self._inflater.unused_data
                self._inflater = zlib.decompressobj(wbits=31)
                self._started = False
            if not self._started:
                self._input = self._input.lstrip(b"\0")  # padding between and after members, as tapes have
            if not self._input:
                self._input = self._stream.read(BUFFER_BYTES)
                if not self._input:
                    if self._started:
                        raise EOFError
                    return b""
                continue
            self._started = True
            data = self._inflater.decompress(self._input, max(size, 1))
            self._input = self._inflater.unconsumed_tail
            if data:
                return data


_FORMATS: tuple[tuple[str, bytes, Callable[[IO[bytes]], Readable]], ...] = (
    ("gzip", b"\x1f\x8b", _Gzip),
    ("zstd", b"\x28\xb5\x2f\xfd", _open_zstd),
    ("bzip2", b"BZh", bz2.BZ2File),
    ("xz", b"\xfd7zXZ\x00", lzma.LZMAFile),
)


def decompressed(stream: Readable) -> tuple[io.BufferedReader, str | None]:
    """`stream` without its compression, and the name of the format it had (None: not compressed).

    Reading the result raises InvalidParameter when the compressed data is damaged or ends early.
    """
    buffered = buffered_reader(stream)
    magic = buffered.peek(_MAGIC_BYTES)
    for name, prefix, open_format in _FORMATS:
        if magic.startswith(prefix):
            return io.BufferedReader(_Decompressing(open_format(buffered), name), BUFFER_BYTES), name
    return buffered, None


def buffered_reader(stream: Readable) -> io.BufferedReader:
    """`stream` with cheap small reads. Closing the result leaves `stream` open."""
    return io.BufferedReader(_Raw(stream), BUFFER_BYTES)


class _Raw(io.RawIOBase):
    """The narrow `Readable` as the io stack wants it, so that a socket body or a pipe can be buffered."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = cast(memoryview, buffer)
        data = self._source.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Decompressing(_Raw):
    def __init__(self, source: Readable, name: str) -> None:
        super().__init__(source)
        self._name = name

    def readinto(self, buffer: object) -> int:
        try:
            return super().readinto(buffer)
        except EOFError:
            raise InvalidParameter(f"the {self._name} data ends too early: the archive is truncated") from None
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise InvalidParameter(f"the {self._name} data is damaged: {error}") from error
        except OSError as error:
            # bz2 has no exception of its own: "Invalid data stream" without an errno.
            if error.errno is None:
                raise InvalidParameter(f"the {self._name} data is damaged: {error}") from error
            raise
