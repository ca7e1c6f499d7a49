"""HTTP/1.1 as bytes: h11 says what well-formed messages mean; what is not well-formed is refused."""

from __future__ import annotations

import h11
import pytest

from runtime.api.http1_codec import CLOSED, END, NEED_DATA, Head, ProtocolError, ServerCodec

MAX = 1000
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def codec(data: bytes = b"", *, at_eof: bool = False) -> ServerCodec:
    made = ServerCodec(MAX)
    if data:
        made.receive(data)
    if at_eof:
        made.receive(b"")
    return made


def read(data: bytes, step: int) -> list[tuple[Head, bytes]]:
    """Every request in `data`, which comes in pieces of `step` bytes, with its body."""
    made = codec()
    found: list[tuple[Head, bytes]] = []
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    while True:
        event = made.next_event()
        if event is NEED_DATA:
            if not pieces:
                return found
            made.receive(pieces.pop(0))
        elif isinstance(event, Head):
            found.append((event, b""))
        elif isinstance(event, bytes):
            found[-1] = (found[-1][0], found[-1][1] + event)
        elif event is END:
            made.next_request()
        else:
            raise AssertionError(event)


def by_h11(data: bytes) -> list[tuple[str, str, dict[str, str], bytes]]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found: list[tuple[str, str, dict[str, str], bytes]] = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            found.append((event.method.decode(), event.target.decode(), headers, b""))
        elif isinstance(event, h11.Data):
            found[-1] = (*found[-1][:3], found[-1][3] + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            for answer in (h11.Response(status_code=200, headers=[("content-length", "0")]), h11.EndOfMessage()):
                connection.send(answer)
            if connection.their_state is not h11.DONE:
                return found
            connection.start_next_cycle()
        else:
            return found


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a?b=c%20d HTTP/1.1\nHost:x\n\n",
        b"GET / HTTP/1.1\r\nHOST: \t x \t\r\nX-Odd!name: caf\xe9 and  more\r\nEmpty:\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" * 3,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n",
        CHUNKED + b'5\r\nhello\r\nA;x="y"\r\n 0123\r\n\r\n4\r\n0\r\n\r\n' + NEXT,
        CHUNKED + b"1\r\na\r\n00\r\nX-Sum: 1\r\nY: 2\r\n\r\n" + NEXT,
    ],
)
def test_reads_what_h11_reads(data: bytes, step: int) -> None:
    expected = by_h11(data)
    assert expected
    assert [(head.method, head.target, head.headers, body) for head, body in read(data, step)] == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_refuses(data: bytes) -> None:
    made = codec(data)
    with pytest.raises(ProtocolError) as caught:
        made.next_event()
    assert caught.value.status == 400
    assert b"Connection: close" in made.answer(400, [], b"")
    with pytest.raises(ProtocolError):  # for ever
        made.next_event()


@pytest.mark.parametrize(
    "coding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"\x0bchunked", b"xchunked"]
)
def test_refuses_other_codings(coding: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + coding + b"\r\n\r\n").next_event()


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"\r\n",
        b"1 1\r\n",
        b"1\r\nab",
        b"1\r\na\rx",
        b"1" * 17 + b"\r\n",
        b"1;" + b"x" * 5000,
    ],
)
def test_refuses_chunks(body: bytes) -> None:
    made = codec(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert isinstance(made.next_event(), Head)
    with pytest.raises(ProtocolError):
        while made.next_event() is not NEED_DATA:
            pass


def test_too_large() -> None:
    for data in (b"GET /" + b"x" * MAX, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MAX + b"\r\n\r\n"):
        with pytest.raises(ProtocolError) as caught:
            codec(data).next_event()
        assert caught.value.status == 431


def test_the_end_of_the_stream() -> None:
    assert codec(at_eof=True).next_event() is CLOSED
    with pytest.raises(ProtocolError):
        codec(b"GET / HT", at_eof=True).next_event()
    for head in (b"Content-Length: 2\r\n\r\na", b"Transfer-Encoding: chunked\r\n\r\n2\r\na"):
        made = codec(b"POST / HTTP/1.1\r\nHost: x\r\n" + head, at_eof=True)
        assert isinstance(made.next_event(), Head)
        assert made.next_event() == b"a"
        assert made.is_reading
        with pytest.raises(ProtocolError):
            made.next_event()


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, CLOSE\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", False),
    ],
)
def test_whether_the_connection_goes_on(head: bytes, reusable: bool) -> None:
    made = codec(head)
    assert isinstance(made.next_event(), Head)
    assert (b"Connection: close" not in made.answer(200, [], b"x")) is reusable
    assert made.reusable is reusable


def test_leave_to_send_a_body_is_given_once_and_only_before_an_answer() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"
    made = codec(head)
    made.next_event()
    assert (made.take_continue(), made.take_continue()) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    answered = codec(head)
    answered.next_event()
    answered.answer(417, [], b"")
    assert answered.take_continue() == b""
    sent = codec(head + b"a")
    sent.next_event()
    assert sent.next_event() == b"a"
    assert sent.take_continue() == b""


def answered(request: bytes, status: int, *pieces: bytes, whole: bool) -> tuple[int, dict[bytes, bytes], bytes, bool]:
    """As h11 understands it: the status, headers, body, and whether the connection goes on."""
    made = codec(request)
    made.next_event()
    headers = [("Server", "x"), ("Content-Type", "text/plain")]
    if whole:
        data = made.answer(status, headers, b"".join(pieces))
    else:
        data = made.begin_answer(status, headers) + b"".join(map(made.piece, pieces)) + made.end_answer()
    client = h11.Connection(h11.CLIENT)
    method = request.split()[0].decode()
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if not made.reusable:
        client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response.status_code, dict(response.headers), body, client.their_state is h11.DONE


@pytest.mark.parametrize("whole", [True, False])
def test_answers_as_h11_reads_them(whole: bool) -> None:
    get, head = (method + b" / HTTP/1.1\r\nHost: x\r\n\r\n" for method in (b"GET", b"HEAD"))
    status, headers, body, goes_on = answered(get, 200, b"one", b"", b"two", whole=whole)
    assert (status, headers[b"server"], body, goes_on) == (200, b"x", b"onetwo", True)
    assert answered(head, 200, b"one", whole=whole)[2:] == (b"", True)
    assert answered(b"GET / HTTP/1.0\r\n\r\n", 200, b"one", b"two", whole=whole)[2] == b"onetwo"
    if whole:
        assert answered(get, 204, whole=True)[2:] == (b"", True)
        assert answered(get, 304, b"unsaid", whole=True)[2:] == (b"", True)


def test_no_header_splits_an_answer() -> None:
    made = codec(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    made.next_event()
    with pytest.raises(ValueError, match="line's end"):
        made.answer(200, [("X", "a\r\nSet-Cookie: b")], b"")
