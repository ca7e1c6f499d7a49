"""Carry bytes between a local stream and one in the guest, each direction on its own.

Two threads per client, each blocking in one call: a slow reader holds up its own stream and no other, and a
paused guest holds up nothing else.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from vmbackend.errors import GuestUnreachable

_CHUNK_BYTES = 64 * 1024


class LocalStream(Protocol):
    """This computer's end: a connection some program made to us.

    `wait_hangup` returns once the peer is gone or both directions have ended; `hang_up` ends both, from any thread;
    `close` comes last, when one thread is left.
    """

    def recv(self, size_bytes: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown_write(self) -> None: ...
    def wait_hangup(self) -> None: ...
    def hang_up(self) -> None: ...
    def close(self) -> None: ...


class GuestStream(Protocol):
    """The guest's end; `paramiko.Channel` is one."""

    def recv(self, nbytes: int, /) -> bytes: ...
    def sendall(self, s: bytes, /) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...


class Listener(Protocol):
    """`accept` raises OSError once `close` was called."""

    def accept(self) -> LocalStream: ...
    def close(self) -> None: ...


class Relay:
    """Serves every client of a listener until closed.

    `open_guest` makes the stream's other end or raises GuestUnreachable, and then `refuse` answers the client.
    """

    def __init__(
        self,
        listener: Listener,
        open_guest: Callable[[], GuestStream],
        refuse: Callable[[LocalStream, GuestUnreachable], None] = lambda stream, error: None,
    ) -> None:
        self._listener = listener
        self._open_guest = open_guest
        self._refuse = refuse
        self._lock = threading.Lock()
        self._closed = False
        self._clients: dict[LocalStream, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept_clients, name="relay-accept", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening and drop all clients; returns when every thread has ended."""
        with self._lock:
            self._closed = True
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            clients = list(self._clients.items())
        for stream, _ in clients:
            stream.hang_up()
        for _, thread in clients:
            thread.join()

    def _accept_clients(self) -> None:
        while True:
            try:
                stream = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(stream,), name="relay-client", daemon=True)
            with self._lock:
                if self._closed:
                    stream.close()
                    return
                self._clients[stream] = thread
            thread.start()

    def _serve(self, stream: LocalStream) -> None:
        try:
            try:
                guest = self._open_guest()
            except GuestUnreachable as error:
                self._refuse(stream, error)
                return
            carry(stream, guest)
        except OSError:
            pass  # the client is gone; there is nobody to tell
        finally:
            stream.close()
            with self._lock:
                self._clients.pop(stream, None)


def carry(stream: LocalStream, guest: GuestStream) -> None:
    """Carry both directions until both are done or either side is gone. Closes the guest's end."""
    upward = threading.Thread(target=_carry_up, args=(stream, guest), name="relay-up", daemon=True)
    upward.start()
    try:
        while chunk := guest.recv(_CHUNK_BYTES):
            stream.sendall(chunk)
        stream.shutdown_write()
        # A client that has closed its sending half too is done: `_carry_up` sees both halves down and returns.
        # One that has not may go on sending until it is.
        upward.join()
    except OSError:
        pass  # the client is gone
    finally:
        guest.close()
        stream.hang_up()
        upward.join()


def _carry_up(stream: LocalStream, guest: GuestStream) -> None:
    try:
        while chunk := stream.recv(_CHUNK_BYTES):
            guest.sendall(chunk)
        guest.shutdown_write()
        # End-of-file is half of the story: `docker logs -f` that was killed, and `docker attach` with its input at the
        # end, look the same up to here. Only the first hangs up, and only then may the guest's end go.
        stream.wait_hangup()
    except (OSError, EOFError):
        pass
    guest.close()
