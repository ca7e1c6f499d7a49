"""Messages and descriptors over a socket pair, and what is no message."""

import array
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.launcher import protocol

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_any_object_survives(message: dict[str, object]) -> None:
    assert protocol.decode(protocol.encode(message)) == message


@pytest.mark.parametrize("datagram", [b"", b"x", b"[]", b"5", b"null", b"\xff\xfe", b'{"op":'])
def test_what_is_no_message(datagram: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.decode(datagram)


def test_descriptors_arrive_by_name(pair: Pair) -> None:
    reading, writing = os.pipe()
    protocol.send(pair[0], {"op": "run", "seq": 1}, {"stdout": writing, "keep.out": reading})
    os.close(reading)
    os.close(writing)
    received = protocol.receive(pair[1])
    assert received is not None
    message, fds = received
    assert message == {"op": "run", "seq": 1, "fds": ["stdout", "keep.out"]}
    os.write(fds["stdout"], b"x")
    assert os.read(fds["keep.out"], 1) == b"x"
    assert not any(os.get_inheritable(fd) for fd in fds.values())
    protocol.close_all(fds.values())


def test_end_of_file(pair: Pair) -> None:
    pair[0].close()
    assert protocol.receive(pair[1]) is None


@pytest.mark.parametrize("names", ["[]", '["a","b"]', '"a"', '[["a"]]', "null", "[5]", '["a","a"]'])
def test_misnamed_descriptors_are_closed(pair: Pair, names: str) -> None:
    reading, writing = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
    pair[0].sendmsg([f'{{"op":"run","fds":{names}}}'.encode()], rights)
    os.close(writing)
    with pytest.raises(protocol.ProtocolError):
        protocol.receive(pair[1])
    # Nobody has the writing end any more.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_message_too_long_is_refused(pair: Pair) -> None:
    protocol.send(pair[0], {"text": "x" * protocol.MAX_DATAGRAM_BYTES})
    with pytest.raises(protocol.ProtocolError, match="longer"):
        protocol.receive(pair[1])


def test_more_descriptors_than_allowed_are_refused_and_closed(pair: Pair) -> None:
    reading, writing = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing] * (protocol.MAX_FDS + 1)))]
    pair[0].sendmsg([b"{}"], rights)
    os.close(writing)
    with pytest.raises(protocol.ProtocolError):
        protocol.receive(pair[1])
    assert os.read(reading, 1) == b""
    os.close(reading)
