"""HTTP/1.1 on asyncio streams, with connection hijacking.

A handler gets a `Request` and returns a `Response` (a whole body), a `StreamResponse` (headers at once, chunks as
they come), or calls `Request.hijack()` and afterwards owns the raw connection (Engine API, "Attach to a container").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from runtime.api.http1_codec import NEED_DATA, Event, Head, Headers, ProtocolError, ServerCodec
from runtime.errors import Cancelled, InvalidParameter

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 20  # what Go's net/http allows; X-Registry-Config can be long
MAX_JSON_BYTES = 16 << 20
HEADER_TIMEOUT_S = 30  # from a request's first byte to the end of its headers; an idle connection may stay for ever
JSON_TIMEOUT_S = 60  # for a JSON body; archives may take their time
READ_BYTES = 1 << 16
LINGER_S = 1


class Response:
    """A status and a whole body."""

    def __init__(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class StreamResponse:
    """A status sent at once and chunks sent as the iterator gives them, until it ends or the client goes.

    `dropped`: when it resolves the connection is cut, even if the client reads nothing.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        dropped: asyncio.Future[None] | None = None,
    ) -> None:
        self.status = status
        self.chunks = chunks
        self.headers = dict(headers or {})
        self.dropped = dropped


class Hijacked:
    """Returned by a handler that has taken the connection and is done with it."""


Answer = Response | StreamResponse | Hijacked
Handler = Callable[["Request"], Awaitable[Answer]]


