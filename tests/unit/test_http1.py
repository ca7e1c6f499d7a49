"""The HTTP server on a socket pair: what a client may do wrong, and what it must get for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from runtime.api import http1
from runtime.api.http1 import Answer, Request, Response, StreamResponse, serve_connection

HEADERS = [("Server", "test")]


async def answer(request: Request) -> Answer:
    if request.path == "/json":
        return Response(200, json.dumps(await request.json()).encode())
    if request.path == "/stream":
        return StreamResponse(chunks())
    if request.path == "/never":
        return StreamResponse(never(), dropped=dropped)
    return Response(200, request.path.encode())


dropped: asyncio.Future[None] | None = None


async def chunks() -> AsyncIterator[bytes]:
    for number in range(3):
        await asyncio.sleep(0)
        yield b"%d" % number


async def never() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


async def checked(request: Request) -> Answer:
    """As the router does it: no error leaves a handler."""
    from runtime.api.errors import error_response
    from runtime.errors import WherryError

    try:
        return await answer(request)
    except WherryError as error:
        return error_response(error)


async def talk(*pieces: bytes, half_close: bool = False) -> bytes:
    """What comes back until the server closes; half-closed at the end, or not, and then only read."""
    ours, theirs = socket.socketpair()
    serving = asyncio.ensure_future(serve_connection(checked, *await asyncio.open_connection(sock=theirs), HEADERS))
    reader, writer = await asyncio.open_connection(sock=ours)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    if half_close:
        writer.write_eof()
    async with asyncio.timeout(5):
        received = await reader.read()
    writer.close()
    await writer.wait_closed()
    await serving
    return received


def request(path: str, headers: str = "", body: bytes = b"", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body


CLOSE = "Connection: close\r\n"
JSON = "Content-Type: application/json\r\n"


def post(body: bytes, headers: str = JSON) -> bytes:
    return request("/json", f"{headers}Content-Length: {len(body)}\r\n{CLOSE}", body, "POST")


def test_requests_sent_ahead_are_answered_in_order() -> None:
    received = asyncio.run(talk(request("/a") + request("/stream") + request("/b", CLOSE)))
    places = [received.index(text) for text in (b"/a", b"0\r\n1\r\n1\r\n1\r\n2", b"/b")]
    assert places == sorted(places)


def test_a_request_in_single_bytes() -> None:
    whole = request("/slow", CLOSE)
    received = asyncio.run(talk(*(whole[at : at + 8] for at in range(0, len(whole), 8))))
    assert received.endswith(b"/slow")


def test_headers_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEADER_TIMEOUT_S", 0.05)
    received = asyncio.run(talk(b"GET / HTTP/1.1\r\nHost: x\r\n"))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"headers did not arrive" in received


def test_a_json_body_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "JSON_TIMEOUT_S", 0.05)
    received = asyncio.run(talk(request("/json", JSON + "Content-Length: 10\r\n", b"{", "POST")))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive" in received


def test_a_client_that_half_closes_gets_its_answer() -> None:
    for path in ("/a", "/stream"):
        received = asyncio.run(talk(request(path), half_close=True))
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith((b"/a", b"0\r\n\r\n"))


def test_a_body_that_breaks_off() -> None:
    received = asyncio.run(talk(request("/json", JSON + "Content-Length: 10\r\n", b"{", "POST"), half_close=True))
    assert received.startswith(b"HTTP/1.1 499 ")


def test_waiting_for_100_continue() -> None:
    headers = JSON + CLOSE + "Expect: 100-continue\r\nContent-Length: 9\r\n"
    received = asyncio.run(talk(request("/json", headers, b"", "POST"), b'{"a": [1]'[:0] + b'{"a": 17}'))
    assert received.startswith(b"HTTP/1.1 100 ")
    assert received.endswith(b'{"a": 17}')


def test_a_chunked_body() -> None:
    headers = JSON + CLOSE + "Transfer-Encoding: chunked\r\n"
    received = asyncio.run(talk(request("/json", headers, b"", "POST"), b'3\r\n{"a\r\n', b'5\r\n": 1}\r\n0\r\n\r\n'))
    assert received.endswith(b'{"a": 1}')


@pytest.mark.parametrize(
    "body, headers, words",
    [
        (b"{", JSON, "invalid JSON: "),
        (b" ", JSON, "invalid JSON: got EOF while reading request body"),
        (b"{} {}", JSON, "unexpected content after JSON"),
        (b"[1]", JSON, "invalid JSON: an object"),
        (b"[" * 100_000, JSON, "nested too deeply"),
        (b"\xff\xfe", JSON, "invalid JSON"),
        (b"{}", "Content-Type: text/plain\r\n", "unsupported Content-Type header (text/plain): must be"),
        (b"{}", "", "malformed Content-Type header ()"),
    ],
)
def test_a_body_that_is_no_json(body: bytes, headers: str, words: str) -> None:
    received = asyncio.run(talk(post(body, headers)))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert words in json.loads(received.partition(b"\r\n\r\n")[2])["message"]


def test_a_body_too_large_is_not_read() -> None:
    headers = f"{JSON}Content-Length: {1 << 40}\r\n"
    received = asyncio.run(talk(request("/json", headers, b"{", "POST"), half_close=True))
    assert b"larger than 16 MiB" in received


def test_a_dropped_stream_ends_though_its_client_reads_nothing() -> None:
    async def run() -> None:
        global dropped
        dropped = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        streams = await asyncio.open_connection(sock=theirs)
        serving = asyncio.ensure_future(serve_connection(checked, *streams, HEADERS))
        with ours:
            ours.sendall(request("/never"))
            await asyncio.sleep(0.05)
            assert not serving.done()
            dropped.set_result(None)
            async with asyncio.timeout(5):
                await serving

    asyncio.run(run())
