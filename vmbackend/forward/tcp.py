"""A listening TCP port as a relay's listener."""

import socket
import threading

from vmbackend import host


class TcpStream:
    """A connected TCP socket with the verbs a relay needs."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = stream
        self._sending_ended = threading.Event()

    def recv(self, size_bytes: int) -> bytes:
        return self._socket.recv(size_bytes)

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def shutdown_write(self) -> None:
        self._sending_ended.set()
        self._socket.shutdown(socket.SHUT_WR)

    def wait_hangup(self) -> None:
        """Return when our own sending has ended: a TCP peer that is gone looks like one that only listens."""
        self._sending_ended.wait()

    def hang_up(self) -> None:
        """End both directions, waking whatever thread waits in one."""
        self._sending_ended.set()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Give the descriptor back; only once no other thread uses the stream."""
        self._socket.close()


class TcpListener:
    """Raises OSError when the port cannot be had."""

    def __init__(self, address: str, port: int) -> None:
        self._listener = host.listen_tcp(address, port)

    def accept(self) -> TcpStream:
        stream, _ = self._listener.accept()
        return TcpStream(stream)

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
