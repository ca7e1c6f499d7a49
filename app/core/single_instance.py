"""One window for each user: a second start brings the first one to the front instead.

The first instance listens on the loopback interface and leaves `port token` in a file only the user can read;
a second one that can read it connects and says the token. A file left by a crash names a port on which nobody
answers with our word, so it is simply replaced. (Not a unix socket, because Python has none on Windows.)
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

_ANSWER = b"wherry\n"
_TIMEOUT_S = 2.0


class SingleInstance:
    """`acquire()` once at the start; if it returns False, another instance has been called: exit."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "instance"
        self._server: socket.socket | None = None
        self._token = b""
        self._on_second_start: Callable[[], None] = _nothing

    def acquire(self) -> bool:
        """Become the instance, or call the one there is. Raises OSError if the directory cannot be used."""
        if self._call():
            return False
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._token = secrets.token_hex(16).encode()
        self._publish(self._server.getsockname()[1])
        threading.Thread(target=self._answer, args=(self._server,), name="single-instance", daemon=True).start()
        return True

    def on_second_start(self, callback: Callable[[], None]) -> None:
        """`callback` runs on a thread of its own whenever somebody starts the program again."""
        self._on_second_start = callback

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            self._file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    def _publish(self, port: int) -> None:
        temporary = self._file.with_name(f"instance.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, to have the mode from the beginning
            file.write(b"%d %s" % (port, self._token))
        temporary.replace(self._file)

    def _call(self) -> bool:
        try:
            port, token = self._file.read_bytes().split()
            with socket.create_connection(("127.0.0.1", int(port)), timeout=_TIMEOUT_S) as connection:
                connection.sendall(token)
                return connection.recv(len(_ANSWER), socket.MSG_WAITALL) == _ANSWER
        except (OSError, ValueError):
            return False

    def _answer(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            with connection:
                connection.settimeout(_TIMEOUT_S)
                try:
                    called = secrets.compare_digest(connection.recv(len(self._token), socket.MSG_WAITALL), self._token)
                    if called:
                        connection.sendall(_ANSWER)
                except OSError:
                    continue
            if called:
                self._on_second_start()


def _nothing() -> None:
    """Until a window is there to be shown."""
