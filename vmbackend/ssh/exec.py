"""Run a command in the guest."""

import threading
from dataclasses import dataclass

import paramiko


@dataclass(frozen=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


def run_command(channel: paramiko.Channel, command: str, stdin: bytes = b"") -> ExecResult:
    """Run `command` with the login shell on a fresh session channel, and close the channel.

    The exit code is -1 when the guest went away before telling it. Raises paramiko.SSHException, TimeoutError
    (the channel's own timeout).
    """
    errors: list[bytes] = []

    def collect_errors() -> None:
        try:
            while chunk := channel.recv_stderr(65536):
                errors.append(chunk)
        except TimeoutError:
            pass  # the same wait ends the reader below, which reports it

    with channel:
        channel.exec_command(command)
        # Beside stdout: a command that fills one of the two would wait for ever to be read.
        collector = threading.Thread(target=collect_errors, name="guest-stderr", daemon=True)
        collector.start()
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()
        output = b""
        while chunk := channel.recv(65536):
            output += chunk
        collector.join()
        return ExecResult(channel.recv_exit_status(), output, b"".join(errors))
