"""One SSH connection to the guest, carrying commands and the engine's socket.

A connection lives once. Whoever owns it makes a new one when `on_lost` says that it is gone.
"""

import socket
from collections.abc import Callable

import paramiko

from vmbackend.errors import GuestUnreachable
from vmbackend.ssh.exec import ExecResult, run_command
from vmbackend.ssh.keys import MachineKeys
from vmbackend.ssh.streamlocal import GuestTransport

_KEEPALIVE_S = 15
_OPEN_TIMEOUT_S = 10.0
_SLOW_AFTER_S = 1.0
_HANDSHAKE_TIMEOUT_S = 30.0


class GuestConnection:
    """Thread-safe. Methods raise GuestUnreachable."""

    def __init__(self, transport: GuestTransport, stream: socket.socket) -> None:
        self._transport = transport
        self._stream = stream

    @classmethod
    def connect(
        cls, port: int, user: str, keys: MachineKeys, timeout_s: float, on_lost: Callable[[], None]
    ) -> "GuestConnection":
        """Connect to a port on this computer, insisting on the guest's key.

        `timeout_s` bounds the time to the server's first word; the handshake then has half a minute.
        `on_lost` is called from another thread, also when this raises after the connection was made.
        """
        try:
            stream = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise GuestUnreachable(
                f"Nothing answers on port {port}, where the guest's SSH should be ({error})"
            ) from error
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = GuestTransport(stream, on_lost)
        connection = cls(transport, stream)
        try:
            transport.banner_timeout = timeout_s
            transport.auth_timeout = _HANDSHAKE_TIMEOUT_S
            transport.start_client(timeout=_HANDSHAKE_TIMEOUT_S)
            if transport.get_remote_server_key() != keys.guest_host:
                raise GuestUnreachable(
                    f"What answers on port {port} has another host key than this machine's guest: it is not our guest"
                )
            transport.auth_publickey(user, keys.client)
        except (paramiko.SSHException, OSError, EOFError) as error:
            connection.close()
            raise GuestUnreachable(f"SSH to the guest failed ({error or type(error).__name__})") from error
        except GuestUnreachable:
            connection.close()
            raise
        transport.set_keepalive(_KEEPALIVE_S)
        return connection

    def keep_alive(self, wanted: bool) -> None:
        """Whether an idle connection is tried from time to time, as it is at first."""
        self._transport.set_keepalive(_KEEPALIVE_S if wanted else 0)

    @property
    def is_lost(self) -> bool:
        return not self._transport.is_active()

    def open_unix(self, path: str, on_slow: Callable[[], None] = lambda: None) -> paramiko.Channel:
        """A stream to a unix socket in the guest; `on_slow` is called when there is no answer for a moment."""
        try:
            return self._transport.open_streamlocal(path, _OPEN_TIMEOUT_S, _SLOW_AFTER_S, on_slow)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise GuestUnreachable(f"{path} in the guest cannot be reached ({error})") from error

    def answers(self, timeout_s: float) -> bool:
        """Whether the guest's SSH server is alive: asked for a stream to nowhere, it refuses, and that is an answer."""
        try:
            self._transport.open_streamlocal("", timeout_s).close()
        except TimeoutError:
            return False
        except (paramiko.SSHException, OSError, EOFError):
            return self._transport.is_active()
        return True

    def open_session(self) -> paramiko.Channel:
        """A channel for one command. Raises paramiko.SSHException, OSError, EOFError."""
        return self._transport.open_session(timeout=_OPEN_TIMEOUT_S)

    def run(self, command: str, timeout_s: float, stdin: bytes = b"") -> ExecResult:
        """Run a command; `timeout_s` bounds each wait for output."""
        try:
            channel = self._transport.open_session(timeout=timeout_s)
            channel.settimeout(timeout_s)
            return run_command(channel, command, stdin)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise GuestUnreachable(f"The guest did not run `{command}` ({error or type(error).__name__})") from error

    def retire(self, timeout_s: float) -> None:
        """Carry open streams to their ends if the guest answers within `timeout_s`, and end the connection.

        Streams that are being opened come to nothing.
        """
        self._transport.abandon_openings()
        if self.answers(timeout_s):
            self._transport.wait_for_channels()
        self.close()

    def close(self) -> None:
        """End the connection now, also when the guest does not answer."""
        try:
            # Wakes the transport's reader, which would otherwise notice only at its next look around.
            self._stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._transport.close()
        self._transport.join()
