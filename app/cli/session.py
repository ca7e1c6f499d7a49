"""A program in a container, connected to this process's terminal or pipes until one of them ends."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from app.cli import terminal
from app.core.errors import UserError
from app.engine.errors import EngineError
from app.engine.streams import AttachedStream

_PROXIED_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
_READ_BYTES = 64 * 1024

Resize = Callable[[int, int], None]
SendSignal = Callable[[str], None]


@dataclass
class Session:
    """Copies input to `stream` and its output to standard output and error.

    With `tty` the terminal is raw and its size follows the window's; without, signals go to the program. `detached`
    tells afterwards whether the user let go of the program with ctrl-p ctrl-q.
    """

    stream: AttachedStream
    tty: bool
    takes_input: bool
    resize: Resize
    send_signal: SendSignal | None = None
    detached: bool = field(default=False, init=False)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """The terminal and the signals are the program's within this block; start the program in it."""
        with contextlib.ExitStack() as undo:
            if self.tty:
                if self.takes_input:
                    undo.enter_context(terminal.raw_mode())
                undo.enter_context(window_changes(self._follow_window))
            elif self.send_signal:
                undo.enter_context(_proxied_signals(self.send_signal))
            yield

    def run(self) -> None:
        """Copy until the program closes its output or the user detaches. Raises EngineUnreachable."""
        if self.tty:
            self._follow_window()
        if self.takes_input:
            threading.Thread(target=self._copy_input, name="stdin", daemon=True).start()
        outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        for output in self.stream:
            target = outputs[output.stream]
            target.write(output.data)
            target.flush()

    def _copy_input(self) -> None:
        keys = terminal.DetachKeys()
        descriptor = sys.stdin.fileno()
        # A program that has ended takes no input any more; its output is what says so.
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, _READ_BYTES):
                if self.tty:
                    data, self.detached = keys.feed(data)
                self.stream.write(data)
                if self.detached:
                    self.stream.close()
                    return
            self.stream.close_write()

    def _follow_window(self) -> None:
        # The program may not run yet, or not any more; either way there is nothing to resize.
        with contextlib.suppress(EngineError):
            self.resize(*terminal.size())


def require_terminal() -> None:
    """For input to a program with a terminal. Raises UserError if our input is none."""
    if not sys.stdin.isatty():
        raise UserError("The input is not a terminal, so -t cannot be used with -i.", "Leave out -t.")


@contextlib.contextmanager
def window_changes(react: Callable[[], None]) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    before = signal.signal(signal.SIGWINCH, lambda *_: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _proxied_signals(send: SendSignal) -> Iterator[None]:
    def forward(number: int, _: object) -> None:
        with contextlib.suppress(EngineError):
            send(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in _PROXIED_SIGNALS if hasattr(signal, name)]
    before = [(number, signal.signal(number, forward)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
