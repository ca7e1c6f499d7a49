"""A command in the guest for a person or a script: streams as they come, a terminal if wanted, the exit code."""

from types import TracebackType
from typing import Self

import paramiko

from vmbackend.errors import GuestUnreachable
from vmbackend.ssh.connection import GuestConnection

_CHUNK_BYTES = 64 * 1024
_NO_EXIT_CODE = 255


class GuestSession:
    """A context manager. `read`, `read_errors` and `write` block, each for a thread of its own."""

    def __init__(self, connection: GuestConnection, channel: paramiko.Channel) -> None:
        self._connection = connection
        self._channel = channel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._connection.close()

    def read(self) -> bytes:
        """What the command wrote; nothing at the end."""
        return self._channel.recv(_CHUNK_BYTES)

    def read_errors(self) -> bytes:
        """What it wrote to standard error, which a terminal has not; nothing at the end."""
        return self._channel.recv_stderr(_CHUNK_BYTES)

    def write(self, data: bytes) -> None:
        """Raises OSError when the command has ended."""
        self._channel.sendall(data)

    def end_input(self) -> None:
        """Raises OSError when the command has ended."""
        self._channel.shutdown_write()

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal's new size; one that is gone does not matter."""
        try:
            self._channel.resize_pty(columns, rows)
        except (paramiko.SSHException, OSError):
            pass

    def exit_code(self) -> int:
        """Wait for the command's end: its exit code, or ssh's 255 when a signal or a lost connection ended it."""
        code = self._channel.recv_exit_status()
        return _NO_EXIT_CODE if code == -1 else code


def open_session(
    connection: GuestConnection, command: str, terminal_size: tuple[int, int] | None, terminal_type: str
) -> GuestSession:
    """Run `command` with root's shell, or that shell itself if it is empty; `terminal_size` is (rows, columns).

    The session owns the connection from now on. Raises GuestUnreachable.
    """
    try:
        channel = connection.open_session()
        if terminal_size is not None:
            rows, columns = terminal_size
            channel.get_pty(terminal_type, columns, rows)
        if command:
            channel.exec_command(command)
        else:
            channel.invoke_shell()
    except (paramiko.SSHException, OSError, EOFError) as error:
        connection.close()
        raise GuestUnreachable(f"The guest opened no session ({error or type(error).__name__})") from error
    return GuestSession(connection, channel)
