"""The engine socket's relay and the small Engine API client, over real sockets on this computer."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbackend import host
from vmbackend.errors import GuestUnreachable
from vmbackend.forward.engine_api import EngineApi, EngineSilent
from vmbackend.forward.engine_socket import serve_engine_socket


class GuestEnd:
    """A socket in the part of an SSH channel, whose `close` wakes readers."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self.recv = stream.recv
        self.sendall = stream.sendall

    def shutdown_write(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


@pytest.fixture
def guest() -> Iterator[tuple[Callable[[], GuestEnd], list[socket.socket]]]:
    """What opens the guest's end of a stream, and the far ends in order."""
    far: list[socket.socket] = []
    listener = host.listen_tcp("127.0.0.1", 0)

    def open_guest() -> GuestEnd:
        near = socket.create_connection(listener.getsockname())
        far.append(listener.accept()[0])
        return GuestEnd(near)

    yield open_guest, far
    for stream in far:
        stream.close()
    listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


def client(path: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(5)
    stream.connect(os.fspath(path))
    return stream


def read_all(stream: socket.socket) -> bytes:
    data = b""
    while chunk := stream.recv(65536):
        data += chunk
    return data


def test_the_socket_is_private_and_goes_away(guest: tuple, path: Path) -> None:
    relay = serve_engine_socket("m", path, guest[0])
    assert path.stat().st_mode & 0o777 == 0o600
    relay.close()
    assert not path.exists()


def test_each_direction_ends_on_its_own(guest: tuple, path: Path) -> None:
    open_guest, far = guest
    relay = serve_engine_socket("m", path, open_guest)
    with client(path) as near:
        near.sendall(b"all of it")
        near.shutdown(socket.SHUT_WR)
        wait_for(lambda: far or None)
        far[0].settimeout(5)
        assert read_all(far[0]) == b"all of it"
        far[0].sendall(b"the answer")
        far[0].shutdown(socket.SHUT_WR)
        assert read_all(near) == b"the answer"
    relay.close()


def test_a_client_that_half_closed_and_then_died_frees_the_guests_end(guest: tuple, path: Path) -> None:
    open_guest, far = guest
    relay = serve_engine_socket("m", path, open_guest)
    near = client(path)
    near.sendall(b"x")
    near.shutdown(socket.SHUT_WR)
    far_end = wait_for(lambda: far[0] if far else None)
    far_end.settimeout(5)
    assert read_all(far_end) == b"x"
    near.close()
    # Nothing was ever sent down, yet the far end is let go: a write is refused sooner or later.
    with pytest.raises(OSError):
        while True:
            far_end.sendall(b"still there?" * 1000)
    relay.close()


def test_closing_drops_clients(guest: tuple, path: Path) -> None:
    relay = serve_engine_socket("m", path, guest[0])
    before = threading.active_count()
    with client(path) as near:
        near.sendall(b"x")
        wait_for(lambda: guest[1] or None)
        relay.close()
        assert near.recv(1) == b""
    assert threading.active_count() < before


def test_a_client_hears_why_the_guest_is_not_there(path: Path) -> None:
    def refuse() -> GuestEnd:
        raise GuestUnreachable("SSH is down")

    relay = serve_engine_socket("m", path, refuse)
    with client(path) as near:
        near.sendall(b"GET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_all(near)
    assert answer.startswith(b"HTTP/1.1 503 ") and b"SSH is down" in answer
    with pytest.raises(GuestUnreachable, match="503: The machine's engine is not reachable: SSH is down"):
        EngineApi("m", path).ping(5)
    relay.close()


def wait_for(look: Callable[[], object]) -> socket.socket:
    """Look until there is something; the event is in another thread's plain list."""
    deadline = threading.Event()
    for _ in range(5000):
        found = look()
        if found:
            return found  # type: ignore[return-value]
        deadline.wait(0.001)
    raise AssertionError("it did not happen within 5 s")


@pytest.fixture
def engine(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Answers the next client with given bytes and closes."""
    listener = host.bind_local(path)
    threads: list[threading.Thread] = []

    def answer_next(answer: bytes) -> None:
        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()

    yield answer_next
    listener.close()
    for thread in threads:
        thread.join(5)


def test_only_success_is_an_answer(engine: Callable[[bytes], None], path: Path) -> None:
    engine(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
    EngineApi("m", path).ping(5)
    engine(b'HTTP/1.1 500 Oops\r\nContent-Length: 18\r\n\r\n{"message": "bad"}')
    with pytest.raises(GuestUnreachable, match="answered /_ping with 500: bad"):
        EngineApi("m", path).ping(5)


def test_an_engine_that_breaks_off_or_is_silent_is_unreachable(path: Path) -> None:
    with pytest.raises(GuestUnreachable, match="socket on this computer does not answer"):
        EngineApi("m", path).ping(5)
    listener = host.bind_local(path)
    with pytest.raises(EngineSilent, match="did not answer /_ping in time"):
        EngineApi("m", path).ping(0.05)
    listener.close()


def test_events_are_read_one_by_one_from_a_chunked_answer(engine: Callable[[bytes], None], path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    engine(head + b"4\r\n{1}\n\r\n" + b"4\r\n{2}\n\r\n" + b"0\r\n\r\n")
    with EngineApi("m", path).container_events(5) as events:
        assert [events.wait(), events.wait(), events.wait()] == [True, True, False]


def test_many_clients_at_once_and_none_left(guest: tuple, path: Path) -> None:
    open_guest, far = guest
    lock = threading.Lock()

    def open_one() -> GuestEnd:
        with lock:
            return open_guest()

    relay = serve_engine_socket("m", path, open_one)
    clients = [client(path) for _ in range(50)]
    for number, stream in enumerate(clients):
        stream.sendall(bytes([number]))
    for _ in clients:
        wait_for(lambda: len(far) == len(clients))
    seen = sorted(end.recv(1)[0] for end in far)
    assert seen == list(range(50))
    for stream in clients:
        stream.close()
    for end in far:
        end.close()
    relay.close()
