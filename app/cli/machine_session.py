"""A command in a machine, connected to this process's terminal or pipes until it ends."""

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from app.cli import terminal
from app.cli.session import window_changes

if TYPE_CHECKING:
    from vmbackend import GuestSession, MachineManager

_READ_BYTES = 64 * 1024


def run_in_machine(machines: "MachineManager", name: str, command: str, tty: bool) -> int:
    """Run `command`, or the login shell if it is empty, with or without a terminal; the exit code.

    Raises MachineError.
    """
    size = terminal.size() if tty else None
    with machines.open_session(name, command, size, os.environ.get("TERM", "vt100")) as session:
        with contextlib.ExitStack() as undo:
            if tty:
                if sys.stdin.isatty():
                    undo.enter_context(terminal.raw_mode())
                undo.enter_context(window_changes(lambda: session.resize(*terminal.size())))
            _copy(session)
        return session.exit_code()


def _copy(session: "GuestSession") -> None:
    threading.Thread(target=_copy_input, args=(session,), name="stdin", daemon=True).start()
    errors = threading.Thread(target=_copy_errors, args=(session,), name="stderr", daemon=True)
    errors.start()
    while chunk := session.read():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    errors.join()


def _copy_errors(session: "GuestSession") -> None:
    while chunk := session.read_errors():
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()


def _copy_input(session: "GuestSession") -> None:
    descriptor = sys.stdin.fileno()
    # The session ends when the command does, which may be while we wait for a key.
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, _READ_BYTES):
            session.write(chunk)
        session.end_input()