class Query:
    """The query string with Docker's reading of booleans: `1`, `true`, `True` and the like."""

    def __init__(self, text: str) -> None:
        self._values = parse_qs(text, keep_blank_values=True)

    def text(self, name: str, default: str = "") -> str:
        values = self._values.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        values = self._values.get(name)
        if values is None:
            return default
        return values[0].strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str) -> int | None:
        """The value as an integer, None when absent or empty; raises InvalidParameter."""
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise InvalidParameter(f"invalid value {text!r} for {name}: a whole number is needed") from None

    def filters(self) -> dict[str, list[str]]:
        """The `filters` parameter: `{"name": ["a", "b"]}` or the older `{"name": {"a": true}}`."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            return {name: _filter_values(values) for name, values in json.loads(text).items()}
        except (ValueError, AttributeError):
            raise InvalidParameter(f"invalid filter {text!r}: a JSON object of lists is needed") from None


def _filter_values(values: Any) -> list[str]:
    if isinstance(values, dict):
        return [str(value) for value, wanted in values.items() if wanted]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError
    return values


class Request:
    """One request; `body_chunks()` or `json()` reads its body."""

    def __init__(self, connection: _Connection, head: Head) -> None:
        self._connection = connection
        self.method = head.method
        path, _, query = head.target.partition("?")
        if "://" in path:  # absolute form, RFC 9112 §3.2.2
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        self.path = unquote(path)
        self.query = Query(query)
        self.headers = head.headers
        self.params: dict[str, str] = {}
        self.api_version: tuple[int, int] = (0, 0)

    async def body_chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._connection.body():
            yield chunk

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object, `{}` for an empty one; raises InvalidParameter in moby's words."""
        if not _has_body(self.headers):
            return {}
        _check_json(self.headers.get("content-type", ""))
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_JSON_BYTES:
            raise InvalidParameter(_TOO_LARGE)
        raw = await self._whole_body()
        if not raw.strip():
            raise InvalidParameter("invalid JSON: got EOF while reading request body")
        try:
            value = json.loads(raw)
        except RecursionError:
            raise InvalidParameter("invalid JSON: it is nested too deeply") from None
        except ValueError as error:
            if str(error).startswith("Extra data"):
                raise InvalidParameter("unexpected content after JSON") from None
            raise InvalidParameter(f"invalid JSON: {error}") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidParameter("invalid JSON: an object is needed")
        return value

    async def _whole_body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in self._connection.body(JSON_TIMEOUT_S):
                size += len(chunk)
                if size > MAX_JSON_BYTES:
                    raise InvalidParameter(_TOO_LARGE)
                parts.append(chunk)
        except TimeoutError:
            raise InvalidParameter(f"the request body did not arrive within {JSON_TIMEOUT_S} seconds") from None
        return b"".join(parts)

    async def hijack(self, content_type: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """Take the connection: answers 101 if the client asked to upgrade, else 200.

        Returns the bytes that had already been read behind the request, and the raw streams.
        """
        upgrade = self.headers.get("upgrade")
        lines = [b"HTTP/1.1 101 UPGRADED" if upgrade else b"HTTP/1.1 200 OK"]
        lines.append(b"Content-Type: " + content_type.encode("ascii"))
        if upgrade:
            lines += [b"Connection: Upgrade", b"Upgrade: tcp"]
        return await self.take_over(lines)

    async def take_over(self, head: list[bytes]) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """As `hijack`, with the lines of another protocol's answer."""
        own = [f"{name}: {value}".encode("ascii") for name, value in self._connection.headers]
        return await self._connection.hijack(b"\r\n".join([*head, *own]) + b"\r\n\r\n")


_TOO_LARGE = f"request body is larger than {MAX_JSON_BYTES >> 20} MiB, which no JSON request needs"


def _check_json(media_type: str) -> None:
    """moby's httputils.CheckForJSON."""
    if not media_type.strip():
        raise InvalidParameter("malformed Content-Type header (): mime: no media type")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidParameter(f"unsupported Content-Type header ({media_type}): must be 'application/json'")


class _Connection:
    """One client connection: requests one after the other until either side closes or a handler hijacks it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Headers) -> None:
        self._reader = reader
        self._writer = writer
        self.headers = headers
        self._codec = ServerCodec(MAX_HEADER_BYTES)
        self._hijacked = False

    async def _next_event(self) -> Event:
        while (event := self._codec.next_event()) is NEED_DATA:
            self._write(self._codec.take_continue())
            self._codec.receive(await self._reader.read(READ_BYTES))
        return event

    async def _next_request(self) -> Event:
        """As long as the client likes until its first byte, HEADER_TIMEOUT_S from then on (TimeoutError)."""
        event = self._codec.next_event()
        if event is not NEED_DATA:
            return event
        if not self._codec.has_begun:
            self._codec.receive(await self._reader.read(READ_BYTES))
            event = self._codec.next_event()  # nearly always all of it
            if event is not NEED_DATA:
                return event
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            return await self._next_event()

    def _write(self, data: bytes) -> None:
        if data:
            self._writer.write(data)

    async def body(self, timeout_s: float | None = None) -> AsyncIterator[bytes]:
        """Raises InvalidParameter for a body that is not what its headers say, Cancelled when it breaks off."""
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        arrived: list[
            bytes
        ] = []  # clients cut archives into pieces of a few hundred bytes: what is here goes on at once
        while self._codec.is_reading:
            try:
                event = self._codec.next_event()
                if event is NEED_DATA:
                    if arrived:
                        yield b"".join(arrived)
                        arrived = []
                    async with asyncio.timeout_at(deadline):
                        event = await self._next_event()
            except ProtocolError as error:
                if self._reader.at_eof():
                    raise Cancelled("the client went away in the middle of the request's body") from None
                raise InvalidParameter(f"malformed HTTP request: {error}") from None
            except ConnectionError:
                raise Cancelled("the client went away in the middle of the request's body") from None
            if isinstance(event, bytes):
                arrived.append(event)
        if arrived:
            yield b"".join(arrived)

    async def hijack(self, head: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        async for _ in self.body():
            pass
        self._hijacked = True
        self._writer.write(head)
        await self._writer.drain()
        return self._codec.rest(), self._reader, self._writer

    async def serve(self, handler: Handler) -> None:
        while True:
            try:
                head = await self._next_request()
            except ProtocolError as error:
                what = "" if error.status == 431 else "malformed HTTP request: "
                await self._refuse(error.status, f"{what}{error}")
                return
            except TimeoutError:
                await self._refuse(408, f"the request's headers did not arrive within {HEADER_TIMEOUT_S} seconds")
                return
            if not isinstance(head, Head):
                return
            answer = await handler(Request(self, head))
            if self._hijacked:
                return
            if isinstance(answer, StreamResponse):
                if not await self._send_stream(answer):
                    return
            elif isinstance(answer, Response):
                self._send(answer)
            await self._writer.drain()
            if self._codec.is_reading or self._codec.failed:
                await self._linger()  # an unread body: closing is cheaper than reading a whole archive away
                return
            if not self._codec.reusable:
                return
            self._codec.next_request()

    async def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"message": message}).encode()
        self._send(Response(status, body, {"Content-Type": "application/json", "Connection": "close"}))
        await self._linger()

    async def _linger(self) -> None:
        """Let a client that is still sending read the answer: closing at once would reset the connection."""
        with contextlib.suppress(OSError, TimeoutError):
            await self._writer.drain()
            self._writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(READ_BYTES):
                    pass

    def _send(self, response: Response) -> None:
        """In one piece: every write wakes the client."""
        self._write(self._codec.answer(response.status, [*self.headers, *response.headers.items()], response.body))

    async def _send_stream(self, response: StreamResponse) -> bool:
        """True when the stream was sent whole; False when the client went away before."""
        self._write(self._codec.begin_answer(response.status, [*self.headers, *response.headers.items()]))
        await self._writer.drain()
        client_gone = asyncio.ensure_future(self._until_eof())
        sending = asyncio.ensure_future(self._send_chunks(response.chunks))
        ends: set[asyncio.Future[None]] = {client_gone, sending}
        if response.dropped:
            ends.add(response.dropped)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if client_gone.done() and not sending.done() and self._half_closed():
                await sending  # it waits for the rest
            if not sending.done():
                if response.dropped and response.dropped.done():
                    self._writer.transport.abort()  # it will not read what is still in the buffers
                return False
            sending.result()
            self._write(self._codec.end_answer())
            return True
        except ConnectionError:
            return False
        finally:
            for task in (client_gone, sending):
                task.cancel()
            await asyncio.gather(client_gone, sending, return_exceptions=True)

    def _half_closed(self) -> bool:
        """The client has shut down only its sending side; over TCP that looks like going away (unix_poll in Linux)."""
        sock = self._writer.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX or sock.fileno() < 0:  # -1: closed, for a write has failed
            return False
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        return not poll.poll(0)

    async def _send_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(chunks) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                self._write(self._codec.piece(chunk))
                await self._writer.drain()

    async def _until_eof(self) -> None:
        with contextlib.suppress(InvalidParameter, Cancelled):
            async for _ in self.body():
                pass
        data = await self._reader.read(READ_BYTES)
        if data:  # a pipelined request: keep it for after this answer, and stop watching
            self._codec.receive(data)
            await asyncio.Event().wait()


def _has_body(headers: Mapping[str, str]) -> bool:
    """RFC 9112 §6.3: a request has a body exactly when one of two headers says so."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def serve_connection(
    handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Headers
) -> None:
    """Serve one connection until it ends; closes the writer. Every answer bears `headers`."""
    try:
        await _Connection(reader, writer, headers).serve(handler)
    except (ConnectionError, asyncio.IncompleteReadError):
        log.debug("client went away")
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def refuse_connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Headers, message: str
) -> None:
    """Answer 503 to the first request of a connection there is no room for; closes the writer."""
    body = json.dumps({"message": message}).encode()
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers)]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    try:
        async with asyncio.timeout(LINGER_S):
            await reader.read(READ_BYTES)
            writer.write("\r\n".join(lines).encode("ascii") + body)
            await writer.drain()
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
