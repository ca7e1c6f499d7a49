"""The server's side of HTTP/1.1 (RFC 9112) as bytes in, events out; no sockets.

Stricter than the RFC asks wherever two readers could take one message for different ones: no folded lines, no space
before a colon, no Content-Length beside Transfer-Encoding, no lone carriage return.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

Headers = list[tuple[str, str]]


class ProtocolError(Exception):
    """The peer has sent what is no HTTP; `status` says so best. Nothing more can be read from it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head(NamedTuple):
    """A request up to its body; names of headers in lower case, the last of several values of one counts."""

    method: str
    target: str
    headers: Mapping[str, str]
    is_http_1_0: bool


class _Signal:
    """NEED_DATA: call `receive`. END: of the request; nothing of the next one is read before `next_request`."""


NEED_DATA: Final = _Signal()
END: Final = _Signal()
CLOSED: Final = _Signal()

Event = Head | bytes | _Signal

_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/1\.([0-9])")
_NAME = re.compile(_TOKEN)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n[ \t]")
_LENGTH = re.compile(r"[0-9]{1,20}")
_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r?\n")
_UNSENDABLE = re.compile(r"[\x00\r\n]")

_MAX_CHUNK_HEAD_BYTES = 4096
_CHUNKED = -1


class ServerCodec:
    """One connection's requests, one after the other."""

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._at_eof = False
        self._failed = False
        self._head: Head | None = None
        self._left = 0  # of the body, or of a chunk; _CHUNKED before a chunk's head
        self._in_chunk = False
        self._complete = False  # the request
        self._expects_continue = False
        self._keep_alive = True
        self._chunked_answer = False

    def receive(self, data: bytes) -> None:
        """`data` came; none at the end of file."""
        if data:
            self._buffer += data
        else:
            self._at_eof = True

    def next_event(self) -> Event:
        """A Head, pieces of the body, END; or NEED_DATA, or CLOSED after the last. Raises ProtocolError."""
        if self._failed:
            raise ProtocolError("malformed before")
        try:
            if self._head is None:
                return self._read_head()
            return END if self._complete else self._read_body()
        except ProtocolError:
            self._failed = True
            self._keep_alive = False
            raise

    @property
    def failed(self) -> bool:
        return self._failed

    @property
    def is_reading(self) -> bool:
        """Whether a body is still to come."""
        return self._head is not None and not self._complete and not self._failed

    @property
    def has_begun(self) -> bool:
        """Whether something of the next request is here."""
        return bool(self._buffer)

    @property
    def reusable(self) -> bool:
        """Whether another request may follow this one, once it is answered."""
        return self._complete and self._keep_alive

    def next_request(self) -> None:
        """The answer has been sent whole."""
        self._head = None
        self._complete = False

    def rest(self) -> bytes:
        """What came behind the request, for another protocol."""
        return bytes(self._buffer)

    def take_continue(self) -> bytes:
        """What to send to a client that waits for leave to send its body; empty if none does (RFC 9110 §10.1.1)."""
        if not self._expects_continue:
            return b""
        self._expects_continue = False
        return b"HTTP/1.1 100 Continue\r\n\r\n"

    # --- answers

    def answer(self, status: int, headers: Headers, body: bytes) -> bytes:
        """A whole one."""
        self._expects_continue = False
        bodiless = status in (204, 304)
        own = [] if bodiless else [("Content-Length", str(len(body)))]
        head = _head_bytes(status, (*headers, *own, *self._closing(headers)))
        return head if bodiless or self._is_head else head + body

    def begin_answer(self, status: int, headers: Headers) -> bytes:
        """The head of one whose length nobody knows."""
        self._expects_continue = False
        if self._head is not None and self._head.is_http_1_0:
            self._keep_alive = False
        self._chunked_answer = not (self._head is not None and self._head.is_http_1_0)
        own = [("Transfer-Encoding", "chunked")] if self._chunked_answer else []
        return _head_bytes(status, (*headers, *own, *self._closing(headers)))

    def piece(self, data: bytes) -> bytes:
        if not data or self._is_head:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_answer else data

    def end_answer(self) -> bytes:
        return b"0\r\n\r\n" if self._chunked_answer and not self._is_head else b""

    @property
    def _is_head(self) -> bool:
        return self._head is not None and self._head.method == "HEAD"

    def _closing(self, headers: Headers) -> Headers:
        if self.is_reading:  # an unread body: closing is cheaper than reading a whole archive away
            self._keep_alive = False
        if ("Connection", "close") in headers:
            self._keep_alive = False
            return []
        return [] if self._keep_alive else [("Connection", "close")]

    # --- requests

    def _read_head(self) -> Event:
        found = _HEAD_END.search(self._buffer, max(0, self._searched - 3))
        if found is None or found.start() > self._max_head_bytes:
            self._searched = len(self._buffer)
            if self._searched > self._max_head_bytes:
                raise ProtocolError("the request's headers are too large", 431)
            if self._buffer and self._buffer[0] <= 0x20:  # an empty line, or the beginning of TLS
                raise ProtocolError("no request line received")
            if not self._at_eof:
                return NEED_DATA
            if self._buffer:
                raise ProtocolError("the connection was closed in the middle of a request")
            return CLOSED
        raw = bytes(self._buffer[: found.start()])
        del self._buffer[: found.end()]
        self._searched = 0
        if _FORBIDDEN.search(raw):
            raise ProtocolError("illegal character or folded line in the headers")
        first, *lines = raw.decode("latin-1").replace("\r\n", "\n").split("\n")
        line = _REQUEST_LINE.fullmatch(first)
        if line is None:
            raise ProtocolError("illegal request line")
        self._head = Head(line[1], line[2], self._read_headers(lines), line[3] == "0")
        self._frame(self._head)
        return self._head

    def _read_headers(self, lines: Iterable[str]) -> dict[str, str]:
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise ProtocolError(f"illegal header line {line[:100]!r}")
            name, value = name.lower(), value.strip(" \t")
            if name in headers and name in ("host", "content-length", "transfer-encoding") and headers[name] != value:
                raise ProtocolError(f"conflicting {name} headers")
            if name in headers and name in ("connection", "expect"):
                value = f"{headers[name]}, {value}"
            headers[name] = value
        return headers

    def _frame(self, head: Head) -> None:
        """Where its body ends (RFC 9112 §6.3), and whether the connection goes on after it (§9.3)."""
        headers = head.headers
        if "host" not in headers and not head.is_http_1_0:
            raise ProtocolError("missing Host header")
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None:
            if length is not None or head.is_http_1_0:
                raise ProtocolError("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
            if coding.lower() != "chunked":
                raise ProtocolError("only the transfer coding chunked is supported", 501)
            self._left = _CHUNKED
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise ProtocolError("bad Content-Length")
            self._left = int(length)
        else:
            self._left = 0
        self._in_chunk = False
        self._complete = self._left == 0
        tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
        self._keep_alive = not head.is_http_1_0 and "close" not in tokens
        expected = headers.get("expect", "").lower() == "100-continue"
        self._expects_continue = expected and not head.is_http_1_0 and not self._complete

    def _read_body(self) -> Event:
        if self._left == _CHUNKED:
            if self._in_chunk and not self._take_line_end():
                return self._wait()
            self._in_chunk = False
            if not self._read_chunk_head():
                return self._wait()
            if self._complete:
                return END
        if not self._buffer:
            return self._wait()
        self._expects_continue = False
        data = bytes(self._buffer[: self._left])
        del self._buffer[: len(data)]
        self._left -= len(data)
        if self._left == 0:
            if self._in_chunk:
                self._left = _CHUNKED
            else:
                self._complete = True
        return data

    def _wait(self) -> Event:
        if self._at_eof:
            raise ProtocolError("the connection was closed in the middle of a request's body")
        return NEED_DATA

    def _take_line_end(self) -> bool:
        """The one behind a chunk."""
        if not self._buffer or self._buffer == b"\r":
            return False
        for end in (b"\r\n", b"\n"):
            if self._buffer.startswith(end):
                del self._buffer[: len(end)]
                return True
        raise ProtocolError("illegal end of a chunk")

    def _read_chunk_head(self) -> bool:
        """The size of a chunk, or after the last one the trailer, which is left out; False for want of data."""
        found = _CHUNK_HEAD.match(self._buffer)
        if found is None:
            if b"\n" in self._buffer or len(self._buffer) > _MAX_CHUNK_HEAD_BYTES:
                raise ProtocolError("illegal chunk header")
            return False
        size = int(found[1], 16)
        if size:
            del self._buffer[: found.end()]
            self._left, self._in_chunk = size, True
            return True
        # The line of the last chunk stays until all of the trailer is here.
        end = _HEAD_END.search(
            self._buffer, found.end() - 2 if self._buffer[found.end() - 2] == 13 else found.end() - 1
        )
        if end is None:
            if len(self._buffer) > self._max_head_bytes:
                raise ProtocolError("the trailer is too large", 431)
            return False
        del self._buffer[: end.end()]
        self._left, self._complete = 0, True
        return True


@functools.lru_cache(128)
def _head_bytes(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers)]
    for line in lines:
        if _UNSENDABLE.search(line):
            raise ValueError(f"a header may not contain a line's end: {line!r}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
